package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/signer/api"
)

func (a *app) rotationHistoryCommand() *cobra.Command {
	var since time.Time
	c := &cobra.Command{
		Use: "history KEYSET", Short: "Show what was done with a key set, from the log", Args: exactly("KEYSET"),
		Long: "Show every step that a key set has taken, the oldest first: when, which version, by whom\n" +
			"and why, and the entry of the log that has it.",
		Example: "  chancery --dir dev rotation history web --since 720h",
		RunE:    does(func(ctx context.Context, args []string) error { return a.rotationHistory(ctx, args[0], since) }),
	}
	c.Flags().Var(moment{&since}, "since", "not before this time, or this long ago")
	return c
}

func (a *app) rotationHistory(ctx context.Context, name string, since time.Time) error {
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	history, err := c.HistorySince(ctx, name, since)
	if err != nil {
		return err
	}
	switch {
	case a.json:
		return a.printReply()
	case len(history.Events) > 0:
		a.printHistory(history.Events)
	case since.IsZero():
		a.printf("%s: nothing has been done with it\n", name)
	default:
		a.printf("%s: nothing has been done with it since %s UTC\n", name, when(since))
	}
	return nil
}

// printHistory fits a hundred columns: an entry is told by its index, and below
// the table by the log it is in.
func (a *app) printHistory(events []api.Event) {
	log, one, longest := "", true, len("entry")
	for i, e := range events {
		l, index, _ := strings.Cut(e.Entry, "#")
		one = one && (i == 0 || l == log)
		log, longest = l, max(longest, len("#")+len(index))
	}
	var rows [][]string
	for _, e := range events {
		version, entry, by := "-", e.Entry, e.By
		if e.Version != 0 {
			version = strconv.Itoa(e.Version)
		}
		if _, index, ok := strings.Cut(e.Entry, "#"); ok && one {
			entry = "#" + index
		}
		if e.Reason != "" {
			by += ": " + e.Reason
		}
		rows = append(rows, []string{when(e.At), version, e.Event, by, entry})
	}
	widths := map[int]int{3: 11, 4: 47 - min(longest, 20)}
	if !one {
		widths[4], widths[5] = 26, 18
	}
	a.printWrapped([]string{"at (UTC)", "version", "event", "by and why", "entry"}, rows, widths)
	if one && log != "" {
		a.printf("entries of %s\n", log)
	}
}

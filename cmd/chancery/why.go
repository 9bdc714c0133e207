package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/signer/api"
)

func (a *app) rotationWhyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "why KEYSET", Short: "Say what each step ahead waits for, and for whom", Args: exactly("KEYSET"),
		Long: "Say of each step that can come next with a key set what it waits for: the rule of\n" +
			"rotation, the time that is left, and the nodes that have yet to serve what it needs.",
		Example: "  chancery --dir dev rotation why web",
		RunE:    does(func(ctx context.Context, args []string) error { return a.rotationWhy(ctx, args[0]) }),
	}
}

func (a *app) rotationWhy(ctx context.Context, name string) error {
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	plan, err := c.Plan(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	a.printWhy(name, plan, time.Now())
	return nil
}

// printWhy says in a line what comes next, and in a table what every step that
// can come next waits for.
func (a *app) printWhy(name string, plan *api.Plan, now time.Time) {
	waits := slices.Clone(plan.Waits)
	slices.SortStableFunc(waits, soonerWait)
	switch {
	case len(waits) > 0:
		w := waits[0]
		a.printf("%s: next is to %s version %s%s: %s\n", name, w.Step, strconv.Itoa(w.Version), whenWait(w, now), waitText(w))
	case plan.Held != "":
		a.printf("%s: held by: %s\n", name, plan.Held)
	default:
		a.printf("%s: nothing is planned\n", name)
	}
	if by := plan.Asked; by != nil {
		a.printf("%s: %s asked for a rotation at %s UTC: %s\n", name, by.By, when(by.At), by.Reason)
	}
	if len(waits) == 0 {
		return
	}
	var rows [][]string
	for _, w := range waits {
		rows = append(rows, []string{w.Step, strconv.Itoa(w.Version), earliest(w), leftOf(w, now), waitText(w) + sinceWords(w, now)})
	}
	a.printWrapped([]string{"step", "version", "earliest (UTC)", "left", "waits for"}, rows, map[int]int{5: 42})
}

// soonerWait orders waits by their moment; those that have none come last.
func soonerWait(x, y api.Wait) int {
	switch {
	case x.At == nil && y.At == nil:
		return 0
	case x.At == nil:
		return 1
	case y.At == nil:
		return -1
	}
	return x.At.Compare(*y.At)
}

func earliest(w api.Wait) string {
	if w.At == nil {
		return "not known"
	}
	return due(*w.At)
}

func leftOf(w api.Wait, now time.Time) string {
	if w.At == nil || w.RetryAfter == 0 {
		return "-"
	}
	return span(max(0, w.At.Sub(now).Round(time.Second)))
}

func whenWait(w api.Wait, now time.Time) string {
	switch {
	case w.At == nil:
		return ", and nobody knows when"
	case w.RetryAfter == 0:
		return " now"
	}
	return " at " + due(*w.At) + " UTC (" + inTime(*w.At, now) + ")"
}

// waitText is what a step waits for, with the nodes that are not named in it.
func waitText(w api.Wait) string {
	missing := slices.DeleteFunc(slices.Clone(w.Nodes), func(n string) bool {
		return slices.Contains(strings.FieldsFunc(w.Text, func(r rune) bool { return r == ' ' || r == ',' || r == ';' }), n)
	})
	if len(missing) == 0 {
		return w.Text
	}
	return w.Text + "; waits for " + strings.Join(missing, ", ")
}

// sinceWhat is what came before each step.
var sinceWhat = map[string]string{
	"generate": "asked for", "publish": "recorded", "activate": "published", "remove": "stopped", "destroy": "retired",
	"hand over": "succeeded",
}

func sinceWords(w api.Wait, now time.Time) string {
	what := sinceWhat[w.Step]
	if w.Since == nil || what == "" {
		return ""
	}
	return " (" + what + " " + inTime(*w.Since, now) + ")"
}

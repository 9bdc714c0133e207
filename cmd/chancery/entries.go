package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// shownEntries is how many entries a table has unless --last says otherwise.
const shownEntries = 200

func (a *app) auditListCommand() *cobra.Command {
	var f filterFlags
	var last int
	var follow bool
	c := &cobra.Command{
		Use:   "list [LOGDIR]",
		Short: "List entries of the log",
		Long: "List entries of the log, both of them in the order of time, straight from its directory.\n" +
			"With --json each is printed on a line as it stands in the log, canonical and hashed so.",
		Example: "  chancery --dir dev audit list --keyset web --since 1h\n  chancery --dir dev audit list --follow --json",
		Args:    atMostLogDir,
	}
	f.add(c)
	c.Flags().IntVar(&last, "last", shownEntries, "only the last so many; 0: all (default with --json)")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new entries as they come, until --until if that is given")
	c.RunE = does(func(ctx context.Context, args []string) error {
		dir, err := a.logDir(args)
		if err != nil {
			return err
		}
		if last < 0 {
			return usagef("audit list: --last %d is negative", last)
		}
		if a.json && !c.Flags().Changed("last") {
			last = 0
		}
		filter, err := f.wanted(dir)
		if err != nil {
			return err
		}
		if err := a.tellRemoved(ctx, dir, filter); err != nil {
			return err
		}
		l := &lister{app: a, filter: &f, tail: audit.NewTail(dir, filter)}
		follow = follow && !l.over()
		if err := l.first(ctx, last); err != nil || !follow {
			return err
		}
		return l.follow(ctx)
	})
	return c
}

// A lister prints entries, each once.
type lister struct {
	*app
	filter *filterFlags
	tail   *audit.Tail
}

// over reports whether no entry that is made from now on can be wanted.
func (l *lister) over() bool {
	until := l.filter.filter.Until
	return !until.IsZero() && !time.Now().Before(until)
}

// fresh returns the entries not seen before, the last n of them (0: all), and
// how many it left out.
func (l *lister) fresh(ctx context.Context, n int) (list []audit.Located, left int, err error) {
	for at, err := range l.tail.Entries(ctx) {
		if err != nil {
			return list, left, fmt.Errorf("reading the log: %w", err)
		}
		list = append(list, at)
		if n > 0 && len(list) >= 2*n { // forget in strides: the log may be long
			left += len(list) - n
			list = append(list[:0], list[len(list)-n:]...)
		}
	}
	if n > 0 && len(list) > n {
		left += len(list) - n
		list = list[len(list)-n:]
	}
	return list, left, nil
}

// stream prints everything there is as it is read: the log may be long.
func (l *lister) stream(ctx context.Context) error {
	out := bufio.NewWriter(l.out)
	for at, err := range l.filter.counted(l.err, l.tail.Entries(ctx)) {
		if err != nil {
			return errors.Join(fmt.Errorf("reading the log: %w", err), out.Flush())
		}
		if _, err := out.Write(append(at.Entry.Append(nil), '\n')); err != nil {
			return err
		}
	}
	return out.Flush()
}

func (l *lister) first(ctx context.Context, n int) error {
	if l.json && n == 0 {
		return l.stream(ctx)
	}
	list, left, err := l.fresh(ctx, n)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		l.filter.none(l.err)
	}
	if l.json {
		return l.printJSON(list)
	}
	rows := make([][]string, 0, len(list))
	for _, at := range list {
		rows = append(rows, entryRow(at))
	}
	l.printTable(entryHeading(), rows)
	if left > 0 {
		fmt.Fprintf(l.err, "hint: %d earlier entries are left out: --last 0 shows all\n", left)
	}
	return nil
}

// follow prints new entries until ctx ends, or none can be wanted any more.
func (l *lister) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil // that is how following ends
		case <-time.After(500 * time.Millisecond):
		}
		over := l.over() // before the last look
		list, _, err := l.fresh(ctx, 0)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if l.json {
			err = l.printJSON(list)
		} else {
			for _, at := range list {
				l.printf("%s\n", strings.Join(entryRow(at), "  "))
			}
		}
		if err != nil || over {
			return err
		}
	}
}

// printJSON prints entries as they stand in the log.
func (l *lister) printJSON(list []audit.Located) error {
	var line []byte
	for _, at := range list {
		line = append(at.Entry.Append(line[:0]), '\n')
		if _, err := l.out.Write(line); err != nil {
			return err
		}
	}
	return nil
}

func entryHeading() []string {
	return []string{"time (UTC)", "entry", "principal", "action", "outcome", "key set", "version", "what else"}
}

func entryRow(at audit.Located) []string {
	e := &at.Entry
	version := ""
	if e.Version > 0 {
		version = strconv.Itoa(e.Version)
	}
	return []string{
		when(e.Time), shortName(&at), e.Principal,
		string(e.Action), string(e.Outcome), cmp.Or(e.KeySet, e.Authority), version, whatElse(e),
	}
}

// whatElse tells what is particular to an entry, briefly.
func whatElse(e *audit.Entry) string {
	var words []string
	add := func(name, value string) {
		if value != "" {
			words = append(words, name+value)
		}
	}
	if e.Count > 1 {
		add("x", strconv.Itoa(e.Count))
	}
	add("", e.Code)
	add("", e.Reason)
	if e.KeySet != "" && e.Authority != e.KeySet {
		add("authority ", e.Authority)
	}
	add("state ", e.State)
	add("serial ", e.Serial)
	add("jti ", e.JTI)
	if e.Exp > 0 {
		add("exp ", when(time.Unix(e.Exp, 0)))
	}
	if e.Action != keystore.ActSignJWT {
		add("kid ", string(e.KID))
	}
	return strings.Join(words, ", ")
}

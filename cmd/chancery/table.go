package main

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// longestCell is the most of one value that is printed, in bytes.
const longestCell = 1000

// clean makes what others wrote fit for a terminal: control and formatting
// characters, which could move the cursor, colour or reorder what is seen,
// become a question mark each, and no value is longer than longestCell.
func clean(s string) string {
	if len(s) > longestCell {
		s = s[:longestCell] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ReplaceAll(s, "\n", "; ")) // errors that were joined
}

// cleanLines is clean for text of several lines, of any length.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.Map(func(r rune) rune {
			if r == utf8.RuneError || !unicode.IsPrint(r) {
				return '?'
			}
			return r
		}, l)
	}
	return strings.Join(lines, "\n")
}

// printTable prints rows below a heading. Every cell is cleaned; colour, if the
// output has any, is put around it afterwards.
func (a *app) printTable(heading []string, rows [][]string) { a.printWrapped(heading, rows, nil) }

// printWrapped is printTable with some columns, counted from 1, no wider than so
// many characters.
func (a *app) printWrapped(heading []string, rows [][]string, widths map[int]int) {
	t := table.NewWriter()
	var columns []table.ColumnConfig
	for n, width := range widths {
		columns = append(columns, table.ColumnConfig{Number: n, WidthMax: width, WidthMaxEnforcer: text.WrapSoft})
	}
	t.SetColumnConfigs(columns)
	t.SetOutputMirror(a.out)
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.AppendHeader(a.row(heading, false))
	colour := a.colours()
	for _, r := range rows {
		t.AppendRow(a.row(r, colour))
	}
	t.Render()
}

func (a *app) row(cells []string, colour bool) table.Row {
	row := make(table.Row, len(cells))
	for i, c := range cells {
		c = clean(c)
		if colour {
			c = coloured(c)
		}
		row[i] = c
	}
	return row
}

// colours reports whether standard output is a terminal that wants them
// (https://no-color.org).
func (a *app) colours() bool {
	return isTerminal(a.out) && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

func coloured(word string) string {
	var c text.Color
	switch strings.SplitN(word, ",", 2)[0] {
	case "active", "live", "ready", "done", "adopted", "finished":
		c = text.FgGreen
	case "published", "retiring", "starting", "late", "intent", "orphan", "half_pair":
		c = text.FgYellow
	case "suspended", "compromised", "gone", "forgotten", "pin_rejected", "pin_locked", "changed", "ambiguous", "unavailable", "refused", "failed", "unknown", "stopped", "missing", "resurrected", "attributes":
		c = text.FgRed
	default:
		return word
	}
	return c.EscapeSeq() + word + text.Reset.EscapeSeq()
}

// when prints a time of the past for people: UTC, cut to the second.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// due prints a time that is planned. It rounds up, as the daemon's reasons do:
// what is said to be over is over.
func due(t time.Time) string { return when(roundUp(t)) }

func roundUp(t time.Time) time.Time {
	if cut := t.Truncate(time.Second); cut.Before(t) {
		return cut.Add(time.Second)
	}
	return t
}

// whenKnown prints a time that was, or is to come after now.
func whenKnown(t *time.Time, now time.Time) string {
	switch {
	case t == nil:
		return "-"
	case t.After(now):
		return due(*t)
	}
	return when(*t)
}

// inTime tells a time by its distance from now: "in 12s", "3m ago".
func inTime(t, now time.Time) string {
	d := t.Sub(now).Round(time.Second)
	switch {
	case d > 0:
		return "in " + span(d)
	case d < 0:
		return span(-d) + " ago"
	}
	return "now"
}

// span prints a duration in its two largest units.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	default:
		return d.Truncate(time.Second).String()
	}
}

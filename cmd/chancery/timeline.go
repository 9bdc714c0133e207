package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"chancery/signer/api"
)

// A life is when a version is known and when it signs, past and planned. A zero
// end is one nobody knows; a zero begin means never.
type life struct {
	version               int
	knownFrom, knownUntil time.Time
	signsFrom, signsUntil time.Time
	suspended             bool
	compromised           bool
	state                 string
	gates                 []gate
}

// A gate is a step ahead that a rotation rule holds.
type gate struct {
	at   time.Time
	rule int
}

// lives joins what happened to the versions of a key set with what is planned.
// Versions that are no longer known are left out, but for those whose key was
// compromised in the time that is drawn of the others.
func lives(ks *api.KeySet, plan *api.Plan, now time.Time) []life {
	var all []life
	for _, v := range ks.Versions {
		if (v.State == "retired" || v.State == "destroyed" || v.State == "abandoned") && !v.Compromised {
			continue
		}
		l := life{
			version: v.Version, suspended: v.Suspended, compromised: v.Compromised, state: stateOf(v),
			knownFrom: timeOf(v.PublishedAt), knownUntil: timeOf(v.RetiresAt),
			signsFrom: timeOf(v.SignsFrom), signsUntil: timeOf(v.SignsUntil),
		}
		if v.Compromised {
			l.endBy(now)
		}
		all = append(all, l)
	}
	for _, s := range plan.Steps {
		i := slices.IndexFunc(all, func(l life) bool { return l.version == s.Version })
		if i < 0 {
			if s.Step != "publish" && s.Step != "activate" {
				continue
			}
			all = append(all, life{version: s.Version, state: "planned"})
			i = len(all) - 1
		}
		l := &all[i]
		if s.Rule != 0 && (s.Step == "activate" || s.Step == "remove") { // the others come with one of these
			l.gates = append(l.gates, gate{s.At, s.Rule})
		}
		switch s.Step {
		case "publish":
			l.knownFrom = s.At
		case "activate":
			l.signsFrom = s.At
		case "retire":
			l.signsUntil = s.At
		case "remove":
			l.knownUntil = s.At
		}
	}
	return recent(slices.DeleteFunc(all, func(l life) bool { return l.knownFrom.IsZero() }), now)
}

// recent leaves out the compromised versions that ended before what is drawn of
// the others; where there are no others, none.
func recent(all []life, now time.Time) []life {
	others := slices.DeleteFunc(slices.Clone(all), func(l life) bool { return l.compromised })
	if len(others) == 0 {
		return all
	}
	from, _ := bounds(others, now)
	return slices.DeleteFunc(all, func(l life) bool { return l.compromised && !l.knownUntil.After(from) })
}

// endBy ends what has no end, or one that is ahead.
func (l *life) endBy(now time.Time) {
	for _, end := range []*time.Time{&l.knownUntil, &l.signsUntil} {
		if end.IsZero() || end.After(now) {
			*end = now
		}
	}
	if l.signsFrom.After(now) {
		l.signsFrom = time.Time{}
	}
}

// words tells a life in a line.
func (l life) words() string {
	words := fmt.Sprintf("version %d: %s; known from %s", l.version, l.state, when(l.knownFrom))
	if !l.signsFrom.IsZero() {
		words += ", signs from " + when(l.signsFrom)
	}
	if !l.signsUntil.IsZero() {
		words += " until " + when(l.signsUntil)
	}
	if !l.knownUntil.IsZero() {
		words += ", leaves the set " + when(l.knownUntil)
	}
	return words + " (UTC)"
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// timeline draws lives over width columns: '.' where a version is known, '#'
// where it signs, 'x' where it would but is suspended, '!' where its key is
// compromised, '|' for now, and for a step ahead the rule that holds it.
//
//	                now
//	version 1  ...####|##......2
//	version 2     ....|..1######>
//	           12:00:00        12:05:00
func timeline(all []life, now time.Time, width int) string {
	if len(all) == 0 {
		return ""
	}
	from, to := bounds(all, now)
	column := func(t time.Time) int {
		return int(float64(width-1) * float64(t.Sub(from)) / float64(to.Sub(from)))
	}
	label := 0
	for _, l := range all {
		label = max(label, len("version ")+len(strconv.Itoa(l.version)))
	}
	var b strings.Builder
	at := column(now)
	fmt.Fprintf(&b, "%*s%*s\n", label+2, "", max(at+2, 3), "now")
	for _, l := range all {
		fmt.Fprintf(&b, "%-*s  %s\n", label, "version "+strconv.Itoa(l.version), bar(l, now, width, column))
	}
	layout := "2006-01-02 15:04"
	if to.Sub(from) < 24*time.Hour {
		layout = "15:04:05"
	}
	left, right := from.UTC().Format(layout), roundUp(to).UTC().Format(layout)
	fmt.Fprintf(&b, "%*s  %s%*s UTC\n", label, "", left, max(width-len(left), len(right)+1), right)
	fmt.Fprintf(&b, "%*s  . known   # signs   x suspended   > no end planned%s\n", label, "", moreMarks(all))
	return b.String()
}

// moreMarks explains the marks that are seldom there.
func moreMarks(all []life) (words string) {
	if slices.ContainsFunc(all, func(l life) bool { return l.compromised }) {
		words += "   ! compromised"
	}
	if slices.ContainsFunc(all, func(l life) bool { return len(l.gates) > 0 }) {
		words += "   1 held by rule 1"
	}
	return words
}

// bounds returns the span to draw: from the first begin to the last event, but
// no further back than ahead, so that a long past does not squeeze the plan.
func bounds(all []life, now time.Time) (from, to time.Time) {
	from, to = now, now
	for _, l := range all {
		for _, t := range []time.Time{l.knownFrom, l.signsFrom, l.signsUntil, l.knownUntil} {
			if t.IsZero() {
				continue
			}
			if t.Before(from) {
				from = t
			}
			if t.After(to) {
				to = t
			}
		}
	}
	if to.Equal(now) {
		to = now.Add(max(now.Sub(from)/4, time.Minute))
	}
	if ahead := to.Sub(now); now.Sub(from) > 2*ahead {
		from = now.Add(-2 * ahead)
	}
	return from, to
}

func bar(l life, now time.Time, width int, column func(time.Time) int) string {
	cells := []byte(strings.Repeat(" ", width+1))
	fill := func(begin, end time.Time, c byte) {
		if begin.IsZero() {
			return
		}
		last := width - 1
		if !end.IsZero() {
			last = min(column(end)-1, last)
		}
		first := column(begin)
		for i := max(0, first); i <= max(last, first) && i < width; i++ {
			cells[i] = c
		}
	}
	known, signs := byte('.'), byte('#')
	switch {
	case l.compromised:
		known, signs = '!', '!'
	case l.suspended:
		signs = 'x'
	}
	fill(l.knownFrom, l.knownUntil, known)
	fill(l.signsFrom, l.signsUntil, signs)
	for _, g := range l.gates {
		if c := column(g.at); g.rule < 10 && c >= 0 && c < width {
			cells[c] = byte('0' + g.rule)
		}
	}
	cells[column(now)] = '|'
	if l.knownUntil.IsZero() {
		cells[width] = '>'
	}
	return strings.TrimRight(string(cells), " ")
}

// marksColoured puts colour around the marks of a timeline's lanes, for a terminal.
func marksColoured(drawn string) string {
	lines := strings.Split(drawn, "\n")
	for i, line := range lines {
		head, marks, lane := strings.Cut(line, "  ")
		if !lane || !strings.HasPrefix(head, "version ") {
			continue
		}
		var b strings.Builder
		for _, c := range marks {
			if colour, ok := markColours[c]; ok {
				b.WriteString(colour.EscapeSeq() + string(c) + text.Reset.EscapeSeq())
			} else {
				b.WriteRune(c)
			}
		}
		lines[i] = head + "  " + b.String()
	}
	return strings.Join(lines, "\n")
}

var markColours = map[rune]text.Color{
	'.': text.FgYellow, '#': text.FgGreen, '>': text.FgYellow, 'x': text.FgRed, '!': text.FgRed, '|': text.FgMagenta,
	'1': text.FgCyan, '2': text.FgCyan, '3': text.FgCyan, '4': text.FgCyan, '5': text.FgCyan,
	'6': text.FgCyan, '7': text.FgCyan, '8': text.FgCyan, '9': text.FgCyan,
}

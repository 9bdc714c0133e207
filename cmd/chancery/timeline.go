package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/signer/api"
)

// A life is when a version is known and when it signs, past and planned. A zero
// end is one nobody knows; a zero begin means never.
type life struct {
	version               int
	knownFrom, knownUntil time.Time
	signsFrom, signsUntil time.Time
	suspended             bool
}

// lives joins what happened to the versions of a key set with what is planned.
// Versions that are no longer known are left out.
func lives(ks *api.KeySet, plan *api.Plan) []life {
	var all []life
	for _, v := range ks.Versions {
		if v.State == "retired" || v.State == "destroyed" || v.State == "abandoned" || v.Compromised {
			continue
		}
		all = append(all, life{
			version: v.Version, suspended: v.Suspended,
			knownFrom: timeOf(v.PublishedAt), knownUntil: timeOf(v.RetiresAt),
			signsFrom: timeOf(v.SignsFrom), signsUntil: timeOf(v.SignsUntil),
		})
	}
	for _, s := range plan.Steps {
		i := slices.IndexFunc(all, func(l life) bool { return l.version == s.Version })
		if i < 0 {
			if s.Step != "publish" && s.Step != "activate" {
				continue
			}
			all = append(all, life{version: s.Version})
			i = len(all) - 1
		}
		l := &all[i]
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
	return slices.DeleteFunc(all, func(l life) bool { return l.knownFrom.IsZero() })
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// timeline draws lives over width columns: '.' where a version is known, '#'
// where it signs, 'x' where it would but is suspended, '|' for now.
//
//	                now
//	version 1  ...####|##.......
//	version 2     ....|..#######>
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
	fmt.Fprintf(&b, "%*s  . known   # signs   x suspended   > no end planned\n", label, "")
	return b.String()
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
	signs := byte('#')
	if l.suspended {
		signs = 'x'
	}
	fill(l.knownFrom, l.knownUntil, '.')
	fill(l.signsFrom, l.signsUntil, signs)
	cells[column(now)] = '|'
	if l.knownUntil.IsZero() {
		cells[width] = '>'
	}
	return strings.TrimRight(string(cells), " ")
}

package review

import (
	"fmt"
	"strconv"
	"time"
)

// The measures of a drawn key set, in its own units.
const (
	drawnWidth  = 1000
	drawnLeft   = 150 // where time begins
	drawnRight  = 20  // what is free behind its end, for arrows
	drawnTop    = 30  // the first lane; dates stand above
	drawnLane   = 26
	drawnVerges = 60 // lanes at most
)

// A drawing is the versions of a key set over time, as a page shows them.
type drawing struct {
	Width, Height, Left, Right, Bottom int
	Label                              string
	Ticks                              []tick
	Lanes                              []lane
	Earlier                            int // versions that were too many
}

type tick struct {
	X    string
	Text string
}

// A lane is one version.
type lane struct {
	Y, Middle, Baseline, End int

	Even   bool
	Number int
	Text   string // its state
	Bars   []bar
	Marks  []mark
}

// A bar is a time in which a version was in a state.
type bar struct {
	Class    string // known, signs, kept or held
	X, Width string
	Y, High  int
	Title    string
	Open     bool   // it goes on
	Arrow    string // points, if it does
}

// A mark is a moment.
type mark struct {
	Class, X string
	Title    string
}

// draw lays out the versions of k between from and to.
func draw(k *KeySet, from, to time.Time) *drawing {
	if !to.After(from) {
		to = from.Add(time.Second)
	}
	versions := k.Versions
	d := &drawing{Width: drawnWidth, Left: drawnLeft, Right: drawnWidth - drawnRight, Label: "versions of " + k.Name + " over time"}
	if n := len(versions) - drawnVerges; n > 0 {
		versions, d.Earlier = versions[n:], n
	}
	d.Bottom = drawnTop + len(versions)*drawnLane
	d.Height = d.Bottom + 6
	p := scale{from, to}
	d.Ticks = p.ticks()
	for i := range versions {
		d.Lanes = append(d.Lanes, p.lane(&versions[i], drawnTop+i*drawnLane))
		d.Lanes[i].Even = i%2 == 0
	}
	return d
}

// A scale puts times on a line.
type scale struct{ from, to time.Time }

func (s scale) x(t time.Time) float64 {
	const width = drawnWidth - drawnLeft - drawnRight
	part := float64(t.Sub(s.from)) / float64(s.to.Sub(s.from))
	return drawnLeft + width*min(max(part, 0), 1)
}

func at(x float64) string { return strconv.FormatFloat(x, 'f', 1, 64) }

// ticks are the moments whose dates are written: no more than seven.
func (s scale) ticks() (all []tick) {
	const day = 24 * time.Hour
	steps := []time.Duration{
		time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour,
		3 * time.Hour, 6 * time.Hour, day, 2 * day, 7 * day, 14 * day, 28 * day, 91 * day, 182 * day,
	}
	span := s.to.Sub(s.from)
	step := span/6 + 1
	for _, x := range steps {
		if span/x <= 6 {
			step = x
			break
		}
	}
	layout := "2006-01-02"
	switch {
	case step < time.Minute:
		layout = "15:04:05"
	case step < day:
		layout = "01-02 15:04"
	}
	for t := s.from.Truncate(step); !t.After(s.to); t = t.Add(step) {
		if !t.Before(s.from) {
			all = append(all, tick{at(s.x(t)), t.UTC().Format(layout)})
		}
	}
	return all
}

func (s scale) lane(v *Version, y int) lane {
	l := lane{Y: y, Middle: y + drawnLane/2, Baseline: y + drawnLane/2 + 4, End: y + drawnLane, Number: v.Number, Text: v.Fate()}
	gone := earliest(v.Removed, v.Leaked, v.Abandoned)
	l.bar(s, "known", v.Published, earliest(v.Active, gone), 7, "published, not signing")
	l.bar(s, "signs", v.Active, earliest(v.Stopped, gone), 14, "active")
	l.bar(s, "kept", v.Stopped, gone, 7, "retiring: known, not signing")
	for _, h := range v.Suspended {
		l.bar(s, "held", h.Since, earliest(h.Until, v.Stopped, gone), 20, "suspended")
	}
	l.mark(s, "bad", v.Leaked, "compromised")
	l.mark(s, "end", v.Destroyed, "destroyed")
	return l
}

// bar adds the time from one moment to another, zero if it goes on.
func (l *lane) bar(s scale, class string, from, to time.Time, high int, what string) {
	if from.IsZero() || from.After(s.to) || !to.IsZero() && (to.Before(s.from) || !to.After(from)) {
		return
	}
	b := bar{Class: class, Y: l.Middle - high/2, High: high, Open: to.IsZero() || to.After(s.to)}
	end := s.to
	b.Title = fmt.Sprintf("version %d %s from %s", l.Number, what, clock(from))
	if !to.IsZero() {
		b.Title += " to " + clock(to)
	}
	if !b.Open {
		end = to
	}
	x, w := s.x(from), s.x(end)
	b.X, b.Width = at(x), at(max(w-x, 1))
	if b.Open {
		b.Arrow = fmt.Sprintf("%s,%d %s,%d %s,%d", at(w), l.Middle-high/2-2, at(w+10), l.Middle, at(w), l.Middle+high/2+2)
	}
	l.Bars = append(l.Bars, b)
}

func (l *lane) mark(s scale, class string, t time.Time, what string) {
	if t.IsZero() || t.Before(s.from) || t.After(s.to) {
		return
	}
	l.Marks = append(l.Marks, mark{class, at(s.x(t)), fmt.Sprintf("version %d %s at %s", l.Number, what, clock(t))})
}

// earliest returns the first of the times that are not zero.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

package main

import "time"

// tickSpans are the distances between marks of an axis, up to two weeks; tickMonths
// are the longer ones, in months.
var (
	tickSpans = []time.Duration{
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour, 14 * 24 * time.Hour,
	}
	tickMonths = []int{1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200}
)

// ticks returns at most so many round moments of UTC from one moment to another,
// as near to each other as that allows, and what to call each: a label and what
// stands below it where it changes.
func ticks(from, to time.Time, most int) (marks []time.Time, name func(time.Time) (label, below string)) {
	from, to = from.UTC(), to.UTC()
	for _, every := range tickSpans {
		if to.Sub(from)/every >= time.Duration(most) {
			continue
		}
		for t := from.Add(every - 1).Truncate(every); !t.After(to) && len(marks) < most; t = t.Add(every) {
			marks = append(marks, t)
		}
		return marks, nameOf(every)
	}
	first := monthOf(from)
	if month(first).Before(from) {
		first++
	}
	for _, every := range tickMonths {
		marks = nil
		start := (first + every - 1) / every * every
		for m := start; !month(m).After(to) && len(marks) <= most; m += every {
			marks = append(marks, month(m))
		}
		if len(marks) <= most {
			return marks, monthName
		}
	}
	return marks[:most], monthName
}

// monthOf counts months since the year 0.
func monthOf(t time.Time) int { return t.Year()*12 + int(t.Month()) - 1 }

func month(n int) time.Time { return time.Date(n/12, time.Month(n%12+1), 1, 0, 0, 0, 0, time.UTC) }

func monthName(t time.Time) (string, string) { return t.Format("Jan"), t.Format("2006") }

func nameOf(every time.Duration) func(time.Time) (string, string) {
	label, below := "15:04", time.DateOnly
	switch {
	case every >= 24*time.Hour:
		label, below = "2 Jan", "2006"
	case every < time.Minute:
		label = time.TimeOnly
	}
	return func(t time.Time) (string, string) { return t.Format(label), t.Format(below) }
}

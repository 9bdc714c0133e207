package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// wanted is what a figure has to be, and what is really after. Neither: the row is
// for information.
type wanted struct {
	bar, goal float64
	less      bool
	unit      string // ×, share, MB, ms, files
	each      string // ×: the unit of what is compared: /s, µs, MB
}

func more(bar, goal float64) wanted { return wanted{bar: bar, goal: goal} }
func less(bar, goal float64) wanted { return wanted{bar: bar, goal: goal, less: true} }

// A row is one figure.
type row struct {
	Figure string    `json:"figure"`
	Unit   string    `json:"unit,omitempty"`
	Bar    float64   `json:"bar,omitempty"`
	Goal   float64   `json:"goal,omitempty"`
	Less   bool      `json:"less,omitempty"` // less is better
	Each   string    `json:"each,omitempty"` // the unit of what is compared
	Got    *ratio    `json:"measured,omitempty"`
	P50    []float64 `json:"p50_us,omitempty"` // medians of both sides
	P99    []float64 `json:"p99_us,omitempty"`
	Met    string    `json:"met,omitempty"` // goal, bar, or no
	Why    string    `json:"why,omitempty"` // it is not measured
}

// A report is everything that was seen.
type report struct {
	Started  time.Time `json:"started"`
	Cores    int       `json:"cores"`
	Rounds   int       `json:"rounds"`
	Duration float64   `json:"duration_s"`
	Rows     []row     `json:"rows"`
}

// add adds a row. With an error there is no number in it.
func (r *report) add(figure string, w wanted, got ratio, err error) {
	one := row{Figure: figure, Unit: w.unit, Bar: w.bar, Goal: w.goal, Less: w.less, Each: w.each}
	if err != nil {
		one.Why = strings.TrimSpace(err.Error())
		if one.Why == "" {
			one.Why = "nobody says why"
		}
		r.Rows = append(r.Rows, one)
		return
	}
	one.Got, one.Met = &got, w.met(got.Median)
	r.Rows = append(r.Rows, one)
}

// met judges a value; empty: nothing is wanted.
func (w wanted) met(v float64) string {
	if w.bar == 0 {
		return ""
	}
	reaches := func(limit float64) bool { return w.less && v <= limit || !w.less && v >= limit }
	switch {
	case reaches(w.goal):
		return "goal"
	case reaches(w.bar):
		return "bar"
	}
	return "no"
}

// show writes a value in its unit.
func show(v float64, unit string) string {
	switch unit {
	case "×":
		return fmt.Sprintf("%.2f", v)
	case "share":
		return fmt.Sprintf("%.0f %%", 100*v)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// value writes what is compared, to three digits.
func value(v float64, unit string) string {
	switch {
	case unit == "µs" && v >= 1000:
		return fmt.Sprintf("%.3g ms", v/1000)
	case unit == "/s" && v >= 1000:
		return fmt.Sprintf("%.3gk/s", v/1000)
	case unit == "/s":
		return fmt.Sprintf("%.3g/s", v)
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}

func (r row) limit(v float64) string {
	if r.Bar == 0 {
		return "-"
	}
	if r.Less {
		return "≤ " + show(v, r.Unit)
	}
	return "≥ " + show(v, r.Unit)
}

// cells are the row as it is printed.
func (r row) cells() []string {
	c := []string{r.Figure, r.limit(r.Bar), r.limit(r.Goal), "-", "-", "-", "-"}
	if r.Got == nil {
		c[3], c[6] = "not measured", r.Why
		return c
	}
	c[3] = show(r.Got.Median, r.Unit)
	if r.Each != "" {
		c[4] = value(median(r.Got.A), r.Each) + " : " + value(median(r.Got.B), r.Each)
	}
	c[5] = fmt.Sprintf("%s to %s, ± %.0f %%", show(r.Got.Low, r.Unit), show(r.Got.High, r.Unit), 100*r.Got.Noise)
	if r.Met != "" {
		c[6] = r.Met
	}
	if r.doubtful() {
		c[6] += ", within the noise"
	}
	return c
}

// doubtful reports whether the noise is larger than the distance to the limit that
// was reached, or missed: another run might say otherwise.
func (r row) doubtful() bool {
	limit := r.Bar
	if r.Met == "goal" {
		limit = r.Goal
	}
	return r.Met != "" && math.Abs(r.Got.Median/limit-1) < r.Got.Noise
}

var heads = []string{"figure", "bar", "goal", "measured", "medians", "rounds, noise", "met"}

// text is the table for a terminal.
func (r report) text() string {
	t := table.NewWriter()
	head := table.Row{}
	for _, h := range heads {
		head = append(head, h)
	}
	t.AppendHeader(head)
	for _, one := range r.Rows {
		cells := table.Row{}
		for _, c := range one.cells() {
			cells = append(cells, c)
		}
		t.AppendRow(cells)
	}
	return t.Render() + "\n"
}

// markdown is the table for a page.
func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores shared with the client, %d rounds of %v s for each side:\n\n", r.Started.Format(time.DateOnly), r.Cores, r.Rounds, r.Duration)
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(heads, " | "), strings.Repeat("---|", len(heads)))
	for _, one := range r.Rows {
		cells := one.cells()
		for i, c := range cells {
			cells[i] = strings.NewReplacer("|", `\|`, "\n", " ").Replace(c)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

// The marks of what scripts/bench --write replaces.
const (
	markBegin = "<!-- scripts/bench --write replaces what follows -->\n"
	markEnd   = "<!-- until here -->\n"
)

var errNoMarks = errors.New("there are no marks in the page, or not one pair of them")

// replaced puts a table between the marks of a page.
func replaced(page, table string) (string, error) {
	if strings.Count(page, markBegin) != 1 || strings.Count(page, markEnd) != 1 {
		return "", errNoMarks
	}
	before, rest, _ := strings.Cut(page, markBegin)
	_, after, ok := strings.Cut(rest, markEnd)
	if !ok {
		return "", errNoMarks
	}
	return before + markBegin + table + markEnd + after, nil
}

package review

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"chancery/keystore/audit"
)

// ends returns when the last entry of each node's lifecycle was made.
func ends(facts []fact) map[string]time.Time {
	last := make(map[string]time.Time)
	for i := range facts {
		reaches(last, facts[i].Located)
	}
	return last
}

func reaches(last map[string]time.Time, at audit.Located) {
	if node := nodeOf(at.Origin); at.Entry.Time.After(last[node]) {
		last[node] = at.Entry.Time
	}
}

// early tells of the logs that end before the period does: a copy that is old, or was
// cut, has nothing to say of what came after. Where nothing happened it is the same.
func (c *counting) early() (found []Deviation) {
	for _, node := range slices.Sorted(maps.Keys(c.ends)) {
		last, text := c.ends[node], ""
		switch {
		case last.Before(c.opt.Since):
			text = "before the period begins: nothing of the period is in it"
		case c.opt.over() && last.Before(c.opt.Until):
			text = "before the period does: what came after, if anything did, is not in it"
		default:
			continue
		}
		found = append(found, Deviation{
			Severity: Attention, At: last, Entries: []string{},
			Text: fmt.Sprintf("the log of %s ends at %s UTC, %s", shortNode(node), clock(last), text),
		})
	}
	return found
}

// late tells of a period that no log goes back to. A single one that does not is that
// of a node which came later.
func (c *counting) late() (found []Deviation) {
	first := make(map[string]fact)
	for _, f := range c.facts {
		if g, known := first[nodeOf(f.Origin)]; !known || f.Entry.Time.Before(g.Entry.Time) {
			first[nodeOf(f.Origin)] = f
		}
	}
	for _, node := range slices.Sorted(maps.Keys(first)) {
		f := first[node]
		if c.opt.before(f.Entry.Time) {
			return nil
		}
		found = append(found, Deviation{
			Severity: Attention, At: f.Entry.Time, Entries: []string{f.Name()},
			Text: fmt.Sprintf("the log of %s begins at %s UTC, after the period ends: nothing of the period is in it", shortNode(node), clock(f.Entry.Time)),
		})
	}
	return found
}

// changed tells of the logs that are not as they were written: what else the report
// says is of what can be read of them.
func (c *counting) changed() (found []Deviation) {
	for _, checked := range c.opt.Checked {
		if checked.Report == nil {
			continue
		}
		first, more := make(map[string]audit.Problem), make(map[string]int)
		for _, p := range checked.Report.Changed() {
			if more[p.Log]++; more[p.Log] == 1 {
				first[p.Log] = p
			}
		}
		for _, log := range slices.Sorted(maps.Keys(first)) {
			text := fmt.Sprintf("%s is not as it was written: %s", shortNode(checked.Node), first[log])
			if n := more[log] - 1; n > 0 {
				text += fmt.Sprintf(", and %d more such", n)
			}
			found = append(found, Deviation{
				Severity: Breach, At: c.opt.Now.UTC(), Entries: []string{},
				Text: text + ": what cannot be read is in no count",
			})
		}
	}
	return found
}

// over reports whether the period is one that has an end, which has been.
func (o *Options) over() bool { return !o.Until.IsZero() && !o.Until.After(o.Now) }

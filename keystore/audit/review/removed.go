package review

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A Removed is a month of acts that the policy no longer keeps, as an entry of the
// lifecycle says: what was in it is in no report.
type Removed struct {
	Month  string    `json:"month"`  // "2026-08", in UTC
	Origin string    `json:"origin"` // of its log
	Acts   int64     `json:"acts"`   // entries it had
	Policy string    `json:"policy"` // "keep_acts 30d"
	At     time.Time `json:"at"`     // of the entry that says so
	Entry  string    `json:"entry"`  // its name
}

// RemovedBy returns the month that an entry says is removed, and reports whether it
// is such an entry. The month may be there for some time yet.
func RemovedBy(at audit.Located) (Removed, bool) {
	e := &at.Entry
	if e.Action != keystore.ActAuditPrune || e.Outcome != keystore.OutcomeDone {
		return Removed{}, false
	}
	r := Removed{Origin: e.Detail["origin"], Policy: e.Detail["policy"], At: e.Time, Entry: at.Name()}
	_, name, isLog := audit.LogOf(r.Origin)
	month, isActs := strings.CutPrefix(name, "acts/")
	if !isLog || !isActs {
		return Removed{}, false
	}
	r.Month = month
	r.Acts, _ = strconv.ParseInt(e.Detail["size"], 10, 64) // what is no number counts nothing
	return r, true
}

// Between reports whether the month has a moment from since on and before until; a
// zero time is no bound.
func (r Removed) Between(since, until time.Time) bool {
	begin, err := time.Parse("2006-01", r.Month)
	return err == nil && (until.IsZero() || begin.Before(until)) && (since.IsZero() || begin.AddDate(0, 1, 0).After(since))
}

// Words tells in a clause of whom and what was removed, when, and why.
func (r Removed) Words() string {
	return fmt.Sprintf("the %d acts of %s on %s were removed by the policy (%s) at %s UTC", r.Acts, r.Month, shortNode(r.Origin), r.Policy, clock(r.At))
}

// removed returns the months that facts tell of, but for those of which there were
// acts to read.
func removed(facts []fact, there map[string]bool) (all []Removed) {
	for i := range facts {
		if r, is := RemovedBy(facts[i].Located); is && !there[r.Origin] {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b Removed) int {
		return cmp.Or(strings.Compare(a.Month, b.Month), strings.Compare(a.Origin, b.Origin))
	})
	return all
}

// gone tells of the months of the period that are kept no more. When they were
// removed is no matter: nothing of them is in the report.
func (c *counting) gone() (found []Deviation) {
	for _, r := range removed(c.facts, c.there) {
		if r.Between(c.opt.Since, c.opt.Until) {
			found = append(found, Deviation{
				Severity: Attention, At: r.At, Entries: []string{r.Entry},
				Text: r.Words() + ": nothing of them can be reported",
			})
		}
	}
	return found
}

// met notes which months are there, and the lowest number of a use of each node.
func (t *tracing) met(at audit.Located) {
	t.there[at.Origin] = true
	node, use := nodeOf(at.Origin), at.Entry.Use
	if first, known := t.firstUse[node]; use > 0 && (!known || use < first) {
		t.firstUse[node] = use
	}
}

// gone takes the months that are kept no more, of those in which the key was there,
// and how many of its uses are at most in them. Nodes number their uses for themselves.
func (t *tracing) gone(facts []fact, l *life) {
	since := t.opt.Since
	if l != nil && l.facts[0].at.After(since) {
		since = l.facts[0].at
	}
	counted := make(map[string]bool)
	for _, r := range removed(facts, t.there) {
		if !r.Between(since, t.opt.Until) {
			continue
		}
		t.Removed = append(t.Removed, r)
		node := nodeOf(r.Origin)
		if first := t.firstUse[node]; first > 0 && t.opt.Since.IsZero() && !counted[node] {
			t.UsesBefore += first - 1
		}
		counted[node] = true
	}
}

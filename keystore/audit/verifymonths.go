package audit

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
)

// A Pruned tells of a month that is not there, as lifecycle says under a
// signature. Of its entries nothing is known but that they were closed so.
type Pruned struct {
	Name    string    `json:"name"` // "acts/YYYY-MM"
	Origin  string    `json:"origin"`
	Entries int64     `json:"entries"`
	Root    string    `json:"root"`   // in base64
	Policy  string    `json:"policy"` // as it was stated, such as "keep_acts 400d"
	Entry   string    `json:"entry"`  // the name of the entry in lifecycle that says so
	Time    time.Time `json:"time"`   // of that entry
}

// months follows what lifecycle says of the months of acts: every one that it
// opens has to be there, unless it was pruned, and every one that it closes has
// to be as it was.
type months struct {
	Seals  map[string]seal   `json:"seals"`  // by origin
	Opened map[string]int64  `json:"opened"` // by origin: the entry that says so
	Prunes map[string]Pruned `json:"prunes"` // by origin
}

// A seal is what lifecycle says of a month that ended.
type seal struct {
	Index int64 `json:"index"` // in lifecycle
	Prune int64 `json:"prune"` // the entry that says that it was removed, or -1
	Head
}

// longestUnopened is how long the first act of a month may be older than the entry
// that it began: that one is on its way when the act is acknowledged.
const longestUnopened = time.Minute

func newMonths() *months { return &months{map[string]seal{}, map[string]int64{}, map[string]Pruned{}} }

func (m *months) entry(c *check, e *Entry) {
	switch {
	case c.name != lifecycleName || e.Action != keystore.ActAuditShard && e.Action != keystore.ActAuditPrune:
	case !c.isActs(e.Detail["origin"]):
		does := "opens or closes"
		if e.Action == keystore.ActAuditPrune {
			does = "removes"
		}
		c.problem(e.Sequence, "it %s %q, which is no month of acts of this node", does, e.Detail["origin"])
	case e.Action == keystore.ActAuditPrune:
		m.prune(c, e)
	case e.Outcome == keystore.OutcomeIntent:
		m.Opened[e.Detail["origin"]] = e.Sequence
	default:
		m.seal(c, e)
	}
}

// isActs reports whether origin is a log of acts beside this lifecycle.
func (c *check) isActs(origin string) bool {
	month, ok := strings.CutPrefix(origin, strings.TrimSuffix(c.rep.Origin, lifecycleName)+actsName+"/")
	return ok && isMonth(month)
}

// seal keeps what lifecycle says of a month, for when the month is read.
func (m *months) seal(c *check, e *Entry) {
	head, err := parseSeal(e.Detail)
	if err != nil {
		c.problem(e.Sequence, "it closes a month and does not say how")
		return
	}
	origin := e.Detail["origin"]
	s, ok := m.Seals[origin]
	if ok && s.Head != head {
		c.problem(e.Sequence, "it closes %s differently than entry %d", origin, s.Index)
		return
	}
	if !ok {
		m.Seals[origin] = seal{Index: e.Sequence, Prune: -1, Head: head}
	}
}

// prune keeps that lifecycle says that a month was removed.
func (m *months) prune(c *check, e *Entry) {
	origin := e.Detail["origin"]
	s, ok := m.Seals[origin]
	head, err := parseSeal(e.Detail)
	switch {
	case !ok:
		c.problem(e.Sequence, "it removes %s, which was never closed", origin)
	case err != nil || head != s.Head:
		c.problem(e.Sequence, "it removes %s, which entry %d closed, with another size or root", origin, s.Index)
	case s.Prune < 0:
		m.policy(c, e)
		s.Prune = e.Sequence
		m.Seals[origin] = s
		m.Prunes[origin] = Pruned{
			Name: NameOf(origin), Origin: origin, Entries: s.Size, Root: s.Root.String(),
			Policy: e.Detail["policy"], Entry: entryName(c.rep.Origin, e.Sequence), Time: e.Time,
		}
	}
}

// policy holds the removal of a month against the policy that it states.
func (m *months) policy(c *check, e *Entry) {
	keep, err := parsePolicy(e.Detail["policy"])
	month, ok := monthOf(NameOf(e.Detail["origin"]))
	switch {
	case err != nil || !ok:
		c.problem(e.Sequence, "it removes %s and states no policy that says so: %q", e.Detail["origin"], e.Detail["policy"])
	case !pruneDue(month, keep, e.Time):
		c.problem(e.Sequence, "it removes %s, which the policy that it states, %s, keeps until %s", e.Detail["origin"], e.Detail["policy"],
			month.AddDate(0, 1, 0).Add(keep).Format(time.RFC3339))
	}
}

// log compares a month with its seal.
func (m *months) log(c *check) {
	if c.name == lifecycleName {
		return // lifecycle closes others, and is never closed
	}
	lifecycle := &c.v.report.Logs[0]
	s, ok := m.Seals[c.rep.Origin]
	if _, opened := m.Opened[c.rep.Origin]; !ok && !opened && lifecycle.Entries > 0 && c.next > 0 &&
		later(lifecycle.Last, c.rep.Last).Sub(c.rep.First) > longestUnopened {
		c.problem(-1, "lifecycle, of %d entries, does not say that it began: one of the two is another node's, or of another time", lifecycle.Entries)
	}
	if !ok {
		return
	}
	if c.broken || s.Size != c.next || s.Root != c.tree.root() {
		c.problem(-1, "it is not the log of %d entries that lifecycle entry %d closed", s.Size, s.Index)
		return
	}
	c.rep.Closed = entryName(lifecycle.Origin, s.Index)
	if s.Index < lifecycle.Proven && lifecycle.Verified {
		c.rep.Proven, c.rep.Verified, c.rep.ProvenUntil = c.next, true, c.rep.Last
	}
}

func (m *months) conclude(v *verification) {
	for origin, s := range m.Seals {
		switch {
		case v.has(origin) || v.away[NameOf(origin)]: // which was told
		case s.Prune < 0:
			v.problem(lifecycleName, s.Index, "it closes "+origin+", which is not there")
		case s.Prune >= v.report.Logs[0].Proven:
			v.problem(lifecycleName, s.Prune, "it removes "+origin+", which is not there, and no checkpoint signs that yet")
		default:
			m.pruned(v, origin)
		}
	}
	slices.SortFunc(v.report.Pruned, func(a, b Pruned) int { return strings.Compare(a.Name, b.Name) })
	for origin, index := range m.Opened {
		if _, closed := m.Seals[origin]; !v.has(origin) && !closed && !v.away[NameOf(origin)] {
			v.problem(lifecycleName, index, "it opens "+origin+", which is not there")
		}
	}
}

// has reports whether the log with that origin was read.
func (v *verification) has(origin string) bool {
	return slices.ContainsFunc(v.report.Logs, func(l LogReport) bool { return l.Origin == origin })
}

// hasPruned reports whether a month is not there of those that lifecycle, which was
// read before, says are removed: between the two it may be there for a day.
func (v *verification) hasPruned() bool {
	for origin := range v.resumption.from.Months.Prunes {
		if !exists(filepath.Join(v.dir, filepath.FromSlash(NameOf(origin)))) {
			return true
		}
	}
	return false
}

// prunedAs reports whether k is of a month that was removed as the policy says,
// and does not contradict how that was closed: of its beginning nothing can be
// told any more.
func (v *verification) prunedAs(k Checkpoint) bool {
	return slices.ContainsFunc(v.report.Pruned, func(p Pruned) bool {
		return p.Origin == k.Origin && (k.Size < p.Entries || k.Size == p.Entries && k.Root.String() == p.Root)
	})
}

// pruned reports a month that was removed as the policy says. Of checkpoints kept
// of it only one of all its entries can be compared still.
func (m *months) pruned(v *verification, origin string) {
	s := m.Seals[origin]
	v.report.Pruned = append(v.report.Pruned, m.Prunes[origin])
	v.kept = slices.DeleteFunc(v.kept, func(k Checkpoint) bool {
		if k.Origin != origin {
			return false
		}
		if !v.prunedAs(k) {
			v.problem(NameOf(origin), -1, fmt.Sprintf("it was removed with %d entries, and they are not those of the checkpoint kept with %d", s.Size, k.Size))
		}
		return true
	})
}

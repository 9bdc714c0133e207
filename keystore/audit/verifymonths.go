package audit

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore"
)

// months follows what lifecycle says of the months of acts: every one that it
// opens has to be there, and every one that it closes has to be as it was.
type months struct {
	seals  map[string]seal  // by origin
	opened map[string]int64 // by origin: the entry that says so
}

// A seal is what lifecycle says of a month that ended.
type seal struct {
	index int64 // in lifecycle
	size  int64
	root  tlog.Hash
	seen  bool
}

func newMonths() *months { return &months{map[string]seal{}, map[string]int64{}} }

func (m *months) entry(c *check, e *Entry) {
	switch {
	case c.name != lifecycleName || e.Action != keystore.ActAuditShard:
	case !c.isActs(e.Detail["origin"]):
		c.problem(e.Sequence, "it opens or closes %q, which is no month of acts of this node", e.Detail["origin"])
	case e.Outcome == keystore.OutcomeIntent:
		m.opened[e.Detail["origin"]] = e.Sequence
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
	size, err := strconv.ParseInt(e.Detail["size"], 10, 64)
	root, err2 := tlog.ParseHash(e.Detail["root"])
	if err != nil || err2 != nil || size < 0 {
		c.problem(e.Sequence, "it closes a month and does not say how")
		return
	}
	origin := e.Detail["origin"]
	if s, ok := m.seals[origin]; ok && (s.size != size || s.root != root) {
		c.problem(e.Sequence, "it closes %s differently than entry %d", origin, s.index)
		return
	}
	m.seals[origin] = seal{index: e.Sequence, size: size, root: root}
}

// log compares a month with its seal.
func (m *months) log(c *check) {
	s, ok := m.seals[c.rep.Origin]
	if !ok || c.name == lifecycleName {
		return // lifecycle closes others, and is never closed
	}
	s.seen = true
	m.seals[c.rep.Origin] = s
	lifecycle := &c.v.report.Logs[0]
	if c.broken || s.size != c.next || s.root != c.tree.root() {
		c.problem(-1, "it is not the log of %d entries that lifecycle entry %d closed", s.size, s.index)
		return
	}
	c.rep.Closed = entryName(lifecycle.Origin, s.index)
	if s.index < lifecycle.Proven && lifecycle.Verified {
		c.rep.Proven, c.rep.Verified, c.rep.ProvenUntil = c.next, true, c.rep.Last
	}
}

func (m *months) conclude(v *verification) {
	for origin, s := range m.seals {
		if !s.seen {
			v.problem(lifecycleName, s.index, "it closes "+origin+", which is not there")
		}
	}
	for origin, index := range m.opened {
		there := slices.ContainsFunc(v.report.Logs, func(l LogReport) bool { return l.Origin == origin })
		if _, closed := m.seals[origin]; !there && !closed {
			v.problem(lifecycleName, index, "it opens "+origin+", which is not there")
		}
	}
}

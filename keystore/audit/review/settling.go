package review

import (
	"cmp"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// mostHeld bounds how many acts are held back. An act is taken back within the time of
// its request, so a log with more than that in it may have some that count twice.
const mostHeld = 1 << 14

// A settling holds acts back, in their order, until no later entry can take them back:
// the entry of a token is written while its key computes, so one that was not released
// has an entry that says done and one that says how it really went. Such a pair is one
// act, which went as the second says, at the time of the first.
type settling struct {
	held   []audit.Located
	first  int            // index of held[0] since the beginning
	byName map[string]int // the same of those that may be taken back
}

// settlingName joins the two entries of such an act; "": it cannot be taken back. A
// certificate cannot: it stays issued, whoever has it.
func settlingName(at audit.Located) string {
	e := &at.Entry
	id := cmp.Or(e.ID, e.JTI)
	switch e.Action {
	case keystore.ActSignJWT, keystore.ActSignDigest:
	case keystore.ActSignHistory:
		id = e.Request
	default:
		return ""
	}
	if id == "" {
		return ""
	}
	return nodeOf(at.Origin) + "#" + string(e.KID) + "#" + id
}

// tookBack reports whether at takes an act back that is held, which then counts as at
// says: at itself is not to be counted.
func (s *settling) tookBack(at audit.Located) bool {
	switch at.Entry.Outcome {
	case keystore.OutcomeRefused, keystore.OutcomeFailed, keystore.OutcomeUnknown:
	default:
		return false
	}
	name := settlingName(at)
	n, ok := s.byName[name]
	if !ok {
		return false
	}
	delete(s.byName, name)
	done := &s.held[n-s.first]
	at.Entry.Time = done.Entry.Time
	*done = at
	return true
}

// hold takes the next act, and calls count with each that is settled by it, until that
// returns false, which it returns then.
func (s *settling) hold(at audit.Located, count func(audit.Located) bool) bool {
	settled := 0
	for settled < len(s.held) && (len(s.held)-settled >= mostHeld || at.Entry.Time.Sub(s.held[settled].Entry.Time) > inFlight) {
		settled++
	}
	if !s.settle(settled, count) {
		return false
	}
	if name := settlingName(at); name != "" && at.Entry.Outcome == keystore.OutcomeDone {
		if s.byName == nil {
			s.byName = make(map[string]int)
		}
		s.byName[name] = s.first + len(s.held)
	}
	s.held = append(s.held, at)
	return true
}

// all settles what is held: the log has no more.
func (s *settling) all(count func(audit.Located) bool) bool { return s.settle(len(s.held), count) }

func (s *settling) settle(n int, count func(audit.Located) bool) bool {
	for _, at := range s.held[:n] {
		if name := settlingName(at); name != "" {
			delete(s.byName, name)
		}
		if !count(at) {
			return false
		}
	}
	s.first += n
	if s.held = s.held[n:]; len(s.held) == 0 {
		s.held = nil
	}
	return true
}

package audit

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
)

// A useScript writes what entries may say of the uses of keys, right and wrong.
type useScript struct {
	*rig
	clock *clock
	next  map[keystore.KID]int64
	ids   int
	open  []keystore.Record // intents
	since time.Time         // when the first of them was begun
}

// number draws the number of a use: the next, one that leaves a gap, one that is
// there already, or none.
func (s *useScript) number(rt *rapid.T, kid keystore.KID) int64 {
	next := s.next[kid] + 1
	switch rapid.SampledFrom([]string{"next", "next", "next", "next", "gap", "again", "none"}).Draw(rt, "number") {
	case "gap":
		next++
	case "again":
		return rapid.Int64Range(1, max(1, s.next[kid])).Draw(rt, "used")
	case "none":
		return 0
	}
	s.next[kid] = next
	return next
}

func (s *useScript) enter(rt *rapid.T) {
	kid := rapid.SampledFrom([]keystore.KID{webKey, edgeKey}).Draw(rt, "kid")
	outcome := rapid.SampledFrom([]keystore.Outcome{keystore.OutcomeDone, keystore.OutcomeDone, keystore.OutcomeUnknown, keystore.OutcomeFailed}).Draw(rt, "outcome")
	switch rapid.SampledFrom([]string{"act", "act", "act", "lifecycle", "counted", "intent", "outcome"}).Draw(rt, "entry") {
	case "act":
		s.enterUse(used(kid, s.number(rt, kid), outcome))
	case "lifecycle":
		s.lifecycle(keystore.Record{Action: keystore.ActIssueAuthority, Outcome: outcome, KID: kid, Use: s.number(rt, kid)})
	case "counted":
		from := s.next[kid] + 1
		s.next[kid] += rapid.Int64Range(1, 3).Draw(rt, "n")
		s.enterUse(counted(kid, outcome, span{From: from, To: s.next[kid]}.String()))
	case "intent":
		s.ids++
		rec := identified(fmt.Sprintf("id-%d", s.ids), used(kid, s.next[kid]+1, keystore.OutcomeIntent))
		s.next[kid]++
		if s.open = append(s.open, rec); len(s.open) == 1 {
			s.since = s.clock.Now()
		}
		s.enterUse(rec)
	case "outcome":
		if len(s.open) == 0 {
			return
		}
		rec := s.open[0]
		if s.open, rec.Outcome = s.open[1:], outcome; s.clock.Now().After(s.since) { // nobody has waited so long
			rec.Outcome = keystore.OutcomeUnknown
		}
		s.enterUse(rec)
	}
}

// Whatever a log says of the uses of keys, and wherever a review of it ended: it
// says what one that begins anew does. What was pruned since, it knows still: then
// it may say more of a key, or name another entry, but not nothing.
func TestUsesAreJudgedAlikeWhereverAReviewEnded(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newClock(october)
		r := newRig(failing{t, rt}, func(cfg *Config) { cfg.Now, cfg.KeepActs = c.Now, 30*day })
		defer func() {
			if r.log != nil {
				r.log.Close(t.Context())
			}
		}()
		s := &useScript{rig: r, clock: c, next: map[keystore.KID]int64{}}
		w := newReview(r)
		other := func() { r.enterUse(unnumbered("an older version's")) }
		other()
		r.monthBegan()
		var states [][]byte
		for range rapid.IntRange(2, 10).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"enter", "enter", "enter", "later", "month", "prune"}).Draw(rt, "step") {
			case "enter":
				for range rapid.IntRange(1, 5).Draw(rt, "n") {
					s.enter(rt)
				}
			case "later":
				c.set(c.Now().Add(rapid.SampledFrom([]time.Duration{time.Second, inFlight}).Draw(rt, "later")))
			case "month":
				c.set(c.Now().AddDate(0, 1, 0))
				other()
				r.checkpoint()
			case "prune":
				r.prunes(c)
				other()
			}
			r.checkpoint()
			w.state = nil
			w.run()
			if n := len(w.kept); n > 0 {
				states = append(states, w.kept[n-1], w.kept[rapid.IntRange(0, n-1).Draw(rt, "kept")])
			}
		}
		r.close() // its keeper enters nothing between two runs
		w.state = nil
		whole := w.run()
		for i, state := range states {
			w.state = state
			resumed := w.run()
			if len(whole.Pruned) > 0 {
				for _, kid := range []keystore.KID{webKey, edgeKey} {
					if tells(whole, string(kid)) && !tells(resumed, string(kid)) {
						rt.Fatalf("state %d of %d: %s: resumed %v\nwhole   %v", i, len(states), kid, resumed.Problems, whole.Problems)
					}
				}
				continue
			}
			if a, b := spelled(t, resumed, true), spelled(t, whole, true); a != b {
				rt.Fatalf("state %d of %d: resumed %v\nwhole   %v\n%s\n%s", i, len(states), resumed.Problems, whole.Problems, a, b)
			}
		}
	})
}

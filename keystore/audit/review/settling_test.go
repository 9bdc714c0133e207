package review

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// withheld enters a token, and later that it did not go as the first entry says.
func (h *history) withheld(seconds, later float64, outcome keystore.Outcome) *history {
	h.signed(seconds, 2, 600)
	rec := h.acts[len(h.acts)-1].Entry.Record
	rec.Outcome, rec.Code, rec.Reason = outcome, "backend_unavailable", "why"
	return h.told(later, rec)
}

// A token that was not released has two entries, one that says done and one that says
// how it went, and counted as two. It is one, which went as the second says.
func TestATokenThatWasNotReleasedIsOne(t *testing.T) {
	for _, c := range []struct {
		outcome keystore.Outcome
		want    Tally // but for times
		live    int64
		listed  int
	}{
		{keystore.OutcomeRefused, Tally{Done: 1, Refused: 1}, 1, 1},
		{keystore.OutcomeFailed, Tally{Done: 1, Failed: 1}, 1, 1},
		{keystore.OutcomeUnknown, Tally{Done: 1, Unknown: 1}, 2, 2},
	} {
		h := sound().withheld(22, 23, c.outcome)
		before := sound()
		counts := func(t Tally) Tally {
			return Tally{Done: t.Done, Refused: t.Refused, Failed: t.Failed, Unknown: t.Unknown}
		}
		less := func(a, b Tally) Tally {
			return Tally{Done: a.Done - b.Done, Refused: a.Refused - b.Refused, Failed: a.Failed - b.Failed, Unknown: a.Unknown - b.Unknown}
		}
		want := c.want
		want.Done--
		r, was := report(t, Options{}, h), report(t, Options{}, before)
		if got := less(counts(r.Acts), counts(was.Acts)); got != want {
			t.Errorf("%s: the report counts %+v more, want %+v", c.outcome, got, want)
		}
		if len(r.Refusals) != 1 || r.Refusals[0].Acts.All() != 1 || r.Refusals[0].Code != "backend_unavailable" {
			t.Errorf("%s: the report's refusals are %+v", c.outcome, r.Refusals)
		}
		listed := 0
		i, err := Trace([]Log{h.signed(24, 2, 600).log()}, kid("web", 2), Options{Now: h.at(300), Since: h.at(22)}, func(Signed) bool { listed++; return true })
		if err != nil || counts(i.Acts) != c.want || i.Live != c.live || listed != c.listed {
			t.Errorf("%s: the impact counts %+v, %d live, %d listed, %v", c.outcome, i.Acts, i.Live, listed, err)
		}
		if unknown := c.outcome == keystore.OutcomeUnknown; unknown != (len(i.Open) == 1) {
			t.Errorf("%s: open %v", c.outcome, i.Open)
		}
	}
}

// How a token went that was made at the end of the period stands behind it.
func TestATokenThatIsWithheldBehindThePeriod(t *testing.T) {
	h := sound().withheld(22, 23, keystore.OutcomeRefused)
	opt := Options{Since: h.at(22), Until: h.at(22.5), Now: h.at(300)}
	if r := report(t, opt, h); r.Acts.Done != 0 || r.Acts.Refused != 1 {
		t.Errorf("the report: %+v", r.Acts)
	}
	if i, err := Trace([]Log{h.log()}, kid("web", 2), opt, nil); err != nil || i.Acts.Done != 0 || i.Acts.Refused != 1 {
		t.Errorf("the impact: %+v, %v", i.Acts, err)
	}
}

// What is alike in something only is not the same token.
func TestOtherActsAreNotTakenBack(t *testing.T) {
	token := keystore.Record{Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone, KID: "a", JTI: "1"}
	certificate := keystore.Record{Action: keystore.ActSignCSR, Outcome: keystore.OutcomeDone, KID: "a", ID: "1"}
	for what, c := range map[string]struct {
		first, second keystore.Record
		later         time.Duration
		taken         bool
	}{
		"the same":                 {token, token, time.Second, true},
		"another jti":              {token, keystore.Record{Action: keystore.ActSignJWT, KID: "a", JTI: "2"}, time.Second, false},
		"another key":              {token, keystore.Record{Action: keystore.ActSignJWT, KID: "b", JTI: "1"}, time.Second, false},
		"no jti":                   {token, keystore.Record{Action: keystore.ActSignJWT, KID: "a"}, time.Second, false},
		"a certificate":            {certificate, certificate, time.Second, false},
		"long after":               {token, token, inFlight + time.Second, false},
		"what was not done":        {keystore.Record{Action: keystore.ActSignJWT, Outcome: keystore.OutcomeFailed, KID: "a", JTI: "1"}, token, time.Second, false},
		"another node's":           {token, token, 0, false},
		"a digest":                 {keystore.Record{Action: keystore.ActSignDigest, Outcome: keystore.OutcomeDone, KID: "a", ID: "1"}, keystore.Record{Action: keystore.ActSignDigest, KID: "a", ID: "1"}, 1, true},
		"a history":                {keystore.Record{Action: keystore.ActSignHistory, Outcome: keystore.OutcomeDone, KID: "a", Request: "1"}, keystore.Record{Action: keystore.ActSignHistory, KID: "a", Request: "1"}, 1, true},
		"a request of that digest": {keystore.Record{Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone, KID: "a", Request: "1"}, keystore.Record{Action: keystore.ActSignJWT, KID: "a", Request: "1"}, 1, false},
	} {
		c.second.Outcome = keystore.OutcomeRefused
		at := func(node string, after time.Duration, rec keystore.Record) audit.Located {
			return audit.Located{Origin: "localhost/audit/" + node + "/acts/2026-03", Entry: audit.Entry{Time: born.Add(after), Record: rec}}
		}
		second := at("a", c.later, c.second)
		if what == "another node's" {
			second = at("b", c.later, c.second)
		}
		var s settling
		n := 0
		count := func(audit.Located) bool { n++; return true }
		s.hold(at("a", 0, c.first), count)
		s.hold(at("a", c.later, keystore.Record{}), count) // so much time has passed
		if got := s.tookBack(second); got != c.taken {
			t.Errorf("%s: taken back: %v", what, got)
		}
		if s.all(count); n != 2 || len(s.byName) != 0 {
			t.Errorf("%s: %d are counted, %v are kept", what, n, s.byName)
		}
	}
}

// Whatever comes, each act is counted once and in order, and no more are held than may be.
func TestSettlingCountsEachOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s settling
		var counted []int64
		count := func(at audit.Located) bool { counted = append(counted, at.Entry.Sequence); return true }
		now, held, taken := born, 0, 0
		for i := range rapid.IntRange(0, 60).Draw(t, "acts") {
			now = now.Add(time.Duration(rapid.IntRange(0, 8).Draw(t, "seconds")) * time.Second)
			at := audit.Located{Origin: "localhost/audit/a/acts/2026-03", Entry: audit.Entry{Sequence: int64(i), Time: now, Record: keystore.Record{
				Action: keystore.ActSignJWT, KID: "a", JTI: rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, "jti"),
				Outcome: rapid.SampledFrom([]keystore.Outcome{keystore.OutcomeDone, keystore.OutcomeRefused}).Draw(t, "outcome"),
			}}}
			if s.tookBack(at) {
				taken++
				continue
			}
			held++
			s.hold(at, count)
			if first := s.held[0].Entry.Time; now.Sub(first) > inFlight {
				t.Fatalf("at %v one of %v is held", now, first)
			}
		}
		s.all(count)
		if len(counted) != held || len(s.held) != 0 || len(s.byName) != 0 {
			t.Fatalf("%d counted of %d, %d taken back, %v kept", len(counted), held, taken, s.byName)
		}
	})
}

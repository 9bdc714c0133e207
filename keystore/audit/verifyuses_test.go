package audit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

// unnumbered is the entry of a signature as older versions made it.
func unnumbered(kid keystore.KID) keystore.Record { return used(kid, 0, keystore.OutcomeDone) }

func counted(kid keystore.KID, o keystore.Outcome, uses string) keystore.Record {
	return keystore.Record{Principal: self, Action: keystore.ActKeyUse, Outcome: o, KID: kid, Detail: map[string]string{"uses": uses}}
}

func identified(id string, rec keystore.Record) keystore.Record {
	rec.ID = id
	return rec
}

// What a log says of the uses of a key, and what Verify makes of it. Numbers that
// are written plainly stand for signatures; later is an entry so much later that
// nothing before it is open any more.
func TestVerifyUses(t *testing.T) {
	const done, intent, failed, unknown = keystore.OutcomeDone, keystore.OutcomeIntent, keystore.OutcomeFailed, keystore.OutcomeUnknown
	later := keystore.Record{Action: keystore.ActRead, Outcome: done}
	pruned := keystore.Record{Action: keystore.ActAuditPrune, Outcome: done}
	issued := keystore.Record{Action: keystore.ActIssueAuthority, Outcome: done, KID: "k", Use: 1}
	sign := func(uses ...int64) (recs []keystore.Record) {
		for _, n := range uses {
			recs = append(recs, used("k", n, done))
		}
		return recs
	}
	then := func(recs []keystore.Record, more ...keystore.Record) []keystore.Record {
		return append(slices.Clone(recs), more...)
	}
	for _, c := range []struct {
		what      string
		lifecycle []keystore.Record
		acts      []keystore.Record
		want      UseReport
		problem   string // of acts, unless it says otherwise; empty: none
	}{
		{"in order", nil, sign(1, 2, 3), UseReport{First: 1, Last: 3}, ""},
		{"a little out of order", nil, then(sign(3, 1, 4, 2), later), UseReport{First: 1, Last: 4}, ""},
		{"open at the end", nil, sign(1, 4, 3, 7), UseReport{First: 1, Last: 7, Open: 3}, ""},
		{"missing", nil, then(sign(1, 4, 3), later), UseReport{First: 1, Last: 4}, "entry 2: it is use 3 of key k, and use 2 is entered nowhere"},
		{"missing up to", nil, then(sign(1, 7), later), UseReport{First: 1, Last: 7}, "entry 1: it is use 7 of key k, and use 2-6 is entered nowhere"},
		{"the first is missing", nil, then(sign(2, 3), later), UseReport{First: 1, Last: 3}, "entry 0: it is use 2 of key k, and use 1 is entered nowhere"},
		{"twice", nil, sign(1, 2, 1, 3), UseReport{First: 1, Last: 3}, "entry 2: use 1 of key k was closed before"},
		{"closed together", nil, then(sign(1, 5), counted("k", unknown, "2-3"), counted("k", failed, "4,6"), later), UseReport{First: 1, Last: 6, Unknown: 2}, ""},
		{"closed together and by itself", nil, then(sign(1, 2), counted("k", unknown, "2-3")), UseReport{First: 1, Last: 2}, "entry 2: use 2-3 of key k was closed before"},
		{"ranges nobody wrote", nil, then(sign(1), counted("k", unknown, "3-2")), UseReport{First: 1, Last: 1}, "entry 1: its numbers of uses: no ascending ranges of numbers"},
		{"an intent and its outcome", nil, []keystore.Record{identified("s", used("k", 1, intent)), identified("s", used("k", 1, done))}, UseReport{First: 1, Last: 1}, ""},
		{"an intent alone", nil, []keystore.Record{identified("s", used("k", 1, intent)), identified("r", used("k", 2, done)), later}, UseReport{First: 1, Last: 2, Unknown: 1}, ""},
		{"an intent that is open", nil, []keystore.Record{identified("s", used("k", 1, intent)), identified("r", used("k", 2, done))}, UseReport{First: 1, Last: 2, Open: 1}, ""},
		{"an unknown outcome", nil, []keystore.Record{identified("s", used("k", 1, intent)), identified("s", used("k", 1, unknown))}, UseReport{First: 1, Last: 1, Unknown: 1}, ""},
		{"an outcome of another number", nil, []keystore.Record{identified("s", used("k", 1, intent)), identified("s", used("k", 2, done))},
			UseReport{First: 1, Last: 1}, "entry 1: it is use 2 of key k, and its intent is use 1 of key k"},
		{"an outcome twice", nil, []keystore.Record{identified("s", used("k", 1, intent)), identified("s", used("k", 1, done)), identified("s", used("k", 1, done))},
			UseReport{First: 1, Last: 1}, "entry 2: use 1 of key k was closed before"},
		{"below one", nil, then(sign(1), used("k", -1, done)), UseReport{First: 1, Last: 1}, "entry 1: use -1 of key k is no number"},
		{"an older version's before", nil, then([]keystore.Record{unnumbered("k"), unnumbered("k")}, sign(1, 2)...), UseReport{First: 1, Last: 2}, ""},
		{"a signature without a number", nil, then(sign(1), unnumbered("k"), unnumbered("other")), UseReport{First: 1, Last: 1},
			"entry 1: it is a signature by key k without a number, and the uses of that key are numbered"},
		{"a refusal without a number", nil, then(sign(1), used("k", 0, keystore.OutcomeRefused)), UseReport{First: 1, Last: 1}, ""},
		{"the first in lifecycle", []keystore.Record{issued}, then(sign(2, 3), later), UseReport{First: 1, Last: 3}, ""},
		{"in both logs", []keystore.Record{issued}, sign(1), UseReport{First: 1, Last: 1}, "lifecycle: use 1 of key k is closed in it, and in acts"},
		{"in acts first, without a number in lifecycle", []keystore.Record{{Action: keystore.ActIssueAuthority, Outcome: done, KID: "k"}}, sign(1),
			UseReport{First: 1, Last: 1}, ""},
		{"months were pruned", []keystore.Record{pruned}, then(sign(8, 9), later), UseReport{First: 8, Last: 9}, ""},
		{"months were pruned, lifecycle was not", []keystore.Record{issued, pruned}, then(sign(8, 9), later), UseReport{First: 1, Last: 9}, ""},
		{"some were in flight when a month began", []keystore.Record{pruned}, then(sign(9, 7, 10), later), UseReport{First: 7, Last: 10}, ""},
		// Use 7 was taken when 8 to 20 were, and closed in the next month alone.
		{"one was in flight, and what followed it was pruned", []keystore.Record{pruned}, then(sign(7), later, used("k", 21, done), used("k", 22, done), later), UseReport{First: 7, Last: 22}, ""},
		{"one was closed when the log was opened again", []keystore.Record{pruned}, then(sign(20), later, counted("k", unknown, "7"), used("k", 21, done), later), UseReport{First: 7, Last: 21, Unknown: 1}, ""},
		{"all its acts were pruned", []keystore.Record{issued, pruned, {Action: keystore.ActIssueAuthority, Outcome: done, KID: "k", Use: 5}}, nil, UseReport{First: 1, Last: 5}, ""},
		{"missing in what was not pruned", []keystore.Record{pruned}, then(sign(8), later, used("k", 9, done), used("k", 11, done), later), UseReport{First: 8, Last: 11},
			"entry 3: it is use 11 of key k, and use 10 is entered nowhere"},
	} {
		t.Run(c.what, func(t *testing.T) {
			clock := newClock(noon)
			r := newRig(t, func(cfg *Config) { cfg.Now = clock.Now })
			for _, rec := range c.lifecycle {
				if rec.Action == keystore.ActAuditPrune {
					r.prune()
					continue
				}
				r.lifecycle(rec)
			}
			for _, rec := range c.acts {
				if rec.Action == keystore.ActRead {
					clock.set(clock.Now().Add(inFlight))
				}
				r.enterUse(rec)
			}
			r.close()
			rep := r.verify()
			c.want.KID = "k"
			if len(rep.Uses) != 1 || rep.Uses[0] != c.want {
				t.Errorf("%+v, want %+v", rep.Uses, c.want)
			}
			want := []string{}
			switch {
			case strings.HasPrefix(c.problem, lifecycleName):
				want = append(want, c.problem)
			case c.problem != "":
				want = append(want, "acts/2026-11: "+c.problem)
			}
			got := []string{}
			for _, p := range rep.Problems {
				got = append(got, p.String())
			}
			if !slices.Equal(got, want) {
				t.Errorf("problems %q, want %q", got, want)
			}
		})
	}
}

// What is followed of the uses of a key does not grow with their number.
func TestVerifyUsesTakesLittleMemory(t *testing.T) {
	f := newUseFollower()
	c := &check{name: "acts/2026-11"}
	e := Entry{Time: noon, Record: used(webKey, 0, keystore.OutcomeDone)}
	most := 0
	const n, flight = 200_000, 64
	for i := range int64(n) { // each group of some callers comes in reverse
		e.Use = i - i%flight + flight - i%flight
		e.Sequence, e.Time = i, e.Time.Add(time.Millisecond)
		f.entry(c, &e)
		most = max(most, len(f.Kids[webKey].Acts.Closed))
	}
	if s := f.Kids[webKey].Acts.Closed; len(s) != 1 || s.last() != n || most > flight || len(f.Intents) != 0 {
		t.Errorf("%d spans up to %d, at most %d", len(s), s.last(), most)
	}
}

// Beside a running daemon nothing is called missing.
func TestVerifyUsesBesideARunningLog(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Interval = time.Millisecond })
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			var uses []int64
			for range 5 {
				use, err := r.log.Take(webKey)
				if err != nil {
					t.Error(err)
					return
				}
				uses = append(uses, use)
			}
			slices.Reverse(uses)
			for _, use := range uses {
				if _, err := r.log.Act(t.Context(), used(webKey, use, keystore.OutcomeDone)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	defer func() { <-ended }()
	defer close(stop)
	waitFor(t, "there are acts under a checkpoint", func() bool { s := r.log.acts.current(); return s != nil && s.length() > 20 })
	for range 5 {
		if rep := r.verify(); len(rep.Problems) > 0 {
			t.Error(rep.Problems)
		}
	}
}

// An entry that is dropped from the middle of the acts, with everything made to
// fit again, is missed by its number, which the next ones of the key go on from.
func TestADroppedSignatureIsMissed(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	for n := range int64(10) {
		if n+1 == 6 {
			continue // as someone has it who holds the log's key
		}
		r.enterUse(used(webKey, n+1, keystore.OutcomeDone))
	}
	c.set(c.Now().Add(time.Hour))
	r.enterUse(used(edgeKey, 1, keystore.OutcomeDone))
	r.close()
	rep := r.verify()
	if len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0].What, fmt.Sprintf("it is use 7 of key %s, and use 6 is entered nowhere", webKey)) {
		t.Errorf("%v", rep.Problems)
	}
}

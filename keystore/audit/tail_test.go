package audit

import (
	"testing"

	"chancery/keystore"
)

// rest reads what a tail has for now.
func rest(t *testing.T, tail *Tail) (names []string) {
	t.Helper()
	for at, err := range tail.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, at.Name())
	}
	return names
}

func TestATailYieldsEachEntryOnce(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	tail, acts := NewTail(r.cfg.Dir, Filter{}), NewTail(r.cfg.Dir, Filter{Action: keystore.ActSignJWT})
	var want, all []string
	for n := range 40 {
		if n == 20 {
			c.set(noon.AddDate(0, 1, 0)) // another month
		}
		want = append(want, r.act(n).Entry)
		if n%7 == 0 {
			r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
		}
		if n%5 != 0 {
			continue
		}
		all = append(all, rest(t, tail)...)
		if got := rest(t, acts); len(got) == 0 || got[len(got)-1] != want[len(want)-1] {
			t.Fatalf("after act %d the tail has %v", n, got)
		}
	}
	all = append(all, rest(t, tail)...)
	seen := map[string]int{}
	for _, name := range all {
		seen[name]++
	}
	for _, at := range r.all(Filter{}) {
		if seen[at.Name()] != 1 {
			t.Errorf("%s came %d times", at.Name(), seen[at.Name()])
		}
	}
	if got := rest(t, tail); got != nil {
		t.Errorf("twice: %v", got)
	}
}

// Where its reader stops, a tail goes on: whatever was merged ahead comes again.
func TestATailGoesOnWhereItsReaderStopped(t *testing.T) {
	r := newRig(t)
	for n := range 10 {
		r.act(n)
		r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	}
	want := map[string]bool{}
	for _, at := range r.all(Filter{}) {
		want[at.Name()] = true
	}
	tail := NewTail(r.cfg.Dir, Filter{})
	for range 3 * len(want) {
		for at, err := range tail.Entries(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			delete(want, at.Name())
			break
		}
		// The entry at which it stopped comes again: the next look passes it.
		n := 0
		for range tail.Entries(t.Context()) {
			if n++; n == 2 {
				break
			}
		}
	}
	for name := range want {
		t.Errorf("%s never came", name)
	}
}

// It was: each look of a follower read every journal from its beginning.
func TestATailDoesNotReadAgain(t *testing.T) {
	r, dir, _ := manyJournals(t)
	tail := NewTail(r.cfg.Dir, Filter{JTI: "nobody's"})
	if got := rest(t, tail); got != nil {
		t.Fatal(got)
	}
	numbers, err := listJournals(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range numbers[:len(numbers)-1] {
		spoil(t, journalPath(dir, n), 5000)
	}
	if got := rest(t, tail); got != nil {
		t.Fatal(got)
	}
	if err := readError(t.Context(), r.cfg.Dir, Filter{Log: actsName}); err == nil {
		t.Error("a spoilt journal was read over")
	}
}

func TestRulesAndCodesAreFiltered(t *testing.T) {
	r := newRig(t)
	plain := signed(1)
	coded, ruled := plain, plain
	coded.Code, coded.Rule = "forbidden", ""
	ruled.Rule = "rotation/1"
	for _, rec := range []keystore.Record{plain, coded, ruled} {
		if _, err := r.log.Act(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	for want, f := range map[int64]Filter{
		0: {Rule: "issuers"}, 1: {Code: "forbidden"}, 2: {Rule: "rotation/1", Log: actsName},
	} {
		if got := r.all(f); len(got) != 1 || got[0].Entry.Sequence != want {
			t.Errorf("%+v: %v", f, got)
		}
	}
}

package audit

import (
	"context"
	"slices"
	"testing"

	"chancery/keystore"
)

// issuing is the entry of a certificate that is issued, by its outcome.
func issuing(serial string, use int64, o keystore.Outcome) keystore.Record {
	return keystore.Record{
		ID: serial, Principal: "ca", Action: keystore.ActSignCSR, Outcome: o, KeySet: "devices", KID: edgeKey, Use: use, Version: 1, Serial: serial,
	}
}

// outcomes returns the outcomes entered of an ID, in their order.
func (r *rig) outcomes(id string) (all []keystore.Outcome) {
	r.Helper()
	for _, e := range r.all(Filter{ID: id}) {
		all = append(all, e.Entry.Outcome)
	}
	return all
}

func (r *rig) wantOutcomes(id string, want ...keystore.Outcome) {
	r.Helper()
	if got := r.outcomes(id); !slices.Equal(got, want) {
		r.Errorf("%s: entered as %v, want %v", id, got, want)
	}
}

// S13: a process that ends between an intent and its outcome. The next start enters,
// once, that nobody knows, however many numbers were settled meanwhile.
func TestS13AnIntentIsClosedAtTheNextStart(t *testing.T) {
	const intent, done, unknown = keystore.OutcomeIntent, keystore.OutcomeDone, keystore.OutcomeUnknown
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	r.take(edgeKey, 1)
	r.take(edgeKey, 2)
	r.enterUse(issuing("aa", 1, intent))
	r.enterUse(issuing("bb", 2, intent))
	r.enterUse(issuing("bb", 2, done))
	for range 3 { // beyond which, without the intent, nothing would be read
		c.set(c.Now().Add(tendEvery))
		r.log.chores(t.Context())
		r.act(1)
	}
	r.crash()
	r.open()
	r.wantOutcomes("aa", intent, unknown)
	r.wantOutcomes("bb", intent, done)
	r.close()
	r.open()
	r.wantOutcomes("aa", intent, unknown)
	r.close()
	if rep := r.sound(); len(rep.Uses) != 1 || rep.Uses[0].Unknown != 1 || rep.Uses[0].Open != 0 {
		t.Errorf("%+v", rep.Uses)
	}
}

// One whose outcome the log did not take is closed as soon as it can be.
func TestS13AnOutcomeThatCouldNotBeEntered(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	r.take(edgeKey, 1)
	r.take(edgeKey, 2)
	r.enterUse(issuing("aa", 1, keystore.OutcomeIntent))
	r.enterUse(issuing("bb", 2, keystore.OutcomeIntent))
	over, end := context.WithCancel(t.Context())
	end()
	if _, err := r.log.Act(over, issuing("aa", 1, keystore.OutcomeDone)); err == nil {
		t.Fatal("entered")
	}
	for range 2 {
		c.set(c.Now().Add(tendEvery))
		r.log.chores(t.Context())
		r.wantOutcomes("aa", keystore.OutcomeIntent, keystore.OutcomeUnknown)
	}
	r.wantOutcomes("bb", keystore.OutcomeIntent) // nobody has given it up
	r.enterUse(issuing("bb", 2, keystore.OutcomeDone))
	r.close()
	r.sound()
}

// What is settled stays behind an intent that is open, and goes on when it is closed.
func TestNothingIsSettledBeyondAnOpenIntent(t *testing.T) {
	i := newIntents()
	end := useHead{"2026-11", 9}
	rec := issuing("aa", 1, keystore.OutcomeIntent)
	i.begin(&rec)
	if _, ok := i.before(end); ok {
		t.Error("one is on its way, and where it will stand is not known")
	}
	i.place("aa", useHead{"2026-11", 4}, noon)
	if at, ok := i.before(end); !ok || at != (useHead{"2026-11", 4}) {
		t.Errorf("%v, %v", at, ok)
	}
	if at, ok := i.before(useHead{"2026-12", 1}); !ok || at != (useHead{"2026-11", 4}) {
		t.Errorf("in another month: %v, %v", at, ok)
	}
	if at, ok := i.before(useHead{"2026-11", 3}); !ok || at.index != 3 {
		t.Errorf("before it: %v, %v", at, ok)
	}
	i.close("aa")
	i.place("aa", end, noon) // is no more
	if at, ok := i.before(end); !ok || at != end {
		t.Errorf("when it is closed: %v, %v", at, ok)
	}
}

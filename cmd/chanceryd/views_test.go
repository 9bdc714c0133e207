package main

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

func snapshot(revision int64) *keystore.View {
	return keystore.NewView(revision, time.Unix(revision, 0), nil)
}

func wantInForce(t *testing.T, v *views, what string, want int64) {
	t.Helper()
	view, err := v.Current()
	switch {
	case want == 0 && !errors.Is(err, errStale):
		t.Errorf("%s: revision %v is in force, %v; want none", what, view, err)
	case want != 0 && err != nil:
		t.Errorf("%s: %v, want revision %d", what, err, want)
	case want != 0 && view.Revision() != want:
		t.Errorf("%s: revision %d, want %d", what, view.Revision(), want)
	}
}

// A reader that was slow used to put a snapshot in force that the catalog had
// moved on from, after a newer one had been asked for; and what it had read was
// taken for what is in force, so that the key that had just become active was
// dropped.
func TestASlowReaderPutsNothingInForce(t *testing.T) {
	v := &views{leases: new(leases)}
	v.Install(snapshot(7), instant{})
	v.Stale(8)
	if _, installed := v.Install(snapshot(7), instant{}); installed {
		t.Error("revision 7 was installed though 8 is in the catalog")
	}
	wantInForce(t, v, "after revision 7 was read again", 0)
	before, installed := v.Install(snapshot(8), instant{})
	if !installed || before.Revision() != 7 {
		t.Errorf("revision 8: installed %v, after %d", installed, before.Revision())
	}
	wantInForce(t, v, "after revision 8 was read", 8)
	if _, installed := v.Install(snapshot(7), instant{}); installed {
		t.Error("revision 7 has replaced 8")
	}
	wantInForce(t, v, "after revision 7 came late", 8)
}

// While a change may be in the catalog and takes long, nothing that is read
// puts a snapshot in force; a suspension does not either.
func TestADoubtOutlastsWhatIsRead(t *testing.T) {
	v := &views{leases: new(leases)}
	v.Install(snapshot(7), instant{})
	v.Doubt()
	wantInForce(t, v, "in doubt", 0)
	v.Install(snapshot(7), instant{})
	wantInForce(t, v, "in doubt, read again", 0)
	v.Brake(map[keystore.KID]keystore.Fact{"k": {}})
	wantInForce(t, v, "in doubt, braked", 0)
	v.Settled()
	v.Install(snapshot(8), instant{})
	wantInForce(t, v, "settled and read", 8)
}

// The time that a catalog takes to commit used not to count: a token signed
// meanwhile by the version that retires could outlive its key in the set.
func TestAChangeThatTakesLongStopsSigning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &views{leases: new(leases)}
		v.Install(snapshot(7), instant{})
		told := 0
		s := &steps{views: v, slow: func() { told++ }}
		w := &watch{steps: s}
		w.start()
		time.Sleep(enforceWithin - time.Millisecond)
		synctest.Wait()
		wantInForce(t, v, "in time", 7)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		wantInForce(t, v, "late", 0)
		if !w.stop() {
			t.Error("the watch does not say that it took the snapshot out of force")
		}
		if told != 1 {
			t.Errorf("it was told %d times", told)
		}
		v.Install(snapshot(8), instant{})
		wantInForce(t, v, "once the change is in force", 8)

		w = &watch{steps: s}
		w.start()
		if w.stop() {
			t.Error("a watch that was stopped in time says that it was not")
		}
		time.Sleep(2 * enforceWithin)
		synctest.Wait()
		wantInForce(t, v, "after a change in time", 8)
		if told != 1 {
			t.Errorf("a change in time was told")
		}
	})
}

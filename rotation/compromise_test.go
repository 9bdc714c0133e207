package rotation

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

// compromise says of the active version, or of what req names, that it is in
// other hands.
func (w *world) compromise(t *testing.T, req Compromising) []Compromise {
	t.Helper()
	req.By, req.Reason = "olga", "a laptop was stolen"
	if req.Keystore == "" && req.Node == "" {
		req.KeySet = "web"
	}
	all, err := w.Compromise(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wantFirst wants these versions, whatever the schedule has made since.
func (w *world) wantFirst(t *testing.T, states string) {
	t.Helper()
	if got := w.states(); !strings.HasPrefix(got, states) {
		t.Fatalf("%s, want %s first", got, states)
	}
}

// knows reports whether the world knows a version.
func (w *world) knows(number int) bool {
	for _, v := range w.catalog.set("web").Known() {
		if v.Number == number {
			return true
		}
	}
	return false
}

func TestCompromiseWithASuccessorThatMaySign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		defer w.run(t)()
		time.Sleep(10 * time.Second) // version 2 has been served for longer than A + S
		synctest.Wait()
		one := w.compromise(t, Compromising{})[0]
		w.wantFirst(t, "1 retired, 2 active")
		if one.Version != 1 || one.Before != keystore.Active || one.Successor.Version != 2 || one.Gap != nil || !one.Recorded || !one.Durable || one.Already || !one.RejectedUntil.IsZero() {
			t.Errorf("%+v", one)
		}
		if want := one.Fact.At.Add(fast.CacheFor + fast.Skew); !one.Exposure.Caches.Equal(want) || !one.Exposure.Signing.Equal(one.Fact.At) {
			t.Errorf("exposure %+v, want caches until %v", one.Exposure, want)
		}
		if rec := lastOf(w, keystore.ActCompromise); rec.Principal != "olga" || rec.Reason != "a laptop was stolen" || rec.Rule != "rotation/6" || rec.Detail["before"] != "active" {
			t.Errorf("entered as %+v", rec)
		}
		if rec := lastOf(w, keystore.ActKeyActivate); rec.Principal != "olga" || rec.Version != 2 {
			t.Errorf("the activation is entered as %+v", rec)
		}
		if w.knows(1) {
			t.Error("the world still knows version 1")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(t, "1 retired, 2 active, 3 published") // the schedule goes on
		if kept := w.pedal.Suspended(); len(kept) != 0 {
			t.Errorf("the brake keeps %v for a version that can never sign again", kept)
		}
		again := w.compromise(t, Compromising{KID: one.KID})[0]
		if !again.Already {
			t.Error("asked again, it does not say that it was compromised before")
		}
		again.Already = false
		if again != one {
			t.Errorf("asked again: %+v\nwant %+v", again, one)
		}
		if n := countOf(w, keystore.ActCompromise); n != 1 {
			t.Errorf("%d entries", n)
		}
	})
}

func countOf(w *world, action keystore.Action) (n int) {
	for _, e := range w.catalog.entries() {
		if e.Record.Action == action {
			n++
		}
	}
	return n
}

func TestCompromiseLeavesAGapUntilRule1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		defer w.run(t)()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w.want(t, "1 active, 2 published")
		one := w.compromise(t, Compromising{})[0]
		w.wantFirst(t, "1 retired, 2 published")
		end := w.catalog.set("web").Versions[1].ServedAt.Add(fast.CacheFor + fast.Skew)
		if one.Successor != (Ref{}) || one.Gap == nil || !one.Gap.Until.Equal(end) || !one.Gap.From.Equal(one.Fact.At) || !strings.Contains(one.Gap.Text, "rule 1") {
			t.Fatalf("%+v, gap %+v; want one until %v", one, one.Gap, end)
		}
		if gap, ok := w.Gap(w.catalog.set("web")); !ok || !gap.Until.Equal(end) {
			t.Errorf("callers are told of %+v, %v", gap, ok)
		}
		time.Sleep(time.Until(end) - time.Millisecond)
		synctest.Wait()
		w.want(t, "1 retired, 2 published")
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		w.want(t, "1 retired, 2 active, 3 published")
		if _, ok := w.Gap(w.catalog.set("web")); ok {
			t.Error("the gap does not end")
		}
		after := w.compromise(t, Compromising{KID: one.KID})[0]
		if after.Successor.Version != 2 || after.Gap == nil || !after.Gap.Until.Equal(after.SignsSince) || after.Entry != one.Entry {
			t.Errorf("asked when it is over: %+v, gap %+v", after, after.Gap)
		}
	})
}

func TestCompromiseSignsEarlyWhereThatIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sch := slow
		sch.SignEarly = true
		w := newWorld(t, sch)
		defer w.run(t)()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		one := w.compromise(t, Compromising{})[0]
		safe := w.catalog.set("web").Versions[1].ServedAt.Add(sch.CacheFor + sch.Skew)
		if one.Successor.Version != 2 || one.Gap != nil || !one.RejectedUntil.Equal(safe) {
			t.Errorf("%+v; want version 2 at once, rejected until %v", one, safe)
		}
		if rec := lastOf(w, keystore.ActKeyActivate); rec.Rule != "rotation/6" || !strings.Contains(rec.Reason, "may reject its tokens until") {
			t.Errorf("entered as %+v", rec)
		}
		// Without a gap rule 1 holds as ever.
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := w.rotate(true); !errors.As(err, new(*TooEarly)) {
			t.Errorf("a rotation now: %v", err)
		}
		w.want(t, "1 retired, 2 active, 3 published")
		// The next one is not served when its predecessor goes: it signs once it is.
		w.compromise(t, Compromising{Keystore: "hsm"})
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(t, "1 retired, 2 retired, 3 retired, 4 active, 5 published")
	})
}

func TestCompromiseOfAKeystoreTakesItsSuccessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		defer w.run(t)()
		time.Sleep(34 * time.Second)
		synctest.Wait()
		w.want(t, "1 retired, 2 active, 3 published")
		all := w.compromise(t, Compromising{Keystore: "hsm"})
		if len(all) != 3 {
			t.Fatalf("%d versions: %+v", len(all), all)
		}
		for i, before := range []keystore.State{keystore.Retired, keystore.Active, keystore.Published} {
			if c := all[i]; c.Before != before || c.Entry == "" || c.Gap == nil || c.Successor != (Ref{}) {
				t.Errorf("version %d: %+v, want it to have been %s", c.Version, c, before)
			}
		}
		if all[0].Exposure.Signing != (time.Time{}) || !all[0].Exposure.Caches.Before(all[1].Exposure.Caches) {
			t.Errorf("a retired version deceives like an active one: %+v", all[0].Exposure)
		}
		known := w.catalog.set("web").Known()
		if len(known) > 1 || len(known) == 1 && known[0].Number != 4 {
			t.Errorf("%s: %d versions are known", w.states(), len(known))
		}
		time.Sleep(6 * time.Second) // a new one is made, and served for A + S
		synctest.Wait()
		w.want(t, "1 retired, 2 retired, 3 retired, 4 active, 5 published")
		if _, err := w.Compromise(t.Context(), Compromising{Keystore: "attic"}); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("a keystore without keys: %v", err)
		}
	})
}

// A key that is being made in a keystore that is in other hands is never
// published, and nothing waits for it.
func TestCompromiseGivesUpAPendingVersion(t *testing.T) {
	w := newWorld(t, fast)
	w.catalog.sets["web"].Versions = []keystore.Version{{
		Number: 1, Algorithm: keystore.EdDSA, Keystore: "hsm", KeyID: keystore.NewKeyID(), State: keystore.Pending, CreatedAt: moment(time.Now()),
	}}
	row := w.catalog.set("web").Versions[0]
	all := w.compromise(t, Compromising{Keystore: "hsm"})
	if len(all) != 1 || all[0].Before != keystore.Pending || all[0].Gap != nil || all[0].Entry == "" {
		t.Errorf("%+v", all)
	}
	w.want(t, "1 abandoned")
	spki, err := w.token.Generate(t.Context(), row.KeyID, keystore.PurposeJWT, keystore.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.conclude(t.Context(), w.catalog.set("web"), &row, spki, nil, nil); !errors.Is(err, keystore.ErrOvertaken) {
		t.Errorf("the key came to be: %v", err)
	}
	w.want(t, "1 abandoned")
}

// Neither catalog nor log is needed to stop a key and to take it out of the set
// here; what is owed to them follows.
func TestCompromiseWhileNothingCanBeWritten(t *testing.T) {
	for _, c := range []struct {
		name    string
		brake   error
		durable bool
	}{
		{"the brake file can", nil, true},
		{"nothing at all", errCrash, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, fast)
				revoked := map[keystore.KID]bool{}
				w.cfg.Revoke = func(kid keystore.KID, _ keystore.Fact) { revoked[kid] = true }
				defer w.run(t)()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				w.fail(errCrash, c.brake)
				one := w.compromise(t, Compromising{})[0]
				if one.Recorded || one.Durable != c.durable || one.Entry != "" || one.Before != keystore.Active || one.Gap == nil || one.Successor != (Ref{}) {
					t.Errorf("%+v", one)
				}
				if !revoked[one.KID] || !w.isBraked(one.KID) {
					t.Error("it is not stopped")
				}
				w.want(t, "1 active, 2 published")
				time.Sleep(5 * time.Second)
				w.fail(nil, nil)
				w.Changed()
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				v := w.catalog.set("web").Versions[0]
				if v.State != keystore.Retired || v.Compromised == nil || v.Compromised.By != "olga" || countOf(w, keystore.ActCompromise) != 1 {
					t.Errorf("when it can be written: %+v, %d entries", v, countOf(w, keystore.ActCompromise))
				}
				if v, ok := w.catalog.set("web").Active(); !ok || v.Number == 1 {
					t.Error("nothing signs instead")
				}
				if w.isBraked(one.KID) {
					t.Error("the brake keeps it")
				}
			})
		})
	}
}

// A node that could not record the compromise of a keystore did so when it could,
// though another node had by then: the versions made since were compromised, too.
func TestCompromiseThatAnotherNodeHasRecorded(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		w := newWorld(t, fast)
		w.settle(t)
		w.want(t, "1 active, 2 published")
		w.fail(errCrash, nil)
		if one := w.compromise(t, Compromising{Keystore: "hsm"})[0]; one.Recorded {
			t.Fatalf("%+v", one)
		}
		w.fail(nil, nil)
		if elsewhere {
			_, err := w.catalog.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
				return w.Rotator.compromise(at, ks, Compromising{By: "paul", Reason: "the same", Keystore: "hsm"}, 0)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err := w.catalog.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			ks.Versions = append(ks.Versions, keystore.Version{
				Number: 3, Algorithm: ks.Algorithm, Keystore: "hsm", KeyID: keystore.NewKeyID(), State: keystore.Pending, CreatedAt: at.Now,
			})
			return []keystore.Record{{Action: keystore.ActKeyGenerate}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v := w.catalog.set("web").Versions[2]; (v.Compromised == nil) != elsewhere {
			t.Errorf("recorded elsewhere %v: version 3 is %s, compromised %v", elsewhere, v.State, v.Compromised)
		}
	}
}

// The version that an operator looks at retires in a swap that is under way: what
// took over signs on.
func TestCompromiseDuringASwap(t *testing.T) {
	w := newWorld(t, fast)
	w.settle(t)
	one := w.catalog.set("web").Versions[0]
	w.catalog.mu.Lock()
	for i := range w.catalog.sets["web"].Versions { // long ago
		v := &w.catalog.sets["web"].Versions[i]
		v.ServedAt = v.ServedAt.Add(-time.Hour)
	}
	w.catalog.mu.Unlock()
	answered := make(chan []Compromise, 1)
	w.catalog.mu.Lock()
	w.catalog.hold = func() {
		go func() {
			all, _ := w.Compromise(context.Background(), Compromising{By: "olga", KeySet: "web", KID: one.KID, Reason: "stolen"})
			answered <- all
		}()
		for !w.isBraked(one.KID) {
			time.Sleep(time.Millisecond)
		}
	}
	w.catalog.mu.Unlock()
	if _, err := w.rotate(true); err != nil {
		t.Fatal(err)
	}
	all := <-answered
	w.wantFirst(t, "1 retired, 2 active")
	if len(all) != 1 || all[0].Before != keystore.Retiring || all[0].Gap != nil {
		t.Errorf("%+v", all)
	}
}

// Those who trust a CA have to have the next certificate first, and only the
// operator knows when they do.
func TestCompromiseOfAnAuthorityWaitsForTheOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		w.catalog.sets["web"].Purpose = keystore.PurposeCA
		w.spec.Purpose, w.spec.Schedule.Ahead = keystore.PurposeCA, false
		if err := w.Ensure(t.Context(), []Spec{w.spec}); err != nil {
			t.Fatal(err)
		}
		defer w.run(t)()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w.want(t, "1 active")
		w.compromise(t, Compromising{})
		time.Sleep(time.Hour)
		synctest.Wait()
		w.want(t, "1 retired, 2 published")
		gap, ok := w.Gap(w.catalog.set("web"))
		if !ok || !gap.Until.IsZero() || !strings.Contains(gap.Text, "rotation now") {
			t.Errorf("%+v, %v", gap, ok)
		}
		answer, err := w.rotate(false)
		if err != nil || answer.To.Version != 2 || answer.Entry == "" {
			t.Fatalf("%+v, %v", answer, err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(t, "1 retired, 2 active")
		if w.catalog.set("web").RotateBy != nil {
			t.Error("the rotation is asked for still")
		}
	})
}

func TestCompromiseIsNotTakenBack(t *testing.T) {
	w := newWorld(t, fast)
	w.settle(t)
	one := w.compromise(t, Compromising{})[0]
	if _, err := w.Resume(t.Context(), "olaf", "web", one.KID, "no doubt"); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("resumed: %v", err)
	}
	if _, err := w.Destroy(t.Context(), Destroying{By: "olga", KeySet: "web", KID: one.KID, Reason: "stolen"}); err != nil {
		t.Errorf("what it signed is rejected already, and yet: %v", err)
	}
	for _, kid := range []keystore.KID{"nobody", one.KID[1:]} {
		if _, err := w.Compromise(t.Context(), Compromising{By: "olga", KeySet: "web", KID: kid}); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("kid %q: %v", kid, err)
		}
	}
	if _, err := w.Compromise(t.Context(), Compromising{By: "olga", KeySet: "web"}); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("no version is active, and yet: %v", err)
	}
}

func TestCompromiseOfANode(t *testing.T) {
	w := newWorld(t, fast)
	w.cfg.Node = "one"
	w.settle(t)
	if _, err := w.Compromise(t.Context(), Compromising{By: "olga", Node: "two"}); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("a node that nobody knows: %v", err)
	}
	if _, err := w.Compromise(t.Context(), Compromising{By: "olga", Node: "one"}); !strings.Contains(err.Error(), "the only one") {
		t.Errorf("the only node: %v", err)
	}
	w.want(t, "1 active, 2 published")

	view, err := w.view(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := view.ReadAt().Add(-time.Second) // it may have renewed its leases once more since
	w.cfg.Catalog = withNode{w.catalog, keystore.Node{Name: "two", Revision: 1, SeenAt: seen, PublishesUntil: seen.Add(time.Hour), SignsUntil: seen.Add(time.Minute)}}
	forgot := ""
	w.cfg.ForgetNode = func(_ context.Context, name string, by keystore.Fact) error {
		forgot = name + " by " + by.By
		return errCrash
	}
	all, err := w.Compromise(t.Context(), Compromising{By: "olga", Reason: "broken into", Node: "two"})
	if !errors.Is(err, ErrNotForgotten) || forgot != "two by olga" {
		t.Errorf("%v; forgot %q", err, forgot)
	}
	w.want(t, "1 retired, 2 retired")
	if len(all) != 2 || all[0].Exposure.CutOff.Before(all[0].Exposure.Caches.Add(time.Hour)) {
		t.Errorf("%+v", all)
	}
}

// withNode is a catalog that another node works by, too.
type withNode struct {
	*memory
	other keystore.Node
}

func (c withNode) View(ctx context.Context) (*keystore.View, error) {
	v, err := c.memory.View(ctx)
	if err != nil {
		return nil, err
	}
	return v.WithNodes(v.ReadAt(), []keystore.Node{c.other}), nil
}

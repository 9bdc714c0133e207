package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

// May this version's key be destroyed now, and why not?
func TestDestroyable(t *testing.T) {
	sch := Schedule{CacheFor: time.Minute, Skew: 5 * time.Second, Lifetime: 40 * time.Second, Lease: 5 * time.Second}
	const wait = 50 * time.Second // lease, lifetime and skew
	stopped := start
	signed := func(state keystore.State) keystore.Version {
		return keystore.Version{
			Number: 1, KID: "one", State: state, ActivatedAt: start.Add(-time.Hour), StoppedAt: stopped,
			ExpHorizon: stopped.Add(time.Hour), MaxLifetime: 40 * time.Second, // the horizon is raised ahead of need
		}
	}
	unused := keystore.Version{Number: 1, KID: "one", State: keystore.Retired}
	endless := signed(keystore.Retiring)
	endless.MaxLifetime = 0
	with := func(v keystore.Version, f func(*keystore.Version)) keystore.Version { f(&v); return v }
	for _, c := range []struct {
		what    string
		purpose keystore.Purpose
		v       keystore.Version
		after   time.Duration // since it stopped signing, by the wall clock
		silent  time.Duration // since it was seen not to sign, by the other one
		rule    int
		left    time.Duration // too early by
		text    string        // kept, or too early; empty: it may be destroyed
	}{
		{"its last token has expired", keystore.PurposeJWT, signed(keystore.Retired), wait, wait, 0, 0, ""},
		{"a moment before, by the wall clock", keystore.PurposeJWT, signed(keystore.Retired), wait - time.Millisecond, time.Hour, 2, time.Millisecond, "rule 2: tokens it signed may be valid"},
		{"a moment before, in real time", keystore.PurposeJWT, signed(keystore.Retired), wait, wait - time.Millisecond, 9, time.Millisecond, "rule 9: "},
		{"the wall clock was set ahead", keystore.PurposeJWT, signed(keystore.Retired), 24 * time.Hour, 10 * time.Second, 9, 40 * time.Second, "real time"},
		{"the wall clock was set back", keystore.PurposeJWT, signed(keystore.Retired), -time.Hour, time.Hour, 2, time.Hour + wait, "rule 2"},
		{"a start has just been", keystore.PurposeJWT, signed(keystore.Retired), 24 * time.Hour, 0, 9, wait, "counted anew from each start"},
		{"the horizon is near", keystore.PurposeJWT, with(signed(keystore.Retired), func(v *keystore.Version) { v.ExpHorizon = stopped.Add(2 * time.Second) }), 10 * time.Second, wait, 0, 0, ""},
		{"the longest lifetime was longer", keystore.PurposeJWT, with(signed(keystore.Retired), func(v *keystore.Version) { v.MaxLifetime = time.Hour }), time.Hour, 2 * time.Hour, 2, 5 * time.Second, "rule 2"},
		{"retiring", keystore.PurposeJWT, signed(keystore.Retiring), 10 * time.Second, 10 * time.Second, 2, 40 * time.Second, "rule 2: tokens it signed may be valid until"},
		{"retiring, and overdue", keystore.PurposeJWT, signed(keystore.Retiring), time.Hour, time.Hour, 2, time.Second, "about to leave the set"},
		{"it signed nothing", keystore.PurposeJWT, unused, 0, 0, 0, 0, ""},
		{"destroyed already", keystore.PurposeJWT, signed(keystore.Destroyed), 0, 0, 0, 0, ""},
		{"pending", keystore.PurposeJWT, keystore.Version{Number: 1, State: keystore.Pending}, 0, 0, 0, 0, "version 1 is pending: only a retired one"},
		{"published", keystore.PurposeJWT, keystore.Version{Number: 1, State: keystore.Published}, 0, 0, 0, 0, "version 1 is published: only a retired one"},
		{"active", keystore.PurposeJWT, signed(keystore.Active), time.Hour, time.Hour, 0, 0, "version 1 is active: only a retired one is destroyed (hint: `chancery rotation now web`"},
		{"abandoned", keystore.PurposeJWT, keystore.Version{Number: 1, State: keystore.Abandoned}, 0, 0, 0, 0, "never came to be"},
		{"a digest key whose signatures never expire", keystore.PurposeDigest, endless, time.Hour, time.Hour, 2, 0, "never expires"},
		{"a CA key", keystore.PurposeCA, signed(keystore.Retired), time.Hour, time.Hour, 10, 0, "rule 10: a CA key is kept until its last certificate has expired"},
		{"a CA key that signed nothing", keystore.PurposeCA, unused, time.Hour, time.Hour, 10, 0, "rule 10"},
		{"a log key", keystore.PurposeAudit, signed(keystore.Retired), time.Hour, time.Hour, 9, 0, "rule 9: keys of the log are kept"},
	} {
		ks, sch := &keystore.KeySet{Name: "web", Purpose: c.purpose, Versions: []keystore.Version{c.v}}, sch
		if c.purpose == keystore.PurposeDigest {
			sch.Lifetime = 0
		}
		err := Destroyable(ks, sch, &ks.Versions[0], stopped.Add(c.after), c.silent)
		rule, left, text := 0, time.Duration(0), ""
		if early, ok := errors.AsType[*TooEarly](err); ok {
			rule, left, text = early.Rule, early.RetryAfter, early.Text
		} else if kept, ok := errors.AsType[*Kept](err); ok {
			rule, text = kept.Rule, kept.Text
		}
		if (err == nil) != (c.text == "") || rule != c.rule || left != c.left || !strings.Contains(text, c.text) {
			t.Errorf("%s: rule %d, %v left, %v; want rule %d, %v, %q", c.what, rule, left, err, c.rule, c.left, c.text)
		}
	}
}

// destroy asks for the destruction of a version.
func (w *world) destroy(version int) (Destruction, error) {
	return w.Destroy(context.Background(), Destroying{By: "olga", KeySet: "web", Version: version, Reason: "no longer needed"})
}

// retired is a world whose version 1 is retired and may be destroyed.
func retired(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, fast)
	stop := w.run(t)
	defer stop()
	time.Sleep(time.Minute)
	synctest.Wait()
	if v := w.catalog.set("web").Versions[0]; v.State != keystore.Retired || v.ActivatedAt.IsZero() {
		t.Fatalf("version 1: %+v", v)
	}
	return w
}

// destructions are the outcomes the log has of destructions, in order.
func (w *world) destructions() string {
	var all []string
	for _, e := range w.catalog.entries() {
		if e.Record.Action == keystore.ActKeyDestroy {
			all = append(all, string(e.Record.Outcome)+" "+e.Record.State)
		}
	}
	return strings.Join(all, ", ")
}

func TestDestroy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := retired(t)
		forgotten := keystore.KID("")
		w.cfg.Forget = func(kid keystore.KID) { forgotten = kid }
		w.token.destroy = func() error {
			if w.destructions() != "intent retired" || forgotten == "" {
				t.Errorf("before the key is destroyed the log has %q; forgotten: %q", w.destructions(), forgotten)
			}
			return nil
		}
		before := w.catalog.set("web").Versions[0]
		done, err := w.destroy(1)
		if err != nil || done.Version != 1 || done.KID != before.KID || forgotten != before.KID || done.Entry == "" {
			t.Fatalf("%+v, %v; forgotten: %q", done, err, forgotten)
		}
		v := w.catalog.set("web").Versions[0]
		if _, there := w.token.keys[v.KeyID]; there || v.State != keystore.Destroyed || v.DestroyedAt.Before(v.RetiredAt) {
			t.Errorf("the key is there: %v, %+v", there, v)
		}
		last := lastOf(w, keystore.ActKeyDestroy)
		if w.destructions() != "intent retired, done destroyed" || last.Principal != "olga" || last.Reason != "no longer needed" || last.Rule != "rotation/9" {
			t.Errorf("%q, the last %+v", w.destructions(), last)
		}
		found, err := w.Reconcile(t.Context(), "")
		if err != nil || found.Err() != nil || len(found.Mismatches) > 0 || w.Troubled() != 0 {
			t.Errorf("%+v, %v: a destroyed key is not missing", found, err)
		}
		events := History(w.catalog.entries(), "web")
		if e := events[len(events)-1]; e.Event != "destroy" || e.By != "olga" || e.Version != 1 {
			t.Errorf("the last event is %+v", e)
		}
		for _, step := range Timeline(Facts{Set: w.catalog.set("web")}, fast, time.Now(), time.Now().Add(time.Hour)) {
			if step.Version == 1 {
				t.Errorf("planned: %+v", step)
			}
		}
		w.token.destroy = nil
		if _, err := w.destroy(1); err != nil {
			t.Errorf("again: %v", err)
		}
		checkEntries(t, w.catalog.entries())
	})
}

func TestDestroyRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := retired(t)
		early := func(rule int) func(error) bool {
			return func(err error) bool {
				e, ok := errors.AsType[*TooEarly](err)
				return ok && e.Rule == rule && e.RetryAfter > 0
			}
		}
		is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
		kept := func(err error) bool { _, ok := errors.AsType[*Kept](err); return ok }
		for len(w.catalog.set("web").InState(keystore.Retiring)) == 0 {
			time.Sleep(time.Second)
			w.settle(t)
		}
		versions := w.catalog.set("web").Versions
		active, _ := w.catalog.set("web").Active()
		kid := versions[0].KID
		for _, c := range []struct {
			what string
			req  Destroying
			is   func(error) bool
		}{
			{"no such version", Destroying{KeySet: "web", Version: 99}, is(keystore.ErrNotFound)},
			{"no version named", Destroying{KeySet: "web"}, is(keystore.ErrNotFound)},
			{"a kid of nobody", Destroying{KeySet: "web", KID: "x"}, is(keystore.ErrNotFound)},
			{"kid and version differ", Destroying{KeySet: "web", KID: kid, Version: 2}, is(keystore.ErrNotFound)},
			{"a key set there is not", Destroying{KeySet: "no", Version: 1}, is(ErrNotConfigured)},
			{"the active version", Destroying{KeySet: "web", KID: active.KID}, kept},
			{"the next version", Destroying{KeySet: "web", Version: active.Number + 1}, kept},
			{"the one before", Destroying{KeySet: "web", Version: active.Number - 1}, early(2)},
		} {
			c.req.By, c.req.Reason = "olga", "drill"
			if _, err := w.Destroy(t.Context(), c.req); !c.is(err) {
				t.Errorf("%s: %v", c.what, err)
			}
		}
		w.Rotator = w.another() // a restart: real time counts anew
		if err := w.Ensure(t.Context(), []Spec{w.spec}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.destroy(1); !early(9)(err) {
			t.Errorf("just after a start: %v", err)
		}
		if w.destructions() != "" || len(w.token.keys) != len(versions) {
			t.Errorf("%q, %d keys of %d versions", w.destructions(), len(w.token.keys), len(versions))
		}
		time.Sleep(fast.Lease + fast.Lifetime + fast.Skew)
		if _, err := w.destroy(1); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}

// What keeps a destruction from being done leaves the version retired, is told,
// and the same request is run again.
func TestDestroyIsRunAgain(t *testing.T) {
	down := fmt.Errorf("gone: %w", keystore.ErrUnavailable)
	for _, c := range []struct {
		what string
		fail func(w *world) (mend func())
		want error
		log  string // what it has when the first attempt is over
	}{
		{"the outcome is not known", func(w *world) func() {
			w.token.destroy = func() error { return keystore.ErrUncertain }
			return func() { w.token.destroy = nil }
		}, keystore.ErrUncertain, "intent retired, unknown retired"},
		{"the token fails meanwhile", func(w *world) func() {
			w.token.destroy = func() error { return down }
			return func() { w.token.destroy = nil }
		}, keystore.ErrUnavailable, "intent retired, unknown retired"},
		{"another key goes by its id", func(w *world) func() {
			w.token.destroy = func() error { return keystore.ErrAmbiguous }
			return func() { w.token.destroy = nil }
		}, keystore.ErrAmbiguous, "intent retired, failed retired"},
		{"the token is down", func(w *world) func() {
			w.token.state = keystore.TokenUnavailable
			return func() { w.token.state = "" }
		}, keystore.ErrUnavailable, ""},
		{"the log is full", func(w *world) func() {
			w.catalog.full = keystore.ErrUnavailable
			return func() { w.catalog.full = nil }
		}, keystore.ErrUnavailable, ""},
		{"the catalog fails when the key is gone", func(w *world) func() {
			w.token.destroy = func() error { w.catalog.down = down; return nil }
			return func() { w.token.destroy, w.catalog.down = nil, nil }
		}, keystore.ErrUnavailable, "intent retired"},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := retired(t)
				mend := c.fail(w)
				if _, err := w.destroy(1); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if got := w.destructions(); got != c.log || w.catalog.set("web").Versions[0].State != keystore.Retired {
					t.Errorf("the log has %q, want %q; version 1 is %v", got, c.log, w.catalog.set("web").Versions[0].State)
				}
				mend()
				if _, err := w.destroy(1); err != nil {
					t.Fatalf("again: %v", err)
				}
				w.wantDestroyed(t)
			})
		})
	}
}

func (w *world) wantDestroyed(t *testing.T) {
	t.Helper()
	v := w.catalog.set("web").Versions[0]
	if _, there := w.token.keys[v.KeyID]; there || v.State != keystore.Destroyed || !strings.HasSuffix(w.destructions(), ", done destroyed") {
		t.Errorf("there: %v, %v; the log has %q", there, v.State, w.destructions())
	}
	checkEntries(t, w.catalog.entries())
}

// The process ends at each durable point of a destruction, before and after it
// holds. What is left is told, and the same command brings it to its end.
func TestDestroyKilledAtEveryDurablePoint(t *testing.T) {
	points := 0
	for _, after := range []bool{false, true} {
		for _, where := range []string{"catalog", "token"} {
			for n := 1; n > 0; n++ {
				synctest.Test(t, func(t *testing.T) {
					w := retired(t)
					fuse := map[string]*fuse{"catalog": w.catalog.fuse, "token": w.token.fuse}[where]
					fuse.left, fuse.after = n, after
					_, err := w.destroy(1)
					if err == nil { // there is no such point
						n = -1
						return
					}
					points++
					*fuse = *newFuse()
					w.Rotator = w.another()
					if _, err := w.catalog.drain(); err != nil {
						t.Fatal(err)
					}
					if err := w.Ensure(t.Context(), []Spec{w.spec}); err != nil {
						t.Fatal(err)
					}
					w.wantTold(t)
					time.Sleep(fast.Lease + fast.Lifetime + fast.Skew)
					if _, err := w.destroy(1); err != nil {
						t.Errorf("%s point %d: %v", where, n, err)
					}
					w.wantDestroyed(t)
				})
			}
		}
	}
	if points < 8 {
		t.Errorf("only %d points", points)
	}
}

// wantTold demands that a key that is gone while its version is retired is
// reported, with the command that ends it, and nothing else is.
func (w *world) wantTold(t *testing.T) {
	t.Helper()
	v := w.catalog.set("web").Versions[0]
	_, there := w.token.keys[v.KeyID]
	found, err := w.Reconcile(t.Context(), "")
	if err != nil || found.Err() != nil {
		t.Fatal(err, found.Err())
	}
	if there || v.State == keystore.Destroyed {
		if len(found.Mismatches) > 0 {
			t.Errorf("found %+v", found.Mismatches)
		}
		return
	}
	if len(found.Mismatches) != 1 || found.Mismatches[0].Kind != KeyMissing || !strings.Contains(found.Mismatches[0].Todo, "`chancery keys destroy web 1 --reason WHY` again") {
		t.Errorf("found %+v", found.Mismatches)
	}
}

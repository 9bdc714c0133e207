package rotation

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

// world is a rotator among fakes, with a node that serves what is known.
type world struct {
	*Rotator
	catalog *memory
	token   *software
	pedal   *pedal
	logged  bytes.Buffer
	spec    Spec
	tick    time.Duration // how often the node looks; 0: 10 ms
}

func newWorld(t *testing.T, sch Schedule) *world {
	t.Helper()
	w := &world{
		catalog: newMemory(time.Now), token: newSoftware(), pedal: newPedal(),
		spec: Spec{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: sch,
			Announced: []keystore.Algorithm{keystore.ES256}},
	}
	w.Rotator = w.another()
	if err := w.Ensure(t.Context(), []Spec{w.spec}); err != nil {
		t.Fatal(err)
	}
	return w
}

// another is a rotator as a restart makes it.
func (w *world) another() *Rotator {
	return New(Config{
		Catalog: w.catalog, Keys: w.token, Audit: w.catalog, Brake: w.pedal,
		Log: slog.New(slog.NewTextHandler(&w.logged, nil)),
	})
}

// run runs the rotator, and a node that serves within a moment, until stop.
func (w *world) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	served := make(chan struct{})
	go func() {
		defer close(served)
		w.serve(ctx)
	}()
	return func() {
		cancel()
		<-done
		<-served
	}
}

func (w *world) serve(ctx context.Context) {
	tick := time.NewTicker(cmp.Or(w.tick, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.acknowledgeAll()
		}
	}
}

// acknowledgeAll has the node serve all that is known, and sign.
func (w *world) acknowledgeAll() {
	for _, name := range []string{"web", "api"} {
		w.catalog.mu.Lock()
		ks, ok := w.catalog.sets[name]
		var numbers []int
		if ok {
			ks = ks.Clone()
			for _, v := range ks.Known() {
				if v.ServedAt.IsZero() {
					numbers = append(numbers, v.Number)
				}
			}
		}
		w.catalog.mu.Unlock()
		if ok {
			if v, signs := ks.Active(); signs {
				w.catalog.raise(v.KID, moment(time.Now()).Add(w.spec.Schedule.Lifetime))
			}
		}
		if len(numbers) > 0 {
			w.catalog.acknowledge(name, numbers, moment(time.Now()))
			w.Changed()
		}
	}
}

// settle brings the set to rest: every step that is due is taken.
func (w *world) settle(t *testing.T) {
	t.Helper()
	for range 10 {
		s, _, err := w.of("web")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.locked(t.Context(), "web", s); err != nil {
			t.Fatal(err)
		}
		w.acknowledgeAll()
	}
}

// states is the set's versions in short: "1 retiring, 2 active".
func (w *world) states() string {
	var all []string
	for _, v := range w.catalog.set("web").Versions {
		all = append(all, fmt.Sprintf("%d %s", v.Number, v.State))
	}
	return strings.Join(all, ", ")
}

func (w *world) want(t *testing.T, states string) {
	t.Helper()
	if got := w.states(); got != states {
		t.Fatalf("after %v: %s, want %s", time.Since(start2000), got, states)
	}
}

// start2000 is when a synctest bubble begins.
var start2000 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestRunRotatesWithWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		stop := w.run(t)
		defer stop()
		for _, c := range []struct {
			at     time.Duration
			states string
		}{
			{time.Second, "1 active, 2 published"},
			{19 * time.Second, "1 active, 2 published"},
			{21 * time.Second, "1 retiring, 2 active, 3 published"},
			{32 * time.Second, "1 retired, 2 active, 3 published"},
			{41 * time.Second, "1 retired, 2 retiring, 3 active, 4 published"},
		} {
			time.Sleep(time.Until(start2000.Add(c.at)))
			synctest.Wait()
			w.want(t, c.states)
		}
		checkEntries(t, w.catalog.entries())
	})
}

// checkEntries demands that each step is entered with who, why and which rule.
func checkEntries(t *testing.T, entries []Entered) {
	t.Helper()
	intents := map[string]bool{}
	for _, e := range entries {
		r := e.Record
		if r.Principal == "" || r.Outcome == "" || r.KeySet == "" {
			t.Errorf("%s lacks something: %+v", e.Entry, r)
		}
		switch {
		case r.Outcome == keystore.OutcomeIntent:
			intents[r.ID] = true
		case r.Action == keystore.ActKeyGenerate && !intents[r.ID]:
			t.Errorf("%s: an outcome without its intent", e.Entry)
		case r.Action == keystore.ActKeyActivate && (r.KID == "" || r.State != "active" || !strings.HasPrefix(r.Reason, "rule") && !strings.HasPrefix(r.Reason, "schedule")):
			t.Errorf("%s: %+v", e.Entry, r)
		}
	}
}

func TestRunAcrossAMonth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, slow)
		stop := func() func() {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = w.Run(ctx) }()
			return func() { cancel(); <-done }
		}()
		defer stop()
		for range 31 {
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			w.acknowledgeAll()
			synctest.Wait()
		}
		if v, ok := w.catalog.set("web").Active(); !ok || v.Number != 2 {
			t.Errorf("after 31 days of 30-day rotations: %s", w.states())
		}
	})
}

// One keystore that hangs holds up its own key set, and no other.
func TestRunHangingKeystore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		hung := newSoftware()
		hung.block = make(chan struct{})
		w.cfg.Keys = two{"hsm": w.token, "slow": hung}
		api := w.spec
		api.Name, api.Keystore = "api", "slow"
		if err := w.Ensure(t.Context(), []Spec{w.spec, api}); err != nil {
			t.Fatal(err)
		}
		stop := w.run(t)
		defer stop()
		time.Sleep(25 * time.Second)
		synctest.Wait()
		w.want(t, "1 retiring, 2 active, 3 published")
		close(hung.block)
		time.Sleep(time.Second)
		synctest.Wait()
		if _, ok := w.catalog.set("api").Active(); !ok {
			t.Error("the other key set does not go on when its keystore answers again")
		}
	})
}

type two map[string]keystore.Provider

func (k two) Provider(name string) (keystore.Provider, error) { return k[name], nil }

// A backend that is down empties no set, makes no heap of rows, is logged once,
// and rotation goes on when it is back.
func TestRunBackendDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		stop := w.run(t)
		defer stop()
		time.Sleep(15 * time.Second)
		w.token.mu.Lock()
		w.token.down = keystore.ErrUnavailable
		w.token.mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		w.want(t, "1 active, 2 published")
		if n := strings.Count(w.logged.String(), "rotation is held up"); n != 1 {
			t.Errorf("said %d times that rotation is held up", n)
		}
		w.token.mu.Lock()
		w.token.down = nil
		w.token.mu.Unlock()
		w.Changed()
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(t, "1 retiring, 2 active, 3 published")
	})
}

// S17: a version that no node serves is never activated.
func TestS17PublishedButNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		w.settle(t)
		w.catalog.acknowledge("web", nil, time.Time{})
		ks := w.catalog.sets["web"]
		ks.Versions[1].ServedAt = time.Time{} // the node could not build the set
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = w.Run(ctx) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		w.want(t, "1 active, 2 published")
		w.acknowledgeAll()
		time.Sleep(fast.CacheFor + fast.Skew - 100*time.Millisecond)
		synctest.Wait()
		w.want(t, "1 active, 2 published")
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		w.want(t, "1 retiring, 2 active, 3 published")
		cancel()
		<-done
	})
}

// S16: the daemon was down for days without a successor; the next version still
// waits the whole window.
func TestS16OverdueWithoutSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sch := fast
		sch.Ahead, sch.Every = false, 60*time.Second
		w := newWorld(t, sch)
		w.settle(t)
		time.Sleep(72 * time.Hour)
		w.Rotator = w.another()
		if err := w.Ensure(t.Context(), []Spec{w.spec}); err != nil {
			t.Fatal(err)
		}
		back := time.Now()
		stop := w.run(t)
		defer stop()
		time.Sleep(sch.CacheFor + sch.Skew)
		synctest.Wait()
		w.want(t, "1 active, 2 published")
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		v, _ := w.catalog.set("web").Active()
		if lead := v.ActivatedAt.Sub(v.ServedAt); v.Number != 2 || lead < sch.CacheFor+sch.Skew {
			t.Errorf("version %d active %v after it was served, %v after the start", v.Number, lead, time.Since(back))
		}
	})
}

// S19: a crash loop with the keystore down makes no keys, and hardly any rows.
func TestS19CrashLoopMakesNoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		w.token.generate = func() error { return keystore.ErrUnavailable }
		for range 50 {
			w.Rotator = w.another()
			if err := w.Ensure(t.Context(), []Spec{w.spec}); err != nil {
				t.Fatal(err)
			}
			s, _, _ := w.of("web")
			_, _ = w.locked(t.Context(), "web", s)
			time.Sleep(100 * time.Millisecond)
		}
		if n := w.token.generated; n != 0 {
			t.Errorf("%d keys on the token after 50 starts", n)
		}
		if n := len(w.catalog.set("web").Versions); n > 6 {
			t.Errorf("%d rows after 50 starts in 5 seconds", n)
		}
	})
}

// A token that says it is down is not asked, and leaves no row behind.
func TestGenerateAsksNoTokenThatIsDown(t *testing.T) {
	w := newWorld(t, fast)
	w.token.state = keystore.TokenPINRejected
	s, _, _ := w.of("web")
	if _, err := w.locked(t.Context(), "web", s); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if n := len(w.catalog.set("web").Versions); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// A lost answer: the key is there, and is adopted, not made twice.
func TestGenerateLostAnswer(t *testing.T) {
	w := newWorld(t, fast)
	w.token.lose = true
	s, _, _ := w.of("web")
	if _, err := w.locked(t.Context(), "web", s); !errors.Is(err, keystore.ErrUncertain) {
		t.Fatalf("got %v", err)
	}
	w.want(t, "1 pending")
	w.token.lose = false
	if _, err := w.Reconcile(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	w.want(t, "1 published")
	if w.token.generated != 1 {
		t.Errorf("%d keys were made", w.token.generated)
	}
	checkEntries(t, w.catalog.entries())
}

// A pending row whose key never came to be is abandoned, and another one made.
func TestGenerateNeverHappened(t *testing.T) {
	w := newWorld(t, fast)
	w.token.generate = func() error { return keystore.ErrUncertain }
	s, _, _ := w.of("web")
	_, _ = w.locked(t.Context(), "web", s)
	w.want(t, "1 pending")
	w.token.generate = nil
	w.settle(t)
	w.want(t, "1 abandoned, 2 active, 3 published")
}

// Reconcile reports keys that no version names, once, and versions without one.
func TestReconcileOrphansAndMissing(t *testing.T) {
	w := newWorld(t, fast)
	w.settle(t)
	stray := keystore.NewKeyID()
	if _, err := w.token.Generate(t.Context(), stray, keystore.PurposeJWT, keystore.EdDSA); err != nil {
		t.Fatal(err)
	}
	delete(w.token.keys, w.catalog.set("web").Versions[1].KeyID)
	for range 2 {
		found, err := w.Reconcile(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if len(found.Mismatches) != 2 || found.Mismatches[0].Kind != KeyOrphan || found.Mismatches[0].Object.ID != stray.String() ||
			found.Mismatches[1].Kind != KeyMissing || found.Mismatches[1].Version != 2 || found.Err() != nil {
			t.Errorf("found %+v", found)
		}
	}
	n := 0
	for _, e := range w.catalog.entries() {
		if e.Record.Action == keystore.ActKeyOrphan {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the orphan was entered %d times", n)
	}
}

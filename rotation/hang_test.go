package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// gate holds up those who pass while it is shut, whatever their context says.
type gate struct {
	mu   sync.Mutex
	shut chan struct{}
}

func (g *gate) pass() {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

// hang shuts the gate until open.
func (g *gate) hang() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	shut := make(chan struct{})
	g.shut = shut
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.shut = nil
		close(shut)
	}
}

// hanging is a catalog and a log on a disk that hangs: a file that is being
// synced heeds no context.
type hanging struct {
	*memory
	disk *gate
}

func (h hanging) View(ctx context.Context) (*keystore.View, error) {
	h.disk.pass()
	return h.memory.View(ctx)
}

func (h hanging) Update(ctx context.Context, name string, expect int64, f func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error)) (string, error) {
	h.disk.pass()
	return h.memory.Update(ctx, name, expect, f)
}

func (h hanging) Knows(ctx context.Context, id string) (bool, error) {
	h.disk.pass()
	return h.memory.Knows(ctx, id)
}

func (h hanging) Find(ctx context.Context, id string) (audit.Receipt, bool, error) {
	h.disk.pass()
	return h.memory.Find(ctx, id)
}

// spongy is a brake that acts in memory before its own disk, which may hang.
type spongy struct {
	*pedal
	disk     *gate
	puts     chan keystore.KID // told of each Put, if there is room
	putting  func()            // called by Put before it is in force; may be nil
	removing func()            // called by Remove before it removes; may be nil
}

func (s *spongy) Put(kid keystore.KID, fact keystore.Fact) error {
	if s.putting != nil {
		s.putting()
	}
	err := s.pedal.Put(kid, fact)
	select {
	case s.puts <- kid:
	default:
	}
	s.disk.pass()
	return err
}

func (s *spongy) Remove(kid keystore.KID) error {
	if s.removing != nil {
		s.removing()
	}
	return s.pedal.Remove(kid)
}

// newHanging is a world whose catalog and log share a disk and whose brake has
// another one.
func newHanging(t *testing.T) (w *world, disk *gate, brake *spongy) {
	w, disk = newWorld(t, slow), &gate{}
	brake = &spongy{pedal: w.pedal, disk: &gate{}, puts: make(chan keystore.KID, 16)}
	w.cfg.Catalog, w.cfg.Audit = hanging{w.catalog, disk}, hanging{w.catalog, disk}
	w.cfg.Brake = brake
	w.settle(t)
	return w, disk, brake
}

// left is how many goroutines Wait would wait for.
func (w *world) left() int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asides
}

// Suspend looked at the catalog before it pulled the brake, and recorded before
// it answered: with a sync that hung it did neither, whatever its deadlines.
func TestSuspendWhileTheDiskHangs(t *testing.T) {
	for _, c := range []struct {
		name    string
		brake   bool // hangs too
		durable bool
	}{{"catalog and log", false, true}, {"the brake file too", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, disk, brake := newHanging(t)
				open := []func(){disk.hang()}
				if c.brake {
					open = append(open, brake.disk.hang())
				}
				for range 5 {
					began := time.Now()
					s, err := w.Suspend(t.Context(), "olga", "web", "", "doubt")
					if took := time.Since(began); err != nil || !s.Suspended || s.Durable != c.durable || s.Entry != "" || took > 4*time.Second {
						t.Errorf("after %v: %+v, %v", took, s, err)
					}
				}
				if _, braked := w.pedal.Suspended()[w.catalog.set("web").Versions[0].KID]; !braked {
					t.Error("it signs on")
				}
				if n := w.left(); n > 3 {
					t.Errorf("%d goroutines wait for the disk", n)
				}
				for _, f := range open {
					f()
				}
				w.Wait()
				if err := w.Settle(t.Context()); err != nil {
					t.Fatal(err)
				}
				if last := lastOf(w, keystore.ActSuspend); w.catalog.set("web").Versions[0].Suspended == nil || last.Principal != "olga" {
					t.Errorf("the catalog says %+v, the log %+v", w.catalog.set("web").Versions[0].Suspended, last)
				}
			})
		})
	}
}

// What Suspend left behind on a disk that hangs ends before Run does.
func TestRunWaitsForWhatSuspendLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, disk, _ := newHanging(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = w.Run(ctx) }()
		synctest.Wait()
		open := disk.hang()
		if _, err := w.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("Run has ended, and what it is to wait for has not")
		default:
		}
		open()
		<-ended
		if n := w.left(); n != 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

// Suspend held its lock while the brake file was synced: the next suspension was
// not in force meanwhile, and planning waited, with the catalog's writer in hand.
func TestSuspendHoldsUpNoOtherWhileTheBrakeHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, brake := newHanging(t)
		set := w.catalog.set("web")
		open := brake.disk.hang()
		first := make(chan error, 1)
		go func() {
			_, err := w.Suspend(t.Context(), "olga", "web", set.Versions[0].KID, "doubt")
			first <- err
		}()
		<-brake.puts
		began := time.Now()
		go func() { _, _ = w.Suspend(t.Context(), "olaf", "web", set.Versions[1].KID, "doubt") }()
		if kid := <-brake.puts; kid != set.Versions[1].KID || len(w.pedal.Suspended()) != 2 || !time.Now().Equal(began) {
			t.Errorf("after %v the brake keeps %v", time.Since(began), w.pedal.Suspended())
		}
		f, _, err := w.Facts(t.Context(), "web")
		if err != nil || f.Set.Versions[1].Suspended == nil || !time.Now().Equal(began) {
			t.Errorf("planned after %v by %+v: %v", time.Since(began), f, err)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
		open()
		w.Wait()
		synctest.Wait()
	})
}

// A suspension that is not on the brake's disk yet is newer than any resumption:
// they would meet there in any order.
func TestResumeGivesWayToASuspensionUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, brake := newHanging(t)
		open := brake.disk.hang()
		if s, err := w.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil || s.Entry == "" {
			t.Fatalf("%+v, %v", s, err)
		}
		if _, err := w.Resume(t.Context(), "olaf", "web", "", "no doubt"); !errors.Is(err, keystore.ErrOvertaken) {
			t.Errorf("got %v", err)
		}
		open()
		w.Wait()
		if _, err := w.Resume(t.Context(), "olaf", "web", "", "no doubt"); err != nil || len(w.pedal.Suspended()) != 0 {
			t.Errorf("when it is written: %v, the brake keeps %v", err, w.pedal.Suspended())
		}
	})
}

// A suspension that came while the brake was let go of an older one was let go
// of with it, once they did not exclude each other by a lock.
func TestResumeLetsGoOfNoNewerSuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, brake := newHanging(t)
		if _, err := w.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil {
			t.Fatal(err)
		}
		again := make(chan Suspension, 1)
		brake.removing = func() {
			brake.removing = nil
			for len(brake.puts) > 0 {
				<-brake.puts
			}
			go func() {
				s, err := w.Suspend(t.Context(), "otto", "web", "", "new doubt")
				if err != nil {
					t.Error(err)
				}
				again <- s
			}()
			<-brake.puts // in force, and about to be removed with the older one
		}
		if _, err := w.Resume(t.Context(), "olaf", "web", "", "no doubt"); !errors.Is(err, keystore.ErrOvertaken) {
			t.Errorf("got %v", err)
		}
		s := <-again
		if kept := w.pedal.Suspended()[s.KID]; kept.By != "otto" || !s.Durable || s.Entry == "" {
			t.Errorf("%+v; the brake keeps %+v", s, kept)
		}
		var told []string
		for _, e := range w.catalog.entries() {
			if e.Record.Action == keystore.ActSuspend || e.Record.Action == keystore.ActResume {
				told = append(told, string(e.Record.Action)+" by "+e.Record.Principal)
			}
		}
		if want := []string{"key.suspend by olga", "key.resume by olaf", "key.suspend by otto"}; !slices.Equal(told, want) {
			t.Errorf("the log tells %q, want %q", told, want)
		}
	})
}

// Suspending the active version while another one was about to take over from it,
// its swap under way, stopped the version that retired, and the other one signed.
func TestSuspendDuringASwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := newHanging(t)
		time.Sleep(slow.CacheFor + slow.Skew)
		committing, commit := make(chan struct{}), make(chan struct{})
		w.catalog.hold = func() {
			close(committing)
			<-commit
		}
		rotated := make(chan error, 1)
		go func() {
			_, err := w.rotate(true)
			rotated <- err
		}()
		<-committing
		s, err := w.Suspend(t.Context(), "olga", "web", "", "doubt")
		if err != nil || s.Version != 2 || !s.Suspended || !s.Durable {
			t.Errorf("%+v, %v", s, err)
		}
		set := w.catalog.set("web")
		for _, v := range set.Versions {
			if !w.isBraked(v.KID) {
				t.Errorf("version %d may sign", v.Number)
			}
		}
		close(commit)
		if err := <-rotated; err != nil {
			t.Fatal(err)
		}
		w.Wait()
		if err := w.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.settle(t)
		if v, ok := w.catalog.set("web").Active(); !ok || v.Number != 2 || v.Suspended == nil {
			t.Errorf("active: %+v", v)
		}
		r, err := w.Resume(t.Context(), "olga", "web", "", "no doubt")
		if err != nil || r.Version != 2 || w.isBraked(set.Versions[1].KID) {
			t.Errorf("resumed: %+v, %v", r, err)
		}
		s, err = w.Suspend(t.Context(), "olga", "web", set.Versions[0].KID, "doubt")
		if err != nil || s.Version != 1 || w.isBraked(set.Versions[1].KID) {
			t.Errorf("the version that has retired: %+v, %v; the one that signs is braked: %v", s, err, w.isBraked(set.Versions[1].KID))
		}
	})
}

// overlaid is a catalog seen as the node sees it: with the brake laid over it.
type overlaid struct {
	*memory
	brake *pedal
}

func (o overlaid) View(ctx context.Context) (*keystore.View, error) {
	view, err := o.memory.View(ctx)
	if err != nil {
		return nil, err
	}
	for _, ks := range view.KeySets() {
		for kid, fact := range o.brake.Suspended() {
			if v, ok := ks.ByKID(kid); ok && v.Suspended == nil {
				v.Suspended = &fact
			}
		}
	}
	return view, nil
}

// A suspension made while the catalog could not be written never came there, nor
// into the log: what settles it took the brake's word for the catalog's.
func TestSettleSeesThroughTheBrake(t *testing.T) {
	w := newWorld(t, slow)
	w.settle(t)
	w.cfg.Catalog = overlaid{w.catalog, w.pedal}
	w.catalog.down = fmt.Errorf("%w: disk full", keystore.ErrUnavailable)
	if s, err := w.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil || !s.Durable || s.Entry != "" {
		t.Fatalf("%+v, %v", s, err)
	}
	w.catalog.down = nil
	for range 2 {
		if err := w.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for _, e := range w.catalog.entries() {
		if e.Record.Action == keystore.ActSuspend && e.Record.Principal == "olga" {
			n++
		}
	}
	if v := w.catalog.set("web").Versions[0]; n != 1 || v.Suspended == nil {
		t.Errorf("%d entries; the catalog says %+v", n, v.Suspended)
	}
}

// A swap that came to nothing left its version suspended for good: a resumption
// lifted the suspension of the active one alone.
func TestResumeLiftsWhoWasAboutToTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := newHanging(t)
		time.Sleep(slow.CacheFor + slow.Skew)
		committing, commit := make(chan struct{}), make(chan struct{})
		w.catalog.hold = func() {
			close(committing)
			<-commit
			w.catalog.mu.Lock()
			w.catalog.left, w.catalog.dead = 1, true // nothing is written
			w.catalog.mu.Unlock()
		}
		rotated := make(chan error, 1)
		go func() {
			_, err := w.rotate(true)
			rotated <- err
		}()
		<-committing
		if _, err := w.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil {
			t.Fatal(err)
		}
		close(commit)
		if err := <-rotated; err == nil {
			t.Fatal("it was written")
		}
		w.catalog.mu.Lock()
		w.catalog.left, w.catalog.dead = 0, false
		w.catalog.mu.Unlock()
		w.Wait()
		if err := w.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := w.Resume(t.Context(), "olga", "web", "", "no doubt")
		if err != nil || r.Version != 1 || len(w.pedal.Suspended()) != 0 {
			t.Errorf("%+v, %v; the brake keeps %v", r, err, w.pedal.Suspended())
		}
		for _, v := range w.catalog.set("web").Versions {
			if v.Suspended != nil {
				t.Errorf("version %d is suspended", v.Number)
			}
		}
	})
}

// Suspend looked for the active version once: one that took over between that
// look and the brake signed on.
func TestSuspendLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, brake := newHanging(t)
		time.Sleep(slow.CacheFor + slow.Skew)
		brake.putting = func() {
			brake.putting = nil
			if _, err := w.rotate(true); err != nil {
				t.Error(err)
			}
			w.settle(t)
		}
		s, err := w.Suspend(t.Context(), "olga", "web", "", "doubt")
		if err != nil || s.Version != 2 || s.Entry == "" {
			t.Errorf("%+v, %v", s, err)
		}
		if v, ok := w.catalog.set("web").Active(); !ok || v.Number != 2 || v.Suspended == nil || !w.isBraked(v.KID) {
			t.Errorf("active: %+v", v)
		}
	})
}

// The loop slept through a rotation that an operator forced: the next successor
// came up to a minute later.
func TestRotateNowWakesTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, slow)
		w.settle(t)
		time.Sleep(slow.CacheFor + slow.Skew)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = w.Run(ctx) }()
		synctest.Wait()
		if _, err := w.rotate(true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		w.want(t, "1 retiring, 2 active, 3 published")
		cancel()
		<-ended
	})
}

// The keystore was told twice of each key that leaves active: by rotation, and
// by the node, which holds the keys and has to tell it at any change of view.
func TestRotationLeavesDropToWhoHoldsTheKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		w.settle(t)
		time.Sleep(fast.CacheFor + fast.Skew)
		if _, err := w.rotate(true); err != nil {
			t.Fatal(err)
		}
		w.settle(t)
		time.Sleep(fast.Every)
		w.settle(t)
		w.want(t, "1 retired, 2 retiring, 3 active, 4 published")
		if len(w.token.dropped) != 0 {
			t.Errorf("rotation told the keystore of %d keys", len(w.token.dropped))
		}
	})
}

package rotation

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

func TestSuspendStopsTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		stop := w.run(t)
		defer stop()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		w.want(t, "1 retiring, 2 active, 3 published")
		s, err := w.Suspend(t.Context(), "olga", "web", "", "doubt")
		if err != nil || s.Version != 2 || !s.Suspended || !s.Durable || s.Entry == "" {
			t.Fatalf("%+v, %v", s, err)
		}
		if again, err := w.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil || again != s {
			t.Errorf("again: %+v, %v", again, err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		w.want(t, "1 retired, 2 active, 3 published")
		r, err := w.Resume(t.Context(), "olga", "web", s.KID, "no doubt")
		if err != nil || r.Suspended || r.Entry == "" || len(w.pedal.Suspended()) != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(t, "1 retired, 2 retiring, 3 active, 4 published")
	})
}

func TestSuspendThenRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		w.settle(t)
		if _, err := w.rotate(false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := w.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.settle(t)
		w.want(t, "1 active, 2 published")
		if _, err := w.rotate(false); err != nil {
			t.Fatal(err)
		}
		w.settle(t)
		w.want(t, "1 retiring, 2 active, 3 published")
	})
}

// Stopping needs neither catalog nor log; the record follows when they are back.
func TestSuspendWithoutCatalogAndLog(t *testing.T) {
	for _, c := range []struct {
		name    string
		brake   error
		durable bool
	}{{"the brake file keeps it", nil, true}, {"nothing can be written", errors.New("no space"), false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, slow)
				w.tick = time.Second / 2
				stop := w.run(t)
				defer stop()
				time.Sleep(2 * time.Second)
				w.fail(errors.New("disk full"), c.brake)
				s, err := w.Suspend(t.Context(), "olga", "web", "", "doubt")
				if err != nil || s.Version != 1 || !s.Suspended || s.Durable != c.durable || s.Entry != "" {
					t.Fatalf("%+v, %v", s, err)
				}
				if len(w.pedal.Suspended()) != 1 {
					t.Error("it signs on")
				}
				if _, err := w.Resume(t.Context(), "olga", "web", "", "no doubt"); err == nil || len(w.pedal.Suspended()) != 1 {
					t.Errorf("resumed without a record: %v", err)
				}
				time.Sleep(time.Hour)
				w.fail(nil, nil)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if v := w.catalog.set("web").Versions[0]; v.Suspended == nil || v.Suspended.Reason != "doubt" {
					t.Errorf("the catalog says %+v", v.Suspended)
				}
				if last := lastOf(w, keystore.ActSuspend); last.Principal != "olga" || last.Version != 1 {
					t.Errorf("the log says %+v", last)
				}
			})
		})
	}
}

// fail makes catalog and log, and the brake file, answer with these errors.
func (w *world) fail(disk, brake error) {
	w.catalog.mu.Lock()
	w.catalog.down, w.catalog.full = disk, disk
	w.catalog.mu.Unlock()
	w.pedal.mu.Lock()
	w.pedal.bad = brake
	w.pedal.mu.Unlock()
}

// The log is full but the catalog is not: the suspension is durable in both
// files, and its entry follows with the outbox.
func TestSuspendLogFull(t *testing.T) {
	w := newWorld(t, slow)
	w.settle(t)
	w.catalog.full = errors.New("disk full")
	s, err := w.Suspend(t.Context(), "olga", "web", "", "doubt")
	if err != nil || !s.Durable || s.Entry != "" {
		t.Fatalf("%+v, %v", s, err)
	}
	w.catalog.full = nil
	if _, err := w.catalog.drain(); err != nil {
		t.Fatal(err)
	}
	if err := w.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range w.catalog.entries() {
		if e.Record.Action == keystore.ActSuspend {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d entries", n)
	}
}

// A crash after a resumption was recorded and before the brake let go leaves the
// version suspended, and the catalog says so again.
func TestResumeCrashKeepsTheBrake(t *testing.T) {
	w := newWorld(t, slow)
	w.settle(t)
	if _, err := w.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil {
		t.Fatal(err)
	}
	w.pedal.bad = errors.New("no space")
	if _, err := w.Resume(t.Context(), "olga", "web", "", "no doubt"); err == nil {
		t.Error("resumed with the brake on")
	}
	if err := w.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := w.catalog.set("web").Versions[0]; v.Suspended == nil {
		t.Error("the brake is on, and the catalog says it signs")
	}
	ids := map[string]bool{}
	for _, e := range w.catalog.entries() {
		if id := e.Record.ID; id != "" && e.Record.Action == keystore.ActSuspend {
			if ids[id] {
				t.Errorf("two entries are called %s", id)
			}
			ids[id] = true
		}
	}
}

func TestSuspendNamesNoVersion(t *testing.T) {
	w := newWorld(t, slow)
	if _, err := w.Suspend(t.Context(), "olga", "web", "", "doubt"); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("nothing is active: %v", err)
	}
	w.settle(t)
	if _, err := w.Suspend(t.Context(), "olga", "web", "nobody", "doubt"); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("an unknown kid: %v", err)
	}
}

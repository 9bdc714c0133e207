package rotation

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A clock that cannot be gone by holds every step, whatever is due meanwhile; what
// is due is taken when it is over, and stopping goes on.
func TestEveryStepIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		var held atomic.Bool
		w.cfg.Hold = func() error {
			if held.Load() {
				return errors.New("the wall clock was stepped")
			}
			return nil
		}
		defer w.run(t)()
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(t, "1 active, 2 published")

		held.Store(true)
		time.Sleep(50 * time.Second)
		synctest.Wait()
		w.want(t, "1 active, 2 published")
		if n := strings.Count(w.logged.String(), "rotation is held up"); n != 1 {
			t.Errorf("told %d times:\n%s", n, w.logged.String())
		}
		v, _ := w.catalog.set("web").Active()
		if s, err := w.Suspend(t.Context(), "operator", "web", v.KID, "a drill"); err != nil || s.Entry == "" {
			t.Errorf("suspending: %+v, %v", s, err)
		}
		if _, err := w.Resume(t.Context(), "operator", "web", v.KID, "it is over"); err != nil {
			t.Errorf("resuming: %v", err)
		}

		held.Store(false)
		w.Changed()
		synctest.Wait()
		w.want(t, "1 retiring, 2 active, 3 published")
	})
}

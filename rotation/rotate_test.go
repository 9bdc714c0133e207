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

func (w *world) rotate(now bool) (Rotation, error) {
	return w.Rotate(context.Background(), Request{By: "olga", KeySet: "web", Reason: "drill", Now: now})
}

func TestRotateSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, slow)
		w.tick = time.Second / 2
		stop := w.run(t)
		defer stop()
		time.Sleep(2 * time.Second)
		one, err := w.rotate(false)
		if err != nil {
			t.Fatal(err)
		}
		two := w.catalog.set("web").Versions[1]
		if one.From.Version != 1 || one.To != (Ref{2, two.KID}) || one.Entry == "" {
			t.Errorf("answer %+v", one)
		}
		if want := two.ServedAt.Add(slow.CacheFor + slow.Skew); !one.SignsFrom.Equal(want) {
			t.Errorf("signs from %v, want %v", one.SignsFrom, want)
		}
		again, err := w.rotate(false)
		if err != nil || again != one {
			t.Errorf("asked again: %+v, %v; want the same answer %+v", again, err, one)
		}
		time.Sleep(time.Until(one.SignsFrom) - time.Second)
		synctest.Wait()
		w.want(t, "1 active, 2 published")
		time.Sleep(time.Second + 10*time.Millisecond)
		synctest.Wait()
		w.want(t, "1 retiring, 2 active, 3 published")
		set := w.catalog.set("web")
		if set.RotateBy != nil || !set.Versions[1].ActivatedAt.Equal(one.SignsFrom) {
			t.Errorf("request %v is left, active since %v", set.RotateBy, set.Versions[1].ActivatedAt)
		}
		if last := lastOf(w, keystore.ActKeyActivate); last.Principal != "olga" || last.Reason != "drill" {
			t.Errorf("entered as %+v", last)
		}
	})
}

func lastOf(w *world, action keystore.Action) (r keystore.Record) {
	for _, e := range w.catalog.entries() {
		if e.Record.Action == action {
			r = e.Record
		}
	}
	return r
}

// Without a successor one is generated and published before the answer.
func TestRotateMakesASuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sch := slow
		sch.Every, sch.Ahead = 0, false
		w := newWorld(t, sch)
		w.settle(t)
		w.want(t, "1 active")
		if _, err := w.rotate(true); !isTooEarly(err, 1, sch.CacheFor+sch.Skew) {
			t.Errorf("now: %v", err)
		}
		w.want(t, "1 active")
		answer, err := w.rotate(false)
		if err != nil || answer.To.Version != 2 || answer.To.KID == "" {
			t.Fatalf("%+v, %v", answer, err)
		}
		w.want(t, "1 active, 2 published")
		w.settle(t)
		time.Sleep(sch.CacheFor + sch.Skew + time.Second)
		w.settle(t)
		w.want(t, "1 retiring, 2 active")
	})
}

func isTooEarly(err error, rule int, about time.Duration) bool {
	e, ok := errors.AsType[*TooEarly](err)
	return ok && e.Rule == rule && e.RetryAfter <= about && e.RetryAfter > about-2*time.Second && strings.Contains(e.Error(), "rule 1")
}

func TestRotateNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, slow)
		w.settle(t)
		before := w.catalog.count
		if _, err := w.rotate(true); !isTooEarly(err, 1, slow.CacheFor+slow.Skew) {
			t.Errorf("at once: %v", err)
		}
		if w.catalog.count != before {
			t.Error("a refusal changed something")
		}
		time.Sleep(slow.CacheFor + slow.Skew)
		answer, err := w.rotate(true)
		if err != nil {
			t.Fatal(err)
		}
		w.want(t, "1 retiring, 2 active")
		if !answer.SignsFrom.Equal(moment(time.Now())) || answer.From.Version != 1 || answer.To.Version != 2 || answer.Entry == "" {
			t.Errorf("answer %+v", answer)
		}
	})
}

// A rotation that was asked for is done after a restart too.
func TestRotateSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, slow)
		w.settle(t)
		one, err := w.rotate(false)
		if err != nil {
			t.Fatal(err)
		}
		w.Rotator = w.another()
		if err := w.Ensure(t.Context(), []Spec{w.spec}); err != nil {
			t.Fatal(err)
		}
		if again, err := w.rotate(false); err != nil || again != one {
			t.Errorf("asked again: %+v, %v; want the same answer %+v", again, err, one)
		}
		time.Sleep(slow.CacheFor + slow.Skew)
		w.settle(t)
		w.want(t, "1 retiring, 2 active, 3 published")
	})
}

// Log keys never leave the list of log keys, and were refused a successor when there
// were twenty.
func TestLogKeysAreNeverTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sch := fast
		sch.Every, sch.Lifetime = 0, 0
		w := newWorld(t, sch)
		w.catalog.sets["web"].Purpose, w.spec.Purpose = keystore.PurposeAudit, keystore.PurposeAudit
		w.settle(t)
		for range MaxKnown + 2 {
			if _, err := w.rotate(false); err != nil {
				t.Fatal(err)
			}
			w.settle(t)
			time.Sleep(time.Minute)
			w.settle(t)
		}
	})
}

func TestRotateTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sch := fast
		sch.Every, sch.Lifetime, sch.Ahead = 0, time.Hour, false
		w := newWorld(t, sch)
		w.settle(t)
		for range MaxKnown - 1 {
			if _, err := w.rotate(false); err != nil {
				t.Fatal(err)
			}
			w.settle(t)
			time.Sleep(6 * time.Second)
			w.settle(t)
		}
		_, err := w.rotate(false)
		e, ok := errors.AsType[*TooMany](err)
		if !ok || e.Known != MaxKnown || e.RetryAfter <= 0 || e.RetryAfter > time.Hour+sch.Skew {
			t.Fatalf("got %v", err)
		}
		time.Sleep(e.RetryAfter)
		w.settle(t)
		if _, err := w.rotate(false); err != nil {
			t.Errorf("when one has left: %v", err)
		}
	})
}

// The key of a successor that had been deleted from its token held up rotation,
// and a rotation that was asked for said that it signs from now on.
func TestASuccessorThatLostItsKeyIsReplaced(t *testing.T) {
	for _, how := range []string{"an operator asks", "by schedule", "found by comparing"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, fast)
				stop := w.run(t)
				defer stop()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				w.want(t, "1 active, 2 published")
				lost := w.catalog.set("web").Versions[1]
				w.token.mu.Lock()
				delete(w.token.keys, lost.KeyID)
				w.token.mu.Unlock()
				switch how {
				case "an operator asks":
					r, err := w.Rotate(t.Context(), Request{By: "olga", KeySet: "web", Reason: "drill"})
					if err != nil || r.To.Version != 3 || time.Until(r.SignsFrom) < time.Second {
						t.Errorf("%+v, %v", r, err)
					}
				case "found by comparing":
					if found, err := w.Reconcile(t.Context(), ""); err != nil || len(found.Mismatches) != 1 {
						t.Errorf("%+v, %v", found, err)
					}
				case "by schedule":
					time.Sleep(10 * time.Second)
				}
				time.Sleep(4 * time.Second)
				synctest.Wait()
				if trouble := w.Trouble(lost.KID); !strings.Contains(trouble, "cannot be used") {
					t.Errorf("of version 2 it says %q", trouble)
				}
				time.Sleep(15 * time.Second)
				synctest.Wait()
				if v, ok := w.catalog.set("web").Active(); !ok || v.Number != 3 {
					t.Errorf("active: %+v", v)
				}
				if v := w.catalog.set("web").Versions[1]; v.State != keystore.Retired || !v.ActivatedAt.IsZero() {
					t.Errorf("version 2: %+v", v)
				}
			})
		})
	}
}

// One flaky answer used to cost a good successor, and stuck to a key that signed.
func TestOneFlakyAnswerCostsNoKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		stop := w.run(t)
		defer stop()
		time.Sleep(8 * time.Second)
		synctest.Wait()
		set := w.catalog.set("web")
		for _, v := range set.Versions {
			w.Lost(v.KID, keystore.ErrNotFound)
			if w.Trouble(v.KID) == "" {
				t.Errorf("version %d: nothing is told", v.Number)
			}
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, v := range set.Versions {
			if trouble := w.Trouble(v.KID); trouble != "" {
				t.Errorf("version %d: still %q", v.Number, trouble)
			}
		}
		w.want(t, "1 active, 2 published")
	})
}

// A token that loses each key it makes used to be asked for another one at once,
// until as many versions were known as may be, and then for ever stayed so.
func TestATokenThatLosesKeysMakesNoHeap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		w.tick = 200 * time.Millisecond
		stop := w.run(t)
		defer stop()
		time.Sleep(8 * time.Second)
		synctest.Wait()
		for range 300 { // five minutes
			set := w.catalog.set("web")
			w.token.mu.Lock()
			for _, v := range set.InState(keystore.Published) {
				delete(w.token.keys, v.KeyID)
			}
			w.token.mu.Unlock()
			for _, v := range set.InState(keystore.Published) {
				w.Lost(v.KID, keystore.ErrNotFound)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		set := w.catalog.set("web")
		if n, known := len(set.Versions), len(set.Known()); n > 14 || known > 4 {
			t.Errorf("after five minutes there are %d versions, %d known", n, known)
		}
		if v, ok := set.Active(); !ok || v.Number != 1 {
			t.Errorf("active: %+v", v)
		}
		time.Sleep(10 * time.Minute) // it keeps what it makes again
		synctest.Wait()
		if v, ok := w.catalog.set("web").Active(); !ok || v.Number == 1 {
			t.Errorf("rotation does not go on: version %d is active", v.Number)
		}
	})
}

// While its keystore is down a rotation is refused, and nothing is lost.
func TestRotateWhileTheKeystoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		w.settle(t)
		w.token.down = fmt.Errorf("%w: pulled", keystore.ErrUnavailable)
		if _, err := w.rotate(false); !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if gone := w.Trouble(w.catalog.set("web").Versions[1].KID); gone != "" {
			t.Errorf("of a key that cannot be reached it says %q", gone)
		}
		w.token.down = nil
		if r, err := w.rotate(false); err != nil || r.To.Version != 2 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// Why told the time that had passed, and not what went wrong when the step was
// tried.
func TestWhyTellsWhatWentWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		stop := w.run(t)
		defer stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.token.mu.Lock()
		w.token.down = fmt.Errorf("%w: pulled", keystore.ErrUnavailable)
		w.token.mu.Unlock()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		o, err := w.Outlook(t.Context(), "web")
		if err != nil || !strings.Contains(o.Next.Text, "held up: ") || !strings.Contains(o.Next.Text, "pulled") {
			t.Errorf("%s, %v", o.Next, err)
		}
		if _, why, ok := find(o.Waits, o.Next.Step.Kind); !ok || why.Text != o.Next.Text {
			t.Errorf("the step waits for %q, and for %q", why.Text, o.Next.Text)
		}
	})
}

package signer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/limit"
	"chancery/signer/policy"
	"chancery/signer/queue"
)

// queues puts a queue before the keystores of a world.
func (w *world) queues(l queue.Limits) *Queue {
	q := queue.New(l, func(policy.Principal) int { return 1 }, nil)
	w.Queue = func(string) *Queue { return q }
	return q
}

// slowly has the world's keystore make one signature at a time, each in the time
// given.
func (w *world) slowly(takes time.Duration) *hall {
	h := gathers(w)
	busy := make(chan struct{}, 1)
	h.sign = func() {
		busy <- struct{}{}
		time.Sleep(takes)
		<-busy
	}
	return h
}

// TestA15ANoisyClient: a principal with hundreds of requests at a time, in batches
// too, and one who now and then asks for a token. That one waits for what is at the
// keystore before it, and for nobody else; it is never refused.
func TestA15ANoisyClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes, window, own = time.Millisecond, 8, 20
		w := newWorld(t)
		w.slowly(takes)
		w.queues(queue.Limits{Window: window, Each: 50})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if i%50 == 0 {
						_, _ = w.SignJWTBatch(ctx, wild, requests(64, "web"))
						time.Sleep(10 * takes) // they may all have been refused
					} else if _, err := w.SignJWT(ctx, wild, ask("web")); err != nil {
						time.Sleep(10 * takes) // and again
					}
				}
			})
		}
		time.Sleep(20 * takes)
		var took []time.Duration
		for range own {
			began := time.Now()
			if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err != nil {
				t.Errorf("the other: %v", err)
			}
			took = append(took, time.Since(began))
			time.Sleep(20 * takes)
		}
		stop()
		wg.Wait()
		if most := slices.Max(took); most > (window+1)*takes {
			t.Errorf("the slowest took %v, and %d signatures of %v were before it", most, window, takes)
		}
		w.usesClosed(t, "a flood")
	})
}

// TestI6WhoIsLateCostsNothing: requests whose time ends, or whose caller goes, while
// they wait before the keystore end then, cost no signature and take no number.
func TestI6WhoIsLateCostsNothing(t *testing.T) {
	for _, several := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			h := gathers(w)
			h.several["web"] = several
			q := w.queues(queue.Limits{Window: 1})
			held, err := q.Enter(t.Context(), issuer.Principal, 1)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
			defer cancel()
			gone, goes := context.WithCancel(t.Context())
			time.AfterFunc(250*time.Millisecond, goes)
			var wg sync.WaitGroup
			began := time.Now()
			for what, do := range map[string]func() error{
				"overdue": func() error { _, err := w.SignJWT(ctx, issuer, ask("web")); return err },
				"gone":    func() error { _, err := w.SignJWT(gone, issuer, ask("web")); return err },
				"batch": func() error {
					reply, err := w.SignJWTBatch(ctx, issuer, requests(100, "web"))
					for i, r := range reply.Results {
						if r.Problem == nil || r.Problem.Code != api.CodeDeadlineExceeded {
							t.Errorf("batched request %d: %+v", i, r)
						}
					}
					return errors.Join(err, errUnsent)
				},
				"digest": func() error {
					_, err := w.SignDigest(ctx, releaser, digestOf(keystore.ES256, "a release"))
					return err
				},
				"CSR": func() error {
					_, err := w.SignCSR(ctx, client, csrFor(t, "a.devices.test"), "")
					return err
				},
			} {
				wg.Go(func() {
					if err := do(); err == nil {
						t.Errorf("%s: done", what)
					}
					if took := time.Since(began); took != 250*time.Millisecond {
						t.Errorf("%s: answered after %v", what, took)
					}
				})
			}
			wg.Wait()
			held.Leave()
			if s := q.Stats(); s.Inside != 0 || s.Waiting != 0 {
				t.Errorf("%+v", s)
			}
			h.called(t, w.active("web"), 0)
			if len(w.log.taken) != 0 || len(w.certs.intents) != 0 {
				t.Errorf("numbers %v, intents %v", w.log.taken, w.certs.intents)
			}
		})
	}
}

// A batch whose key signs several in one call waits for one turn, which costs what
// it holds and takes half the room.
func TestABatchWaitsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := gathers(w, "web")
		q := w.queues(queue.Limits{Window: 1, Each: 1})
		held, err := q.Enter(t.Context(), wild.Principal, 1)
		if err != nil {
			t.Fatal(err)
		}
		var inside int
		h.answer = func([][]byte) ([][]byte, []error) {
			inside = q.Stats().Inside
			return nil, nil
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			reply, err := w.SignJWTBatch(t.Context(), issuer, requests(50, "web"))
			if err != nil {
				t.Error(err)
			}
			for i, r := range reply.Results {
				w.released(t, i, r)
			}
		})
		synctest.Wait()
		if s := q.Stats(); s.Waiting != 1 || len(w.log.taken) != 0 {
			t.Errorf("%+v, numbers %v", s, w.log.taken)
		}
		held.Leave()
		wg.Wait()
		h.called(t, w.active("web"), 0, 50)
		if s := q.Stats(); inside != 50/2 || s.Inside != 0 {
			t.Errorf("it took the room of %d, and then %+v", inside, s)
		}
	})
}

func TestAFullQueueIsOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, several := range []bool{false, true} {
			w := newWorld(t)
			gathers(w).several["web"] = several
			q := w.queues(queue.Limits{Window: 1, Each: 1})
			held, err := q.Enter(t.Context(), issuer.Principal, 1)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = q.Enter(ctx, issuer.Principal, 1) })
			time.Sleep(90 * time.Millisecond)
			_, err = w.SignJWT(t.Context(), issuer, ask("web"))
			if e := wants(t, "its line is full", err, api.CodeOverloaded); e.RetryAfter != 1 {
				t.Errorf("Retry-After %d", e.RetryAfter)
			}
			time.Sleep(7 * time.Second)
			reply, err := w.SignJWTBatch(t.Context(), issuer, requests(3, "web"))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range reply.Results {
				if r.Problem == nil || r.Problem.Code != api.CodeOverloaded || r.Problem.RetryAfter != 8 {
					t.Errorf("of a batch: %+v", r.Problem)
				}
			}
			if len(w.log.refused) != 4 || w.log.refused[0].Outcome != keystore.OutcomeRefused || len(w.log.taken) != 0 {
				t.Errorf("%+v, numbers %v", w.log.refused, w.log.taken)
			}
			held.Leave()
			cancel()
			wg.Wait()
		}
	})
}

// TestA33AnAlertIsEnteredOnce: before the signature after which it is due leaves.
func TestA33AnAlertIsEnteredOnce(t *testing.T) {
	w := newWorld(t)
	w.Limits = limit.New(limit.Config{Default: limit.Limit{Quota: limit.Quota{Signatures: 3, Per: limit.Hour, Refuse: true}}}, w.clock)
	w.log.act = func(r keystore.Record) error {
		if r.Action == keystore.ActQuota && len(w.log.entries) < 3 {
			return keystore.ErrUnavailable
		}
		return nil
	}
	sign := func() error {
		_, err := w.SignJWT(t.Context(), issuer, ask("web"))
		return err
	}
	for range 2 {
		if err := sign(); err != nil {
			t.Fatal(err)
		}
	}
	wants(t, "the alert cannot be entered", sign(), api.CodeAuditUnavailable)
	if n := w.log.taken[w.active("web")]; n != 2 {
		t.Errorf("%d numbers", n)
	}
	w.log.act = nil
	if err := sign(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if e := wants(t, "beyond it", sign(), api.CodeOverloaded); e.RetryAfter != 3600 {
			t.Errorf("Retry-After %d at noon", e.RetryAfter)
		}
	}
	if _, err := w.Admit(issuer); err == nil {
		t.Error("it may ask")
	}
	var alerts []keystore.Record
	for _, r := range w.log.entries {
		if r.Action == keystore.ActQuota {
			alerts = append(alerts, r)
		}
	}
	if len(alerts) != 1 || alerts[0].Principal != issuer.String() || fmt.Sprint(alerts[0].Detail) != "map[per:hour signatures:3 then:refused until:2026-03-01T13:00:00Z]" {
		t.Errorf("%+v", alerts)
	}
	w.usesClosed(t, "a quota")
}

// A batch counts as many requests as it holds.
func TestABatchIsChargedFor(t *testing.T) {
	w := newWorld(t)
	w.Limits = limit.New(limit.Config{Default: limit.Limit{Rate: 10}}, w.clock)
	release, err := w.Admit(issuer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.SignJWTBatch(t.Context(), issuer, requests(50, "web")); err != nil {
		t.Fatal(err)
	}
	release()
	_, err = w.Admit(issuer)
	if e := wants(t, "after a batch", err, api.CodeOverloaded); e.RetryAfter != 5 {
		t.Errorf("Retry-After %d: 41 requests too many, at ten a second", e.RetryAfter)
	}
}

// BenchmarkNeighbour is what a quiet principal waits for a token while another floods
// the same keystore, whose signatures take a fixed time, next to what it waits when
// it is alone: the ratio of the two is what it pays for the other.
func BenchmarkNeighbour(b *testing.B) {
	const takes = 100 * time.Microsecond
	for _, flood := range []int{0, 300} {
		b.Run(fmt.Sprintf("flood=%d", flood), func(b *testing.B) {
			w := newWorld(b)
			w.Log, w.Keys = idleLog{}, oneKey{fixedKey{idleKey{sig: make([]byte, 64)}, make(chan struct{}, 1), takes}}
			w.queues(queue.Limits{})
			ctx, stop := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			for range flood {
				wg.Go(func() {
					for ctx.Err() == nil {
						_, _ = w.SignJWT(ctx, wild, ask("web"))
					}
				})
			}
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := w.SignJWT(b.Context(), issuer, ask("web")); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			stop()
			wg.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// A fixedKey signs one message at a time, each in a fixed time.
type fixedKey struct {
	idleKey
	busy  chan struct{}
	takes time.Duration
}

func (k fixedKey) Sign(context.Context, []byte) ([]byte, error) {
	k.busy <- struct{}{}
	defer func() { <-k.busy }()
	for began := time.Now(); time.Since(began) < k.takes; {
	}
	return k.sig, nil
}

// A batch comes to the keystore in portions, each in a turn of its own: whoever else
// wants a signature meanwhile waits for those that are there, and not for the batch.
func TestA15ABatchComesInPortions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := gathers(w, "web")
		w.queues(queue.Limits{Window: 8, Portion: 8})
		h.answer = func([][]byte) ([][]byte, []error) {
			time.Sleep(time.Second)
			return nil, nil
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			reply, err := w.SignJWTBatch(t.Context(), wild, requests(100, "web"))
			if err != nil {
				t.Error(err)
				return
			}
			for i, r := range reply.Results {
				w.released(t, i, r)
			}
		})
		time.Sleep(time.Second / 2)
		began := time.Now()
		if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the other waited %v, and a portion takes a second", took)
		}
		wg.Wait()
		calls := h.calls[w.active("web")]
		if slices.Max(calls) != 8 || len(calls) != 13 {
			t.Errorf("calls of %v messages", calls)
		}
		w.usesClosed(t, "portions")
	})
}

// A refusal by a limit said in the log what the limit is, and then once more.
func TestARefusalSaysItsLimitOnce(t *testing.T) {
	for _, r := range []*limit.Refusal{{Cause: limit.Rate, Most: 5}, {Cause: limit.Concurrent, Most: 5}, {Cause: limit.OverQuota, Most: 5}} {
		e := tooMuch(r)
		if n := strings.Count(e.Reason(), r.Error()); n != 1 || !errors.Is(e, errNoTurn) || e.Detail != r.Error() {
			t.Errorf("%s: %q says it %d times", r.Cause, e.Reason(), n)
		}
	}
	full := tooMuch(&queue.FullError{Own: true, Waiting: 7})
	if n := strings.Count(full.Reason(), "wait for the keystore"); n != 2 || !strings.Contains(full.Reason(), "7 requests of this principal") || strings.Contains(full.Detail, "7") {
		t.Errorf("%q, %q", full.Detail, full.Reason())
	}
}

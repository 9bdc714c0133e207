package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func same(string) int { return 1 }

// A works has a queue before a keystore that makes one signature at a time, in a
// fixed time.
type works struct {
	*Queue[string]
	takes time.Duration
	busy  chan struct{} // full while it signs

	mu   sync.Mutex // guards what follows
	took map[string][]time.Duration
	errs map[string][]error
}

func newWorks(l Limits, takes time.Duration) *works {
	return &works{Queue: New(l, same, nil), takes: takes, busy: make(chan struct{}, 1), took: map[string][]time.Duration{}, errs: map[string][]error{}}
}

func (w *works) ask(ctx context.Context, who string) {
	began := time.Now()
	turn, err := w.Enter(ctx, who, 1)
	if err == nil {
		w.busy <- struct{}{}
		time.Sleep(w.takes)
		<-w.busy
		turn.Leave()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.errs[who] = append(w.errs[who], err)
		return
	}
	w.took[who] = append(w.took[who], time.Since(began))
}

// TestA15AFloodDoesNotDelayOthers: a principal asks for fifty times its share. Who
// asks for a tenth of the keystore's time waits as long as what is inside takes, and
// not a moment longer, and is never refused.
func TestA15AFloodDoesNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes, window = time.Millisecond, 8
		w := newWorks(Limits{Window: window, Each: 100}, takes)
		var wg sync.WaitGroup
		for range 10_000 { // fifty times what it could have in 400 ms
			wg.Go(func() { w.ask(t.Context(), "loud") })
		}
		for range 40 {
			time.Sleep(10 * takes)
			wg.Go(func() { w.ask(t.Context(), "quiet") })
		}
		wg.Wait()
		if most := slices.Max(w.took["quiet"]); len(w.took["quiet"]) != 40 || most > (window+1)*takes {
			t.Errorf("%d of 40 had their turn, the last after %v; %d requests of %v are before it", len(w.took["quiet"]), most, window, takes)
		}
		if len(w.errs["loud"]) < 9_000 || len(w.errs["quiet"]) > 0 {
			t.Errorf("%d of the flood were refused, and %d others", len(w.errs["loud"]), len(w.errs["quiet"]))
		}
	})
}

func TestWhoGivesUpCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Limits{Window: 1}, same, nil)
		first, err := q.Enter(t.Context(), "a", 1)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := q.Enter(ctx, "a", 1); !errors.Is(err, ErrLeft) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it waited for %v", took)
		}
		if _, err := q.Enter(ctx, "b", 1); !errors.Is(err, ErrLeft) {
			t.Errorf("who comes too late has a turn: %v", err)
		}
		first.Leave()
		if s := q.Stats(); s.Inside != 0 || s.Waiting != 0 || s.Left != 1 {
			t.Errorf("%+v", s)
		}
		if _, err := q.Enter(t.Context(), "b", 1); err != nil {
			t.Error(err)
		}
	})
}

// TestNoTurnIsLost: requests end as their turn comes, again and again.
func TestNoTurnIsLost(t *testing.T) {
	q := New(Limits{Window: 2}, same, nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((n*7+i)%40)*time.Microsecond)
				if turn, err := q.Enter(ctx, fmt.Sprint(i%3), 1+n%2); err == nil {
					turn.Leave()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if s := q.Stats(); s.Inside != 0 || s.Waiting != 0 {
		t.Errorf("everybody has gone, and %+v", s)
	}
}

// TestAFullLineSaysWhenToComeBack: when what waits has had its turn, at the rate
// that was seen.
func TestAFullLineSaysWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorks(Limits{Window: 1, Each: 10}, time.Second)
		var wg sync.WaitGroup
		for range 11 {
			wg.Go(func() { w.ask(t.Context(), "a") })
		}
		time.Sleep(9*time.Second + time.Millisecond)
		wg.Go(func() { w.ask(t.Context(), "a") }) // as many as may wait again
		for range 8 {
			wg.Go(func() { w.ask(t.Context(), "a") })
		}
		synctest.Wait()
		_, err := w.Enter(t.Context(), "a", 1)
		full, ok := errors.AsType[*FullError](err)
		if !ok || !full.Own || full.Waiting != 10 || full.Wait.Round(time.Second) != 9*time.Second {
			t.Errorf("%v, %+v", err, full)
		}
		wg.Wait()
	})
}

func TestWhoGivesWayIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorks(Limits{Window: 1, Waiting: 3}, time.Second)
		var wg sync.WaitGroup
		for _, who := range []string{"z", "a", "a", "a", "b"} {
			wg.Go(func() { w.ask(t.Context(), who) })
			synctest.Wait()
		}
		wg.Wait()
		if len(w.errs["a"]) != 1 || len(w.took["a"]) != 2 || len(w.took["b"]) != 1 || w.Stats().RefusedAll != 1 {
			t.Errorf("refused %v, served %v", w.errs, w.took)
		}
	})
}

// BenchmarkEnter is what a request costs that does not have to wait.
func BenchmarkEnter(b *testing.B) {
	type principal struct{ anchor, kind, value string }
	q := New(Limits{}, func(principal) int { return 1 }, nil)
	who := principal{"dev", "spiffe", "spiffe://chancery.dev/issuer"}
	b.ReportAllocs()
	for b.Loop() {
		turn, err := q.Enter(b.Context(), who, 1)
		if err != nil {
			b.Fatal(err)
		}
		turn.Leave()
	}
}

// The count of those who waited and had their turn went up for who left as it came, and
// down again: a counter that falls is taken for one that began anew.
func TestWhoLeavesAsTheirTurnComesIsNeverCountedAsHavingHadIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Limits{Window: 1}, same, nil)
		had, gone := uint64(0), uint64(0)
		for range 20 {
			turn, err := q.Enter(t.Context(), "a", 1)
			if err != nil {
				t.Fatal(err)
			}
			ctx, hangUp := context.WithCancel(t.Context())
			go func() {
				late, err := q.Enter(ctx, "b", 1)
				if err != nil {
					gone++
					return
				}
				had++ // it was faster
				late.Leave()
			}()
			synctest.Wait()
			turn.Leave()
			hangUp()
			before := q.Stats()
			synctest.Wait()
			after := q.Stats()
			if before.Waited > after.Waited || after.Waited != had || after.Left != gone || after.Inside != 0 {
				t.Fatalf("%+v, then %+v, where %d had their turn and %d left", before, after, had, gone)
			}
		}
	})
}

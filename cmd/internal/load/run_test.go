package load

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeCaller answers after a while, and stalls once.
type fakeCaller struct {
	takes  time.Duration
	tokens int
	err    error
	stall  time.Duration
	at     time.Time // the first request from here on takes stall
	asked  *atomic.Int64
	closed chan struct{}
	once   sync.Once
}

func (f *fakeCaller) Ask() (int, error) {
	if f.asked != nil {
		f.asked.Add(1)
	}
	takes := f.takes
	if f.stall > 0 && !time.Now().Before(f.at) {
		takes, f.stall = f.stall, 0
	}
	select {
	case <-time.After(takes):
	case <-f.closed:
		return 0, errors.New("closed")
	}
	return f.tokens, f.err
}

func (f *fakeCaller) Close() error {
	f.once.Do(func() {
		if f.closed != nil {
			close(f.closed)
		}
	})
	return nil
}

func one(callers ...*fakeCaller) [][]Caller {
	ways := make([][]Caller, len(callers))
	for i, c := range callers {
		ways[i] = []Caller{c}
	}
	return ways
}

func TestInAClosedLoopACallerAsksWhenItIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := Run(t.Context(), Plan{
			Callers: one(&fakeCaller{takes: 10 * time.Millisecond, tokens: 4}, &fakeCaller{takes: 10 * time.Millisecond, tokens: 4}),
			Weights: []int{1}, Warmup: time.Second, Duration: 2 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		// Two callers, a hundred each second; the answer at the very end is not within.
		total := o.Total()
		if total.Requests != 400 || total.Tokens != 1600 {
			t.Errorf("%d requests, %d tokens; want 400, 1600", total.Requests, total.Tokens)
		}
		if p := LatencyOf(total.Latency); math.Abs(p.P50-10000) > 10 || math.Abs(p.Max-10000) > 10 {
			t.Errorf("p50 %v, max %v, want 10 ms", p.P50, p.Max)
		}
	})
}

// A closed loop would count one late answer. Here a hundred requests a second
// arrive while the only caller waits for a second, and all of them are late.
func TestInAnOpenLoopLatencyCountsFromTheArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCaller{takes: time.Millisecond, tokens: 1, stall: time.Second, at: time.Now().Add(time.Second)}
		o, err := Run(t.Context(), Plan{Callers: one(c), Weights: []int{1}, Rate: 100, Duration: 4 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		total := o.Total()
		if n := total.Latency.TotalCount(); n != 400 {
			t.Errorf("%d arrivals have a latency, want all 400", n)
		}
		late := int64(0)
		for _, b := range total.Latency.Distribution() {
			if b.From > int64(5*time.Millisecond) {
				late += b.Count
			}
		}
		if late < 100 || late > 120 {
			t.Errorf("%d requests were late, want those of the second that was lost and of catching up", late)
		}
		if p := LatencyOf(total.Latency); p.P50 > 1100 || p.Max < 990_000 {
			t.Errorf("p50 %v µs, max %v µs", p.P50, p.Max)
		}
		if o.Unanswered != 0 {
			t.Errorf("%d are unanswered", o.Unanswered)
		}
	})
}

func TestRequestsArriveAtFixedMoments(t *testing.T) {
	for _, c := range []struct {
		n    int64
		rate float64
		want time.Duration
	}{
		{0, 100, 0}, {1, 100, 10 * time.Millisecond}, {250, 100, 2500 * time.Millisecond},
		{1, 3, 333333333}, {3, 3, time.Second}, {3_000_000, 3, 1_000_000 * time.Second}, // rounding does not add up
		{1, 0.5, 2 * time.Second},
	} {
		if got := arrival(c.n, c.rate); got != c.want {
			t.Errorf("of %v a second number %d arrives after %v, want %v", c.rate, c.n, got, c.want)
		}
	}
}

func TestAnOpenLoopThatIsHopelesslyBehindSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := Run(t.Context(), Plan{Callers: one(&fakeCaller{takes: time.Second, tokens: 1}), Weights: []int{1}, Rate: 100, Duration: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		answered := o.Total().Latency.TotalCount()
		if answered != 12 || answered+o.Unanswered != 200 {
			t.Errorf("%d answered and %d not, want 12 and the rest of 200", answered, o.Unanswered)
		}
	})
}

func TestWhoIsRefusedIsCountedAndHeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCaller{err: &Refused{"overloaded"}}
		o, err := Run(t.Context(), Plan{Callers: one(c), Weights: []int{1}, Duration: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if o.Refused != 100 || o.Total().Latency.TotalCount() != 0 {
			t.Errorf("%d refused, %d latencies; want one refusal each 10 ms, and no latency", o.Refused, o.Total().Latency.TotalCount())
		}
	})
}

func TestTheFirstErrorEndsARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		waits := &fakeCaller{takes: time.Hour, closed: make(chan struct{})}
		began := time.Now()
		_, err := Run(t.Context(), Plan{Callers: one(waits, &fakeCaller{takes: time.Second, err: broken}), Weights: []int{1}, Duration: time.Minute})
		if !errors.Is(err, broken) {
			t.Errorf("error %v, want %v", err, broken)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v: the other caller was not called off", took)
		}
	})
}

func TestARunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		waits := &fakeCaller{takes: time.Hour, closed: make(chan struct{})}
		if _, err := Run(ctx, Plan{Callers: one(waits), Weights: []int{1}, Duration: time.Minute}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestEdgesAreThoseOfWhatIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var edges []time.Duration
		_, err := Run(t.Context(), Plan{
			Callers: one(&fakeCaller{takes: 10 * time.Millisecond}), Weights: []int{1}, Warmup: 3 * time.Second, Duration: 2 * time.Second,
			Edge: func(bool) { edges = append(edges, time.Since(began)) },
		})
		if err != nil || len(edges) != 2 || edges[0] != 3*time.Second || edges[1] != 5*time.Second {
			t.Errorf("edges at %v, error %v; want 3 s and 5 s", edges, err)
		}
	})
}

func TestAMixedRunCountsEachPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ways := [][]Caller{{&fakeCaller{takes: time.Millisecond, tokens: 1}, &fakeCaller{takes: 2 * time.Millisecond, tokens: 8}}}
		o, err := Run(t.Context(), Plan{Callers: ways, Weights: []int{3, 1}, Duration: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if a, b := o.Parts[0], o.Parts[1]; a.Requests < 299 || a.Requests > 301 || b.Requests < 99 || b.Requests > 101 || b.Tokens != 8*b.Requests {
			t.Errorf("%d and %d requests, %d tokens of the second; want 300, 100, 800", a.Requests, b.Requests, b.Tokens)
		}
	})
}

func TestAPlanIsChecked(t *testing.T) {
	good := Plan{Callers: one(&fakeCaller{}), Weights: []int{1}, Duration: time.Second}
	for name, change := range map[string]func(*Plan){
		"nobody asks":    func(p *Plan) { p.Callers = nil },
		"no time":        func(p *Plan) { p.Duration = 0 },
		"no rate":        func(p *Plan) { p.Rate = math.NaN() },
		"negative rate":  func(p *Plan) { p.Rate = -1 },
		"a way too many": func(p *Plan) { p.Weights = []int{1, 1} },
	} {
		p := good
		change(&p)
		if _, err := Run(t.Context(), p); err == nil {
			t.Errorf("%s: it ran", name)
		}
	}
}

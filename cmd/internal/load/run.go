package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Caller asks one server for tokens, one request at a time.
type Caller interface {
	// Ask makes one round trip and returns how many tokens it brought. It returns a
	// *Refused if the server said to come back later; any other error ends the run.
	Ask() (tokens int, err error)
	// Close ends the connection, and an Ask that waits on it.
	Close() error
}

// A Refused is a server's word to come back later.
type Refused struct{ Code string }

func (r *Refused) Error() string { return "told to come back later: " + r.Code }

// Plan says how to ask.
type Plan struct {
	// Callers has, for each caller, what it asks with: one for each weight. Each
	// is used by its caller alone.
	Callers [][]Caller
	Weights []int
	// Rate is how many requests arrive each second, at fixed intervals, for
	// whichever caller is free (open loop); 0: each caller asks again as soon as it
	// is answered (closed loop).
	Rate     float64
	Warmup   time.Duration // before it, which counts for nothing
	Duration time.Duration // what is measured
	// Edge is called when what is measured begins and when it ends. It may be nil.
	Edge func(begins bool)
	// Answered, which may be nil, is added to at each answer, for who watches.
	Answered *atomic.Int64
}

// A Tally is what came of one kind of request.
type Tally struct {
	Requests int64 // answered within the time that was measured
	Tokens   int64 // brought by them
	// Latency is that of each request that began, or was to arrive, within the time
	// that was measured, in nanoseconds; of those that were refused it has none.
	Latency *hdrhistogram.Histogram
}

// An Outcome is what came of a Plan.
type Outcome struct {
	Took    time.Duration // the time that was measured
	Parts   []Tally       // one for each weight
	Refused int64         // were told to come back later
	// Unanswered arrived and were never asked, because the callers were so far
	// behind that the run was given up (open loop).
	Unanswered int64
}

// Total is the sum of the parts.
func (o Outcome) Total() Tally {
	t := Tally{Latency: newHistogram()}
	for _, p := range o.Parts {
		t.Requests += p.Requests
		t.Tokens += p.Tokens
		t.Latency.Merge(p.Latency)
	}
	return t
}

const (
	// slowest is the longest latency that is told from longer ones.
	slowest = 60 * time.Second
	// backOff is how long a caller of a closed loop waits when it was refused.
	backOff = 10 * time.Millisecond
	// behind is how long an open loop goes on past its end for requests that have
	// arrived and were not asked yet.
	behind = 10 * time.Second
)

// newHistogram returns one of nanoseconds. Three digits: a value is told to within
// a thousandth of it.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1000, int64(slowest), 3)
}

// Run carries p out. It returns when every caller is answered, or with the first
// error of one, which is the cause.
func Run(ctx context.Context, p Plan) (Outcome, error) {
	if err := p.check(); err != nil {
		return Outcome{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { closeAll(p.Callers) })() // an Ask may wait
	start := time.Now()
	r := &run{Plan: p, ctx: ctx, start: start, from: start.Add(p.Warmup), end: start.Add(p.Warmup + p.Duration)}
	marked := make(chan struct{})
	go func() {
		defer close(marked)
		r.mark()
	}()
	tallies := make([]tally, len(p.Callers))
	var wg sync.WaitGroup
	for i := range p.Callers {
		tallies[i] = newTally(len(p.Weights))
		wg.Go(func() {
			if err := r.call(i, &tallies[i]); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		<-marked
		return Outcome{}, err
	}
	<-marked
	return r.outcome(tallies), nil
}

func (p Plan) check() error {
	if len(p.Callers) == 0 || p.Duration <= 0 || p.Warmup < 0 {
		return errors.New("a run needs callers and a duration")
	}
	if p.Rate < 0 || math.IsNaN(p.Rate) || p.Rate > 1e7 {
		return fmt.Errorf("%v requests a second: between 0 and ten million", p.Rate)
	}
	for _, c := range p.Callers {
		if len(c) != len(p.Weights) || len(c) == 0 {
			return errors.New("a caller has not one way of asking for each weight")
		}
	}
	return nil
}

func closeAll(callers [][]Caller) {
	for _, ways := range callers {
		for _, c := range ways {
			c.Close()
		}
	}
}

// A run is a Plan in the making.
type run struct {
	Plan
	ctx              context.Context
	start, from, end time.Time
	arrived          atomic.Int64 // open loop: how many arrivals callers have taken
}

// mark calls Edge at both ends of what is measured, or until the run is over.
func (r *run) mark() {
	for _, edge := range []struct {
		at     time.Time
		begins bool
	}{{r.from, true}, {r.end, false}} {
		if !r.sleep(edge.at) {
			return
		}
		if r.Edge != nil {
			r.Edge(edge.begins)
		}
	}
}

// sleep waits until a moment, and reports whether the run still goes on.
func (r *run) sleep(until time.Time) bool {
	wait := time.Until(until)
	if wait <= 0 {
		return r.ctx.Err() == nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-r.ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// A tally belongs to one caller.
type tally struct {
	parts               []Tally
	refused, unanswered int64
}

func newTally(parts int) tally {
	t := tally{parts: make([]Tally, parts)}
	for i := range t.parts {
		t.parts[i].Latency = newHistogram()
	}
	return t
}

// call has one caller ask until the end.
func (r *run) call(caller int, t *tally) error {
	pick := newPicker(r.Weights, caller)
	for {
		began, ok := r.turn(t)
		if !ok {
			return nil
		}
		part := pick.next()
		tokens, err := r.Callers[caller][part].Ask()
		done := time.Now()
		if _, refused := errors.AsType[*Refused](err); refused {
			if !began.Before(r.from) {
				t.refused++
			}
			if r.Rate == 0 {
				r.sleep(done.Add(backOff))
			}
			continue
		}
		if err != nil {
			return err
		}
		r.count(&t.parts[part], tokens, began, done)
	}
}

// turn returns when the caller's next request began or was to arrive. False: there
// is none.
func (r *run) turn(t *tally) (time.Time, bool) {
	if r.Rate == 0 {
		now := time.Now()
		return now, now.Before(r.end) && r.ctx.Err() == nil
	}
	for {
		due := r.start.Add(arrival(r.arrived.Add(1)-1, r.Rate))
		if !due.Before(r.end) || !r.sleep(due) {
			return due, false
		}
		if time.Now().Before(r.end.Add(behind)) {
			return due, true
		}
		t.unanswered++
	}
}

// arrival is when the nth request arrives, counted from the start.
func arrival(n int64, rate float64) time.Duration {
	return time.Duration(float64(n) / rate * float64(time.Second))
}

func (r *run) count(t *Tally, tokens int, began, done time.Time) {
	if r.Answered != nil {
		r.Answered.Add(1)
	}
	if !done.Before(r.from) && done.Before(r.end) {
		t.Requests++
		t.Tokens += int64(tokens)
	}
	if began.Before(r.from) {
		return
	}
	// Below a microsecond and over a minute there is nothing to tell apart.
	_ = t.Latency.RecordValue(min(max(int64(done.Sub(began)), 1000), int64(slowest)))
}

func (r *run) outcome(tallies []tally) Outcome {
	o := Outcome{Took: r.Duration, Parts: newTally(len(r.Weights)).parts}
	for _, t := range tallies {
		for i, p := range t.parts {
			o.Parts[i].Requests += p.Requests
			o.Parts[i].Tokens += p.Tokens
			o.Parts[i].Latency.Merge(p.Latency)
		}
		o.Refused += t.refused
		o.Unanswered += t.unanswered
	}
	return o
}

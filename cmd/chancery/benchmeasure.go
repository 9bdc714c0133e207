package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"chancery/cmd/internal/load"
)

// A measurement is how fast one layer signs with so many callers. Latencies are
// those of one request; a request of a batch is several tokens.
type measurement struct {
	Layer       string  `json:"layer"` // raw, worker, provider, one of load.Layers, or mix
	Algorithm   string  `json:"algorithm,omitempty"`
	KeySet      string  `json:"keyset,omitempty"`
	Workers     int     `json:"workers,omitempty"` // of the layer worker
	Callers     int     `json:"callers"`
	Batch       int     `json:"batch,omitempty"`
	Connections int     `json:"connections,omitempty"` // of gRPC's
	Rate        float64 `json:"rate"`                  // signatures a second
	Requests    int64   `json:"requests,omitempty"`
	load.Latency
	Ratio      float64      `json:"ratio,omitempty"` // to the best raw rate
	Refused    int64        `json:"refused,omitempty"`
	Unanswered int64        `json:"unanswered,omitempty"` // arrived, and were never asked
	CPU        *cpuTime     `json:"cpu,omitempty"`
	Memory     *load.Memory `json:"pss,omitempty"`
	Bound      float64      `json:"bound,omitempty"` // signatures a second that the processors allow
	OfBound    float64      `json:"of_bound,omitempty"`
	Parts      []mixPart    `json:"parts,omitempty"` // of a mix
}

// A mixPart is one kind of request of a mix.
type mixPart struct {
	load.Part
	Algorithm string  `json:"algorithm"`
	Rate      float64 `json:"rate"`
	Requests  int64   `json:"requests"`
	load.Latency
}

// cpuTime is CPU time for each token, in microseconds.
type cpuTime struct {
	Client  float64 `json:"client_us"`
	Daemon  float64 `json:"daemon_us"`
	Workers float64 `json:"workers_us"`
}

// A usageWatch reads the CPU time at both ends of a run.
type usageWatch struct {
	family *load.Family // nil: the client's alone

	mu     sync.Mutex // guards what follows
	client [2]time.Duration
	server [2]load.Usage
	err    error
}

func (w *usageWatch) edge(begins bool) {
	i := 1
	if begins {
		i = 0
	}
	own, err := load.OwnCPU()
	var server load.Usage
	if err == nil && w.family != nil {
		server, err = w.family.Usage()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.client[i], w.server[i], w.err = own, server, errors.Join(w.err, err)
}

func (w *usageWatch) perToken(tokens int64) (cpuTime, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return cpuTime{}, w.err
	}
	if tokens == 0 {
		return cpuTime{}, errors.New("no token came")
	}
	each := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) / float64(tokens) }
	used := w.server[1].Sub(w.server[0])
	return cpuTime{each(w.client[1] - w.client[0]), each(used.Daemon), each(used.Workers)}, nil
}

// measure runs one mix with n callers. A protocol that the daemon does not speak is
// a note, and false is returned.
func (b *bench) measure(ctx context.Context, m load.Mix, n int) (spoken bool, err error) {
	name := describe(m)
	ways, err := load.Open(ctx, b.at.Target, m, n, connectionsOf(b.benchFlags, n))
	if err != nil {
		if protocol(m[0].Layer) == load.JSON || ctx.Err() != nil {
			return false, fmt.Errorf("measuring %s with %d callers: %w", name, n, err)
		}
		b.note(name, err)
		return false, nil
	}
	defer load.Close(ways)
	if err := askOnce(ways); err != nil { // the first answer may wait for things that are made once
		return false, fmt.Errorf("measuring %s: %w", name, err)
	}
	w := &usageWatch{family: b.at.family}
	var answered atomic.Int64
	plan := load.Plan{Callers: ways, Weights: m.Weights(), Rate: b.rate, Warmup: b.warmup, Duration: b.duration, Edge: w.edge, Answered: &answered}
	quiet := tell(b.line, fmt.Sprintf("%s, %d callers", name, n), &answered)
	o, err := load.Run(ctx, plan)
	quiet()
	b.line.wipe()
	if err != nil {
		return false, fmt.Errorf("measuring %s with %d callers: %w", name, n, err)
	}
	b.report.Results = append(b.report.Results, b.resultOf(m, n, o, w))
	return true, nil
}

// askOnce has one caller of each kind ask.
func askOnce(ways [][]load.Caller) error {
	for _, c := range ways[0] {
		_, err := c.Ask()
		if _, refused := errors.AsType[*load.Refused](err); err != nil && !refused {
			return err
		}
	}
	return nil
}

func describe(m load.Mix) string {
	if len(m) > 1 {
		return "the mix " + m.String()
	}
	if m[0].Batch > 0 {
		return fmt.Sprintf("%s of %d", m[0].Layer, m[0].Batch)
	}
	return m[0].Layer
}

func (b *bench) resultOf(mix load.Mix, n int, o load.Outcome, w *usageWatch) measurement {
	total, first := o.Total(), mix[0]
	m := measurement{
		Layer: first.Layer, Algorithm: b.algorithms[first.KeySet], KeySet: first.KeySet, Callers: n, Batch: first.Batch,
		Rate: rateOf(total, o.Took), Requests: total.Requests, Latency: load.LatencyOf(total.Latency), Refused: o.Refused, Unanswered: o.Unanswered,
	}
	if protocol(first.Layer) == load.GRPC {
		m.Connections = min(n, connectionsOf(b.benchFlags, n))
	}
	if len(mix) > 1 {
		m.Layer, m.Algorithm, m.KeySet, m.Batch = "mix", "", "", 0
		for i, p := range mix {
			t := o.Parts[i]
			m.Parts = append(m.Parts, mixPart{p, b.algorithms[p.KeySet], rateOf(t, o.Took), t.Requests, load.LatencyOf(t.Latency)})
		}
	}
	if cpu, err := w.perToken(total.Tokens); err == nil && b.at.family != nil {
		m.CPU = &cpu
	}
	if b.at.family != nil {
		if memory, err := b.at.family.Memory(); err == nil {
			m.Memory = &memory
		}
	}
	if len(mix) == 1 {
		b.bind(&m)
	}
	return m
}

func rateOf(t load.Tally, took time.Duration) float64 { return float64(t.Tokens) / took.Seconds() }

// bind sets what the processors allow, where all parts are known.
func (b *bench) bind(m *measurement) {
	share, _ := load.Verified(b.verify, m.Algorithm)
	for _, p := range b.report.Parts {
		if p.Algorithm != m.Algorithm || p.RPC != protocol(m.Layer) || p.Concurrency != concurrency(m.Callers, m.Batch) {
			continue
		}
		if bound, err := p.Bound(b.report.Cores, m.Batch, share); err == nil {
			m.Bound, m.OfBound = bound, m.Rate/bound
		}
		return
	}
}

// tell says how far a run is, on a terminal, until it is told to be quiet.
func tell(line *progressLine, what string, answered *atomic.Int64) (quiet func()) {
	if !line.live {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		start := time.Now()
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				line.say(fmt.Sprintf("%s: %.1f s, %d answers", what, time.Since(start).Seconds(), answered.Load()))
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// dawdle holds slow connections until the returned function is called.
func (b *bench) dawdle(ctx context.Context) (stop func()) {
	if b.slow == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var connected atomic.Int64
	wg.Go(func() { load.Slow(ctx, b.at.Target, b.slow, &connected) })
	for deadline := time.Now().Add(3 * time.Second); connected.Load() < int64(b.slow) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	return func() {
		b.report.Slow = connected.Load()
		if b.at.family != nil {
			b.report.Descriptors, _ = b.at.family.Descriptors() // 0: not known
		}
		cancel()
		wg.Wait()
	}
}

// cores is what this process may use, which is what it shares with the daemon.
func cores() int { return runtime.GOMAXPROCS(0) }

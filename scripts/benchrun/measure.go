package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"
)

type bencher struct {
	chancery, chanceryd         string
	all, sampled, idle, vault   string
	limited                     string
	noSampled, noVault, noNoisy string
	rounds                      int
	duration                    time.Duration
	soak                        int64 // requests; 0: none
	say                         func(format string, args ...any)
	memory                      []float64 // PSS at 64 callers, MB
	memoryErr                   error
}

// The numbers of callers, as the project's promises have them.
const (
	few, many    = 16, 64
	batch        = 64
	batchCallers = 16
	quietRate    = 100 // requests a second of the one who is watched
	flood        = 50  // times as many of the noisy one
	slowClients  = 100
)

// measure does everything, in one run; with so many requests that memory is watched
// over them, nothing else.
func (b *bencher) measure(ctx context.Context) report {
	r := report{Started: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), Rounds: b.rounds, Duration: b.duration.Seconds()}
	if b.soak > 0 {
		r.growth(ctx, b)
		return r
	}
	grpc := func(dir, set string, n int) side { return b.daemon("chancery", dir, "grpc", set, n, true) }
	batches := func(dir string) side { return b.daemon("chancery", dir, "grpc-batch", "web", batchCallers, true) }
	vaultBatch := b.peer("transit", "es256", "ES256", batchCallers, batch)

	r.contest(ctx, b, "ES256 by gRPC : Transit, 16 callers, all verified", more(1.7, 2.2), grpc(b.all, "web", few), b.peer("transit", "es256", "ES256", few, 0))
	at64 := r.contest(ctx, b, "ES256 by gRPC : Transit, 64 callers, all verified", more(2.5, 3.5), grpc(b.all, "web", many), b.peer("transit", "es256", "ES256", many, 0))
	r.again("p99 of both at 64 callers", less(1.0/3, 1.0/3), "µs", at64, p99)
	r.again("CPU time of the servers for a token, 64 callers", wanted{}, "µs", at64, cpu)
	r.remember(b, at64)
	r.contest(ctx, b, "ES256 by gRPC : Transit, 16 callers, sampled", more(2.3, 3), grpc(b.sampled, "web", few), b.peer("transit", "es256", "ES256", few, 0))
	r.contest(ctx, b, "ES256 by gRPC : Transit, 64 callers, sampled", more(3.5, 5), grpc(b.sampled, "web", many), b.peer("transit", "es256", "ES256", many, 0))
	r.contest(ctx, b, "ES256 in batches of 64 : batch_input, sampled", more(1.4, 2), batches(b.sampled), vaultBatch)
	r.contest(ctx, b, "ES256 in batches of 64 : batch_input, all verified", more(0.6, 1), batches(b.all), vaultBatch)
	r.contest(ctx, b, "RS256 by gRPC : Transit, 64 callers", more(1.6, 2), grpc(b.all, "legacy", many), b.peer("transit", "rs256", "RS256", many, 0))
	r.contest(ctx, b, "EdDSA by gRPC : Transit, 64 callers", more(1, 1.3), grpc(b.all, "edge", many), b.peer("transit", "eddsa", "EdDSA", many, 0))
	r.contest(ctx, b, "JSON : gRPC, 64 callers", more(0.75, 0.9), b.daemon("json", b.all, "json", "web", many, true), grpc(b.all, "web", many))
	r.share(ctx, b, "share of the CPU bound, 64 callers", more(0.6, 0.75), "grpc", many)
	r.share(ctx, b, "share of the CPU bound, batches of 64", more(0.65, 0.8), "grpc-batch", batchCallers)
	r.pss(b)
	r.starts(ctx, b)
	r.growth(ctx, b)
	r.noisy(ctx, b, "p99 beside a client that asks 50 times its share, which a rate limits : alone", b.limited)
	r.noisy(ctx, b, "p99 beside one that nothing limits : alone", b.all)
	r.slow(ctx, b)

	r.contest(ctx, b, "sampled : all verified, 64 callers", wanted{}, grpc(b.sampled, "web", many), grpc(b.all, "web", many))
	r.contest(ctx, b, "Unix socket : TCP, 64 callers", wanted{}, b.daemon("unix", b.all, "grpc", "web", many, false), grpc(b.all, "web", many))
	r.contest(ctx, b, "stream : unary, 64 callers", wanted{}, b.daemon("stream", b.all, "grpc-stream", "web", many, true), grpc(b.all, "web", many))
	r.contest(ctx, b, "certificates : Vault's pki, 16 callers", wanted{}, b.certificates(few), b.peer("pki", "bench", "", few, 0))
	return r
}

// rounds of both sides, in turns.
type rounds struct {
	figure string
	a, b   []sample
	err    error
}

func (b *bencher) alternate(ctx context.Context, figure string, one, two side) rounds {
	r := rounds{figure: figure}
	b.say("%s", figure)
	for range b.rounds {
		x, err := b.ask(ctx, one)
		if err != nil {
			return rounds{figure: figure, err: err}
		}
		y, err := b.ask(ctx, two)
		if err != nil {
			return rounds{figure: figure, err: err}
		}
		r.a, r.b = append(r.a, x), append(r.b, y)
	}
	return r
}

// values picks a number out of each sample.
func values(all []sample, pick func(sample) float64) []float64 {
	v := make([]float64, len(all))
	for i, s := range all {
		v[i] = pick(s)
	}
	return v
}

func rate(s sample) float64 { return s.Rate }
func p99(s sample) float64  { return s.P99 }

// cpu is what a server used for each token; 0: nobody can read it.
func cpu(s sample) float64 {
	if s.CPU == nil {
		return 0
	}
	return s.CPU.Daemon + s.CPU.Workers
}

// contest adds the row of the rates of two sides.
func (r *report) contest(ctx context.Context, b *bencher, figure string, w wanted, one, two side) rounds {
	all := b.alternate(ctx, figure, one, two)
	r.again(figure, w, "/s", all, rate)
	return all
}

// again adds a row of rounds that were measured already; each is the unit of what is
// picked.
func (r *report) again(figure string, w wanted, each string, all rounds, pick func(sample) float64) {
	w.unit, w.each = "×", each
	if all.err != nil {
		r.add(figure, w, ratio{}, all.err)
		return
	}
	got, err := compare(values(all.a, pick), values(all.b, pick))
	r.add(figure, w, got, err)
	if err == nil {
		r.Rows[len(r.Rows)-1].P50 = []float64{median(values(all.a, func(s sample) float64 { return s.P50 })), median(values(all.b, func(s sample) float64 { return s.P50 }))}
		r.Rows[len(r.Rows)-1].P99 = []float64{median(values(all.a, func(s sample) float64 { return s.P99 })), median(values(all.b, p99))}
	}
}

// remember keeps the memory of the daemon, side A.
func (r *report) remember(b *bencher, all rounds) {
	b.memoryErr = all.err
	for _, s := range all.a {
		if s.PSS == nil {
			b.memoryErr = errUnread
			return
		}
		b.memory = append(b.memory, float64(s.PSS.Daemon+s.PSS.Workers)/1000)
	}
}

var errUnread = errors.New("smaps_rollup of the daemon cannot be read: run as root, or as its user")

// alone adds a row of values that are no ratio.
func (r *report) alone(figure string, w wanted, got []float64, err error) {
	if err != nil || len(got) == 0 {
		if err == nil {
			err = errRounds
		}
		r.add(figure, w, ratio{}, err)
		return
	}
	ones := make([]float64, len(got))
	for i := range ones {
		ones[i] = 1
	}
	v, err := compare(got, ones)
	v.B = nil
	r.add(figure, w, v, err)
}

func (r *report) pss(b *bencher) {
	r.alone("memory (PSS) of daemon and workers, 64 callers", wanted{bar: 80, goal: 50, less: true, unit: "MB"}, b.memory, b.memoryErr)
}

// share measures the parts, the bound and the share in the same run, half as often
// as a contest: the parts take as long again.
func (r *report) share(ctx context.Context, b *bencher, figure string, w wanted, layer string, callers int) {
	w.unit = "share"
	b.say("%s", figure)
	var got []float64
	at, err := b.at(b.all, "issuer", false)
	for range max(1, b.rounds/2) {
		if err != nil {
			break
		}
		var all samples
		if all, err = b.chanceryBench(ctx, append(append(at, "bench", "--layers", layer, "--disk", b.all), b.timed(callers)...)...); err != nil {
			break
		}
		var s sample
		if s, err = all.one(layer); err != nil {
			break
		}
		if s.OfBound == 0 {
			err = errors.New("there is no bound: " + strings.Join(all.Notes, "; "))
			break
		}
		got = append(got, s.OfBound)
	}
	r.alone(figure, w, got, err)
}

// starts measures the way from exec to the first signature of a daemon that has its
// keys.
func (r *report) starts(ctx context.Context, b *bencher) {
	figure := "exec to the first signature"
	b.say("%s", figure)
	var got []float64
	var failed error
	if b.idle == "" {
		failed = errors.New("there is no daemon to start")
	}
	for range b.rounds {
		if failed != nil {
			break
		}
		once, cancel := context.WithTimeout(ctx, startWithin)
		all, err := b.chanceryBench(once, "--dir", b.idle, "bench", "--start", "--", b.chanceryd, "dev", "--dir", b.idle)
		cancel()
		if err != nil {
			failed = err
			break
		}
		got = append(got, all.First)
	}
	r.alone(figure, wanted{bar: 150, goal: 80, less: true, unit: "ms"}, got, failed)
}

// growth asks until so many requests are answered, and compares the memory then with
// that after the first stretch, in which everything has been used once.
func (r *report) growth(ctx context.Context, b *bencher) {
	figure := fmt.Sprintf("memory after %d requests : after %d runs", b.soak, settled)
	w := less(1.1, 1.05)
	w.unit, w.each = "×", "MB"
	if b.soak == 0 {
		r.add("growth of memory over 10^7 requests", w, ratio{}, errors.New("scripts/bench --soak measures it"))
		return
	}
	b.say("%s", figure)
	s := b.daemon("chancery", b.all, "grpc", "web", many, true)
	var early, late float64
	for done, n := int64(0), 0; done < b.soak; n++ {
		got, err := b.ask(ctx, s)
		if err == nil && (got.PSS == nil || got.Requests == 0) {
			err = errUnread
		}
		if err != nil {
			r.add(figure, w, ratio{}, err)
			return
		}
		done += got.Requests
		late = float64(got.PSS.Daemon+got.PSS.Workers) / 1000
		if n == settled || early == 0 {
			early = late
		}
		if n%settled == 0 {
			b.say("  %d of %d requests: %.0f MB", done, b.soak, late)
		}
	}
	got, err := compare([]float64{late}, []float64{early})
	r.add(figure, w, got, err)
}

// settled is the run after which memory is compared.
const settled = 20

// noisy watches one client of the daemon of dir that asks a hundred times a second,
// alone and while another asks fifty times as often. Requests arrive at fixed moments.
func (r *report) noisy(ctx context.Context, b *bencher, figure, dir string) {
	w := less(1.5, 1.5)
	w.unit = "×"
	if b.noNoisy != "" {
		r.add(figure, w, ratio{}, errors.New(b.noNoisy))
		return
	}
	b.say("%s", figure)
	watched, err := b.paced(dir, "issuer", quietRate, few, b.duration)
	loud, err2 := b.paced(dir, "noisy", quietRate*flood, 4*many, 2*b.duration) // begins before and ends after
	if err = errors.Join(err, err2); err != nil {
		r.add(figure, w, ratio{}, err)
		return
	}
	all := rounds{figure: figure}
	for range b.rounds {
		quiet, err := b.ask(ctx, watched)
		if err != nil {
			all.err = err
			break
		}
		beside, err := b.beside(ctx, watched, loud)
		if err != nil {
			all.err = err
			break
		}
		all.a, all.b = append(all.a, beside), append(all.b, quiet)
	}
	r.again(figure, w, "µs", all, p99)
}

// paced asks by gRPC so many times a second.
func (b *bencher) paced(dir, who string, rate, callers int, d time.Duration) (side, error) {
	at, err := b.at(dir, who, true)
	args := append(at, "bench", "--mix", "grpc", "--rate", fmt.Sprint(rate), "--bound=false", "--callers", fmt.Sprint(callers), "--duration", d.String(), "--warmup", (b.duration / 5).String())
	return side{name: who, layer: "grpc", args: args}, err
}

// beside measures one side while another is at it.
func (b *bencher) beside(ctx context.Context, watched, loud side) (sample, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var loudErr error
	wg.Go(func() {
		if _, err := b.ask(ctx, loud); err != nil && ctx.Err() == nil {
			loudErr = fmt.Errorf("the noisy client: %w", err)
		}
	})
	pause := time.NewTimer(b.duration / 2)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	}
	s, err := b.ask(ctx, watched)
	cancel()
	wg.Wait()
	return s, errors.Join(err, loudErr)
}

// slow measures p99 with a hundred slow and silent connections, and without.
func (r *report) slow(ctx context.Context, b *bencher) {
	figure := fmt.Sprintf("p99 beside %d slow and silent clients : alone", slowClients)
	plain := b.daemon("alone", b.all, "grpc", "web", few, false)
	beside := plain
	beside.args = append(append([]string(nil), plain.args...), "--slow", fmt.Sprint(slowClients))
	all := b.alternate(ctx, figure, beside, plain)
	w := less(1.1, 1.05)
	r.again(figure, w, "µs", all, p99)
	b.descriptors(ctx, r, beside)
}

// descriptors counts the daemon's open files while the slow clients are there.
func (b *bencher) descriptors(ctx context.Context, r *report, s side) {
	w := wanted{bar: 1024, goal: 512, less: true, unit: "files"}
	all, err := samples{}, s.err
	if err == nil {
		all, err = b.chanceryBench(ctx, s.args...)
	}
	if err == nil && all.Descriptors == 0 {
		err = errors.New("the daemon's descriptors cannot be counted: run as root, or as its user")
	}
	r.alone("open files of the daemon meanwhile", w, []float64{float64(all.Descriptors)}, err)
}

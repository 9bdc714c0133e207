package audit

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chancery/keystore"
)

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkAct(b *testing.B) {
	for _, waiters := range []int{1, 16, 64} {
		b.Run(map[int]string{1: "waiters=1", 16: "waiters=16", 64: "waiters=64"}[waiters], func(b *testing.B) {
			r := newRig(b, func(c *Config) { c.Interval, c.JournalSize = time.Second, 0 })
			rec := signed(1)
			var n atomic.Int64
			before := cpuTime(b)
			b.ResetTimer()
			var wg sync.WaitGroup
			for range waiters {
				wg.Go(func() {
					for n.Add(1) <= int64(b.N) {
						if _, err := r.log.Act(context.Background(), rec); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acts/s")
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/act")
		})
	}
}

// full returns a rig whose log of acts has many entries and is closed.
func full(b *testing.B, entries int) *rig {
	r := newRig(b, func(c *Config) { c.JournalSize = 0 })
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for i := range entries / 100 {
				if _, err := r.log.Act(context.Background(), signed(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	r.close()
	return r
}

func BenchmarkVerify(b *testing.B) {
	const entries = 100_000
	r := full(b, entries)
	opt := Options{Keys: []string{r.key.vkey(b)}}
	for b.Loop() {
		rep, err := Verify(b.Context(), r.cfg.Dir, opt)
		if err != nil || !rep.OK() || rep.Entries() != entries {
			b.Fatal(rep, err)
		}
	}
	b.ReportMetric(entries*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkOpen(b *testing.B) {
	r := full(b, 100_000)
	for b.Loop() {
		r.open()
		r.close()
	}
}

// BenchmarkTake measures what numbering costs a signature: taking the number,
// and closing it when the entry is durable.
func BenchmarkTake(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(map[int]string{1: "callers=1", 16: "callers=16", 64: "callers=64"}[callers], func(b *testing.B) {
			r := newRig(b)
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for n.Add(1) <= int64(b.N) {
						use, err := r.log.Take(webKey)
						if err != nil {
							b.Error(err)
							return
						}
						rec := keystore.Record{KID: webKey, Use: use, Outcome: keystore.OutcomeDone}
						r.log.uses.closing(&rec).end(nil)
					}
				})
			}
			wg.Wait()
		})
	}
}

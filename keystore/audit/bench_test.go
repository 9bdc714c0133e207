package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

// enter has waiters enter n acts as fast as they can, and returns how long each
// act waited.
func (r *rig) enter(waiters, n int) []time.Duration {
	r.Helper()
	var taken atomic.Int64
	waited := make([][]time.Duration, waiters)
	var wg sync.WaitGroup
	for w := range waiters {
		wg.Go(func() {
			for i := taken.Add(1); i <= int64(n); i = taken.Add(1) {
				start := time.Now()
				if _, err := r.log.Act(context.Background(), signed(int(i))); err != nil {
					r.Error(err)
					return
				}
				waited[w] = append(waited[w], time.Since(start))
			}
		})
	}
	wg.Wait()
	return slices.Concat(waited...)
}

// quantiles reports how long half of the acts, and all but one in a hundred, waited.
func quantiles(b *testing.B, waited []time.Duration) {
	slices.Sort(waited)
	for name, part := range map[string]int{"p50-µs": 50, "p99-µs": 99} {
		at := waited[min(len(waited)*part/100, len(waited)-1)]
		b.ReportMetric(float64(at.Nanoseconds())/1000, name)
	}
}

func BenchmarkAct(b *testing.B) {
	for _, waiters := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("waiters=%d", waiters), func(b *testing.B) {
			r := newRig(b, func(c *Config) { c.Interval, c.JournalSize = time.Second, 0 })
			before := cpuTime(b)
			b.ResetTimer()
			waited := r.enter(waiters, b.N)
			b.StopTimer()
			quantiles(b, waited)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acts/s")
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/act")
		})
	}
}

// BenchmarkAppendFlat shows that an entry costs the same whatever the log has:
// compare the ns/op of its lines. CHANCERY_SOAK=1 adds a log of ten million.
func BenchmarkAppendFlat(b *testing.B) {
	sizes := []int{1e3, 1e6}
	if os.Getenv("CHANCERY_SOAK") != "" {
		sizes = append(sizes, 1e7)
	}
	for _, size := range sizes {
		b.Run(fmt.Sprintf("entries=%d", size), func(b *testing.B) {
			r := newRig(b, func(c *Config) { c.Interval, c.JournalSize = time.Second, 0 })
			for b.Loop() { // the log grows once, whatever b.N
				b.StopTimer()
				if have := int(r.acts()); have < size {
					r.enter(256, size-have)
				}
				b.StartTimer()
				quantiles(b, r.enter(64, 10_000))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/entry")
		})
	}
}

// acts returns how many acts the log has.
func (r *rig) acts() int64 {
	s := r.log.acts.current()
	if s == nil {
		return 0
	}
	return s.length()
}

// full returns a rig whose log of acts has many entries and is closed.
func full(b *testing.B, entries int) *rig {
	r := newRig(b, func(c *Config) { c.JournalSize = 0 })
	r.enter(100, entries)
	r.close()
	return r
}

// BenchmarkVerify reads journals and packs. Memory is flat if both sizes
// allocate the same for each entry; what is live at once is peak-KiB.
func BenchmarkVerify(b *testing.B) {
	for _, entries := range []int{10_000, 200_000} {
		r := full(b, entries)
		b.Run(fmt.Sprintf("journals/entries=%d", entries), func(b *testing.B) { verifies(b, r, entries) })
		r.packs()
		b.Run(fmt.Sprintf("pack/entries=%d", entries), func(b *testing.B) { verifies(b, r, entries) })
	}
}

// packs packs the only month of r as it stands.
func (r *rig) packs() {
	r.Helper()
	months, err := listMonths(r.cfg.Dir)
	if err != nil || len(months) != 1 {
		r.Fatal(months, err)
	}
	dir := filepath.Join(r.cfg.Dir, actsName, months[0])
	numbers, err := listJournals(dir)
	if err != nil {
		r.Fatal(err)
	}
	origin := originator(keyName(host, node)).of(actsName + "/" + months[0])
	if err := packJournals(dir, packPath(dir), origin, func() error { return nil }); err != nil {
		r.Fatal(err)
	}
	for _, n := range numbers {
		works(r, os.Remove(journalPath(dir, n)))
	}
}

func verifies(b *testing.B, r *rig, entries int) {
	var before, after runtime.MemStats
	peak := uint64(0)
	opt := Options{Keys: []string{r.key.vkey(b)}, Progress: func(int64, int64) {
		b.StopTimer()
		runtime.ReadMemStats(&after)
		peak = max(peak, after.HeapAlloc)
		b.StartTimer()
	}}
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		rep, err := Verify(b.Context(), r.cfg.Dir, opt)
		if err != nil || !rep.OK() || rep.Entries() < int64(entries) {
			b.Fatal(rep, err)
		}
	}
	runtime.ReadMemStats(&after)
	each := float64(entries) * float64(b.N)
	b.ReportMetric(each/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/each, "B/entry")
	b.ReportMetric(float64(peak-min(peak, before.HeapAlloc))/1024, "peak-KiB")
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

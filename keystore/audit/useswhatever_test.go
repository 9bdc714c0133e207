package audit

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
)

func TestConcurrentUses(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Interval = time.Millisecond })
	const each, callers = 40, 8
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for n := range each {
				kid := []keystore.KID{webKey, edgeKey}[n%2]
				use, err := r.log.Take(kid)
				if err != nil {
					t.Error(err)
					return
				}
				switch i % 4 {
				case 0:
					r.log.Refuse(used(kid, use, keystore.OutcomeFailed))
				case 1:
					if !r.log.GiveBack(kid, use) {
						r.log.Refuse(used(kid, use, keystore.OutcomeFailed))
					}
				default:
					if _, err := r.log.Act(t.Context(), used(kid, use, keystore.OutcomeDone)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	last := map[keystore.KID]int64{webKey: r.log.uses.known(webKey).highest(), edgeKey: r.log.uses.known(edgeKey).highest()}
	r.close()
	r.sound()
	r.closedOnce(last)
}

// A number that was given back while it was about to be settled is taken again, and
// was not closed when the process was killed: it had no entry for ever.
func TestANumberThatIsGivenBackIsNotSettled(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	keep := func() {
		c.set(c.Now().Add(tendEvery))
		r.log.keepOnce(t.Context())
	}
	r.enterUse(used(webKey, r.take(webKey, 1), keystore.OutcomeDone))
	r.take(webKey, 2)
	keep() // up to 2 is to be settled
	if !r.log.GiveBack(webKey, 2) {
		t.Fatal("2 is not given back")
	}
	keep()
	r.take(webKey, 2)
	r.crash()
	r.open()
	r.enterUse(used(webKey, r.take(webKey, 3), keystore.OutcomeDone))
	r.close()
	r.closedOnce(map[keystore.KID]int64{webKey: 3})
}

// Whatever is taken, entered, refused, given back and killed, in whatever order:
// the log is sound and each number is closed once.
func TestUsesWhateverHappens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newClock(noon)
		r := newRig(t, func(cfg *Config) {
			cfg.Dir = filepath.Join(quickDir(t), "audit")
			cfg.Now, cfg.Refusals = c.Now, Budget{Burst: 2, PerSecond: 1e-9}
		})
		defer func() { r.log = nil }()
		r.TB = failing{t, rt}
		type number struct {
			kid keystore.KID
			use int64
		}
		var open []number
		intents := map[number]bool{}
		last := map[keystore.KID]int64{}
		ended := func(n number) {
			open = slices.DeleteFunc(open, func(o number) bool { return o == n })
			delete(intents, n)
		}
		record := func(n number, o keystore.Outcome) keystore.Record {
			rec := used(n.kid, n.use, o)
			if intents[n] {
				rec.ID = fmt.Sprintf("%s-%d", n.kid, n.use)
			}
			return rec
		}
		pick := func(rt *rapid.T) number {
			if len(open) == 0 {
				rt.Skip("nothing is open")
			}
			return open[rapid.IntRange(0, len(open)-1).Draw(rt, "which")]
		}
		rt.Repeat(map[string]func(*rapid.T){
			"take": func(rt *rapid.T) {
				kid := rapid.SampledFrom([]keystore.KID{webKey, edgeKey}).Draw(rt, "kid")
				last[kid]++
				open = append(open, number{kid, r.take(kid, last[kid])})
			},
			"intend": func(rt *rapid.T) {
				n := pick(rt)
				if !intents[n] {
					intents[n] = true
					r.enterUse(record(n, keystore.OutcomeIntent))
				}
			},
			"act": func(rt *rapid.T) {
				n := pick(rt)
				r.enterUse(record(n, keystore.OutcomeDone))
				ended(n)
			},
			"fail": func(rt *rapid.T) {
				if n := pick(rt); !intents[n] {
					r.log.Refuse(record(n, rapid.SampledFrom([]keystore.Outcome{keystore.OutcomeFailed, keystore.OutcomeUnknown}).Draw(rt, "outcome")))
					ended(n)
				}
			},
			"lose": func(rt *rapid.T) { // an act that the log does not take
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				n := pick(rt)
				if _, err := r.log.Act(gone, record(n, keystore.OutcomeDone)); err == nil {
					rt.Error("entered")
				}
				ended(n)
			},
			"give back": func(rt *rapid.T) {
				n := pick(rt)
				if given := r.log.GiveBack(n.kid, n.use); given != (n.use == last[n.kid] && !intents[n]) {
					rt.Errorf("%v given back: %v", n, given)
				} else if given {
					last[n.kid]--
					ended(n)
				}
			},
			"keep": func(*rapid.T) {
				c.set(c.Now().Add(tendEvery))
				r.log.keepOnce(t.Context())
			},
			"kill": func(rt *rapid.T) {
				r.crash()
				if rapid.Bool().Draw(rt, "power cut") { // the file is as it was last synced
					h, slots, err := readUses(usesPath(r))
					if err == nil {
						for i := range slots {
							slots[i].last = slots[i].settled
						}
						writeFile(t, usesPath(r), encodeUses(h, slots))
					}
					clear(last) // what has no entry is forgotten
					for _, e := range r.all(Filter{}) {
						last[e.Entry.KID] = max(last[e.Entry.KID], numbersOf(&e.Entry).last())
					}
					maps.DeleteFunc(last, func(_ keystore.KID, n int64) bool { return n == 0 })
				}
				r.open()
				open, intents = nil, map[number]bool{}
			},
			"restart": func(*rapid.T) {
				r.close()
				r.open()
				open, intents = nil, map[number]bool{}
			},
			"month": func(*rapid.T) { c.set(c.Now().AddDate(0, 1, 0)) },
		})
		r.crash()
		r.open()
		c.set(c.Now().Add(inFlight)) // intents without an outcome are not open any more
		r.enterUse(keystore.Record{Action: keystore.ActRead, Outcome: keystore.OutcomeDone})
		r.close()
		r.closedOnce(last)
		for _, u := range r.sound().Uses {
			if u.Last != last[u.KID] || u.Open != 0 {
				rt.Errorf("%+v, want up to %d", u, last[u.KID])
			}
		}
	})
}

// quickDir is t.TempDir in memory, if there is such a place: the disk is not what
// is tested.
func quickDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "uses")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

package audit

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
)

const day = 24 * time.Hour

func TestWhenAMonthIsRemoved(t *testing.T) {
	august := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name string
		keep time.Duration
		now  time.Time
		due  bool
	}{
		{"kept for ever", 0, august.AddDate(100, 0, 0), false},
		{"in its own month", time.Hour, august.AddDate(0, 0, 20), false},
		{"at its last moment and the time kept", 30 * day, august.AddDate(0, 0, 31+30), false},
		{"a moment later", 30 * day, august.AddDate(0, 0, 31+30).Add(1), true},
	}
	for _, test := range tests {
		if due := pruneDue(august, test.keep, test.now); due != test.due {
			t.Errorf("%s: %v", test.name, due)
		}
	}
	for keep, want := range map[time.Duration]string{400 * day: "keep_acts 400d", 36 * time.Hour: "keep_acts 36h0m0s"} {
		if have := prunePolicy(keep); have != want {
			t.Errorf("%v is stated as %q", keep, have)
		}
	}
}

// yearRig is a rig with acts from August to November, of which all but the last
// month are closed; it is the 20th of November, and acts are kept for 30 days.
func yearRig(t testing.TB, change ...func(*Config)) (*rig, *clock) {
	t.Helper()
	c := newClock(time.Date(2026, 8, 3, 0, 0, 0, 0, time.UTC))
	r := newRig(t, append([]func(*Config){func(cfg *Config) { cfg.Now, cfg.KeepActs = c.Now, 30*day }}, change...)...)
	for month := range 4 {
		c.set(time.Date(2026, time.Month(8+month), 20, 0, 0, 0, 0, time.UTC))
		for i := range 20 {
			r.act(i)
		}
		r.checkpoint()
	}
	return r, c
}

// months returns the months that are there.
func (r *rig) months() []string {
	r.Helper()
	months, err := listMonths(r.cfg.Dir)
	if err != nil {
		r.Fatal(err)
	}
	return months
}

var (
	allMonths = []string{"2026-08", "2026-09", "2026-10", "2026-11"}
	twoMonths = []string{"2026-10", "2026-11"}
)

func (r *rig) prunes(c *clock) {
	r.Helper()
	r.tend() // the entries
	r.checkpoint()
	c.set(c.Now().Add(pruneGrace))
	r.tend() // the files
}

func TestMonthsAreRemovedByPolicy(t *testing.T) {
	r, c := yearRig(t)
	r.tend()
	entries := r.all(Filter{Action: keystore.ActAuditPrune})
	if len(entries) != 2 || entries[0].Entry.Detail["policy"] != "keep_acts 30d" || entries[0].Entry.Detail["size"] != "20" {
		t.Errorf("entered: %+v", entries)
	}
	c.set(c.Now().Add(pruneGrace))
	r.tend()
	if have := r.months(); !slices.Equal(have, allMonths) {
		t.Errorf("with no checkpoint over the entries there are %v", have)
	}
	c.set(c.Now().Add(-pruneGrace))
	r.checkpoint()
	r.tend()
	if have := r.months(); !slices.Equal(have, allMonths) {
		t.Errorf("at once there are %v", have)
	}
	r.sound()
	c.set(c.Now().Add(pruneGrace))
	r.tend()
	if have := r.months(); !slices.Equal(have, twoMonths) {
		t.Errorf("there are %v", have)
	}
	rep := r.sound()
	if len(rep.Pruned) != 2 || rep.Pruned[0].Name != "acts/2026-08" || rep.Pruned[1].Name != "acts/2026-09" ||
		rep.Pruned[0].Entries != 20 || rep.Pruned[0].Policy != "keep_acts 30d" || rep.Pruned[0].Entry != entries[0].Name() {
		t.Errorf("reported: %+v", rep.Pruned)
	}
	r.tend()
	if again := r.all(Filter{Action: keystore.ActAuditPrune}); len(again) != 2 {
		t.Errorf("entered %d times", len(again))
	}
	// The memory knows the months still.
	r.close()
	r.open()
	r.act(1)
	r.close()
	r.sound()
	r.twoMonthsLeft()
}

// twoMonthsLeft fails the test unless of the months there are two, and of the others
// nothing at all.
func (r *rig) twoMonthsLeft() {
	r.Helper()
	left, err := os.ReadDir(filepath.Join(r.cfg.Dir, "acts"))
	left = slices.DeleteFunc(left, func(f os.DirEntry) bool { return f.Name() == usesName })
	if err != nil || len(left) != 2 {
		r.Errorf("left: %v, %v", left, err)
	}
}

func TestTheNewestTwoMonthsStay(t *testing.T) {
	r, c := yearRig(t, func(cfg *Config) { cfg.KeepActs = time.Hour })
	r.prunes(c)
	if have := r.months(); !slices.Equal(have, twoMonths) {
		t.Errorf("there are %v", have)
	}
}

func TestRemovingMayEndAnywhere(t *testing.T) {
	for _, step := range []string{"prune", "remove"} {
		t.Run(step, func(t *testing.T) {
			dead := errors.New("dead")
			armed := true
			r, c := yearRig(t, func(cfg *Config) {
				cfg.step = func(name string) error {
					if armed && name == step {
						return dead
					}
					return nil
				}
			})
			r.tend()
			r.checkpoint()
			c.set(c.Now().Add(pruneGrace))
			if err := r.log.tendOnce(t.Context()); !errors.Is(err, dead) {
				t.Fatal(err)
			}
			r.crash()
			armed = false
			r.verifies("after the crash")
			r.open()
			r.tend()
			if have := r.months(); !slices.Equal(have, twoMonths) {
				t.Errorf("there are %v", have)
			}
			r.twoMonthsLeft()
			r.close()
			r.sound()
		})
	}
}

func TestAMonthThatCannotBeRemovedStaysAndVerifies(t *testing.T) {
	denied := true
	r, c := yearRig(t, func(cfg *Config) {
		cfg.step = func(name string) error {
			if denied && name == "prune" {
				return syscall.EACCES
			}
			return nil
		}
	})
	r.tend()
	r.checkpoint()
	c.set(c.Now().Add(pruneGrace))
	if err := r.log.tendOnce(t.Context()); !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "acts/2026-08") {
		t.Errorf("it says %v", err)
	}
	r.act(1)
	if rep := r.sound(); len(rep.Pruned) != 0 || rep.Logs[1].Closed == "" {
		t.Errorf("reported: %+v", rep)
	}
	denied = false
	r.tend()
	r.sound()
	if have := r.months(); !slices.Equal(have, twoMonths) {
		t.Errorf("there are %v", have)
	}
}

func TestRemovingStopsWithThePolicy(t *testing.T) {
	r, c := yearRig(t)
	r.tend()
	r.close()
	r.cfg.KeepActs = 0
	r.open()
	c.set(c.Now().Add(pruneGrace))
	r.tend()
	if have := r.months(); !slices.Equal(have, allMonths) {
		t.Errorf("there are %v", have)
	}
	r.sound()
}

// What a removed month was moved to goes with it if it has the month's name.
func TestAMovedMonthIsRemovedWhereItIs(t *testing.T) {
	r, c := yearRig(t)
	elsewhere := t.TempDir()
	august, september := filepath.Join(r.cfg.Dir, "acts", "2026-08"), filepath.Join(r.cfg.Dir, "acts", "2026-09")
	ours, other := filepath.Join(elsewhere, "node-2026-08"), filepath.Join(elsewhere, "everything")
	for from, to := range map[string]string{august: ours, september: other} {
		works(t, os.Rename(from, to))
		works(t, os.Symlink(to, from))
	}
	r.prunes(c)
	if have := r.months(); !slices.Equal(have, twoMonths) {
		t.Errorf("there are %v", have)
	}
	if exists(ours) {
		t.Error("what bears its name stays")
	}
	if !exists(packPath(other)) {
		t.Error("what may hold anything was removed")
	}
	r.sound()
}

// pruneEntry enters that a month was removed, as somebody with the log's files
// might, and says what Verify finds when it is signed.
func (r *rig) pruneEntry(month, size, root string) {
	r.pruneEntryBy("keep_acts 30d", month, size, root)
}

func (r *rig) pruneEntryBy(policy, month, size, root string) {
	r.lifecycle(keystore.Record{
		Principal: self, Action: keystore.ActAuditPrune, Outcome: keystore.OutcomeDone,
		Detail: map[string]string{"origin": keyName(host, node) + "/acts/" + month, "size": size, "root": root, "policy": policy},
	})
}

func TestPruningHasToFitTheSeal(t *testing.T) {
	root := func(r *rig) string { return r.sound().Logs[1].Root }
	tests := []struct {
		name string
		do   func(r *rig)
		want string // part of a problem; empty: sound
	}{
		{"as it was closed, and there", func(r *rig) { r.pruneEntry("2026-08", "20", root(r)) }, ""},
		{"as it was closed, and gone", func(r *rig) {
			r.pruneEntry("2026-08", "20", root(r))
			works(r, os.RemoveAll(filepath.Join(r.cfg.Dir, "acts", "2026-08")))
		}, ""},
		{"gone without an entry", func(r *rig) { works(r, os.RemoveAll(filepath.Join(r.cfg.Dir, "acts", "2026-08"))) }, "which is not there"},
		{"by a policy that keeps it", func(r *rig) { r.pruneEntryBy("keep_acts 400d", "2026-08", "20", root(r)) },
			"it removes localhost:8443/audit/dev/acts/2026-08, which the policy that it states, keep_acts 400d, keeps until 2027-10-06T00:00:00Z"},
		{"on the day before it may", func(r *rig) { r.pruneEntryBy("keep_acts 81d", "2026-08", "20", root(r)) }, "keeps until 2026-11-21"},
		{"by a policy in hours", func(r *rig) { r.pruneEntryBy("keep_acts 36h0m0s", "2026-08", "20", root(r)) }, ""},
		{"by none", func(r *rig) { r.pruneEntryBy("", "2026-08", "20", root(r)) }, "states no policy that says so"},
		{"by one for ever", func(r *rig) { r.pruneEntryBy("keep_acts 0d", "2026-08", "20", root(r)) }, "states no policy that says so"},
		{"never closed", func(r *rig) { r.pruneEntry("2026-11", "20", root(r)) }, "which was never closed"},
		{"never there", func(r *rig) { r.pruneEntry("2025-01", "20", root(r)) }, "which was never closed"},
		{"another size", func(r *rig) { r.pruneEntry("2026-08", "19", root(r)) }, "with another size or root"},
		{"another root", func(r *rig) { r.pruneEntry("2026-08", "20", (&tree{}).root().String()) }, "with another size or root"},
		{"no size", func(r *rig) { r.pruneEntry("2026-08", "", root(r)) }, "with another size or root"},
		{"there and cut", func(r *rig) {
			r.pruneEntry("2026-08", "20", root(r))
			works(r, os.Truncate(journalPath(filepath.Join(r.cfg.Dir, "acts", "2026-08"), 1), 2000))
		}, "it is not the log of 20 entries"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, _ := yearRig(t)
			test.do(r)
			r.checkpoint()
			rep := r.verify()
			if rep.OK() != (test.want == "") || !strings.Contains(fmt.Sprint(rep.Problems), test.want) {
				t.Errorf("%v", rep.Problems)
			}
		})
	}
}

// An entry that nothing signs could be anybody's.
func TestPruningCountsOnlyUnderACheckpoint(t *testing.T) {
	r, _ := yearRig(t)
	r.pruneEntry("2026-08", "20", r.sound().Logs[1].Root)
	works(t, os.RemoveAll(filepath.Join(r.cfg.Dir, "acts", "2026-08")))
	if rep := r.verify(); rep.OK() || !strings.Contains(fmt.Sprint(rep.Problems), "no checkpoint signs that yet") {
		t.Errorf("%v", rep.Problems)
	}
}

func TestTheMemoryOfAMonthNeedsItOrItsPruning(t *testing.T) {
	r, c := yearRig(t)
	heads := maps.Clone(r.mem.heads)
	r.prunes(c)
	r.close()
	maps.Copy(heads, r.mem.heads)
	r.mem.heads = heads
	r.open()
	r.close()
	works(t, os.RemoveAll(filepath.Join(r.cfg.Dir, "acts", "2026-10")))
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), "acts/2026-10") {
		t.Errorf("opened: %v", err)
	}
}

func TestACheckpointKeptOfARemovedMonth(t *testing.T) {
	r, c := yearRig(t)
	kept := func() Checkpoint {
		s := r.log.newShard("acts/2026-08")
		c, err := s.checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}()
	r.prunes(c)
	for name, test := range map[string]struct {
		change func(*Checkpoint)
		sound  bool
	}{
		"of all its entries":  {func(*Checkpoint) {}, true},
		"of its first":        {func(c *Checkpoint) { c.Size, c.Root = 3, Head{}.Root }, true}, // which nothing can tell any more
		"of more than it had": {func(c *Checkpoint) { c.Size++ }, false},
		"with another root":   {func(c *Checkpoint) { c.Root[0] ^= 1 }, false},
	} {
		k := kept
		test.change(&k)
		rep, err := Verify(t.Context(), r.cfg.Dir, Options{Keys: []string{r.key.vkey(t)}, Kept: []Checkpoint{k}})
		if err != nil || rep.OK() != test.sound {
			t.Errorf("%s: %v, %v", name, rep.Problems, err)
		}
	}
}

// Whoever verifies while a month is removed meets it whole or not at all.
func TestVerifyBesideRemoving(t *testing.T) {
	r, c := yearRig(t)
	r.tend()
	r.checkpoint()
	c.set(c.Now().Add(pruneGrace))
	calls := 0
	opt := Options{Keys: []string{r.key.vkey(t)}, Progress: func(int64, int64) {
		if calls++; calls == 2 { // in August
			r.tend()
		}
	}}
	if rep, err := Verify(t.Context(), r.cfg.Dir, opt); err != nil || !rep.OK() || len(rep.Pruned) != 2 {
		t.Errorf("%+v, %v", rep, err)
	}
	if have := r.months(); !slices.Equal(have, twoMonths) {
		t.Errorf("there are %v", have)
	}
}

// What a witness cosigned of a month is no contradiction once that was removed.
func TestACosignedMonthMayBeRemoved(t *testing.T) {
	r, c := yearRig(t)
	w := &witnessRig{rig: r, quorum: fewest{n: 1}, who: []*Cosigner{newTestCosigner(t, "w1")}}
	w.quorum.keys = []WitnessKey{w.who[0].Key}
	cosigned := w.cosign(w.published("acts/2026-08"), 0)
	r.prunes(c)
	if rep := w.report(cosigned); !rep.OK() || len(rep.Pruned) != 2 {
		t.Errorf("%v", rep.Problems)
	}
	longer, _, err := OpenCosigned(cosigned, nil)
	if err != nil {
		t.Fatal(err)
	}
	longer.Size++
	if rep := w.report(w.cosign(signedBy(t, longer, r.key), 0)); rep.OK() {
		t.Error("it was longer than it was closed, and that is not told")
	}
}

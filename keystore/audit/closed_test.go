package audit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery/keystore"
)

// closedRig is a rig whose October has that many acts and is closed, and whose
// November has begun.
func closedRig(t testing.TB, acts int, change ...func(*Config)) *rig {
	t.Helper()
	c := newClock(october)
	r := newRig(t, append([]func(*Config){func(cfg *Config) { cfg.Now = c.Now }}, change...)...)
	for i := range acts {
		r.act(i)
	}
	c.set(november)
	r.act(acts)
	waitFor(t, "both months' beginnings are entered", func() bool {
		n := 0
		for _, l := range r.all(Filter{Action: keystore.ActAuditShard}) {
			if l.Entry.Outcome == keystore.OutcomeIntent {
				n++
			}
		}
		return n == 2
	})
	r.checkpoint()
	return r
}

func (r *rig) checkpoint() {
	r.Helper()
	if err := r.log.Checkpoint(r.Context()); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) tend() {
	r.Helper()
	if err := r.log.tendOnce(r.Context()); err != nil {
		r.Fatalf("tending closed months: %v", err)
	}
}

// october returns the directory of the closed month.
func (r *rig) october() string { return filepath.Join(r.cfg.Dir, "acts", "2026-10") }

// isPacked fails the test unless the month has a pack and no journal.
func (r *rig) isPacked(dir string) {
	r.Helper()
	left, err := listJournals(dir)
	if err != nil || len(left) > 0 || !hasPack(dir) || exists(packPath(dir)+newSuffix) {
		r.Errorf("journals %v, pack %v, %v", left, hasPack(dir), err)
	}
}

func sameEntries(t testing.TB, got, want []Located) {
	t.Helper()
	spell := func(l Located) string { return l.Name() + string(l.Entry.Append(nil)) }
	if !slices.EqualFunc(got, want, func(a, b Located) bool { return spell(a) == spell(b) }) {
		t.Errorf("%d entries that are not the %d from before", len(got), len(want))
	}
}

func TestAClosedMonthIsPacked(t *testing.T) {
	const acts = 400
	r := closedRig(t, acts)
	before := r.all(Filter{})
	if n, err := listJournals(r.october()); err != nil || len(n) < 3 {
		t.Fatalf("journals %v, %v", n, err)
	}
	r.tend()
	r.isPacked(r.october())
	sameEntries(t, r.all(Filter{}), before)
	if late := r.all(Filter{Log: "acts/2026-10", From: acts - 7}); len(late) != 7 || late[0].Entry.Sequence != acts-7 {
		t.Errorf("from %d: %d entries", acts-7, len(late))
	}
	if one := r.all(Filter{JTI: "jti-00000123"}); len(one) != 1 || one[0].Entry.Sequence != 123 {
		t.Errorf("by its identifier: %+v", one)
	}
	rep := r.sound()
	if l := rep.Logs[1]; l.Entries != acts || l.Proven != acts || l.Closed == "" {
		t.Errorf("October: %+v", l)
	}
	info, err := os.Stat(packPath(r.october()))
	if err != nil {
		t.Fatal(err)
	}
	r.tend()
	if again, err := os.Stat(packPath(r.october())); err != nil || !os.SameFile(info, again) {
		t.Errorf("it was packed twice (%v)", err)
	}
	r.close()
	r.open()
	r.act(1)
	r.close()
	r.sound()
}

// The daemon packs by itself: after the month, and at the start what it finds.
func TestMonthsArePackedWithoutBeingAsked(t *testing.T) {
	r := closedRig(t, 10)
	r.close()
	r.cfg.idle = false
	r.open()
	waitFor(t, "October is packed", func() bool { return exists(packPath(r.october())) && !exists(journalPath(r.october(), 1)) })
	c := newClock(november.AddDate(0, 1, 0))
	r.close()
	r.cfg.Now = c.Now
	r.open()
	r.act(1)
	r.checkpoint()
	dir := filepath.Join(r.cfg.Dir, "acts", "2026-11")
	waitFor(t, "November is packed", func() bool { return exists(packPath(dir)) && !exists(journalPath(dir, 1)) })
	r.close()
	r.sound()
}

// A crash at any step leaves the journals, the pack or both, and all is readable.
func TestPackingMayEndAnywhere(t *testing.T) {
	dead := errors.New("dead")
	for step := range 20 {
		n := 0
		ended := ""
		r := closedRig(t, 400, func(cfg *Config) {
			cfg.step = func(name string) error {
				if n++; n > step {
					ended = name
					return dead
				}
				return nil
			}
		})
		before := r.all(Filter{Log: "acts/2026-10"})
		err := r.log.tendOnce(t.Context())
		if ended == "" {
			if err != nil || step < 4 {
				t.Errorf("after %d steps: %v", step, err)
			}
			return
		}
		if !errors.Is(err, dead) {
			t.Errorf("ended at %s: %v", ended, err)
		}
		r.crash()
		r.verifies(ended)
		r.cfg.step = nil
		r.open()
		sameEntries(t, r.all(Filter{Log: "acts/2026-10"}), before)
		r.tend()
		r.isPacked(r.october())
		sameEntries(t, r.all(Filter{Log: "acts/2026-10"}), before)
		r.close()
		r.sound()
	}
	t.Error("it never came to its end")
}

// verifies fails the test if anything is wrong but what waits for a checkpoint.
func (r *rig) verifies(when string) {
	r.Helper()
	if rep := r.verify(); len(rep.Problems) > 0 {
		r.Errorf("%s: %v", when, rep.Problems)
	}
}

func TestAPackThatIsNotTheMonthIsMadeAgain(t *testing.T) {
	for name, spoil := range map[string]func(b []byte) []byte{
		"damaged":   func(b []byte) []byte { b[packHeaderSize+200] ^= 1; return b },
		"cut":       func(b []byte) []byte { return b[:len(b)-1] },
		"no pack":   func([]byte) []byte { return []byte("no pack") },
		"another's": func([]byte) []byte { return packed(t, t.TempDir(), realistic(300)) },
	} {
		t.Run(name, func(t *testing.T) {
			dead := errors.New("dead")
			r := closedRig(t, 300, func(cfg *Config) {
				cfg.step = func(name string) error {
					if name == "drop" {
						return dead
					}
					return nil
				}
			})
			if err := r.log.tendOnce(t.Context()); !errors.Is(err, dead) {
				t.Fatal(err)
			}
			path := packPath(r.october())
			if err := os.WriteFile(path, spoil(readFile(t, path)), 0o640); err != nil {
				t.Fatal(err)
			}
			r.log.cfg.step = nil
			r.tend()
			r.isPacked(r.october())
			r.close()
			r.sound()
		})
	}
}

// Journals are removed for a pack of exactly what was sealed, or not at all.
func TestJournalsThatAreNotWhatWasSealedStay(t *testing.T) {
	r := closedRig(t, 100)
	path := journalPath(r.october(), 1)
	b := readFile(t, path)
	rec, n, err := parseRecord(b[headerSize:])
	if err != nil {
		t.Fatal(err)
	}
	copy(rec.entry[bytes.Index(rec.entry, []byte("web")):], "wab")
	sealRecord(b[headerSize : headerSize+n])
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := r.log.tendOnce(t.Context()); !errors.Is(err, errNotSealed) {
		t.Errorf("it says %v", err)
	}
	if hasPack(r.october()) || exists(packPath(r.october())+newSuffix) || !bytes.Equal(readFile(t, path), b) {
		t.Error("something was changed")
	}
}

func TestPackingLeavesTheLogItsSpace(t *testing.T) {
	r := closedRig(t, 10)
	s := r.log.newShard("acts/2026-10")
	s.size = 1 << 58
	if err := s.roomToPack([]int{1}); err == nil {
		t.Error("it takes space that the next journals need")
	}
	if err := r.log.newShard("acts/2026-10").roomToPack([]int{1}); err != nil {
		t.Error(err)
	}
}

// Who reads while the pack takes the journals' place reads everything once.
func TestReadingGoesOnIntoThePack(t *testing.T) {
	r := closedRig(t, 400)
	want := r.all(Filter{})
	var got []Located
	for e, err := range Entries(r.cfg.Dir, Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e); len(got) == 50 {
			r.tend()
		}
	}
	sameEntries(t, got, want)

	r = closedRig(t, 400)
	opt := Options{Keys: []string{r.key.vkey(t)}, Progress: func(done, _ int64) {
		if done == 2*r.cfg.JournalSize { // lifecycle, and the first of October's
			r.tend()
		}
	}}
	if rep, err := Verify(t.Context(), r.cfg.Dir, opt); err != nil || !rep.OK() || rep.Logs[1].Entries != 400 {
		t.Errorf("%+v, %v", rep, err)
	}
	r.isPacked(r.october())
}

func TestVerifyNamesWhatAPackLost(t *testing.T) {
	r := closedRig(t, 50)
	r.tend()
	path := packPath(r.october())
	b := readFile(t, path)
	b[packHeaderSize+packMarkSize+100] ^= 1
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	rep := r.verify()
	if rep.OK() || !strings.Contains(fmt.Sprint(rep.Problems), "acts/2026-10: entry 0: neither it nor any up to entry 49 can be read") {
		t.Errorf("%v", rep.Problems)
	}
	for _, err := range Entries(r.cfg.Dir, Filter{Log: "acts/2026-10"}) {
		if err == nil || !strings.Contains(err.Error(), "entries 0 to 49 cannot be read") {
			t.Errorf("listed: %v", err)
		}
	}
}

func TestDerivedFilesOfAPackedMonthAreMadeAgain(t *testing.T) {
	r := closedRig(t, 600)
	r.tend()
	r.close()
	for _, lost := range []string{"checkpoint", "final", "tile"} {
		if err := os.RemoveAll(filepath.Join(r.october(), lost)); err != nil {
			t.Fatal(err)
		}
	}
	r.open()
	r.checkpoint()
	r.close()
	r.sound()
	r.isPacked(r.october())
	if sealed := r.all(Filter{Action: keystore.ActAuditShard, Outcome: keystore.OutcomeDone}); len(sealed) != 1 {
		t.Errorf("it was closed %d times", len(sealed))
	}
}

// A month, its pack or its tiles may be moved elsewhere.
func TestMovedMonthsVerify(t *testing.T) {
	for _, what := range []string{".", "pack", "tile"} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, packed first: %v", what, first), func(t *testing.T) {
				r := closedRig(t, 300)
				if first || what == "pack" {
					r.tend()
				}
				before := r.all(Filter{})
				move(t, filepath.Join(r.october(), what))
				r.tend()
				r.isPacked(r.october())
				r.close()
				r.sound()
				r.open()
				r.act(1)
				sameEntries(t, r.all(Filter{Log: "acts/2026-10"}), slices.DeleteFunc(before, func(l Located) bool {
					return !strings.HasSuffix(l.Origin, "2026-10")
				}))
				r.close()
				r.sound()
			})
		}
	}
}

// move puts what is at path elsewhere, and a link in its place. It returns where.
func move(t *testing.T, path string) string {
	t.Helper()
	elsewhere := filepath.Join(t.TempDir(), "2026-10", filepath.Base(path))
	if err := os.MkdirAll(filepath.Dir(elsewhere), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, path); err != nil {
		t.Fatal(err)
	}
	return elsewhere
}

// Where a closed month is away the daemon starts, and Verify names the month.
func TestAMovedMonthMayBeAway(t *testing.T) {
	for _, what := range []string{".", "pack"} {
		t.Run(what, func(t *testing.T) {
			r := closedRig(t, 30)
			r.tend()
			r.close()
			elsewhere := move(t, filepath.Join(r.october(), what))
			works(t, os.Rename(elsewhere, elsewhere+".away"))
			var told bytes.Buffer
			r.cfg.Log = slog.New(slog.NewTextHandler(&told, nil))
			r.open()
			r.act(1)
			r.tend()
			r.close()
			if !strings.Contains(told.String(), "level=WARN") || !strings.Contains(told.String(), "acts/2026-10") {
				t.Errorf("the start said: %s", told.String())
			}
			rep := r.verify()
			if rep.OK() || !slices.ContainsFunc(rep.Problems, func(p Problem) bool {
				return p.Log == "acts/2026-10" && strings.Contains(p.What, "cannot be read") && strings.Contains(p.What, "hint")
			}) {
				t.Errorf("%v", rep.Problems)
			}
			works(t, os.Rename(elsewhere+".away", elsewhere))
			r.sound()
			r.open()
			r.close()
			r.sound()
		})
	}
}

func TestOnlySealedMonthsMayBeAway(t *testing.T) {
	r := closedRig(t, 30)
	r.close()
	// November is written and not closed.
	dir := filepath.Join(r.cfg.Dir, "acts", "2026-11")
	elsewhere := move(t, dir)
	works(t, os.Rename(elsewhere, elsewhere+".away"))
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrInconsistent) {
		t.Errorf("opened: %v", err)
	}
	works(t, os.Rename(elsewhere+".away", elsewhere))
	// An empty directory is no link that somebody made.
	works(t, os.Rename(r.october(), r.october()+".away"))
	works(t, os.Mkdir(r.october(), 0o750))
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrInconsistent) {
		t.Errorf("opened: %v", err)
	}
	works(t, os.Remove(r.october()))
	works(t, os.Rename(r.october()+".away", r.october()))
	r.open()
	r.close()
	r.sound()
}

func works(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A packed month is closed for good, even if nothing tells of a later one.
func TestNothingIsWrittenBehindAPack(t *testing.T) {
	r := closedRig(t, 5, func(cfg *Config) { cfg.Memory = nil })
	r.tend()
	r.close()
	works(t, os.RemoveAll(filepath.Join(r.cfg.Dir, "acts", "2026-11")))
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), "no later month") {
		t.Errorf("opened: %v", err)
	}
}

// I11, A25 for packs: no byte is without meaning.
func TestI11EveryByteOfAPackCounts(t *testing.T) {
	r := ledger(t)
	r.open()
	r.tend()
	r.isPacked(r.october())
	r.close()
	r.sound()
	path := packPath(r.october())
	b := readFile(t, path)
	step := 13
	if soak(t, "bytes of a pack", len(b)/step, len(b)) {
		step = 1
	}
	for i := 0; i < len(b); i += step {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		writeFile(t, path, bad)
		if rep := r.verify(); rep.OK() || !names(rep, "acts/2026-10", -1) {
			t.Errorf("byte %d of %d: %v", i, len(b), rep.Problems)
		}
	}
	for _, n := range []int{0, 1, packHeaderSize, len(b) / 2, len(b) - 1} {
		writeFile(t, path, b[:n])
		if rep := r.verify(); rep.OK() || !names(rep, "acts/2026-10", -1) {
			t.Errorf("cut after %d bytes: %v", n, rep.Problems)
		}
	}
	writeFile(t, path, b)
	r.sound()
}

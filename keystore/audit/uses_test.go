package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"chancery/keystore"
)

const (
	webKey  = keystore.KID("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
	edgeKey = keystore.KID("edge-key")
)

// take takes a number, which has to be want.
func (r *rig) take(kid keystore.KID, want int64) int64 {
	r.Helper()
	use, err := r.log.Take(kid)
	if err != nil || use != want {
		r.Fatalf("use %d of %s, %v; want %d", use, kid, err, want)
	}
	return use
}

// used is the entry of a signature.
func used(kid keystore.KID, use int64, o keystore.Outcome) keystore.Record {
	rec := signed(int(use))
	rec.KID, rec.Use, rec.Outcome = kid, use, o
	return rec
}

// prune enters that a month, which never was, was closed and removed.
func (r *rig) prune() {
	r.Helper()
	for _, action := range []keystore.Action{keystore.ActAuditShard, keystore.ActAuditPrune} {
		r.lifecycle(keystore.Record{Principal: self, Action: action, Outcome: keystore.OutcomeDone, Detail: map[string]string{
			"origin": r.log.KeyName() + "/acts/2026-09", "size": "20", "root": Head{}.Root.String(), "policy": "keep_acts 31d",
		}})
	}
}

func (r *rig) enterUse(rec keystore.Record) {
	r.Helper()
	if _, err := r.log.Act(r.Context(), rec); err != nil {
		r.Fatalf("entering use %d: %v", rec.Use, err)
	}
}

// together returns the numbers entered together, as "outcome uses".
func (r *rig) together(kid keystore.KID) (all []string) {
	r.Helper()
	for _, e := range r.all(Filter{Action: keystore.ActKeyUse, KID: kid}) {
		all = append(all, string(e.Entry.Outcome)+" "+e.Entry.Detail["uses"])
	}
	return all
}

// closed returns how often each number was closed.
func (r *rig) closed() map[string]int {
	r.Helper()
	n := map[string]int{}
	intents := map[string]bool{}
	for _, e := range r.all(Filter{}) {
		rec := e.Entry.Record
		if intents[rec.ID] {
			continue
		}
		intents[rec.ID] = rec.ID != "" && rec.Outcome == keystore.OutcomeIntent
		for _, x := range numbersOf(&e.Entry) {
			for use := x.From; use <= x.To; use++ {
				n[fmt.Sprintf("%s %d", rec.KID, use)]++
			}
		}
	}
	return n
}

// closedOnce fails the test unless all numbers up to last are closed, and once.
func (r *rig) closedOnce(last map[keystore.KID]int64) {
	r.Helper()
	want := map[string]int{}
	for kid, n := range last {
		for use := int64(1); use <= n; use++ {
			want[fmt.Sprintf("%s %d", kid, use)] = 1
		}
	}
	if got := r.closed(); !maps.Equal(got, want) {
		r.Fatalf("closed %v, want %v", got, want)
	}
}

func TestUsesAreNumberedPerKey(t *testing.T) {
	r := newRig(t)
	for n := range int64(3) {
		r.enterUse(used(webKey, r.take(webKey, n+1), keystore.OutcomeDone))
	}
	r.enterUse(used(edgeKey, r.take(edgeKey, 1), keystore.OutcomeFailed))
	r.close()
	r.open()
	r.enterUse(used(webKey, r.take(webKey, 4), keystore.OutcomeDone))
	r.close()
	want := []UseReport{{KID: webKey, First: 1, Last: 4}, {KID: edgeKey, First: 1, Last: 1}}
	if got := r.sound().Uses; !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	r.closedOnce(map[keystore.KID]int64{webKey: 4, edgeKey: 1})
	if all := r.together(""); len(all) != 0 {
		t.Errorf("entered together: %v", all)
	}
}

func TestNumbersOfAKilledProcess(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	r.take(webKey, 1)
	r.take(webKey, 2)
	r.enterUse(used(webKey, r.take(webKey, 3), keystore.OutcomeDone))
	r.take(webKey, 4)
	intent := used(edgeKey, r.take(edgeKey, 1), keystore.OutcomeIntent)
	intent.ID = "serial"
	r.enterUse(intent) // that its outcome is unknown says the intent itself
	r.crash()
	r.open()
	r.take(webKey, 5)
	r.crash()
	r.open()
	c.set(c.Now().Add(inFlight))
	r.enterUse(used(webKey, r.take(webKey, 6), keystore.OutcomeDone))
	r.close()
	if got := r.together(webKey); !slices.Equal(got, []string{"unknown 1-2,4", "unknown 5"}) {
		t.Errorf("entered together: %q", got)
	}
	if got := r.sound().Uses; got[0].Unknown != 4 || got[1].Unknown != 1 {
		t.Errorf("%+v", got)
	}
	r.closedOnce(map[keystore.KID]int64{webKey: 6, edgeKey: 1})
}

func TestNumbersGivenBack(t *testing.T) {
	r := newRig(t)
	first, second := r.take(webKey, 1), r.take(webKey, 2)
	if r.log.GiveBack(webKey, first) {
		t.Error("a number before the last was given back")
	}
	if !r.log.GiveBack(webKey, second) || r.log.GiveBack(webKey, second) {
		t.Error("the last number was not given back, or twice")
	}
	if r.log.GiveBack(edgeKey, 1) {
		t.Error("a number that nobody took was given back")
	}
	r.log.Refuse(used(webKey, first, keystore.OutcomeFailed))
	r.enterUse(used(webKey, r.take(webKey, 2), keystore.OutcomeDone))
	if r.log.GiveBack(webKey, 2) {
		t.Error("a number that is entered was given back")
	}
	r.crash()
	r.open()
	r.take(webKey, 3)
	r.close()
	r.open()
	r.close()
	r.sound()
	r.closedOnce(map[keystore.KID]int64{webKey: 3})
}

// Refusals that get no entry of their own lose no number.
func TestUsesOverTheBudgetOfRefusals(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now, cfg.Refusals = c.Now, Budget{Burst: 3, PerSecond: 1e-9} })
	for n := range int64(10) {
		rec := used(webKey, r.take(webKey, n+1), keystore.OutcomeUnknown)
		if n == 6 {
			rec.Outcome = keystore.OutcomeFailed
		}
		r.log.Refuse(rec)
	}
	r.close()
	got := r.together(webKey)
	slices.Sort(got)
	if !slices.Equal(got, []string{"failed 7", "unknown 4-6,8-10"}) {
		t.Errorf("entered together: %q", got)
	}
	r.closedOnce(map[keystore.KID]int64{webKey: 10})
	if u := r.sound().Uses[0]; u.Unknown != 9 {
		t.Errorf("%+v", u)
	}
}

// A number that has more gaps than an entry holds is entered in several.
func TestManyRangesOfUses(t *testing.T) {
	r := newRig(t)
	const n = 1000
	for use := int64(1); use <= n; use++ {
		r.take(webKey, use)
		if use%2 == 0 {
			r.enterUse(used(webKey, use, keystore.OutcomeDone))
		}
	}
	r.crash()
	r.open()
	r.close()
	if got := r.together(webKey); len(got) < 2 {
		t.Errorf("%d entries", len(got))
	}
	r.closedOnce(map[keystore.KID]int64{webKey: n})
	r.sound()
}

// What the log did not take it closes when it can: as unknown what was signed,
// as failed what was only intended.
func TestUsesOfActsThatAreNotEntered(t *testing.T) {
	r, d := newFaultyRig(t)
	r.act(1)
	recovery := d.hold("open")
	defer recovery()
	d.order("sync", syscall.EIO, false)
	intent := used(webKey, r.take(webKey, 1), keystore.OutcomeIntent)
	intent.ID = "serial"
	for _, rec := range []keystore.Record{
		intent,
		used(webKey, r.take(webKey, 2), keystore.OutcomeDone), // at once, while it has not recovered
	} {
		if _, err := r.log.Act(t.Context(), rec); !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("use %d: %v", rec.Use, err)
		}
	}
	r.log.Refuse(used(webKey, r.take(webKey, 3), keystore.OutcomeFailed))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.log.Act(gone, used(webKey, r.take(webKey, 4), keystore.OutcomeDone)); err == nil {
		t.Error("entered for someone who has gone")
	}
	recovery()
	r.healthy()
	r.log.flushUses()
	r.close()
	got := r.together(webKey)
	slices.Sort(got)
	if !slices.Equal(got, []string{"failed 1,3", "unknown 2,4"}) {
		t.Errorf("entered together: %q", got)
	}
	r.closedOnce(map[keystore.KID]int64{webKey: 4})
}

func TestUsesFileIsLostOrDamaged(t *testing.T) {
	for what, damage := range map[string]func(t *testing.T, path string){
		"lost":       func(t *testing.T, path string) { removeFile(t, path) },
		"empty":      func(t *testing.T, path string) { writeFile(t, path, nil) },
		"a bad head": func(t *testing.T, path string) { flip(t, path, 20) },
		"a bad slot": func(t *testing.T, path string) { flip(t, path, slotSize+79) },
		"another's":  func(t *testing.T, path string) { writeFile(t, path, encodeUses(useHead{"2026-11", 1 << 40}, nil)) },
		"far ahead": func(t *testing.T, path string) {
			writeFile(t, path, encodeUses(useHead{}, []useSlot{{webKey, 1 << 50, 0}}))
		},
		"ahead of all": func(t *testing.T, path string) {
			writeFile(t, path, encodeUses(useHead{"2026-11", 1 << 40}, []useSlot{{webKey, 9, 9}}))
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := newClock(noon)
			r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
			r.enterUse(used(webKey, r.take(webKey, 1), keystore.OutcomeDone))
			r.take(webKey, 2)
			r.enterUse(used(webKey, r.take(webKey, 3), keystore.OutcomeDone))
			r.crash()
			damage(t, usesPath(r))
			r.open()
			use, err := r.log.Take(webKey)
			if err != nil || use < 4 {
				t.Errorf("use %d, %v", use, err)
			}
			r.enterUse(used(webKey, use, keystore.OutcomeDone))
			r.crash()
			r.open()
			r.close()
			if got := r.sound().Uses; len(got) != 1 || got[0].Last != use {
				t.Errorf("%+v", got)
			}
			repairs := 0
			for _, e := range r.all(Filter{Action: keystore.ActAuditRepair}) {
				if e.Entry.Detail["file"] == "acts/uses" {
					repairs++
				}
			}
			if repairs != 1 {
				t.Errorf("%d repairs entered, want 1", repairs)
			}
		})
	}
}

// Without the file, what was entered in months that were pruned is not called
// unknown.
func TestUsesFileIsLostAfterMonthsWerePruned(t *testing.T) {
	r := newRig(t)
	r.prune()
	r.lifecycle(used(edgeKey, 3, keystore.OutcomeDone)) // its acts are all gone
	r.enterUse(used(webKey, 8, keystore.OutcomeDone))
	r.enterUse(used(webKey, 10, keystore.OutcomeDone))
	r.crash()
	r.open()
	r.take(webKey, 11)
	r.take(edgeKey, 4)
	r.crash()
	r.open()
	r.close()
	if got := r.together(webKey); !slices.Equal(got, []string{"unknown 9", "unknown 11"}) {
		t.Errorf("entered together: %q", got)
	}
	if got := r.together(edgeKey); !slices.Equal(got, []string{"unknown 4"}) {
		t.Errorf("entered together: %q", got)
	}
	r.sound()
}

// An older file, as a power cut leaves it, knows less than the entries.
func TestUsesFileIsOlderThanTheEntries(t *testing.T) {
	r := newRig(t)
	r.take(webKey, 1)
	path := r.log.uses.path
	old := readFile(t, path)
	r.enterUse(used(webKey, r.take(webKey, 2), keystore.OutcomeDone))
	r.crash()
	writeFile(t, path, old)
	r.open()
	r.take(webKey, 3)
	r.close()
	if got := r.together(webKey); !slices.Equal(got, []string{"unknown 1"}) {
		t.Errorf("entered together: %q", got)
	}
}

// A file that is taken away while the log runs is made again, and one that
// cannot be written stops the key from being used.
func TestUsesFileIsTakenAway(t *testing.T) {
	r := newRig(t)
	r.enterUse(used(webKey, r.take(webKey, 1), keystore.OutcomeDone))
	removeFile(t, r.log.uses.path)
	r.log.keepOnce(t.Context())
	r.take(webKey, 2)
	r.crash()
	r.open()
	r.take(webKey, 3)

	r.log.uses.file.Close()
	if use, err := r.log.Take(webKey); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("use %d, %v", use, err)
	}
	r.log.keepOnce(t.Context())
	r.enterUse(used(webKey, r.take(webKey, 5), keystore.OutcomeDone))
	r.close()
	r.open()
	r.close()
	got := r.together(webKey)
	slices.Sort(got)
	if !slices.Equal(got, []string{"failed 4", "unknown 2", "unknown 3"}) {
		t.Errorf("entered together: %q", got)
	}
	r.closedOnce(map[keystore.KID]int64{webKey: 5})
}

// A start reads only what came after the numbers were last settled.
func TestUsesAreSettled(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	round := func() useHead {
		c.set(c.Now().Add(tendEvery))
		r.log.keepOnce(t.Context())
		h, _, err := readUses(r.log.uses.path)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	r.enterUse(used(webKey, r.take(webKey, 1), keystore.OutcomeDone))
	round()
	round() // the point that was taken before the entry, and the one after
	if h := round(); h != (useHead{"2026-11", 1}) {
		t.Errorf("settled %v, want the first entry", h)
	}
	r.take(webKey, 2)
	r.enterUse(used(webKey, r.take(webKey, 3), keystore.OutcomeDone))
	for range 3 {
		if h := round(); h.index != 1 {
			t.Errorf("settled %v beyond a number that is open", h)
		}
	}
	r.enterUse(used(webKey, 2, keystore.OutcomeDone))
	round()
	round()
	if h := round(); h.index != 3 {
		t.Errorf("settled %v, want 3", h)
	}
	r.take(webKey, 4)
	r.enterUse(used(webKey, r.take(webKey, 5), keystore.OutcomeDone))
	r.crash()
	r.open()
	r.close()
	if got := r.together(webKey); !slices.Equal(got, []string{"unknown 4"}) {
		t.Errorf("entered together: %q", got)
	}
	h, slots, err := readUses(usesPath(r))
	if err != nil || h.index != 5 || slots[0] != (useSlot{webKey, 5, 5}) {
		t.Errorf("after a clean end %v, %v, %v", h, slots, err)
	}
	r.closedOnce(map[keystore.KID]int64{webKey: 5})
}

// An entry whose number was settled is not read at a start: the file alone says.
func TestSettledEntriesAreNotRead(t *testing.T) {
	r := newRig(t)
	for n := range int64(5) {
		r.enterUse(used(webKey, r.take(webKey, n+1), keystore.OutcomeDone))
	}
	r.close()
	rec := recollection{settled: map[keystore.KID]int64{}, entered: map[keystore.KID]*spans{}, lowest: map[keystore.KID]int64{}}
	h, _, err := readUses(usesPath(r))
	if err != nil {
		t.Fatal(err)
	}
	if unreadable, err := rec.acts(t.Context(), r.cfg.Dir, h); err != nil || unreadable != nil || len(rec.entered) != 0 {
		t.Errorf("%v, %v: %v", unreadable, err, rec.entered)
	}
	if _, err := rec.acts(t.Context(), r.cfg.Dir, useHead{}); err != nil || rec.entered[webKey].String() != "1-5" {
		t.Errorf("%v: %v", err, rec.entered)
	}
}

// Numbers go on over the months, and are settled in the one they are in.
func TestUsesOverMonths(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	r.enterUse(used(webKey, r.take(webKey, 1), keystore.OutcomeDone))
	r.take(webKey, 2)
	c.set(noon.AddDate(0, 1, 0))
	r.enterUse(used(webKey, r.take(webKey, 3), keystore.OutcomeDone))
	r.crash()
	c.set(noon.AddDate(0, 2, 0))
	r.open()
	r.enterUse(used(webKey, r.take(webKey, 4), keystore.OutcomeDone))
	r.close()
	r.closedOnce(map[keystore.KID]int64{webKey: 4})
	r.sound()
}

func usesPath(r *rig) string { return filepath.Join(r.cfg.Dir, "acts", "uses") }

func removeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, path string, at int) {
	t.Helper()
	b := readFile(t, path)
	b[at] ^= 1
	writeFile(t, path, b)
}

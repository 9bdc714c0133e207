package audit

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

// books is a log of three parts that is closed: lifecycle, a closed month and a
// month that goes on. Everything in it is under a checkpoint.
func books(t *testing.T) *rig {
	c := newClock(time.Date(2026, 10, 31, 12, 0, 0, 0, time.UTC))
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	for i := range 5 {
		r.lifecycle(keystore.Record{Principal: self, Action: keystore.ActKeyPublish, Outcome: keystore.OutcomeDone, Version: i + 1})
	}
	for i := range 270 { // a full tile and some, two journals
		r.act(i)
	}
	c.set(c.Now().AddDate(0, 0, 1))
	for i := range 8 {
		r.act(1000 + i)
	}
	r.close()
	r.sound()
	return r
}

// parts returns the header, the records and the rest of a journal.
func parts(t *testing.T, b []byte) (head []byte, records [][]byte, rest []byte) {
	t.Helper()
	sc := newScanner(bytes.NewReader(b), headerSize)
	at := int64(headerSize)
	for {
		if _, err := sc.next(); err != nil {
			return b[:headerSize], records, b[at:]
		}
		records = append(records, b[at:sc.off])
		at = sc.off
	}
}

// join makes a journal as long as it was.
func join(head []byte, records [][]byte, size int) []byte {
	b := slices.Concat(head, slices.Concat(records...))
	if len(b) > size {
		panic("journal overflows")
	}
	return append(b, make([]byte, size-len(b))...)
}

func (r *rig) journals() []string {
	r.Helper()
	var all []string
	for _, pattern := range []string{"lifecycle/journal-*", "acts/*/journal-*"} {
		found, err := filepath.Glob(filepath.Join(r.cfg.Dir, filepath.FromSlash(pattern)))
		if err != nil {
			r.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// tampered fails the test if Verify finds nothing wrong when path holds content.
func (r *rig) tampered(what, path string, content, original []byte) {
	r.Helper()
	if err := os.WriteFile(path, content, 0o640); err != nil {
		r.Fatal(err)
	}
	rep, err := verify(r.Context(), r.cfg.Dir, Options{Keys: []string{r.key.vkey(r)}}, 0)
	if err == nil && rep.OK() {
		r.Errorf("%s in %s: not found", what, path)
	}
	if err := os.WriteFile(path, original, 0o640); err != nil {
		r.Fatal(err)
	}
}

func TestI11AnyChangedByteIsFound(t *testing.T) {
	r := books(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, path := range r.journals() {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, _, rest := parts(t, b)
		used := len(b) - len(rest)
		for i := range 24 {
			at := rng.IntN(used)
			if i < 20 {
				at = []int{0, 8, 12, 20, 30, 40, 200, headerSize, headerSize + 4, headerSize + 8,
					headerSize + 16, headerSize + 24, headerSize + 100, used - 1, used, used + 1, used + 30, len(b) - 1, used - 2, 34}[i]
			}
			bad := slices.Clone(b)
			bad[min(at, len(b)-1)] ^= 1 << rng.IntN(8)
			r.tampered(fmt.Sprintf("byte %d", at), path, bad, b)
		}
	}
	r.sound()
}

func TestI11DropSwapDuplicateAndCutAreFound(t *testing.T) {
	r := books(t)
	for _, path := range r.journals() {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		head, records, _ := parts(t, b)
		if len(records) == 0 {
			t.Fatalf("%s holds nothing", path)
		}
		step := max(1, len(records)/4)
		for i := 0; i < len(records); i += step {
			r.tampered(fmt.Sprintf("entry %d dropped", i), path, join(head, slices.Delete(slices.Clone(records), i, i+1), len(b)), b)
			r.tampered(fmt.Sprintf("cut before %d", i), path, join(head, records[:i], len(b)), b)
			r.tampered(fmt.Sprintf("truncated before %d", i), path, join(head, records[:i], len(join(head, records[:i], len(b)))-1), b)
			if i+1 < len(records) {
				swapped := slices.Clone(records)
				swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
				r.tampered(fmt.Sprintf("%d and the next swapped", i), path, join(head, swapped, len(b)), b)
			}
			if len(slices.Concat(records...))+len(records[i])+headerSize <= len(b) {
				r.tampered(fmt.Sprintf("%d twice", i), path, join(head, slices.Insert(slices.Clone(records), i, records[i]), len(b)), b)
			}
		}
		away := path + ".away"
		if err := os.Rename(path, away); err != nil {
			t.Fatal(err)
		}
		if rep := r.verify(); rep.OK() {
			t.Errorf("%s removed: not found", path)
		}
		if err := os.Rename(away, path); err != nil {
			t.Fatal(err)
		}
	}
	r.sound()
}

// rewrite makes the records of a journal anew with change applied to each
// entry: everything an attacker can do who knows the format but has no key.
func rewrite(t *testing.T, b []byte, change func(*Entry)) []byte {
	head, records, _ := parts(t, b)
	var again [][]byte
	for _, rec := range records {
		parsed, _, err := parseRecord(rec)
		if err != nil {
			t.Fatal(err)
		}
		e, err := ParseEntry(parsed.entry)
		if err != nil {
			t.Fatal(err)
		}
		change(&e)
		out := startRecord(nil, parsed.index, parsed.durable)
		out = e.Append(out)
		sealRecord(out)
		again = append(again, out)
	}
	return join(head, again, len(b))
}

func TestA25EditWithARightChecksumIsFoundAndNamed(t *testing.T) {
	r := books(t)
	path := filepath.Join(r.cfg.Dir, "acts", "2026-10", "journal-1")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := rewrite(t, b, func(e *Entry) {
		if e.Sequence == 17 {
			e.Principal = "dev:spiffe:spiffe://chancery.dev/someone-else"
		}
	})
	if err := os.WriteFile(path, bad, 0o640); err != nil {
		t.Fatal(err)
	}
	rep := r.verify()
	if rep.OK() || !slices.ContainsFunc(rep.Problems, func(p Problem) bool { return p.Index == 17 && p.Log == "acts/2026-10" }) {
		t.Errorf("entry 17 is not named: %v", rep.Problems)
	}
	if rep.Logs[1].Proven != 0 {
		t.Errorf("%d entries called proven", rep.Logs[1].Proven)
	}
}

// TestA25RebuiltLog writes a whole new history, with journals, tiles and
// checkpoints, under another key.
func TestA25RebuiltLogIsFound(t *testing.T) {
	r := books(t)
	forged := newRig(t)
	for i := range 3 {
		forged.lifecycle(keystore.Record{Action: keystore.ActRead, Outcome: keystore.OutcomeDone, Version: i})
		forged.act(i)
	}
	forged.close()
	forged.sound()
	rep, err := Verify(t.Context(), forged.cfg.Dir, Options{Keys: []string{r.key.vkey(t)}})
	if err != nil || rep.OK() || rep.KeyVerified {
		t.Errorf("%+v, %v", rep, err)
	}
	// The same with our own, true, but older checkpoint.
	signed, err := os.ReadFile(filepath.Join(r.cfg.Dir, "lifecycle", "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(forged.cfg.Dir, "lifecycle", "checkpoint"), signed, 0o640); err != nil {
		t.Fatal(err)
	}
	rep, err = Verify(t.Context(), forged.cfg.Dir, Options{Keys: []string{r.key.vkey(t)}})
	if err != nil || rep.OK() || rep.Logs[0].Proven != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestA25CutBehindTheCheckpointIsFound(t *testing.T) {
	r := books(t)
	path := filepath.Join(r.cfg.Dir, "lifecycle", "journal-1")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, records, _ := parts(t, b)
	if err := os.WriteFile(path, join(head, records[:2], len(b)), 0o640); err != nil {
		t.Fatal(err)
	}
	rep, want := r.verify(), fmt.Sprintf("lifecycle: it has 2 entries, and %d were signed: the others are gone", len(records))
	if rep.OK() || len(rep.Problems) == 0 || rep.Problems[0].String() != want {
		t.Errorf("%v, want %s", rep.Problems, want)
	}
	if _, err := Open(t.Context(), r.cfg); err == nil {
		t.Error("opened")
	}
}

func TestTilesAreChecked(t *testing.T) {
	r := books(t)
	path := filepath.Join(r.cfg.Dir, "acts", "2026-10", "tile", "0", "000")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(b)
	bad[5*32] ^= 1
	r.tampered("tile", path, bad, b)
	r.tampered("tile", path, b[:100], b)
}

func TestVerifyBesideAWriter(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Interval = 2 * time.Millisecond })
	r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	r.act(0)
	if err := r.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := r.log.Act(t.Context(), signed(i)); err != nil {
				t.Errorf("act: %v", err)
				return
			}
		}
	}()
	var last int64
	for range 15 {
		rep := r.sound()
		if n := rep.Entries(); n < last {
			t.Errorf("%d entries after %d", n, last)
		} else {
			last = n
		}
		r.all(Filter{})
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	<-done
	r.close()
	r.sound()
}

// TestA26 puts back a younger state of everything: only what is kept outside tells.
func TestA26OlderStateIsFoundByAKeptCheckpoint(t *testing.T) {
	r := newRig(t)
	r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	r.close()
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(r.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.lifecycle(keystore.Record{Action: keystore.ActSuspend, Outcome: keystore.OutcomeDone})
	r.close()
	signed, err := os.ReadFile(filepath.Join(r.cfg.Dir, "lifecycle", "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	kept, _, err := OpenCheckpoint(signed, nil)
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{r.cfg.Dir: true, old: false} {
		rep, err := Verify(t.Context(), dir, Options{Keys: []string{r.key.vkey(t)}, Kept: []Checkpoint{kept}})
		if err != nil || rep.OK() != want {
			t.Errorf("%s: %+v, %v; want %v", dir, rep, err, want)
		}
	}
	kept.Root[0] ^= 1
	if rep, err := Verify(t.Context(), r.cfg.Dir, Options{Keys: []string{r.key.vkey(t)}, Kept: []Checkpoint{kept}}); err != nil || rep.OK() {
		t.Errorf("another history: %+v, %v", rep, err)
	}
	cfg := r.cfg
	cfg.Dir = old
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrInconsistent) {
		t.Errorf("opened an older state than the memory has: %v", err)
	}
}

// A month of acts whose files were all gone used to verify: nothing that was
// left told of it.
func TestA25MissingMonthIsFound(t *testing.T) {
	r := books(t)
	if err := os.RemoveAll(filepath.Join(r.cfg.Dir, "acts")); err != nil {
		t.Fatal(err)
	}
	rep := r.verify()
	if rep.OK() || len(rep.Problems) == 0 || !strings.Contains(rep.Problems[0].String(), "which is not there") {
		t.Errorf("%v", rep.Problems)
	}
}

// It was: a kept checkpoint of a log that was not there any more was passed over
// in silence, so that a directory put back to October verified against a
// checkpoint of November.
func TestA26LogOfAKeptCheckpointIsGone(t *testing.T) {
	c := newClock(time.Date(2026, 10, 31, 12, 0, 0, 0, time.UTC))
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	r.act(1)
	r.close()
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(r.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	r.open()
	c.set(c.Now().AddDate(0, 0, 1))
	r.act(2)
	r.close()
	signed, err := os.ReadFile(filepath.Join(r.cfg.Dir, "acts", "2026-11", "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	kept, _, err := OpenCheckpoint(signed, nil)
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Keys: []string{r.key.vkey(t)}, Kept: []Checkpoint{kept}}
	if rep, err := Verify(t.Context(), r.cfg.Dir, opt); err != nil || !rep.OK() {
		t.Errorf("the log that is there: %+v, %v", rep, err)
	}
	rep, err := Verify(t.Context(), old, opt)
	if err != nil || rep.OK() || len(rep.Problems) != 1 || rep.Problems[0].Log != "acts/2026-11" ||
		!strings.Contains(rep.Problems[0].What, kept.Origin) || !strings.Contains(rep.Problems[0].What, "hint") {
		t.Errorf("the log that is gone: %+v, %v", rep, err)
	}
}

// It was: Verify panicked at an entry that closes lifecycle itself.
func TestA25OnlyMonthsOfThisNodeAreClosed(t *testing.T) {
	ours := keyName(host, node) + "/"
	for _, origin := range []string{
		"", "lifecycle", ours + "lifecycle", ours + "acts/2026-13", ours + "acts/", ours + "acts/2026-11/x",
		"localhost:8443/audit/other/acts/2026-11", "acts/2026-11",
	} {
		for _, outcome := range []keystore.Outcome{keystore.OutcomeDone, keystore.OutcomeIntent} {
			r := newRig(t)
			r.lifecycle(keystore.Record{
				Principal: self, Action: keystore.ActAuditShard, Outcome: outcome,
				Detail: map[string]string{"origin": origin, "size": "0", "root": (&tree{}).root().String()},
			})
			r.close()
			rep := r.verify()
			want := fmt.Sprintf("lifecycle: entry 0: it opens or closes %q, which is no month of acts of this node", origin)
			if rep.OK() || len(rep.Problems) != 1 || rep.Problems[0].String() != want {
				t.Errorf("%q: %v", origin, rep.Problems)
			}
		}
	}
}

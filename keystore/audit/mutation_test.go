package audit

import (
	"bytes"
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

// soak reports whether all positions are to be tried, and says so.
func soak(t *testing.T, what string, short, all int) bool {
	t.Helper()
	if os.Getenv("CHANCERY_SOAK") == "1" {
		t.Logf("all %d %s", all, what)
		return true
	}
	t.Logf("%d of %d %s (CHANCERY_SOAK=1 for all)", short, all, what)
	return false
}

// ledger is a log that is closed, small enough for each of its bytes to be changed:
// lifecycle, a closed month, and a month that goes on.
func ledger(t *testing.T) *rig {
	c := newClock(time.Date(2026, 10, 31, 12, 0, 0, 0, time.UTC))
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	for i := range 5 {
		r.lifecycle(keystore.Record{Principal: self, Action: keystore.ActKeyPublish, Outcome: keystore.OutcomeDone, Version: i + 1})
	}
	for i := range 20 {
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

// A mutant is a journal with one thing changed.
type mutant struct {
	what    string
	content []byte
	index   int64 // of the first entry that is not as it was; -1: it is of no entry
}

// flips returns a journal with one bit changed, for each of its bytes that mean
// something, or for every step-th.
func flips(t *testing.T, b []byte, step int, rng *rand.Rand) (all []mutant) {
	_, records, rest := parts(t, b)
	first := parsed(t, records[0]).index
	at := 0
	flip := func(n int, index int64) {
		for i := range n {
			if (at+i)%step != 0 {
				continue
			}
			bad := slices.Clone(b)
			bad[at+i] ^= 1 << rng.IntN(8)
			all = append(all, mutant{fmt.Sprintf("byte %d changed", at+i), bad, index})
		}
		at += n
	}
	flip(headerSize, -1)
	for i, rec := range records {
		flip(len(rec), first+int64(i))
	}
	flip(min(len(rest), 2*recordHead), -1) // what follows the last entry
	return all
}

func parsed(t *testing.T, rec []byte) record {
	t.Helper()
	r, _, err := parseRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// moves returns a journal with entries dropped, doubled, exchanged and cut off, at
// every entry or at every step-th.
func moves(t *testing.T, b []byte, step int, rng *rand.Rand) (all []mutant) {
	head, records, _ := parts(t, b)
	first := parsed(t, records[0]).index
	make := func(i int, what string, changed [][]byte) {
		all = append(all, mutant{fmt.Sprintf("entry %d %s", first+int64(i), what), join(head, changed, len(b)), first + int64(i)})
	}
	fits := func(more int) bool { return headerSize+len(slices.Concat(records...))+more <= len(b) }
	for i := 0; i < len(records); i += step {
		make(i, "dropped", slices.Delete(slices.Clone(records), i, i+1))
		make(i, "and all after it cut off", records[:i])
		if fits(len(records[i])) {
			make(i, "there twice", slices.Insert(slices.Clone(records), i, records[i]))
		}
		if j := i + 1 + rng.IntN(len(records)); j < len(records) {
			swapped := slices.Clone(records)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			make(i, fmt.Sprintf("exchanged with %d", first+int64(j)), swapped)
		}
		edited := slices.Clone(records)
		edited[i] = forged(t, records[i])
		make(i, "edited, with a right checksum", edited)
	}
	return all
}

// forged returns a record of the same length that says something else.
func forged(t *testing.T, rec []byte) []byte {
	p := parsed(t, rec)
	entry := bytes.Replace(slices.Clone(p.entry), []byte(`"outcome":"done"`), []byte(`"outcome":"gone"`), 1)
	if bytes.Equal(entry, p.entry) {
		entry = bytes.Replace(entry, []byte(`"outcome":"intent"`), []byte(`"outcome":"indent"`), 1)
	}
	out := append(startRecord(nil, p.index, p.durable), entry...)
	sealRecord(out)
	return out
}

// I11, A25: whatever is changed is found, and the report names the log, and the entry
// where it is one.
func TestI11EveryChangeIsFoundAndNamed(t *testing.T) {
	r := ledger(t)
	rng := rand.New(rand.NewPCG(3, 4))
	steps, stepBytes := 3, 97
	var mutants, flipped int
	for _, path := range r.journals() {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		flipped += len(flips(t, b, 1, rng))
	}
	if soak(t, "bytes, and all entries", flipped/stepBytes, flipped) {
		steps, stepBytes = 1, 1
	}
	opt := Options{Keys: []string{r.key.vkey(t)}}
	for _, path := range r.journals() {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(r.cfg.Dir, filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		log := filepath.ToSlash(rel)
		for _, m := range append(flips(t, b, stepBytes, rng), moves(t, b, steps, rng)...) {
			mutants++
			if err := os.WriteFile(path, m.content, 0o640); err != nil {
				t.Fatal(err)
			}
			rep, err := verify(t.Context(), r.cfg.Dir, opt, 0)
			if err != nil || rep.OK() || !names(rep, log, m.index) {
				t.Errorf("%s: %s: %v, %v", log, m.what, err, rep)
			}
		}
		if err := os.WriteFile(path, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	r.sound()
	t.Logf("%d changes", mutants)
}

// names reports whether a report has a problem of that log and, if index is not
// negative, one of that entry: or says how many entries are left of those signed.
func names(rep *Report, log string, index int64) bool {
	return slices.ContainsFunc(rep.Problems, func(p Problem) bool {
		return p.Log == log && (index < 0 || p.Index == index || strings.HasPrefix(p.What, fmt.Sprintf("it has %d entries", index)))
	})
}

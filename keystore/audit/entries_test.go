package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"chancery/keystore"
)

// manyJournals writes acts of one month into several journals, and returns
// them, where they are, and the index each journal begins with.
func manyJournals(t *testing.T) (r *rig, dir string, begins []int64) {
	t.Helper()
	c := newClock(noon)
	r = newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	dir = filepath.Join(r.cfg.Dir, actsName, noon.Format(monthLayout))
	for n := 0; len(begins) < 5; n++ {
		r.act(n)
		begins = begins[:0]
		numbers, err := listJournals(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range numbers {
			h, err := readHeader(journalPath(dir, k))
			if err != nil {
				t.Fatal(err)
			}
			begins = append(begins, h.first)
		}
	}
	return r, dir, begins
}

// spoil changes a byte in the middle of a journal.
func spoil(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// It was: whoever read a log page by page had it read from its first entry for
// each page, because a Filter could not say where to begin.
func TestReadingGoesOnWhereItStopped(t *testing.T) {
	r, dir, begins := manyJournals(t)
	acts := actsName + "/" + noon.Format(monthLayout)
	all := r.all(Filter{Log: acts})
	end := int64(len(all))
	froms := []int64{-1, 0, 1, end - 1, end, end + 1, end + 1000}
	for _, first := range begins[1:] {
		froms = append(froms, first-1, first, first+1)
	}
	for _, from := range froms {
		got := r.all(Filter{Log: acts, From: from})
		want := all[min(max(from, 0), end):]
		if len(got) != len(want) {
			t.Errorf("from %d: %d entries of %d", from, len(got), len(want))
			continue
		}
		for i := range got {
			if got[i].Name() != want[i].Name() || got[i].Entry.JTI != want[i].Entry.JTI {
				t.Fatalf("from %d: %s is there for %s", from, got[i].Name(), want[i].Name())
			}
		}
	}
	if got := r.all(Filter{Log: acts, From: end - 10, JTI: all[3].Entry.JTI}); len(got) != 0 {
		t.Errorf("an entry before the first wanted: %v", got[0].Name())
	}
	next := r.act(0)
	if got := r.all(Filter{Log: acts, From: end}); len(got) != 1 || got[0].Name() != next.Entry {
		t.Errorf("after one more: %v", got)
	}

	// Of the journals before nothing but headers is read.
	spoil(t, journalPath(dir, 1), 5000)
	spoil(t, journalPath(dir, 2), 5000)
	if got := r.all(Filter{Log: acts, From: begins[2] + 1}); int64(len(got)) != end-begins[2] {
		t.Errorf("%d entries behind the spoilt journals", len(got))
	}
	if err := readError(t.Context(), r.cfg.Dir, Filter{Log: acts, From: begins[1] + 1}); err == nil {
		t.Error("a spoilt journal was read")
	}
	// Where to begin is never guessed.
	spoil(t, journalPath(dir, 3), 30)
	if err := readError(t.Context(), r.cfg.Dir, Filter{Log: acts, From: begins[2] + 1}); err == nil {
		t.Error("a spoilt header was believed")
	}
}

// An entry before the first wanted is not parsed: one that cannot be does not
// stand in the way.
func TestWhatComesBeforeIsNotParsed(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, lifecycleName)
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	whole := header{size: 64 << 10, origin: "o"}.encode()
	good := Entry{Sequence: 1, Time: noon, Record: keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone}}
	for i, entry := range [][]byte{[]byte("no entry"), good.Append(nil)} {
		rec := append(startRecord(nil, int64(i), 0), entry...)
		sealRecord(rec)
		whole = append(whole, rec...)
	}
	whole = append(whole, make([]byte, 64<<10-len(whole))...)
	if err := os.WriteFile(journalPath(at, 1), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readError(t.Context(), dir, Filter{Log: lifecycleName}); err == nil {
		t.Error("what is no entry was passed over")
	}
	if err := readError(t.Context(), dir, Filter{Log: lifecycleName, From: 1}); err != nil {
		t.Error(err)
	}
}

// readError reads everything f wants and returns the error, if there is one.
func readError(ctx context.Context, dir string, f Filter) error {
	for _, err := range EntriesContext(ctx, dir, f) {
		if err != nil {
			return err
		}
	}
	return nil
}

// It was: a search that finds nothing read the whole log, however long, after
// its caller had gone.
func TestReadingEndsWithItsContext(t *testing.T) {
	r, _, _ := manyJournals(t)
	gone := errors.New("the caller has gone")
	for name, f := range map[string]Filter{
		"everything":           {},
		"one log":              {Log: actsName},
		"nothing that matches": {JTI: "nobody's"},
		"far behind":           {Log: actsName, From: 100},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		if err := readError(ctx, r.cfg.Dir, f); !errors.Is(err, gone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	read := 0
	for _, err := range EntriesContext(ctx, r.cfg.Dir, Filter{Log: actsName}) {
		if read++; read == 10 {
			cancel(gone)
		}
		if err != nil && (read != 11 || !errors.Is(err, gone)) {
			t.Errorf("at %d: %v", read, err)
		}
	}
	if read != 11 {
		t.Errorf("%d were read after the tenth ended it", read-10)
	}
}

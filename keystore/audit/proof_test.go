package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"chancery/keystore"
)

const proofOrigin = host + "/audit/" + node + "/lifecycle"

// A forest is a tree in memory with all its tiles.
type forest struct {
	tree    tree
	tiles   map[string]tile
	entries [][]byte
}

// grow appends n entries.
func (f *forest) grow(n int) {
	if f.tiles == nil {
		f.tiles = map[string]tile{}
	}
	h := newLeafHasher()
	for range n {
		e := Entry{Sequence: f.tree.size, Time: noon, Record: signed(len(f.entries))}
		entry := e.Append(nil)
		f.entries = append(f.entries, entry)
		for _, t := range f.tree.add(h.sum(entry), nil) {
			f.tiles[t.path()] = t
		}
	}
	for _, t := range f.tree.edge() {
		f.tiles[t.path()] = t
	}
}

func (f *forest) read(level int, n int64, width int) (tile, error) {
	t, ok := f.tiles[tilePath(level, n, width)]
	if !ok {
		return tile{}, fs.ErrNotExist
	}
	return t, nil
}

// proof returns the proof of an entry, under a checkpoint by key.
func (f *forest) proof(t testing.TB, key *softKey, index int64) *Proof {
	t.Helper()
	c := Checkpoint{proofOrigin, f.tree.size, f.tree.root()}
	signed := signedBy(t, c, key)
	hashes, err := tlog.ProveRecord(c.Size, index, tileHashes(c.Size, f.read))
	if err != nil {
		t.Fatalf("proving %d of %d: %v", index, c.Size, err)
	}
	return &Proof{Entry: f.entries[index], Index: index, Hashes: hashes, Checkpoint: signed}
}

func verifierOf(t testing.TB, key *softKey) []note.Verifier {
	t.Helper()
	v, err := ParseVKey(key.vkey(t))
	if err != nil {
		t.Fatal(err)
	}
	return []note.Verifier{v}
}

// isProven reports whether b proves an entry under one of keys.
func isProven(b []byte, keys []note.Verifier) bool {
	p, err := ParseProof(b)
	if err != nil {
		return false
	}
	proven, err := Check(p, nil, keys, nil)
	return err == nil && len(proven.Signed) > 0
}

func TestAnyEntryOfAnyTreeIsProven(t *testing.T) {
	key := newSoftKey(t, keystore.EdDSA)
	keys := verifierOf(t, key)
	rapid.Check(t, func(r *rapid.T) {
		var f forest
		f.grow(rapid.IntRange(1, 700).Draw(r, "size"))
		index := rapid.Int64Range(0, f.tree.size-1).Draw(r, "index")
		p := f.proof(t, key, index)
		b := p.Append(nil)
		again, err := ParseProof(b)
		if err != nil {
			r.Fatal(err)
		}
		proven, err := Check(again, nil, keys, nil)
		if err != nil || len(proven.Signed) != 1 {
			r.Fatalf("signed by %v, %v", proven.Signed, err)
		}
		if want := entryName(proofOrigin, index); proven.Name() != want || proven.Checkpoint.Size != f.tree.size {
			r.Fatalf("%s under %d is proven, want %s under %d", proven.Name(), proven.Checkpoint.Size, want, f.tree.size)
		}
		bent := bytes.Clone(b)
		at := rapid.IntRange(0, len(bent)-1).Draw(r, "byte")
		bent[at] ^= 1 << rapid.IntRange(0, 7).Draw(r, "bit")
		if isProven(bent, keys) {
			r.Fatalf("byte %d may be changed:\n%s", at, bent)
		}
		other := f.entries[rapid.Int64Range(0, f.tree.size-1).Draw(r, "other")]
		if !bytes.Equal(other, p.Entry) {
			again.Entry = nil
			if _, err := Check(again, other, keys, nil); err == nil {
				r.Fatal("it proves another entry as well")
			}
		}
	})
}

// Trees of more than one level of tiles, and where tiles become full.
func TestProofsReachOverTheEdgesOfTiles(t *testing.T) {
	key := newSoftKey(t, keystore.EdDSA)
	keys := verifierOf(t, key)
	var f forest
	for _, size := range []int{1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 65_800} {
		f.grow(size - len(f.entries))
		for _, index := range []int64{0, 254, 255, 256, 511, 65_279, 65_535, 65_536, int64(size) - 1} {
			if index < int64(size) && !isProven(f.proof(t, key, index).Append(nil), keys) {
				t.Errorf("entry %d of %d is not proven", index, size)
			}
		}
	}
}

// A log once signed a tree of old entries and now one of size: the proof says so
// for the two roots and for no others.
func TestConsistencyIsProvenFromTiles(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var f forest
		old := rapid.IntRange(1, 600).Draw(r, "old")
		f.grow(old)
		before := f.tree.root()
		f.grow(rapid.IntRange(0, 600).Draw(r, "more"))
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			r.Fatal(err)
		}
		for _, tl := range f.tiles {
			if err := writeTiles(dir, []tile{tl}); err != nil {
				r.Fatal(err)
			}
		}
		p, err := ProveConsistency(dir, int64(old), f.tree.size)
		if err != nil {
			r.Fatal(err)
		}
		if err := tlog.CheckTree(p, f.tree.size, f.tree.root(), int64(old), before); err != nil {
			r.Fatal(err)
		}
		before[3] ^= 1
		if tlog.CheckTree(p, f.tree.size, f.tree.root(), int64(old), before) == nil {
			r.Fatal("it is consistent with another tree as well")
		}
	})
	for _, sizes := range [][2]int64{{0, 5}, {-1, 5}, {6, 5}} {
		if _, err := ProveConsistency(t.TempDir(), sizes[0], sizes[1]); err == nil {
			t.Errorf("%d in %d is proven", sizes[0], sizes[1])
		}
	}
}

func TestTheRunningLogProvesItsEntries(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	month := actsName + "/" + noon.Format(monthLayout)
	r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	for n := range 300 {
		r.act(n)
	}
	r.monthBegan()
	if err := r.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.act(300)
	keys := verifierOf(t, r.key)
	for _, e := range r.all(Filter{Log: month}) {
		p, err := Prove(t.Context(), r.cfg.Dir, e.Log(), e.Entry.Sequence)
		if e.Entry.Sequence == 300 {
			if !errors.Is(err, ErrNotCovered) {
				t.Errorf("an entry behind the checkpoint: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		proven, err := Check(p, e.Entry.Append(nil), keys, nil)
		if err != nil || len(proven.Signed) != 1 || proven.Name() != e.Name() {
			t.Fatalf("%s: %s is proven by %v, %v", e.Name(), proven.Name(), proven.Signed, err)
		}
	}
	// A month that ended is proven under its last checkpoint.
	c.set(noon.AddDate(0, 1, 0))
	r.act(301)
	if err := r.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, err := Prove(t.Context(), r.cfg.Dir, month, 300); err != nil || !isProven(p.Append(nil), keys) {
		t.Errorf("the last entry of a closed month is not proven: %v", err)
	}
	for what, err := range map[string]error{
		"behind the end": proveError(t, r.cfg.Dir, month, 301),
		"before it":      proveError(t, r.cfg.Dir, month, -1),
		"another month":  proveError(t, r.cfg.Dir, actsName+"/1999-01", 0),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := proveError(t, r.cfg.Dir, "../audit/lifecycle", 0); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log outside: %v", err)
	}
	// What was changed is not proven.
	if err := os.WriteFile(filepath.Join(r.cfg.Dir, month, tilePath(0, 0, tileWidth)), make([]byte, tileWidth*tlog.HashSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := proveError(t, r.cfg.Dir, month, 10); err == nil || !strings.Contains(err.Error(), "do not fit together") {
		t.Errorf("from changed tiles: %v", err)
	}
}

func proveError(t *testing.T, dir, name string, index int64) error {
	t.Helper()
	_, err := Prove(t.Context(), dir, name, index)
	return err
}

// Partial tiles may be gone once a wider one is there.
func TestNarrowTilesAreReadFromWiderOnes(t *testing.T) {
	for wide, narrow := range map[int]int{200: 70, 256: 255} {
		var f forest
		f.grow(narrow)
		want := f.tree.root()
		f.grow(wide - narrow)
		dir := t.TempDir()
		for _, path := range []string{tilePath(0, 0, wide)} {
			if err := writeTiles(dir, []tile{f.tiles[path]}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := tlog.TreeHash(int64(narrow), HashReader(dir, int64(narrow)))
		if err != nil || got != want {
			t.Errorf("%d of %d: %v", narrow, wide, err)
		}
		if _, err := tlog.TreeHash(300, HashReader(dir, 300)); err == nil {
			t.Errorf("tiles of %d are those of 300", wide)
		}
	}
}

func TestOnlyKeysOfTheLogCount(t *testing.T) {
	key, stranger := newSoftKey(t, keystore.EdDSA), newSoftKey(t, keystore.EdDSA)
	var f forest
	f.grow(3)
	p := f.proof(t, key, 1)

	proven, err := Check(p, nil, verifierOf(t, stranger), nil)
	if err != nil || len(proven.Signed) != 0 || len(proven.Others) != 1 {
		t.Errorf("under a stranger's key: signed by %v, others %v, %v", proven.Signed, proven.Others, err)
	}
	// Twice the same key is one.
	if proven, err = Check(p, nil, append(verifierOf(t, key), verifierOf(t, key)...), nil); err != nil || len(proven.Signed) != 1 {
		t.Errorf("under one key given twice: signed by %v, %v", proven.Signed, err)
	}
	// A witness is not the log.
	const witness = "witness.example"
	vkey, err := VKeyFor(witness, keystore.EdDSA, stranger.Public())
	if err != nil {
		t.Fatal(err)
	}
	w, err := ParseVKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	c := Checkpoint{proofOrigin, f.tree.size, f.tree.root()}
	by, err := Keys{Active: stranger}.sign(t.Context(), c, witness)
	if err != nil {
		t.Fatal(err)
	}
	p.Checkpoint = by.note
	if proven, err = Check(p, nil, []note.Verifier{w}, nil); err != nil || len(proven.Signed) != 0 {
		t.Errorf("a key of another name given as the log's: signed by %v, %v", proven.Signed, err)
	}
	if proven, err = Check(p, nil, nil, []note.Verifier{w}); err != nil || len(proven.Signed) != 0 || len(proven.Cosigned) != 1 {
		t.Errorf("by a witness: signed by %v, cosigned by %v, %v", proven.Signed, proven.Cosigned, err)
	}
}

func TestWhatIsNoProof(t *testing.T) {
	var f forest
	f.grow(5)
	good := string(f.proof(t, newSoftKey(t, keystore.EdDSA), 3).Append(nil))
	if _, err := ParseProof([]byte(good)); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(good, "\n")
	extra, hash := lines[1], lines[3]
	for name, bad := range map[string]string{
		"nothing":             "",
		"another version":     strings.Replace(good, "@v1", "@v2", 1),
		"lines of Windows":    strings.ReplaceAll(good, "\n", "\r\n"),
		"index with a zero":   strings.Replace(good, "index 3", "index 03", 1),
		"index with a sign":   strings.Replace(good, "index 3", "index +3", 1),
		"negative index":      strings.Replace(good, "index 3", "index -3", 1),
		"no index":            strings.Replace(good, "index 3\n", "", 1),
		"extra twice":         strings.Replace(good, extra, extra+"\n"+extra, 1),
		"extra of nothing":    strings.Replace(good, extra, "extra ", 1),
		"extra after index":   strings.Replace(good, extra+"\nindex 3\n", "index 3\n"+extra+"\n", 1),
		"an entry too long":   strings.Replace(good, extra, "extra "+base64.StdEncoding.EncodeToString(make([]byte, MaxEntry+1)), 1),
		"too many hashes":     strings.Replace(good, hash+"\n", strings.Repeat(hash+"\n", mostProofHashes+1), 1),
		"a hash with padding": strings.Replace(good, hash, hash+"=", 1),
		"a short hash":        strings.Replace(good, hash, "AAAA", 1),
		"two empty lines":     strings.Replace(good, "\n\n", "\n\n\n", 1),
		"no checkpoint":       good[:strings.Index(good, "\n\n")+2],
		"no signature":        good[:strings.LastIndex(good, "\n\n")+2],
		"too long":            good + strings.Repeat("— a AAAAAAAA\n", MaxProof/10),
	} {
		if bad == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := ParseProof([]byte(bad)); err == nil {
			t.Errorf("%s is a proof", name)
		}
	}
}

func TestNamesOfEntries(t *testing.T) {
	for name, want := range map[string]string{
		"localhost:8443/audit/dev/acts/2026-11#7": "localhost:8443/audit/dev/acts/2026-11 7 true",
		"lifecycle#0": "lifecycle 0 true",
		"lifecycle#":  "lifecycle 0 false", "#3": " 3 false", "lifecycle": "lifecycle 0 false",
		"lifecycle#03": "lifecycle 3 false", "lifecycle#-1": "lifecycle -1 false", "a#1#2": "a 0 false",
	} {
		origin, index, ok := SplitName(name)
		if got := fmt.Sprint(origin, " ", index, " ", ok); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 0\n\nlocalhost/audit/dev/lifecycle\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— localhost/audit/dev AAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProof(b)
		if err != nil {
			return
		}
		if again := p.Append(nil); !bytes.Equal(again, b) {
			t.Errorf("%q is also %q", b, again)
		}
		if proven, err := Check(p, nil, nil, nil); err == nil && len(proven.Signed) > 0 {
			t.Errorf("%q is signed by keys that nobody gave", b)
		}
	})
}

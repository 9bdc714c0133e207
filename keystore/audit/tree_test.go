package audit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"chancery/keystore"
)

// hashes is the storage of the reference implementation.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = h[x]
	}
	return out, nil
}

func TestTreeIsRFC6962(t *testing.T) {
	const leaves = 70_000 // into the third level of tiles
	var tr tree
	var ref hashes
	tiles := map[string]tile{}
	hasher := newLeafHasher()
	for i := range int64(leaves) {
		entry := fmt.Appendf(nil, "entry %d", i)
		more, err := tlog.StoredHashes(i, entry, ref)
		if err != nil {
			t.Fatal(err)
		}
		ref = append(ref, more...)
		for _, full := range tr.add(hasher.sum(entry), nil) {
			tiles[full.path()] = full
		}
		if i < 600 || i > leaves-600 || i%4096 < 2 {
			want, err := tlog.TreeHash(i+1, ref)
			if err != nil {
				t.Fatal(err)
			}
			if got := tr.root(); got != want {
				t.Fatalf("root of %d leaves: %v, want %v", i+1, got, want)
			}
		}
	}
	for _, edge := range tr.edge() {
		tiles[edge.path()] = edge
	}
	for _, want := range tlog.NewTiles(tileHeight, 0, leaves) {
		data, err := tlog.ReadTileData(want, ref)
		if err != nil {
			t.Fatal(err)
		}
		// The same tiles, under C2SP's names, which leave the height out.
		path := strings.Replace(want.Path(), "tile/8/", "tile/", 1)
		if got, ok := tiles[path]; !ok || !bytes.Equal(got.bytes(), data) {
			t.Errorf("%s is not as it has to be", path)
		}
		delete(tiles, path)
	}
	if len(tiles) != 0 {
		t.Errorf("%d tiles too many", len(tiles))
	}
	if _, err := restoreTree(leaves, func(int, int64, int) (tile, error) { return tile{}, fmt.Errorf("none") }); err == nil {
		t.Error("restored from nothing")
	}
}

func TestEmptyTree(t *testing.T) {
	want, err := tlog.TreeHash(0, nil)
	var tr tree
	if err != nil || tr.root() != want {
		t.Errorf("%v, %v", tr.root(), err)
	}
}

func TestTreeComesBackFromItsTiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 70_000).Draw(t, "size")
		tiles := map[string]tile{}
		var tr tree
		for i := range size {
			for _, full := range tr.add(tlog.Hash{byte(i), byte(i >> 8)}, nil) {
				tiles[full.path()] = full
			}
		}
		for _, edge := range tr.edge() {
			tiles[edge.path()] = edge
		}
		read := func(level int, n int64, width int) (tile, error) {
			return parseTile(tiles[tilePath(level, n, width)].bytes(), level, n, width)
		}
		again, err := restoreTree(size, read)
		if err != nil || again.root() != tr.root() || again.size != size {
			t.Fatalf("%d leaves: %v", size, err)
		}
		if !again.fits(read) {
			t.Fatalf("%d leaves: its own tiles do not fit", size)
		}
		if size < tileWidth {
			return
		}
		level := 0
		if size >= tileWidth*tileWidth {
			level = rapid.IntRange(0, 1).Draw(t, "level")
		}
		n := rapid.Int64Range(0, size>>(tileHeight*(level+1))-1).Draw(t, "tile")
		tiles[tilePath(level, n, tileWidth)].hashes[rapid.IntRange(0, tileWidth-1).Draw(t, "hash")][5] ^= 1
		if again.fits(read) {
			t.Fatalf("%d leaves: %s fits with another hash", size, tilePath(level, n, tileWidth))
		}
	})
}

func TestTilePaths(t *testing.T) {
	for _, test := range []struct {
		level int
		n     int64
		width int
		want  string
	}{
		{0, 0, 256, "tile/0/000"},
		{0, 0, 1, "tile/0/000.p/1"},
		{1, 1000, 256, "tile/1/x001/000"},
		{0, 1234067, 7, "tile/0/x001/x234/067.p/7"},
	} {
		if got := tilePath(test.level, test.n, test.width); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
		if name := "acts/2026-11/" + test.want; !IsPublic(name) {
			t.Errorf("%s may be shown", name)
		}
	}
	for _, name := range []string{
		"", "lifecycle", "lifecycle/journal-1", "acts/2026-11/journal-1", "acts/2026-13/checkpoint", "acts/checkpoint",
		"lifecycle/../lifecycle/checkpoint", "lifecycle/tile/0/000/../../../journal-1", "lifecycle/tile/0/0", "lifecycle/tile/00/000",
		"lifecycle/tile/0/x000/001", "lifecycle/tile/0/000.p/0", "lifecycle/tile/0/000.p/256", "lifecycle/tile/0/000.p/01",
		"lifecycle/tile/9/000", "lifecycle/tile/0/000 ", "lifecycle/checkpoint/", "lifecycle/final", "acts/2026-11/tile/-1/000",
	} {
		if IsPublic(name) {
			t.Errorf("%q may not be shown", name)
		}
	}
	if !IsPublic("lifecycle/checkpoint") {
		t.Error("a checkpoint may be shown")
	}
}

func TestCheckpointIsASignedNoteThatOthersRead(t *testing.T) {
	key := newSoftKey(t, keystore.EdDSA)
	c := Checkpoint{host + "/audit/dev/lifecycle", 42, tlog.Hash{1, 2, 3}}
	signed := signedBy(t, c, key)
	// x/mod's own verifier, from the text of our key.
	v, err := note.NewVerifier(key.vkey(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	if want := "localhost:8443/audit/dev/lifecycle\n42\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"; n.Text != want {
		t.Errorf("%q, want %q", n.Text, want)
	}
	if got, err := ParseCheckpoint(n.Text); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestVKeysComeBack(t *testing.T) {
	for _, alg := range []keystore.Algorithm{keystore.EdDSA, keystore.ES256} {
		key := newSoftKey(t, alg)
		v, err := ParseVKey(key.vkey(t))
		if err != nil {
			t.Fatal(err)
		}
		c := Checkpoint{host + "/audit/dev/lifecycle", 1, tlog.Hash{}}
		signed := signedBy(t, c, key)
		if _, sig, err := OpenCheckpoint(signed, []note.Verifier{v}); err != nil || !sig.Verified {
			t.Errorf("%s: %+v, %v", alg, sig, err)
		}
		bad := bytes.Replace(signed, []byte("\n1\n"), []byte("\n2\n"), 1)
		if _, _, err := OpenCheckpoint(bad, []note.Verifier{v}); err == nil {
			t.Errorf("%s: a changed checkpoint was accepted", alg)
		}
	}
	if _, err := VKeyFor("a name", keystore.EdDSA, newSoftKey(t, keystore.EdDSA).Public()); err == nil {
		t.Error("a space in a key's name")
	}
	if _, err := VKeyFor("name", keystore.ES384, newSoftKey(t, keystore.ES256).Public()); err == nil {
		t.Error("another algorithm")
	}
	good := newSoftKey(t, keystore.EdDSA).vkey(t)
	for _, bad := range []string{"", "name", "name+00000000", good[:len(good)-8], strings.Replace(good, "+", "+0", 1), good + "AAAA", "x" + good} {
		if _, err := ParseVKey(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add("localhost:8443/audit/dev/lifecycle\n42\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	f.Add("o\n042\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	f.Add("o\n1\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\nextension\n")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParseCheckpoint(text); err == nil && c.String() != text {
			t.Fatalf("%q reads as %q", text, c.String())
		}
	})
}

func FuzzParseVKey(f *testing.F) {
	f.Add(newSoftKey(f, keystore.EdDSA).vkey(f))
	f.Add(newSoftKey(f, keystore.ES256).vkey(f))
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseVKey(text)
		if err != nil {
			return
		}
		ours := v.(verifier)
		if again, err := VKeyFor(ours.name, ours.alg, ours.pub); err != nil || again != text {
			t.Fatalf("%q comes back as %q (%v)", text, again, err)
		}
	})
}

func FuzzJournal(f *testing.F) {
	good := header{size: 4096, first: 0, origin: "h/audit/n/lifecycle"}.encode()
	for i := range int64(3) {
		rec := startRecord(nil, i, i)
		rec = Entry{1, i, noon, keystore.Record{Action: keystore.ActRead}}.Append(rec)
		sealRecord(rec)
		good = append(good, rec...)
	}
	f.Add(good)
	f.Add(append(good, make([]byte, 300)...))
	f.Add(good[:len(good)-5])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			return
		}
		if h, err := parseHeader(b); err == nil && !bytes.Equal(h.encode(), b[:headerSize]) {
			t.Fatal("a header has two spellings")
		}
		sc := newScanner(bytes.NewReader(b), headerSize)
		at := sc.off
		for {
			r, err := sc.next()
			if err == nil {
				again := append(startRecord(nil, r.index, r.durable), r.entry...)
				sealRecord(again)
				if !bytes.Equal(again, b[at:sc.off]) {
					t.Fatal("a record has two spellings")
				}
				at = sc.off
				continue
			}
			if _, err := sc.restIsZero(); err != nil {
				t.Fatal(err)
			}
			if _, err := sc.resync(0); err != nil {
				return
			}
			at = sc.off
		}
	})
}

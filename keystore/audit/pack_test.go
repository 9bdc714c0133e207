package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"chancery/keystore"
)

// realistic returns entries as a busy node has them: 8 callers, 3 keys, a token
// identifier of 16 random bytes and a request digest of 32, both new each time,
// which are 48 bytes that nothing can compress.
func realistic(n int) [][]byte {
	rng := rand.NewChaCha8([32]byte{1})
	pick := rand.New(rng)
	kids := [3]string{}
	for i := range kids {
		b := make([]byte, 32)
		rng.Read(b)
		kids[i] = base64.RawURLEncoding.EncodeToString(b)
	}
	var uses [3]int64
	now := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	entries := make([][]byte, n)
	for i := range entries {
		rec, k := signed(i), pick.IntN(3)
		b := make([]byte, 48)
		rng.Read(b)
		uses[k]++
		now = now.Add(time.Duration(pick.IntN(100_000)) * time.Microsecond)
		rec.Principal += fmt.Sprint(pick.IntN(8))
		rec.KeySet, rec.KID, rec.Use = []string{"web", "legacy", "edge"}[k], keystore.KID(kids[k]), 1000+uses[k]
		rec.JTI, rec.Request = base64.RawURLEncoding.EncodeToString(b[:16]), hex.EncodeToString(b[16:])
		rec.Exp = now.Unix() + 300
		entries[i] = Entry{1, int64(i), now, rec}.Append(nil)
	}
	return entries
}

// packed writes a pack of entries and returns its bytes.
func packed(t interface {
	Fatal(...any)
	Helper()
}, dir string, entries [][]byte) []byte {
	t.Helper()
	path := filepath.Join(dir, "pack-of-a-test")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := newPackWriter(f, "host/audit/dev/acts/2026-10")
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	for _, e := range entries {
		if _, err := w.add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unpacked is what a pack gives from an index on: entries, and what is lost.
func unpacked(b []byte, from int64) (first int64, entries [][]byte, losses []lost, err error) {
	p, err := newPack(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return 0, nil, nil, err
	}
	defer p.close()
	if err := p.seek(from); err != nil {
		return 0, nil, nil, err
	}
	first = p.next
	for {
		next := p.next
		r, err := p.read()
		l, isLost := err.(lost)
		switch {
		case err == errEnd:
			return first, entries, losses, nil
		case isLost:
			losses = append(losses, l)
		case err != nil:
			return first, entries, losses, err
		case r.index != next:
			return first, entries, losses, fmt.Errorf("entry %d at %d", r.index, next)
		default:
			entries = append(entries, bytes.Clone(r.entry))
		}
	}
}

func TestAPackHoldsWhatWasWritten(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		// Frames end by their entries where these are short, by their bytes where long.
		most, times := 20, rapid.IntRange(1, 100).Draw(t, "times")
		if rapid.Bool().Draw(t, "long") {
			most, times = MaxEntry, 2
		}
		lengths := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 20), rapid.Just(most)), 0, 200).Draw(t, "lengths")
		var want [][]byte
		for range times {
			for i, n := range lengths {
				want = append(want, bytes.Repeat([]byte{'a' + byte(i%26)}, n))
			}
		}
		b := packed(t, dir, want)
		if h, err := parsePackHeader(b); err != nil || h.entries != int64(len(want)) || h.size != int64(len(b)) {
			t.Fatalf("header %+v, %v", h, err)
		}
		from := int64(rapid.IntRange(0, len(want)+2).Draw(t, "from"))
		if rapid.Bool().Draw(t, "without index") {
			h, _ := parsePackHeader(b)
			clear(b[h.index+8:])
		}
		first, got, losses, err := unpacked(b, from)
		if err != nil || len(losses) > 0 || first > from {
			t.Fatalf("from %d: first %d, lost %v, %v", from, first, losses, err)
		}
		if from-first > mostFrameEntries {
			t.Fatalf("from %d it begins with %d", from, first)
		}
		if !slices.EqualFunc(got, want[first:], bytes.Equal) {
			t.Fatalf("%d entries, want %d", len(got), len(want[first:]))
		}
	})
}

// An auditor needs no tool of ours to read a pack.
func TestAPackIsAZstdFile(t *testing.T) {
	entries := realistic(10_000)
	z, err := zstd.NewReader(bytes.NewReader(packed(t, t.TempDir(), entries)))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	got, err := io.ReadAll(z)
	if want := append(bytes.Join(entries, []byte("\n")), '\n'); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d; %v", len(got), len(want), err)
	}
}

func TestAPackedEntryTakesLessThan100Bytes(t *testing.T) {
	const entries = 20_000
	b := packed(t, t.TempDir(), realistic(entries))
	each := float64(len(b)) / entries
	t.Logf("%.1f bytes an entry", each)
	if each >= 100 {
		t.Errorf("%.1f bytes an entry", each)
	}
}

func TestADamagedPackLosesOnlyItsFrame(t *testing.T) {
	const per = mostFrameEntries
	entries := realistic(4*per + 100)
	whole := packed(t, t.TempDir(), entries)
	h, err := parsePackHeader(whole)
	if err != nil {
		t.Fatal(err)
	}
	var at []int64 // where the frames' marks stand
	for off := int64(packHeaderSize); off < h.index; {
		m, err := parsePackMark(whole[off:])
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, off)
		off += packMarkSize + int64(m.frame)
	}
	at = append(at, h.index)
	frame := func(b []byte, n int) []byte { return b[at[n]:at[n+1]] }
	tests := []struct {
		name   string
		damage func(b []byte) []byte
		lost   [][2]int64
	}{
		{"a byte of a frame", func(b []byte) []byte { frame(b, 1)[500] ^= 1; return b }, [][2]int64{{per, 2*per - 1}}},
		{"a byte of a mark", func(b []byte) []byte { frame(b, 1)[20] ^= 1; return b }, [][2]int64{{per, 2*per - 1}}},
		{"the beginning of a mark", func(b []byte) []byte { clear(frame(b, 1)[:8]); return b }, [][2]int64{{per, 2*per - 1}}},
		{"two frames after each other", func(b []byte) []byte { clear(b[at[1]:at[3]]); return b }, [][2]int64{{per, 3*per - 1}}},
		{"the first and the third", func(b []byte) []byte { clear(frame(b, 0)); frame(b, 2)[99]++; return b }, [][2]int64{{0, per - 1}, {2 * per, 3*per - 1}}},
		{"the last", func(b []byte) []byte { clear(frame(b, 4)); return b }, [][2]int64{{4 * per, 4*per + 99}}},
		{"the index", func(b []byte) []byte { clear(b[h.index:]); return b }, nil},
		{"a frame twice", func(b []byte) []byte { copy(frame(b, 3), frame(b, 0)); return b }, [][2]int64{{3 * per, 4*per - 1}}},
		{"the header", func(b []byte) []byte { b[30] ^= 1; return b }, nil},
		{"a frame cut out", func(b []byte) []byte { return slices.Delete(b, int(at[1]), int(at[2])) }, [][2]int64{{per, 2*per - 1}}},
		// Nothing but the header says how many entries there were.
		{"cut in the fourth", func(b []byte) []byte { return b[:at[3]+100] }, [][2]int64{{3 * per, 4*per - 1}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, got, losses, err := unpacked(test.damage(bytes.Clone(whole)), 0)
			if err != nil {
				t.Fatal(err)
			}
			var have [][2]int64
			for _, l := range losses {
				if l.to >= l.from {
					have = append(have, [2]int64{l.from, l.to})
				}
			}
			if !slices.Equal(have, test.lost) {
				t.Errorf("lost %v, want %v", have, test.lost)
			}
			want := slices.Clone(entries)
			if strings.HasPrefix(test.name, "cut in") {
				want = want[:4*per]
			}
			for _, l := range slices.Backward(test.lost) {
				want = slices.Delete(want, int(l[0]), int(l[1])+1)
			}
			if !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("%d entries are read, want %d", len(got), len(want))
			}
		})
	}
}

// FuzzPack reads whatever stands where a pack should: it ends, its entries
// ascend, and what is a header or a mark is so in one spelling only.
func FuzzPack(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parsePackHeader(b); err == nil && !bytes.Equal(h.encode(), b[:packHeaderSize]) {
			t.Error("a header in another spelling")
		}
		p, err := newPack(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if len(b) > 0 {
			if err := p.seek(int64(b[len(b)-1])); err != nil {
				t.Fatal(err)
			}
		}
		for next, steps := p.next, 0; ; steps++ {
			r, err := p.read()
			if err == errEnd {
				break
			}
			if p.next < next || err == nil && (r.index < next || len(r.entry) == 0 || len(r.entry) > MaxEntry) {
				t.Fatalf("entry %d of %d bytes after %d, then %d", r.index, len(r.entry), next, p.next)
			}
			if steps > 2*mostFrameEntries*(1+len(b)/packMarkSize) {
				t.Fatal("it does not end")
			}
			next = p.next
		}
	})
}

func BenchmarkPack(b *testing.B) {
	entries := realistic(100_000)
	dir := b.TempDir()
	size := 0
	for b.Loop() {
		size = len(packed(b, dir, entries))
	}
	b.ReportMetric(float64(size)/float64(len(entries)), "bytes/entry")
	b.ReportMetric(float64(len(entries)*b.N)/b.Elapsed().Seconds(), "entries/s")
}

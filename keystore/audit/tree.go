package audit

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"math/bits"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Tiles are of height 8 (C2SP tlog-tiles): tile N of level L holds up to 256
// hashes of complete subtrees of 256^L leaves.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// A tree is the right edge of a Merkle tree (RFC 6962 Section 2.1): the hashes
// of the tiles that are not full.
type tree struct {
	size   int64
	levels [][]tlog.Hash // fewer than tileWidth each
}

// A tile is the content of one tile.
type tile struct {
	level  int
	n      int64
	hashes []tlog.Hash
}

// path returns where the tile stands under its log: tile/L/N[.p/W] with N in
// groups of three digits, all but the last with an x (C2SP tlog-tiles).
func (t tile) path() string { return tilePath(t.level, t.n, len(t.hashes)) }

func tilePath(level int, n int64, width int) string {
	name := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		name = fmt.Sprintf("x%03d/%s", n%1000, name)
	}
	if width < tileWidth {
		name += fmt.Sprintf(".p/%d", width)
	}
	return fmt.Sprintf("tile/%d/%s", level, name)
}

func (t tile) bytes() []byte {
	b := make([]byte, 0, len(t.hashes)*tlog.HashSize)
	for _, h := range t.hashes {
		b = append(b, h[:]...)
	}
	return b
}

// onDisk reports whether the tile stands under dir as it has to.
func (t tile) onDisk(dir string) bool {
	b, err := readPlain(filepath.Join(dir, t.path()))
	return err == nil && bytes.Equal(b, t.bytes())
}

func parseTile(b []byte, level int, n int64, width int) (tile, error) {
	if len(b) < width*tlog.HashSize || len(b)%tlog.HashSize != 0 {
		return tile{}, fmt.Errorf("tile of %d bytes, want %d", len(b), width*tlog.HashSize)
	}
	t := tile{level, n, make([]tlog.Hash, width)}
	for i := range t.hashes {
		copy(t.hashes[i][:], b[i*tlog.HashSize:])
	}
	return t, nil
}

// add appends a leaf and returns full tiles that it completed, appended to full.
func (t *tree) add(leaf tlog.Hash, full []tile) []tile {
	h := leaf
	for level := 0; ; level++ {
		if level == len(t.levels) {
			t.levels = append(t.levels, make([]tlog.Hash, 0, tileWidth))
		}
		t.levels[level] = append(t.levels[level], h)
		if len(t.levels[level]) < tileWidth {
			break
		}
		n := t.size >> (tileHeight * (level + 1))
		full = append(full, tile{level, n, slices.Clone(t.levels[level])})
		h = subtree(t.levels[level])
		t.levels[level] = t.levels[level][:0]
	}
	t.size++
	return full
}

// subtree returns the hash over a power of two of hashes.
func subtree(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(subtree(hashes[:half]), subtree(hashes[half:]))
}

// root returns the hash of the whole tree.
func (t *tree) root() tlog.Hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	var h tlog.Hash
	have := false
	for _, hashes := range t.levels {
		for end := len(hashes); end > 0; {
			n := 1 << bits.TrailingZeros(uint(end)) // the smallest complete subtree ends here
			left := subtree(hashes[end-n : end])
			if have {
				h = tlog.NodeHash(left, h)
			} else {
				h, have = left, true
			}
			end -= n
		}
	}
	return h
}

// edge returns the tiles that are not full and not empty.
func (t *tree) edge() []tile {
	var tiles []tile
	for level, hashes := range t.levels {
		if len(hashes) > 0 {
			tiles = append(tiles, tile{level, t.size >> (tileHeight * (level + 1)), slices.Clone(hashes)})
		}
	}
	return tiles
}

func (t *tree) clone() tree {
	c := tree{size: t.size, levels: make([][]tlog.Hash, len(t.levels))}
	for i, hashes := range t.levels {
		c.levels[i] = append(make([]tlog.Hash, 0, tileWidth), hashes...)
	}
	return c
}

// restoreTree returns the tree of the given size from its tiles that are not full.
func restoreTree(size int64, read func(level int, n int64, width int) (tile, error)) (tree, error) {
	t := tree{size: size}
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		hashes := make([]tlog.Hash, 0, tileWidth)
		if width := int(size >> (tileHeight * level) % tileWidth); width > 0 {
			got, err := read(level, size>>(tileHeight*(level+1)), width)
			if err != nil {
				return tree{}, err
			}
			hashes = append(hashes, got.hashes...)
		}
		t.levels = append(t.levels, hashes)
	}
	return t, nil
}

// fits reports whether the full tiles that read returns are those of the tree:
// each holds what the level above it says, up to the tree itself.
func (t *tree) fits(read func(level int, n int64, width int) (tile, error)) bool {
	above := tree{} // of the hashes that the tiles of level 0 add up to
	for n := range t.size >> tileHeight {
		have, err := read(0, n, tileWidth)
		if err != nil {
			return false
		}
		for _, full := range above.add(subtree(have.hashes), nil) {
			have, err := read(full.level+1, full.n, tileWidth)
			if err != nil || !slices.Equal(have.hashes, full.hashes) {
				return false
			}
		}
	}
	return above.size == 0 || slices.EqualFunc(above.levels, t.levels[1:], slices.Equal[[]tlog.Hash])
}

// A leafHasher makes leaf hashes (RFC 6962 Section 2.1) without allocating.
type leafHasher struct{ h hash.Hash }

func newLeafHasher() leafHasher { return leafHasher{sha256.New()} }

func (l leafHasher) sum(entry []byte) (leaf tlog.Hash) {
	l.h.Reset()
	l.h.Write([]byte{0})
	l.h.Write(entry)
	l.h.Sum(leaf[:0])
	return leaf
}

// IsPublic reports whether name, a slash-separated path under the audit
// directory, is a checkpoint, cosigned or not, a handover or a hash tile: what may
// be shown to the world. Journals hold entries and are not.
func IsPublic(name string) bool {
	log, file, ok := splitLog(name)
	if !ok || log == "" {
		return false
	}
	_, handover := handoverSize(file)
	return file == "checkpoint" || file == witnessedName || isTilePath(file) || handover && log == lifecycleName
}

// splitLog splits a path under the audit directory into the log's name and the rest.
func splitLog(name string) (log, file string, ok bool) {
	first, rest, _ := strings.Cut(name, "/")
	switch first {
	case lifecycleName:
		return first, rest, true
	case actsName:
		month, file, _ := strings.Cut(rest, "/")
		return first + "/" + month, file, isMonth(month)
	}
	return "", "", false
}

func isTilePath(name string) bool {
	var level int
	f := strings.Split(name, "/")
	if len(f) < 3 || f[0] != "tile" {
		return false
	}
	if _, err := fmt.Sscanf(f[1], "%d", &level); err != nil {
		return false
	}
	width := tileWidth
	f = f[2:]
	if last := len(f) - 1; last > 0 && strings.HasSuffix(f[last-1], ".p") {
		if _, err := fmt.Sscanf(f[last], "%d", &width); err != nil || width < 1 || width >= tileWidth {
			return false
		}
		f[last-1] = strings.TrimSuffix(f[last-1], ".p")
		f = f[:last]
	}
	var n int64
	for _, group := range f {
		var part int64
		if _, err := fmt.Sscanf(strings.TrimPrefix(group, "x"), "%d", &part); err != nil || part > 999 || n > 1<<40 {
			return false
		}
		n = n*1000 + part
	}
	return level >= 0 && level < 8 && n >= 0 && name == tilePath(level, n, width)
}

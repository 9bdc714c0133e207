package witness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileBytes  = tlog.HashSize << tileHeight
)

// A reader reads a file of a log by its slash-separated name under the log, such
// as "checkpoint" or "tile/0/000" (C2SP tlog-tiles). It returns an error wrapping
// fs.ErrNotExist if there is none, and one wrapping ctx's when ctx ends.
type reader func(ctx context.Context, name string) ([]byte, error)

// logFiles reads the files of the log in dir.
func logFiles(dir string) reader {
	return func(ctx context.Context, name string) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	}
}

// prove returns the consistency proof from old to the tree of c, and the root at
// old, from tiles that are compared with c's root. Old is at least 1.
func prove(ctx context.Context, read reader, c body, old int64) (tlog.TreeProof, tlog.Hash, error) {
	hashes := tlog.TileHashReader(tlog.Tree{N: c.size, Hash: c.root}, tiles{ctx, read})
	before, err := tlog.TreeHash(old, hashes)
	if err != nil {
		return nil, tlog.Hash{}, fmt.Errorf("reading the tree of %d entries: %w", old, err)
	}
	proof, err := tlog.ProveTree(c.size, old, hashes)
	if err == nil {
		err = tlog.CheckTree(proof, c.size, c.root, old, before)
	}
	if err != nil {
		return nil, tlog.Hash{}, fmt.Errorf("proving that %d entries follow %d: %w", c.size, old, err)
	}
	return proof, before, nil
}

// tiles is a tlog.TileReader of what read reads while one proof is made: that
// interface has no place for a context.
type tiles struct {
	ctx  context.Context
	read reader
}

func (t tiles) Height() int                     { return tileHeight }
func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(wanted))
	for i, w := range wanted {
		b, err := t.read(t.ctx, tileName(w))
		if full := w; errors.Is(err, fs.ErrNotExist) && w.W < 1<<tileHeight {
			full.W = 1 << tileHeight // it was filled meanwhile
			b, err = t.read(t.ctx, tileName(full))
		}
		if err != nil {
			return nil, err
		}
		if len(b) < w.W*tlog.HashSize || len(b) > tileBytes {
			return nil, fmt.Errorf("%s has %d bytes", tileName(w), len(b))
		}
		data[i] = b[:w.W*tlog.HashSize]
	}
	return data, nil
}

// tileName is where a tile stands: as tlog has it, but without the height.
func tileName(t tlog.Tile) string {
	return "tile/" + strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", tileHeight))
}

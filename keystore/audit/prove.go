package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrNotCovered: the entry is there, and no checkpoint covers it yet.
var ErrNotCovered = errors.New("no checkpoint covers the entry yet")

// Prove returns the proof that the entry with the given index stands in the log
// called name ("lifecycle" or "acts/YYYY-MM") under dir, an audit directory, with
// the entry in it: by the newest checkpoint that witnesses cosigned if that covers
// it, otherwise by the one that is published. It takes no lock
// and is right beside a running daemon. The error wraps ErrNotCovered if the
// checkpoint ends before the entry, and fs.ErrNotExist if there is no such log,
// entry or checkpoint; what does not fit together is an error too, and Verify
// tells more.
func Prove(ctx context.Context, dir, name string, index int64) (*Proof, error) {
	if !isLogName(name) {
		return nil, fmt.Errorf("%q is no log: there are %s and %s/YYYY-MM", name, lifecycleName, actsName)
	}
	entry, err := entryAt(ctx, dir, name, index)
	if err != nil {
		return nil, err
	}
	if p, err := proveUnder(dir, name, witnessedName, index, entry); err == nil {
		return p, nil
	}
	return proveUnder(dir, name, "checkpoint", index, entry)
}

// proveUnder proves an entry under the checkpoint in a file of its log.
func proveUnder(dir, name, file string, index int64, entry []byte) (*Proof, error) {
	log := filepath.Join(dir, filepath.FromSlash(name))
	signed, err := readPlain(filepath.Join(log, file))
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint of %s: %w", name, err)
	}
	c, _, err := OpenCheckpoint(signed, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if index >= c.Size {
		return nil, fmt.Errorf("%w: it is %s, and the checkpoint has %d", ErrNotCovered, entryName(c.Origin, index), c.Size)
	}
	p := &Proof{Entry: entry, Index: index, Checkpoint: signed}
	if p.Hashes, err = tlog.ProveRecord(c.Size, index, HashReader(log, c.Size)); err != nil {
		return nil, fmt.Errorf("proving %s: %w", entryName(c.Origin, index), err)
	}
	if _, err := Check(p, nil, nil, nil); err != nil {
		return nil, fmt.Errorf("journal, tiles and checkpoint of %s do not fit together: %w", name, err)
	}
	return p, nil
}

// entryAt returns an entry in canonical form.
func entryAt(ctx context.Context, dir, name string, index int64) ([]byte, error) {
	if index >= 0 {
		for at, err := range EntriesContext(ctx, dir, Filter{Log: name, From: index}) {
			if err != nil {
				return nil, fmt.Errorf("reading the log: %w", err)
			}
			return at.Entry.Append(nil), nil
		}
	}
	return nil, fmt.Errorf("%s has no entry %d: %w", name, index, fs.ErrNotExist)
}

// ProveConsistency returns the proof that the first old of the first size
// entries of the log in dir, its own directory, are the tree of old entries
// (RFC 6962 Section 2.1.2), from its tiles. Both are at least 1 and at most what
// is under the published checkpoint. It does not look whether the tiles are the
// ones that were signed: who checks the proof finds out.
func ProveConsistency(dir string, old, size int64) (tlog.TreeProof, error) {
	if old < 1 || old > size {
		return nil, fmt.Errorf("no tree of %d entries begins with one of %d", size, old)
	}
	p, err := tlog.ProveTree(size, old, HashReader(dir, size))
	if err != nil {
		return nil, fmt.Errorf("proving that a tree of %d entries begins with one of %d: %w", size, old, err)
	}
	return p, nil
}

// HashReader returns a reader of the stored hashes of the tree over the first
// size entries of the log in dir, its own directory, from its tiles. A tile that
// is not there in its width is read from a wider one. The hashes are as they
// stand on disk: the reader vouches for nothing. It may be used concurrently.
func HashReader(dir string, size int64) tlog.HashReader {
	return tileHashes(size, func(level int, n int64, width int) (tile, error) {
		return readTileOrWider(dir, level, n, width)
	})
}

// readTileOrWider is readTile that makes do with any wider tile.
func readTileOrWider(dir string, level int, n int64, width int) (tile, error) {
	t, err := readTile(dir, level, n, width)
	if !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	parts := filepath.Join(dir, tilePath(level, n, tileWidth)) + ".p"
	there, _ := os.ReadDir(parts) // what is wrong with it, err tells
	for _, part := range there {
		if w, _ := strconv.Atoi(part.Name()); w > width && w < tileWidth {
			b, err := readPlain(filepath.Join(parts, part.Name()))
			if err != nil {
				return tile{}, err
			}
			return parseTile(b, level, n, width)
		}
	}
	return t, err
}

// tileHashes reads the stored hashes of a tree of the given size from tiles.
func tileHashes(size int64, read func(level int, n int64, width int) (tile, error)) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		type place struct {
			level int
			n     int64
		}
		tiles := map[place]tile{}
		var hashes []tlog.Hash
		for _, index := range indexes {
			level, n := tlog.SplitStoredHashIndex(index)
			within := level % tileHeight // the hash is over 2^within of the tile's
			first := n << within
			at := place{level / tileHeight, first >> tileHeight}
			width := int(min(size>>(tileHeight*at.level)-at.n<<tileHeight, tileWidth))
			from, to := int(first%tileWidth), int(first%tileWidth)+1<<within
			if to > width {
				return nil, fmt.Errorf("hash %d of level %d is not in a tree of %d entries", n, level, size)
			}
			t, ok := tiles[at]
			if !ok {
				var err error
				if t, err = read(at.level, at.n, width); err != nil {
					return nil, err
				}
				tiles[at] = t
			}
			hashes = append(hashes, subtree(t.hashes[from:to]))
		}
		return hashes, nil
	})
}

package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// count returns how many entries a closed month has by its pack, or -1 if it is
// not packed and its journals are as they were made.
func (s *shard) count() (int64, error) {
	p, err := openPack(packPath(s.dir))
	if errors.Is(err, fs.ErrNotExist) && !isLink(packPath(s.dir)) {
		return -1, s.list()
	}
	if err != nil {
		return 0, fmt.Errorf("opening a packed month: %w", err)
	}
	defer p.close()
	if p.damaged != nil {
		return 0, inconsistent(s.origin, "%s: %v %s", packPath(s.dir), p.damaged, restoreHint)
	}
	if p.origin != s.origin {
		return 0, inconsistent(s.origin, "%s belongs to %s", packPath(s.dir), p.origin)
	}
	return p.entries, nil
}

// loadPack reads a packed month whose derived files have to be made again.
func (s *shard) loadPack(published, remembered Head) error {
	p := pass{shard: s, hasher: newLeafHasher(), heads: []Head{published, remembered}}
	for at, err := range packRecords(s.dir, 0) {
		if err != nil {
			return inconsistent(s.origin, "%v %s", err, restoreHint)
		}
		if at.origin != s.origin {
			return inconsistent(s.origin, "%s belongs to %s", packPath(s.dir), at.origin)
		}
		if err := p.take(at.record); err != nil {
			return err
		}
		p.next = at.index + 1
	}
	if err := p.reached(); err != nil {
		return err
	}
	var err error
	if s.last, err = p.lastTime(); err != nil {
		return err
	}
	s.packed, s.tree, s.tiles, s.remembered = true, p.tree, p.tiles, remembered.Size
	return nil
}

// away returns nil, or why a month's directory or its pack cannot be reached: it
// was moved, and the storage it was moved to is not there.
func away(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	if path := packPath(dir); isLink(path) {
		_, err := os.Stat(path)
		return err
	}
	return nil
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// lookClosed looks at a closed month. One that lifecycle has sealed may be away:
// nothing is written to it any more, and Verify tells.
func (l *Log) lookClosed(s *shard, remembered Head, sealed func() (map[string]closedMonth, error)) error {
	err := away(s.dir)
	if err == nil {
		err = s.loadFinal(remembered)
	}
	if err == nil || errors.Is(err, ErrInconsistent) {
		return err
	}
	months, err2 := sealed()
	if err2 != nil {
		return err2
	}
	if _, ok := months[s.origin]; !ok {
		return inconsistent(s.origin, "it cannot be read, and lifecycle does not say that it was closed: %v", err)
	}
	l.cfg.Log.Warn("a closed month of acts cannot be read now: bring the storage it was moved to back", "origin", s.origin, "err", err)
	return nil
}

// monthDir reports whether f, found among the months of acts, can be one.
func monthDir(f fs.DirEntry) bool {
	return isMonth(f.Name()) && (f.IsDir() || f.Type()&fs.ModeSymlink != 0)
}

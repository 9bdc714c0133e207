package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrInconsistent: what is on disk is not what the log acknowledged, and no torn
// write explains it. Nothing was changed.
var ErrInconsistent = errors.New("audit log inconsistent")

func inconsistent(origin, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrInconsistent, origin, fmt.Sprintf(format, args...))
}

// A shard is one Merkle log on disk: lifecycle, or one month of acts.
type shard struct {
	name   string // under the audit directory: "lifecycle" or "acts/2026-11"
	origin string
	dir    string
	disk   disk
	size   int64 // of new journals
	packed bool  // it is closed, and a pack holds its entries

	// The rest down to mu belongs to the committer.
	journals []journal // in order; the last is being written
	file     file      // the last journal; nil when closed
	off      int64     // where its next record goes
	mark     []byte    // the head of its last record, which has to stand
	base     tree      // the tree when its checked part began
	full     bool      // the next entry needs a new journal
	last     time.Time // of the last entry
	unfit    error     // why the tiles that were there are made again
	checked  time.Time // when all journals were last looked at
	dirTime  time.Time // when the directory last changed, as last looked at

	mu    sync.Mutex
	tree  tree   // of what is acknowledged
	tiles []tile // full and not yet written

	// The rest belongs to whoever has Log.publishing.
	signed     int64    // entries under the last checkpoint; -1: none
	asked      []string // NAME+ID of the keys that were asked to sign it
	remembered int64
}

// A journal is one file of a shard.
type journal struct {
	path string
	header
	info os.FileInfo
}

// A repair is what had to be cut.
type repair struct {
	index int64 // of the first entry that is not there
	bytes int64 // between it and the last byte that was not zero, about
}

func newShard(dir string, origins originator, name string, d disk, size int64) *shard {
	return &shard{
		name: name, origin: origins.of(name), dir: filepath.Join(dir, filepath.FromSlash(name)),
		disk: d, size: size, signed: -1, remembered: -1,
	}
}

// create makes the shard's directory and first journal.
func (s *shard) create(base string) error {
	if err := makeDir(base, s.dir); err != nil {
		return fmt.Errorf("making the log's directory: %w", err)
	}
	return s.grow()
}

// grow makes the next journal and turns to it.
func (s *shard) grow() error {
	s.full = true
	j := journal{
		path:   journalPath(s.dir, len(s.journals)+1),
		header: header{size: s.size, first: s.tree.size, origin: s.origin},
	}
	f, err := s.disk.Create(j.path, s.size, j.encode())
	if errors.Is(err, fs.ErrExist) {
		f, err = s.adopt(j)
	}
	if err != nil {
		return fmt.Errorf("making %s: %w", j.path, err)
	}
	if j.info, err = f.Stat(); err != nil {
		return errors.Join(err, f.Close())
	}
	s.close()
	s.journals = append(s.journals, j)
	s.file, s.off, s.mark, s.base, s.full = f, headerSize, nil, s.tree.clone(), false
	return nil
}

// adopt opens what stands where j has to be made: what an attempt left that
// failed behind its back, with this very header and not one record. It returns
// an error wrapping ErrInconsistent for anything else, and leaves it.
func (s *shard) adopt(j journal) (_ file, err error) {
	f, err := s.disk.Open(j.path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, headerSize)
	if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, err
	}
	empty, err := newScanner(f, headerSize).restIsZero()
	if err != nil {
		return nil, err
	}
	if info.Size() != j.size || !bytes.Equal(head, j.encode()) || !empty {
		return nil, inconsistent(s.origin, "%s is there, and this log did not make it (hint: find out what did, and move it away)", j.path)
	}
	return f, syncDir(s.dir)
}

// begins returns the first moment an entry may have: that of the shard's month.
func (s *shard) begins() time.Time {
	month, _ := time.Parse(actsName+"/"+monthLayout, s.name) // lifecycle has none
	return month
}

// room returns how many bytes of records still fit.
func (s *shard) room() int64 { return s.journals[len(s.journals)-1].size - s.off }

// write appends records to the last journal. When it returns nil they are on
// stable storage, in the file of that name, behind everything acknowledged
// before. After an error nothing more is written until recover.
func (s *shard) write(records []byte, leaves []tlog.Hash, lastHead []byte) error {
	if len(s.mark) > 0 {
		var at [recordHead]byte
		if _, err := s.file.ReadAt(at[:], s.off-s.lastLength()); err != nil {
			return errors.Join(s.intact(), fmt.Errorf("reading back the last entry: %w", err))
		}
		if !bytes.Equal(at[:], s.mark) {
			return inconsistent(s.origin, "the last acknowledged entry (%d) is not where it was", s.tree.size-1)
		}
	}
	if _, err := s.file.WriteAt(records, s.off); err != nil {
		return fmt.Errorf("writing %s: %w", s.journals[len(s.journals)-1].path, err)
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", s.journals[len(s.journals)-1].path, err)
	}
	if err := s.intact(); err != nil {
		return err
	}
	s.off += int64(len(records))
	s.mark = append(s.mark[:0], lastHead...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, leaf := range leaves {
		s.tiles = s.tree.add(leaf, s.tiles)
	}
	return nil
}

// lastLength returns the length of the record whose head is s.mark.
func (s *shard) lastLength() int64 {
	return recordHead + int64(uint32(s.mark[4])<<24|uint32(s.mark[5])<<16|uint32(s.mark[6])<<8|uint32(s.mark[7]))
}

// intact returns nil if the journals are still the files that were written, at
// their full length. The last one is looked at each time, the others when the
// directory has changed and once a second (FAULTS.md S12).
func (s *shard) intact() error {
	if err := s.journals[len(s.journals)-1].stands(s.origin); err != nil {
		return err
	}
	dir, err := os.Stat(s.dir)
	if err != nil {
		return inconsistent(s.origin, "its directory: %v", err)
	}
	if dir.ModTime().Equal(s.dirTime) && time.Since(s.checked) < time.Second {
		return nil
	}
	for _, j := range s.journals {
		if err := j.stands(s.origin); err != nil {
			return err
		}
	}
	s.dirTime, s.checked = dir.ModTime(), time.Now()
	return nil
}

func (j *journal) stands(origin string) error {
	info, err := os.Stat(j.path)
	switch {
	case err != nil:
		return inconsistent(origin, "journal removed or renamed: %v (hint: put %s back)", err, filepath.Base(j.path))
	case !os.SameFile(info, j.info):
		return inconsistent(origin, "%s is another file than the one written (hint: put the original back)", j.path)
	case info.Size() != j.size:
		return inconsistent(origin, "%s has %d bytes, was made with %d", j.path, info.Size(), j.size)
	}
	return nil
}

// recover opens the last journal again after a failure, reads again everything
// acknowledged that it holds, and cuts what was not. It changes nothing if
// something acknowledged is missing.
func (s *shard) recover() (repair, error) {
	s.close()
	for _, j := range s.journals {
		if err := j.stands(s.origin); err != nil {
			return repair{}, err
		}
	}
	j := s.journals[len(s.journals)-1]
	f, err := s.disk.Open(j.path)
	if err != nil {
		return repair{}, fmt.Errorf("opening the journal again: %w", err)
	}
	s.file = f
	p := pass{shard: s, tree: s.base.clone(), start: s.base.size, hasher: newLeafHasher()}
	sc := newScanner(f, headerSize)
	if err := p.read(sc, j.first, s.tree.size); err != nil {
		return repair{}, err
	}
	if p.next != s.tree.size || p.tree.size != s.tree.size || p.tree.root() != s.tree.root() {
		return repair{}, inconsistent(s.origin, "%s does not hold the %d entries acknowledged", j.path, s.tree.size)
	}
	s.off = sc.off
	cut, err := s.cut()
	if err != nil {
		return repair{}, err
	}
	if s.full {
		err = s.grow()
	}
	s.checked = time.Time{}
	return cut, errors.Join(err, s.intact())
}

// cut zeroes what follows the last record, if anything does.
func (s *shard) cut() (repair, error) {
	clean, err := newScanner(s.file, s.off).restIsZero()
	if err != nil || clean {
		return repair{}, err
	}
	n := s.journals[len(s.journals)-1].size - s.off
	if err := writeZeros(s.file, s.off, n); err != nil {
		return repair{}, fmt.Errorf("cutting what was never acknowledged: %w", err)
	}
	if err := s.file.Sync(); err != nil {
		return repair{}, fmt.Errorf("cutting what was never acknowledged: %w", err)
	}
	return repair{index: s.tree.size, bytes: n}, nil
}

// close lets go of the journal. Everything acknowledged is synced, so that an
// error of closing means nothing.
func (s *shard) close() {
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// snapshot returns the acknowledged tree and takes the full tiles.
func (s *shard) snapshot() (tree, []tile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tiles := s.tiles
	s.tiles = nil
	return s.tree.clone(), tiles
}

// untake gives back tiles that could not be written.
func (s *shard) untake(tiles []tile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tiles = append(tiles, s.tiles...)
}

func (s *shard) length() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tree.size
}

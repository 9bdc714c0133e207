package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// A Head is a log's size and root at some moment, remembered elsewhere.
type Head struct {
	Size int64     `json:"size"`
	Root tlog.Hash `json:"root"`
}

const restoreHint = "(hint: restore the audit directory and the catalog from one backup, or run `chancery audit verify` to see what is missing)"

// look reads the shard as it stands and changes nothing. It refuses a log that
// is shorter than, or different from, remembered or its own checkpoint. What it
// leaves is ready to settle.
func (s *shard) look(remembered Head) error {
	published, err := s.checkpoint()
	if err != nil {
		return err
	}
	if hasPack(s.dir) {
		return s.loadPack(Head{published.Size, published.Root}, remembered)
	}
	if err := s.list(); err != nil {
		return err
	}
	s.remembered = remembered.Size
	if len(s.journals) == 0 {
		if remembered.Size > 0 || published.Size > 0 {
			return inconsistent(s.origin, "its journals are gone; it had %d entries %s",
				max(remembered.Size, published.Size), restoreHint)
		}
		return nil
	}
	start, err := s.fromTiles(published, remembered)
	s.unfit = err
	if err == nil && start.size > 0 {
		// The short way: from the checkpoint's tiles on. Whatever is wrong, the
		// long way tells better.
		if err := s.replay(start, published, remembered); err == nil {
			s.signed = published.Size
			return nil
		}
	}
	return s.replay(tree{}, published, remembered)
}

// settle makes the shard that look has read ready to write: it removes what was
// never finished, makes the first journal of a log that has none, and cuts a
// torn tail that was never acknowledged.
func (s *shard) settle(base string) (repair, error) {
	if err := makeDir(base, s.dir); err != nil {
		return repair{}, fmt.Errorf("making the log's directory: %w", err)
	}
	if s.packed {
		return repair{}, nil
	}
	if len(s.journals) == 0 {
		return repair{}, s.grow()
	}
	for n := range 2 { // a crash leaves the last one's second name, or the next one's first
		if err := removeIfThere(journalPath(s.dir, len(s.journals)+n) + newSuffix); err != nil {
			return repair{}, fmt.Errorf("removing a journal that was never finished: %w", err)
		}
	}
	return s.cut()
}

// list finds the journals and checks that none is missing, foreign or cut.
func (s *shard) list() error {
	numbers, err := listJournals(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listing the journals: %w", err)
	}
	s.journals = s.journals[:0]
	for i, n := range numbers {
		if n != i+1 {
			return inconsistent(s.origin, "journal-%d is missing %s", i+1, restoreHint)
		}
		j := journal{path: journalPath(s.dir, n)}
		if j.header, err = readHeader(j.path); err != nil {
			return inconsistent(s.origin, "%s: %v", j.path, err)
		}
		if j.info, err = os.Stat(j.path); err != nil {
			return fmt.Errorf("opening the log: %w", err)
		}
		if err := j.stands(s.origin); err != nil {
			return err
		}
		if j.origin != s.origin {
			return inconsistent(s.origin, "%s belongs to %s "+
				"(hint: a log's name holds the node and the public host: put them back as they were, or use another directory)", j.path, j.origin)
		}
		if i == 0 && j.first != 0 || i > 0 && j.first < s.journals[i-1].first {
			return inconsistent(s.origin, "%s begins with entry %d", j.path, j.first)
		}
		s.journals = append(s.journals, j)
	}
	return nil
}

// checkpoint returns the published checkpoint, or a zero one if there is none
// that can be read: it is derived, and the memory stands for it.
func (s *shard) checkpoint() (Checkpoint, error) {
	b, err := readPlain(filepath.Join(s.dir, checkpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Checkpoint{}, nil
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading the checkpoint: %w", err)
	}
	c, by, err := signers(b)
	if err != nil {
		return Checkpoint{}, nil
	}
	s.asked = by
	if c.Origin != s.origin {
		return Checkpoint{}, inconsistent(s.origin, "its checkpoint is of %s", c.Origin)
	}
	return c, nil
}

// mostTilesChecked is the size in entries of the longest log whose full tiles are
// looked at when it is opened, which takes some tenths of a second then.
const mostTilesChecked = 1 << 20

// fromTiles returns the tree at the checkpoint, from its tiles. The memory has
// to be at or behind a point that replay passes.
func (s *shard) fromTiles(c Checkpoint, remembered Head) (tree, error) {
	if c.Size == 0 || remembered.Size > 0 && remembered.Size < c.Size {
		return tree{}, nil
	}
	read := func(level int, n int64, width int) (tile, error) { return readTile(s.dir, level, n, width) }
	t, err := restoreTree(c.Size, read)
	if err != nil {
		return tree{}, err
	}
	if t.root() != c.Root || remembered.Size == c.Size && remembered.Root != c.Root ||
		c.Size <= mostTilesChecked && !t.fits(read) {
		return tree{}, errors.New("its tiles do not fit its checkpoint")
	}
	return t, nil
}

// readTile reads a tile, or the beginning of the wider one that replaced it.
func readTile(dir string, level int, n int64, width int) (tile, error) {
	b, err := readPlain(filepath.Join(dir, tilePath(level, n, width)))
	if errors.Is(err, fs.ErrNotExist) && width < tileWidth {
		b, err = readPlain(filepath.Join(dir, tilePath(level, n, tileWidth)))
	}
	if err != nil {
		return tile{}, err
	}
	return parseTile(b, level, n, width)
}

// replay reads the journals from the tree start on and, if all is well, leaves
// the shard ready to settle.
func (s *shard) replay(start tree, published Checkpoint, remembered Head) (err error) {
	p := pass{
		shard: s, tree: start.clone(), start: start.size, hasher: newLeafHasher(),
		heads: []Head{{published.Size, published.Root}, remembered},
	}
	k := len(s.journals) - 1
	for k > 0 && s.journals[k].first >= max(start.size, 1) {
		k-- // to the one that holds the last entry of the tree, for its time
	}
	for ; k < len(s.journals)-1; k++ {
		if err := p.whole(s.journals[k], s.journals[k+1].first); err != nil {
			return err
		}
	}
	j := s.journals[k]
	f, err := s.disk.Open(j.path)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	s.file = f
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	base := p.tree.clone()
	sc := newScanner(f, headerSize)
	if err := p.read(sc, j.first, -1); err != nil {
		return err
	}
	if err := p.tail(sc); err != nil {
		return err
	}
	if err := p.reached(); err != nil {
		return err
	}
	if s.last, err = p.lastTime(); err != nil {
		return err
	}
	s.base, s.off, s.mark, s.full = base, sc.off, p.lastHead, false
	s.tree, s.tiles = p.tree, p.tiles
	return nil
}

// A pass reads journals in order into a tree.
type pass struct {
	shard  *shard
	tree   tree
	start  int64 // entries below it are in tree already
	hasher leafHasher
	tiles  []tile // full ones that are not on disk
	heads  []Head // points that have to fit when they are passed
	next   int64  // index after the last record read

	lastHead  []byte // of the last record of the last journal read
	lastEntry []byte
}

// whole reads a journal that is followed by another, beginning with entry next.
func (p *pass) whole(j journal, next int64) error {
	f, err := openPlain(j.path)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer f.Close() // read only
	sc := newScanner(f, headerSize)
	if err := p.read(sc, j.first, next); err != nil {
		return err
	}
	if p.next < next {
		return inconsistent(p.shard.origin, "%s ends before entry %d, with which the next begins", j.path, next)
	}
	return nil
}

// read takes the records from sc, the first of which has index first, up to
// below index limit (-1: as far as there are any).
func (p *pass) read(sc *scanner, first, limit int64) error {
	p.lastHead = p.lastHead[:0]
	for p.next = first; limit < 0 || p.next < limit; p.next++ {
		r, err := sc.next()
		if _, damaged := errors.AsType[damage](err); err == errEnd || damaged {
			return nil
		}
		if err != nil {
			return err
		}
		if r.index != p.next {
			return inconsistent(p.shard.origin, "entry %d stands where %d has to", r.index, p.next)
		}
		if err := p.take(r); err != nil {
			return err
		}
	}
	return nil
}

func (p *pass) take(r record) error {
	leaf := p.hasher.sum(r.entry)
	if r.index < p.start {
		edge := p.start % tileWidth
		if i := r.index - (p.start - edge); i >= 0 && p.tree.size == p.start && p.tree.levels[0][i] != leaf {
			return inconsistent(p.shard.origin, "entry %d is not the one in the tree", r.index)
		}
	} else {
		for _, t := range p.tree.add(leaf, nil) {
			if !t.onDisk(p.shard.dir) {
				p.tiles = append(p.tiles, t)
			}
		}
		for _, h := range p.heads {
			if h.Size == p.tree.size && h.Root != p.tree.root() {
				return inconsistent(p.shard.origin, "its first %d entries are not the ones remembered %s", h.Size, restoreHint)
			}
		}
	}
	p.lastHead = append(p.lastHead[:0], r.head...)
	p.lastEntry = append(p.lastEntry[:0], r.entry...)
	return nil
}

// tail looks at what follows the last record that can be read. It may be cut if
// no record behind it says that it was acknowledged.
func (p *pass) tail(sc *scanner) error {
	clean, err := sc.restIsZero()
	if err != nil || clean {
		return err
	}
	behind := newScanner(sc.src, sc.off)
	for {
		r, err := behind.resync(p.tree.size)
		if err == errEnd {
			return nil
		}
		if err != nil {
			return err
		}
		if r.durable > p.tree.size {
			return inconsistent(p.shard.origin, "entry %d cannot be read and had been acknowledged: entry %d says so %s",
				p.tree.size, r.index, restoreHint)
		}
		behind.pos++
		behind.off++
	}
}

// reached returns an error unless every remembered point was passed.
func (p *pass) reached() error {
	if p.next < p.start {
		return inconsistent(p.shard.origin, "it has %d entries and had %d %s", p.next, p.start, restoreHint)
	}
	for _, h := range p.heads {
		if h.Size > p.tree.size {
			return inconsistent(p.shard.origin, "it has %d entries and had %d %s", p.tree.size, h.Size, restoreHint)
		}
	}
	return nil
}

func (p *pass) lastTime() (time.Time, error) {
	if len(p.lastEntry) == 0 {
		return time.Time{}, nil
	}
	e, err := ParseEntry(p.lastEntry)
	if err != nil {
		return time.Time{}, inconsistent(p.shard.origin, "its last entry: %v", err)
	}
	return e.Time, nil
}

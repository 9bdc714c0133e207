package audit

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/klauspost/compress/zstd"
)

// A packWriter writes a pack, in the order of the entries.
type packWriter struct {
	f      *os.File
	zip    *zstd.Encoder
	header packHeader // entries and index as far as it has come
	lines  []byte     // the entries of the frame that is being filled
	first  int64      // index of the first of them
	places []packPlace
	out    []byte // for use again
}

// newPackWriter begins a pack in f, which is empty.
func newPackWriter(f *os.File, origin string) (*packWriter, error) {
	// The fastest level is also the smallest here: what does not repeat in entries
	// is random. Its own checksum would be a third over the same bytes.
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	return &packWriter{f: f, zip: zip, header: packHeader{index: packHeaderSize, origin: origin}}, nil
}

// add appends an entry. It reports whether that completed a frame.
func (w *packWriter) add(entry []byte) (framed bool, err error) {
	if len(entry) == 0 || len(entry) > MaxEntry || bytes.IndexByte(entry, '\n') >= 0 {
		return false, fmt.Errorf("entry %d is no line", w.header.entries)
	}
	w.lines = append(append(w.lines, entry...), '\n')
	w.header.entries++
	if w.header.entries-w.first < mostFrameEntries && len(w.lines) < mostFrameContent {
		return false, nil
	}
	return true, w.flush()
}

// flush writes the frame that is being filled.
func (w *packWriter) flush() error {
	if len(w.lines) == 0 {
		return nil
	}
	w.out = append(w.out[:0], make([]byte, packMarkSize)...)
	w.out = w.zip.EncodeAll(w.lines, w.out)
	frame := w.out[packMarkSize:]
	packMark{
		sum: crc32.Checksum(frame, castagnoli()), first: w.first, entries: uint32(w.header.entries - w.first),
		frame: uint32(len(frame)), content: uint32(len(w.lines)),
	}.append(w.out[:0])
	if _, err := w.f.WriteAt(w.out, w.header.index); err != nil {
		return err
	}
	w.places = append(w.places, packPlace{w.first, w.header.index})
	w.header.index += int64(len(w.out))
	w.first, w.lines = w.header.entries, w.lines[:0]
	return nil
}

// finish completes the pack and returns when it is on stable storage.
func (w *packWriter) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	index := appendPackIndex(nil, w.places)
	w.header.size = w.header.index + int64(len(index))
	if _, err := w.f.WriteAt(index, w.header.index); err != nil {
		return err
	}
	if _, err := w.f.WriteAt(w.header.encode(), 0); err != nil {
		return err
	}
	return w.f.Sync()
}

func (w *packWriter) close() error { return w.zip.Close() }

// packJournals writes the entries of the journals in dir into a pack at path,
// and returns when it is on stable storage. rest is called after each frame and
// ends it with its error. What an attempt before left at path is replaced.
func packJournals(dir, path, origin string, rest func() error) (err error) {
	if err := removeIfThere(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, removeIfThere(path))
		}
	}()
	w, err := newPackWriter(f, origin)
	if err != nil {
		return err
	}
	defer w.close()
	for at, err := range journalRecords(dir, 0) {
		if err != nil {
			return err
		}
		framed, err := w.add(at.entry)
		if err == nil && framed {
			err = rest()
		}
		if err != nil {
			return err
		}
	}
	if err := w.finish(); err != nil {
		return err
	}
	return forget(f) // so that what is read next comes from the device
}

// errNotSealed: the entries of a pack are not those of the month's seal.
var errNotSealed = errors.New("its entries are not those of the month")

// checkPack reads the pack at path from the first entry to the last. It returns
// an error unless these are the entries of the month that was sealed with this
// origin, size and root; it wraps errNotSealed or is a damage if the pack is to
// blame.
func checkPack(path, origin string, sealed Head, rest func() error) error {
	p, err := openPack(path)
	if err != nil {
		return err
	}
	defer p.close()
	if p.damaged != nil {
		return p.damaged
	}
	t, hasher, last := tree{}, newLeafHasher(), p.off
	for {
		r, err := p.read()
		if err == errEnd {
			err = p.indexFits()
			if err == nil {
				break
			}
		}
		if err != nil {
			return err
		}
		t.add(hasher.sum(r.entry), nil)
		if p.off != last {
			last = p.off
			if err := rest(); err != nil {
				return err
			}
		}
	}
	if p.origin != origin || t.size != sealed.Size || t.root() != sealed.Root {
		return fmt.Errorf("%w: %d entries of %s, root %s", errNotSealed, t.size, p.origin, t.root())
	}
	return nil
}

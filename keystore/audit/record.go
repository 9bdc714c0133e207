package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	magic        = "CHANJRN1"
	headerSize   = 512
	recordHead   = 24
	maxOrigin    = headerSize - 34
	largestBatch = 1 << 20 // the most one group writes at once, about
)

// castagnoli is made at its first use, which no worker process has.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// A header is the beginning of a journal.
type header struct {
	size   int64 // of the file
	first  int64 // index of the first entry
	origin string
}

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.BigEndian.PutUint64(b[16:], uint64(h.size))
	binary.BigEndian.PutUint64(b[24:], uint64(h.first))
	binary.BigEndian.PutUint16(b[32:], uint16(len(h.origin)))
	copy(b[34:], h.origin)
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli()))
	return b
}

// parseHeader reads the first headerSize bytes of a journal.
func parseHeader(b []byte) (header, error) {
	if len(b) < headerSize || string(b[:8]) != magic {
		return header{}, errors.New("not a journal")
	}
	h := header{
		size:  int64(binary.BigEndian.Uint64(b[16:])),
		first: int64(binary.BigEndian.Uint64(b[24:])),
	}
	n := int(binary.BigEndian.Uint16(b[32:]))
	if n > maxOrigin || h.size < headerSize || h.first < 0 {
		return header{}, errors.New("journal header out of range")
	}
	h.origin = string(b[34 : 34+n])
	if !bytes.Equal(h.encode(), b[:headerSize]) {
		return header{}, errors.New("journal header does not fit its checksum")
	}
	return h, nil
}

// A record is one entry in a journal. Its entry belongs to whoever read it, and
// is good until the next is read.
type record struct {
	index   int64
	durable int64
	head    []byte
	entry   []byte
}

var (
	errEnd   = errors.New("end of records")   // zeros, or the end of the file
	errShort = errors.New("record cut short") // more bytes are needed to tell
)

// A damage says why bytes are no record.
type damage string

func (d damage) Error() string { return string(d) }

// startRecord appends the head of a record to b; the entry is appended after
// it, and sealRecord completes the head.
func startRecord(b []byte, index, durable int64) []byte {
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(index))
	return binary.BigEndian.AppendUint64(b, uint64(durable))
}

// sealRecord fills in the length and checksum of the record that is all of b.
func sealRecord(b []byte) {
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-recordHead))
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli()))
}

// parseRecord reads the record at the beginning of b and returns its length. It
// returns errEnd where a record would begin with zeros, errShort if b is too
// short to tell, and another error for what is not a record.
func parseRecord(b []byte) (record, int, error) {
	if len(b) < recordHead {
		return record{}, 0, errShort
	}
	n := int(binary.BigEndian.Uint32(b[4:]))
	r := record{
		index:   int64(binary.BigEndian.Uint64(b[8:])),
		durable: int64(binary.BigEndian.Uint64(b[16:])),
	}
	if n == 0 && binary.BigEndian.Uint32(b) == 0 && r.index == 0 && r.durable == 0 {
		return record{}, 0, errEnd
	}
	if n == 0 || n > MaxEntry || r.index < 0 || r.durable < 0 || r.durable > r.index {
		return record{}, 0, damage("record head out of range")
	}
	if len(b) < recordHead+n {
		return record{}, 0, errShort
	}
	n += recordHead
	if crc32.Checksum(b[4:n], castagnoli()) != binary.BigEndian.Uint32(b) {
		return record{}, 0, damage("record does not fit its checksum")
	}
	r.head, r.entry = b[:recordHead], b[recordHead:n]
	return r, n, nil
}

// A scanner reads the records of one journal in order.
type scanner struct {
	src  io.ReaderAt
	off  int64  // of what next reads
	buf  []byte // holds the bytes of src from off-pos on
	pos  int
	eof  bool // src ends with buf
	fill int  // how much to read at once
}

func newScanner(src io.ReaderAt, off int64) *scanner {
	return &scanner{src: src, off: off, fill: 256 << 10}
}

// next returns the record at off and goes beyond it. It returns errEnd at the
// end; any other error leaves the scanner where it is: see resync.
func (s *scanner) next() (record, error) {
	r, n, err := parseRecord(s.buf[s.pos:])
	if err == errShort && !s.eof {
		if err := s.more(); err != nil {
			return record{}, err
		}
		r, n, err = parseRecord(s.buf[s.pos:])
	}
	if err == errShort && len(bytes.Trim(s.buf[s.pos:], "\x00")) == 0 {
		err = errEnd // fewer zeros than a record's head are no record
	}
	if err == errShort {
		err = damage("record cut short")
	}
	if err != nil {
		return record{}, err
	}
	s.pos += n
	s.off += int64(n)
	return r, nil
}

// more drops what was read and reads on, so that the longest record fits.
func (s *scanner) more() error {
	if cap(s.buf) == 0 {
		s.buf = make([]byte, 0, s.fill)
	}
	n := copy(s.buf[:cap(s.buf)], s.buf[s.pos:])
	s.pos = 0
	got, err := s.src.ReadAt(s.buf[n:cap(s.buf)], s.off+int64(n))
	s.buf = s.buf[:n+got]
	if err == io.EOF {
		s.eof = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	return nil
}

// again forgets what was read ahead, for a file that is being written.
func (s *scanner) again() { s.buf, s.pos, s.eof = s.buf[:0], 0, false }

// restIsZero reports whether nothing but zeros follows.
func (s *scanner) restIsZero() (bool, error) {
	at := *s
	at.buf = nil
	at.again()
	for !at.eof {
		at.pos = len(at.buf)
		if err := at.more(); err != nil {
			return false, err
		}
		at.off += int64(len(at.buf))
		if len(bytes.Trim(at.buf, "\x00")) != 0 {
			return false, nil
		}
	}
	return true, nil
}

// resync goes to the next place where a record stands whose index is not below
// least, and returns that record without going beyond it; errEnd if there is
// none. It reads byte by byte: an index far beyond least is none of ours.
func (s *scanner) resync(least int64) (record, error) {
	const farthest = 1 << 32
	for {
		if len(s.buf)-s.pos < recordHead+MaxEntry && !s.eof {
			if err := s.more(); err != nil {
				return record{}, err
			}
		}
		if len(s.buf)-s.pos < recordHead {
			return record{}, errEnd
		}
		r, _, err := parseRecord(s.buf[s.pos:])
		if err == nil && r.index >= least && r.index-least < farthest {
			return r, nil
		}
		s.pos++
		s.off++
	}
}

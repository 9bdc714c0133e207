package audit

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// The format of a pack is drawn in the package comment.
const (
	packName       = "pack"
	packMagic      = "CHANPAK1"
	packHeaderSize = 1024
	packMarkSize   = 40
	packOriginAt   = 50

	// Frames of a skippable kind (RFC 8878 Section 3.1.2), which a zstd tool
	// passes over.
	skipHeader = 0x184d2a50
	skipMark   = 0x184d2a51
	skipIndex  = 0x184d2a52

	mostFrameEntries = 4096
	mostFrameContent = 2 << 20 // of entries and line ends, before the last entry is added
)

// A packHeader is the beginning of a pack.
type packHeader struct {
	size    int64 // of the file
	entries int64
	index   int64 // where the index begins, and the frames end
	origin  string
}

func skippable(b []byte, kind uint32, payload int) []byte {
	b = binary.LittleEndian.AppendUint32(b, kind)
	return binary.LittleEndian.AppendUint32(b, uint32(payload))
}

func (h packHeader) encode() []byte {
	b := make([]byte, packHeaderSize)
	skippable(b[:0], skipHeader, packHeaderSize-8)
	copy(b[8:], packMagic)
	binary.BigEndian.PutUint64(b[24:], uint64(h.size))
	binary.BigEndian.PutUint64(b[32:], uint64(h.entries))
	binary.BigEndian.PutUint64(b[40:], uint64(h.index))
	binary.BigEndian.PutUint16(b[48:], uint16(len(h.origin)))
	copy(b[packOriginAt:], h.origin)
	binary.BigEndian.PutUint32(b[16:], crc32.Checksum(b[20:], castagnoli()))
	return b
}

// parsePackHeader reads the first packHeaderSize bytes of a pack.
func parsePackHeader(b []byte) (packHeader, error) {
	if len(b) < packHeaderSize || string(b[8:16]) != packMagic {
		return packHeader{}, damage("not a pack")
	}
	h := packHeader{
		size:    int64(binary.BigEndian.Uint64(b[24:])),
		entries: int64(binary.BigEndian.Uint64(b[32:])),
		index:   int64(binary.BigEndian.Uint64(b[40:])),
	}
	n := int(binary.BigEndian.Uint16(b[48:]))
	if n > maxOrigin || h.entries < 0 || h.index < packHeaderSize || h.size < h.index {
		return packHeader{}, damage("pack header out of range")
	}
	h.origin = string(b[packOriginAt : packOriginAt+n])
	if !bytes.Equal(h.encode(), b[:packHeaderSize]) {
		return packHeader{}, damage("pack header does not fit its checksum")
	}
	return h, nil
}

// A packMark stands before each frame of a pack.
type packMark struct {
	sum     uint32 // of the frame
	first   int64  // index of its first entry
	entries uint32
	frame   uint32 // its length in bytes
	content uint32 // its length in bytes without compression
}

func (m packMark) append(b []byte) []byte {
	start := len(b)
	b = skippable(b, skipMark, packMarkSize-8)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, m.sum)
	b = binary.BigEndian.AppendUint64(b, uint64(m.first))
	b = binary.BigEndian.AppendUint32(b, m.entries)
	b = binary.BigEndian.AppendUint32(b, m.frame)
	b = binary.BigEndian.AppendUint32(b, m.content)
	b = append(b, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[start+8:], crc32.Checksum(b[start+12:], castagnoli()))
	return b
}

func parsePackMark(b []byte) (packMark, error) {
	if len(b) < packMarkSize {
		return packMark{}, damage("no mark of a frame")
	}
	m := packMark{
		sum:     binary.BigEndian.Uint32(b[12:]),
		first:   int64(binary.BigEndian.Uint64(b[16:])),
		entries: binary.BigEndian.Uint32(b[24:]),
		frame:   binary.BigEndian.Uint32(b[28:]),
		content: binary.BigEndian.Uint32(b[32:]),
	}
	const mostContent = mostFrameContent + MaxEntry + 1
	if !bytes.Equal(m.append(nil), b[:packMarkSize]) || m.first < 0 || m.entries == 0 || m.entries > mostFrameEntries ||
		m.content > mostContent || m.frame > 2*mostContent {
		return packMark{}, damage("no mark of a frame")
	}
	return m, nil
}

// A lost says that entries of a pack cannot be read, and why. If to is below
// from, it is only what stands between two frames.
type lost struct {
	from, to int64
	why      error
}

func (l lost) Error() string {
	switch {
	case l.to < l.from:
		return fmt.Sprintf("what stands before entry %d is no frame: %v", l.from, l.why)
	case l.to == l.from:
		return fmt.Sprintf("entry %d cannot be read: %v", l.from, l.why)
	}
	return fmt.Sprintf("entries %d to %d cannot be read: %v", l.from, l.to, l.why)
}

func (l lost) Unwrap() error { return l.why }

// A pack is a packed month that is being read, from the first entry on.
type pack struct {
	packHeader
	damaged error // why the header is none; then the file's size is all that is known

	src     io.ReaderAt
	closer  io.Closer
	unzip   *zstd.Decoder
	off     int64       // of the mark that is read next
	next    int64       // index of the entry that is read next
	frame   []byte      // for use again
	whole   []byte      // the content of a frame, for use again
	content []byte      // what is left of it
	places  []packPlace // of the marks met so far
}

func packPath(dir string) string { return filepath.Join(dir, packName) }

// hasPack reports whether the log in dir is packed. Lifecycle never is.
func hasPack(dir string) bool { return filepath.Base(dir) != lifecycleName && exists(packPath(dir)) }

// openPack opens the pack at path.
func openPack(path string) (*pack, error) {
	f, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	p, err := newPack(f, info.Size())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	p.closer = f
	return p, nil
}

// newPack returns the pack that src holds in size bytes. A damaged header is no
// error, but told in damaged.
func newPack(src io.ReaderAt, size int64) (*pack, error) {
	b := make([]byte, packHeaderSize)
	if _, err := src.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	p := &pack{src: src, off: packHeaderSize}
	p.packHeader, p.damaged = parsePackHeader(b)
	if p.damaged == nil && p.size != size {
		p.damaged = damage(fmt.Sprintf("%d bytes, was made with %d", size, p.size))
	}
	if p.damaged != nil {
		p.size, p.index, p.entries = size, size, 0
	}
	var err error
	p.unzip, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(2*mostFrameContent), zstd.WithDecodeAllCapLimit(true))
	return p, err
}

func (p *pack) close() {
	p.unzip.Close()
	if p.closer != nil {
		_ = p.closer.Close() // read only
	}
}

// read returns the next entry, errEnd after the last, or a lost for entries that
// cannot be read, after which it goes on behind them.
func (p *pack) read() (record, error) {
	if len(p.content) == 0 {
		if err := p.readFrame(); err != nil {
			return record{}, err
		}
	}
	n := bytes.IndexByte(p.content, '\n')
	r := record{index: p.next, durable: p.next, entry: p.content[:n:n]}
	p.content = p.content[n+1:]
	p.next++
	return r, nil
}

func (p *pack) readFrame() error {
	if p.off >= p.index {
		return p.ended()
	}
	m, err := p.mark(p.off)
	if err == nil && m.first != p.next {
		err = damage(fmt.Sprintf("a frame begins with entry %d there", m.first))
	}
	if err != nil {
		return p.skip(err)
	}
	p.places = append(p.places, packPlace{m.first, p.off})
	p.content, err = p.unpack(m)
	p.off += packMarkSize + int64(m.frame)
	if err != nil {
		p.next = m.first + int64(m.entries)
		return lost{m.first, p.next - 1, err}
	}
	return nil
}

// ended returns errEnd, or a lost for what the header promises beyond.
func (p *pack) ended() error {
	if p.next >= p.entries {
		return errEnd
	}
	from := p.next
	p.next = p.entries
	return lost{from, p.entries - 1, damage("the pack ends before")}
}

func (p *pack) mark(off int64) (packMark, error) {
	var b [packMarkSize]byte
	if _, err := p.src.ReadAt(b[:], off); err != nil && err != io.EOF {
		return packMark{}, err
	}
	return parsePackMark(b[:])
}

// unpack returns the entries of the frame behind the mark at off, a line each.
func (p *pack) unpack(m packMark) ([]byte, error) {
	p.frame = slices.Grow(p.frame[:0], int(m.frame))[:m.frame]
	if _, err := p.src.ReadAt(p.frame, p.off+packMarkSize); err == io.EOF {
		return nil, damage("the file ends in its frame")
	} else if err != nil {
		return nil, err
	}
	if crc32.Checksum(p.frame, castagnoli()) != m.sum {
		return nil, damage("its frame does not fit its checksum")
	}
	p.whole = slices.Grow(p.whole[:0], int(m.content))[:0]
	content, err := p.unzip.DecodeAll(p.frame, p.whole[:0:m.content])
	if err != nil || len(content) != int(m.content) || !areLines(content, int(m.entries)) {
		return nil, damage("its frame does not hold what its mark says")
	}
	return content, nil
}

// areLines reports whether b is n lines that can be entries.
func areLines(b []byte, n int) bool {
	for ; len(b) > 0; n-- {
		length := bytes.IndexByte(b, '\n')
		if length < 1 || length > MaxEntry {
			return false
		}
		b = b[length+1:]
	}
	return n == 0
}

// skip goes to the next mark of a frame with entries not yet met.
func (p *pack) skip(why error) error {
	from := p.next
	at, m, err := p.find(p.off)
	switch {
	case err == errEnd && p.atIndex():
		p.off = p.index
		return errEnd
	case err == errEnd:
		p.off, p.next = p.index, max(p.entries, from+1) // without a header nothing says how many
	case err != nil:
		return err
	default:
		p.off, p.next = at, m.first
	}
	return lost{from, p.next - 1, why}
}

// atIndex reports whether the index stands at off, which only a sound header
// says otherwise.
func (p *pack) atIndex() bool {
	var b [4]byte
	_, err := p.src.ReadAt(b[:], p.off)
	return err == nil && p.damaged != nil && binary.LittleEndian.Uint32(b[:]) == skipIndex
}

// find returns the first mark at or behind off whose frame begins with next or a
// later entry. An index far beyond next is none of ours.
func (p *pack) find(off int64) (int64, packMark, error) {
	const farthest = 1 << 32
	lead := skippable(nil, skipMark, packMarkSize-8)
	chunk := make([]byte, 64<<10)
	for off < p.index {
		n, err := p.src.ReadAt(chunk, off)
		if err != nil && err != io.EOF {
			return 0, packMark{}, err
		}
		for at := 0; ; at++ {
			i := bytes.Index(chunk[at:n], lead)
			if i < 0 {
				break
			}
			at += i
			m, err := p.mark(off + int64(at))
			if err == nil && m.first >= p.next && m.first-p.next < farthest {
				return off + int64(at), m, nil
			}
		}
		off += int64(max(n-len(lead)+1, 1))
	}
	return 0, packMark{}, errEnd
}

// seek goes to the first entry of the frame in which the entry with that index
// stands, or to the end.
func (p *pack) seek(index int64) error {
	if index <= 0 || p.damaged != nil {
		return nil
	}
	if index >= p.entries {
		p.off, p.next = p.index, p.entries
		return nil
	}
	at, err := p.place(index)
	if err != nil {
		return err
	}
	// The mark vouches for the index. Where they differ the way goes from mark to
	// mark, and reading tells what is wrong.
	if m, err := p.mark(at.off); err == nil && m.first == at.first && m.first <= index {
		p.off, p.next = at.off, at.first
	}
	for {
		m, err := p.mark(p.off)
		if err != nil || m.first != p.next || index < m.first+int64(m.entries) {
			return nil
		}
		p.off, p.next = p.off+packMarkSize+int64(m.frame), m.first+int64(m.entries)
	}
}

// A packPlace is a line of a pack's index: where the mark of a frame stands.
type packPlace struct{ first, off int64 }

const packPlaceSize = 16

func appendPackIndex(b []byte, places []packPlace) []byte {
	b = skippable(b, skipIndex, packPlaceSize*len(places))
	for _, at := range places {
		b = binary.BigEndian.AppendUint64(b, uint64(at.first))
		b = binary.BigEndian.AppendUint64(b, uint64(at.off))
	}
	return b
}

// indexFits returns an error unless the index tells of the marks that were met,
// which are all if reading began at the beginning.
func (p *pack) indexFits() error {
	want := appendPackIndex(nil, p.places)
	if p.size-p.index != int64(len(want)) {
		return damage("its index has not as many lines as there are frames")
	}
	have := make([]byte, len(want))
	if _, err := p.src.ReadAt(have, p.index); err != nil && err != io.EOF {
		return err
	}
	if !bytes.Equal(have, want) {
		return damage("its index does not tell where its frames are")
	}
	return nil
}

// place returns the last line of the index that is not beyond the entry with
// that index.
func (p *pack) place(index int64) (packPlace, error) {
	lines := int((p.size - p.index - 8) / packPlaceSize)
	var b [packPlaceSize]byte
	var failed error
	read := func(i int) (at packPlace) {
		if _, err := p.src.ReadAt(b[:], p.index+8+int64(i)*packPlaceSize); err != nil && err != io.EOF {
			failed = err
		}
		return packPlace{int64(binary.BigEndian.Uint64(b[:])), int64(binary.BigEndian.Uint64(b[8:]))}
	}
	i := sort.Search(lines, func(i int) bool { return read(i).first > index })
	if failed != nil || i == 0 {
		return packPlace{off: packHeaderSize}, failed
	}
	return read(i - 1), failed
}

// packRecords yields the records of the packed log in dir, beginning with the
// first of the frame in which the record with index from stands. It ends with
// the first that cannot be read.
func packRecords(dir string, from int64) iter.Seq2[located, error] {
	return func(yield func(located, error) bool) {
		fail := func(err error) { yield(located{}, fmt.Errorf("%s: %w", packPath(dir), err)) }
		p, err := openPack(packPath(dir))
		if err != nil {
			fail(err)
			return
		}
		defer p.close()
		if err := cmp.Or(p.damaged, p.seek(from)); err != nil {
			fail(fmt.Errorf("%w: %w", ErrDamaged, err))
			return
		}
		for {
			r, err := p.read()
			if err == errEnd {
				return
			}
			if err != nil {
				fail(fmt.Errorf("%w: %w", ErrDamaged, err))
				return
			}
			if !yield(located{p.origin, r}, nil) {
				return
			}
		}
	}
}

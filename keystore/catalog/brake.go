package catalog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"chancery/keystore"
)

// A Brake stops keys when nothing else can be written: it keeps suspensions in
// a file of fixed size that was written once in full, so that using it takes no
// space and touches neither database nor log.
//
// The file is 64 KiB: two slots of 32 KiB, each holding a whole list of
// suspensions. A change goes to the slot that is not the newest, is synced, and
// then goes to the other: a torn write leaves the list before it, and at rest
// both hold the newest, so that losing either loses nothing.
//
//	slot    offset 0   "CHBRAKE1"
//	             8     sequence, 8 bytes big-endian; the greater is newer
//	            16     length of the list, 4 bytes big-endian
//	            20     CRC-32C of bytes 0 to 19 and the list, 4 bytes big-endian
//	            24     the list: JSON object, KID → {"at", "by", "reason"},
//	                   in the one spelling encoding/json gives it
//
// All methods may be called concurrently. Only Put, Remove and Close wait for
// the disk.
type Brake struct {
	path string

	mu   sync.Mutex // guards held
	held map[keystore.KID]keystore.Fact

	io       sync.Mutex // guards what follows; held while the disk is waited for
	file     brakeFile
	info     fs.FileInfo
	sequence uint64
	newest   int                            // the slot that holds sequence
	kept     map[keystore.KID]keystore.Fact // what both slots hold; nil when that is not certain
}

type brakeFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

const (
	brakeMagic    = "CHBRAKE1"
	brakeSlot     = 32 << 10
	brakeSize     = 2 * brakeSlot
	brakeHeader   = 24
	brakeTextMost = 256 // bytes kept of a name or reason
)

// OpenBrake opens the file, making and filling it, mode 0600, if there is none.
// It returns an error wrapping ErrDamaged if neither slot is whole, because a
// suspension may stand in it that nothing else knows.
func OpenBrake(path string) (*Brake, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createBrake(path); err != nil {
			return nil, fmt.Errorf("making the brake %s: %w: %w", path, keystore.ErrUnavailable, err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the brake: %w: %w", keystore.ErrUnavailable, err)
	}
	b := &Brake{path: path, file: f}
	if b.info, err = f.Stat(); err == nil {
		err = b.load()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the brake %s: %w", path, err), f.Close())
	}
	return b, nil
}

func createBrake(path string) (err error) {
	building := path + ".new"
	f, err := os.OpenFile(building, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	whole := make([]byte, 0, brakeSize)
	for range 2 {
		slot, err := encodeSlot(1, nil)
		if err != nil {
			return errors.Join(err, f.Close())
		}
		whole = append(whole, slot...)
	}
	_, err = f.Write(whole)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(building, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func (b *Brake) load() error {
	whole := make([]byte, brakeSize)
	if _, err := b.file.ReadAt(whole, 0); err != nil || b.info.Size() != brakeSize {
		return fmt.Errorf("%w: it has %d bytes, not %d %s", ErrDamaged, b.info.Size(), brakeSize, brakeHint)
	}
	b.held = make(map[keystore.KID]keystore.Fact)
	found := 0
	for i := range 2 {
		sequence, facts, err := decodeSlot(whole[i*brakeSlot : (i+1)*brakeSlot])
		if err != nil {
			continue
		}
		found++
		if sequence > b.sequence {
			b.sequence, b.newest, b.held = sequence, i, facts
		}
	}
	if found == 0 {
		return fmt.Errorf("%w: neither of its slots is whole %s", ErrDamaged, brakeHint)
	}
	if bytes.Equal(whole[:brakeSlot], whole[brakeSlot:]) {
		b.kept = maps.Clone(b.held)
	}
	return nil
}

const brakeHint = "(hint: a suspension may have been lost; look at `chancery keys list`, move the file away, start, and suspend again what should be)"

// Suspended returns what is suspended by the brake, whether or not it could be
// kept. The map is the caller's.
func (b *Brake) Suspended() map[keystore.KID]keystore.Fact {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.held)
}

// Put suspends kid. It is in force when Put begins to wait for the disk; the
// error, if any, says that it would not survive a restart, and calling Put again
// tries again. In the file a name or reason is cut to 256 bytes.
func (b *Brake) Put(kid keystore.KID, fact keystore.Fact) error {
	if kid == "" || len(kid) > 64 || fact.At.IsZero() {
		return illegal("a suspension needs its key and time")
	}
	fact.At = fact.At.Round(0).UTC() // comparable
	b.hold(kid, fact)
	b.io.Lock()
	defer b.io.Unlock()
	// Once more: a Remove may have been on its way and come first.
	list := b.hold(kid, fact)
	if b.kept != nil && maps.Equal(list, b.kept) {
		return nil
	}
	return b.save(list)
}

// hold puts a suspension in force in memory and returns all there are.
func (b *Brake) hold(kid keystore.KID, fact keystore.Fact) map[keystore.KID]keystore.Fact {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[kid] = fact
	return maps.Clone(b.held)
}

// Remove lifts the suspension of kid. If that cannot be kept, nothing is lifted.
// Removing what is not there is no error.
func (b *Brake) Remove(kid keystore.KID) error {
	b.io.Lock()
	defer b.io.Unlock()
	list := b.Suspended()
	was, there := list[kid]
	if !there {
		return nil
	}
	delete(list, kid)
	if err := b.save(list); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held[kid] == was { // otherwise it was put again meanwhile, and is saved next
		delete(b.held, kid)
	}
	return nil
}

// save writes list to both slots, the older first. When the first is synced the
// list is safe. The caller holds b.io.
func (b *Brake) save(list map[keystore.KID]keystore.Fact) error {
	b.kept = nil
	now, err := os.Lstat(b.path)
	if err == nil && !os.SameFile(now, b.info) {
		err = errors.New("another file is in its place")
	}
	if err != nil {
		return fmt.Errorf("writing the brake: %w: %w", keystore.ErrUnavailable, err)
	}
	slot, err := encodeSlot(b.sequence+1, list)
	if err != nil {
		return err
	}
	if err := b.writeSlot(1-b.newest, slot); err != nil {
		return fmt.Errorf("writing the brake: %w: %w", keystore.ErrUnavailable, err)
	}
	b.sequence, b.newest = b.sequence+1, 1-b.newest
	if b.writeSlot(1-b.newest, slot) == nil { // the second copy; without it the next Put writes again
		b.kept = list
	}
	return nil
}

func (b *Brake) writeSlot(i int, slot []byte) error {
	if _, err := b.file.WriteAt(slot, int64(i)*brakeSlot); err != nil {
		return err
	}
	return b.file.Sync()
}

// Close closes the file. What is held in memory stays readable.
func (b *Brake) Close() error {
	b.io.Lock()
	defer b.io.Unlock()
	return b.file.Close()
}

// encodeSlot returns a whole slot. If the list is too long, it is written
// without names and reasons: which keys are suspended is what counts.
func encodeSlot(sequence uint64, list map[keystore.KID]keystore.Fact) ([]byte, error) {
	for _, most := range []int{brakeTextMost, 0} {
		short := make(map[keystore.KID]keystore.Fact, len(list))
		for kid, fact := range list {
			fact.At = fact.At.UTC()
			fact.By, fact.Reason = shorten(fact.By, most), shorten(fact.Reason, most)
			short[kid] = fact
		}
		text, err := json.Marshal(short)
		if err != nil {
			return nil, fmt.Errorf("encoding the brake: %w", err)
		}
		if brakeHeader+len(text) > brakeSlot {
			continue
		}
		slot := make([]byte, brakeSlot)
		copy(slot, brakeMagic)
		binary.BigEndian.PutUint64(slot[8:], sequence)
		binary.BigEndian.PutUint32(slot[16:], uint32(len(text)))
		copy(slot[brakeHeader:], text)
		binary.BigEndian.PutUint32(slot[20:], slotSum(slot, len(text)))
		return slot, nil
	}
	return nil, illegal("the brake holds no more than it does: %d suspensions do not fit", len(list))
}

func shorten(s string, most int) string {
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

func slotSum(slot []byte, length int) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(slot[:20], table), table, slot[brakeHeader:brakeHeader+length])
}

// decodeSlot reads what encodeSlot writes, in that spelling only.
func decodeSlot(slot []byte) (sequence uint64, list map[keystore.KID]keystore.Fact, err error) {
	if len(slot) != brakeSlot || string(slot[:8]) != brakeMagic {
		return 0, nil, errors.New("no slot of a brake")
	}
	length := binary.BigEndian.Uint32(slot[16:])
	if length > brakeSlot-brakeHeader {
		return 0, nil, errors.New("the list is longer than its slot")
	}
	if slotSum(slot, int(length)) != binary.BigEndian.Uint32(slot[20:]) {
		return 0, nil, errors.New("the slot does not fit its checksum")
	}
	sequence = binary.BigEndian.Uint64(slot[8:])
	if err := json.Unmarshal(slot[brakeHeader:brakeHeader+length], &list); err != nil {
		return 0, nil, fmt.Errorf("reading the list: %w", err)
	}
	again, err := encodeSlot(sequence, list)
	if err != nil || !bytes.Equal(again, slot) {
		return 0, nil, errors.New("the slot is spelled differently")
	}
	return sequence, list, nil
}

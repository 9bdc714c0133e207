package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"chancery/keystore"
)

// The file of the numbers, DIR/acts/uses, is slots of 128 bytes, so that none
// crosses a sector. The first is its head, the others are one for each kid that
// was ever used. Integers are big-endian, checksums CRC-32C of all that follows
// them in the slot, what is not named is zero.
//
//	head
//	 0  4  checksum
//	 4  8  magic "CHANUSE1"
//	16  8  index
//	24  7  month "2006-01", or zeros
//
//	slot
//	 0  4  checksum
//	 4  2  length of the kid, 1 to 64
//	 6  …  kid
//	72  8  last: the highest number taken
//	80  8  settled: every number up to it is closed
//
// The numbers that are entered in acts before index of month are all settled.
const (
	usesName  = "uses"
	usesMagic = "CHANUSE1"
	slotSize  = 128
)

// A useHead is up to where in acts the numbers are settled.
type useHead struct {
	month string // empty: nowhere
	index int64
}

// A useSlot is how far the numbers of one key are.
type useSlot struct {
	kid     keystore.KID
	last    int64
	settled int64
}

func sealSlot(b []byte) {
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:slotSize], castagnoli()))
}

func (h useHead) encode() []byte {
	b := make([]byte, slotSize)
	copy(b[4:], usesMagic)
	binary.BigEndian.PutUint64(b[16:], uint64(h.index))
	copy(b[24:31], h.month)
	sealSlot(b)
	return b
}

// put writes the slot into b, which has slotSize bytes, all zero.
func (s *useSlot) put(b []byte) {
	binary.BigEndian.PutUint16(b[4:], uint16(len(s.kid)))
	copy(b[6:6+limitName], s.kid)
	binary.BigEndian.PutUint64(b[72:], uint64(s.last))
	binary.BigEndian.PutUint64(b[80:], uint64(s.settled))
	sealSlot(b)
}

func parseUseHead(b []byte) (useHead, bool) {
	h := useHead{index: int64(binary.BigEndian.Uint64(b[16:])), month: string(bytes.TrimRight(b[24:31], "\x00"))}
	ok := h.index >= 0 && (h.month == "" && h.index == 0 || isMonth(h.month))
	return h, ok && bytes.Equal(b, h.encode())
}

func parseUseSlot(b []byte) (useSlot, bool) {
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n == 0 || n > limitName {
		return useSlot{}, false
	}
	s := useSlot{
		kid: keystore.KID(b[6 : 6+n]), last: int64(binary.BigEndian.Uint64(b[72:])), settled: int64(binary.BigEndian.Uint64(b[80:])),
	}
	again := make([]byte, slotSize)
	s.put(again)
	return s, s.settled >= 0 && s.settled <= s.last && s.last < maxUse && bytes.Equal(b, again)
}

// encodeUses returns the whole file.
func encodeUses(h useHead, slots []useSlot) []byte {
	b := append(h.encode(), make([]byte, len(slots)*slotSize)...)
	for i := range slots {
		slots[i].put(b[(i+1)*slotSize : (i+2)*slotSize])
	}
	return b
}

// parseUses reads what encodeUses wrote, and leaves out slots of zeros. Of a damaged file it returns an error
// and the slots that can be read still.
func parseUses(b []byte) (useHead, []useSlot, error) {
	if len(b) < slotSize {
		return useHead{}, nil, fmt.Errorf("%d bytes are no file of numbers", len(b))
	}
	h, sound := parseUseHead(b[:slotSize])
	sound = sound && len(b)%slotSize == 0
	var slots []useSlot
	seen := make(map[keystore.KID]bool)
	for b = b[slotSize:]; len(b) >= slotSize; b = b[slotSize:] {
		s, ok := parseUseSlot(b[:slotSize])
		if len(bytes.Trim(b[:slotSize], "\x00")) == 0 {
			continue // a power cut left its place and not what it holds
		}
		if !ok || seen[s.kid] {
			sound = false
			continue
		}
		seen[s.kid] = true
		slots = append(slots, s)
	}
	if !sound {
		return useHead{}, slots, errors.New("the file of numbers is damaged")
	}
	return h, slots, nil
}

// readUses reads the file at path; fs.ErrNotExist is among its errors.
func readUses(path string) (useHead, []useSlot, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return useHead{}, nil, err
	}
	return parseUses(b)
}

// writeUses puts the whole file under path, durably, and returns it open.
func writeUses(path string, h useHead, slots []useSlot) (_ *os.File, err error) {
	f, err := os.OpenFile(path+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if errors.Is(err, fs.ErrNotExist) {
		dir := filepath.Dir(path)
		if err := makeDir(filepath.Dir(dir), dir); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), removeIfThere(path+newSuffix))
		}
	}()
	if _, err := f.Write(encodeUses(h, slots)); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return nil, err
	}
	return f, syncDir(filepath.Dir(path))
}

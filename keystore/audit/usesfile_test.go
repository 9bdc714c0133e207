package audit

import (
	"bytes"
	"strings"
	"testing"
)

func someUses() (useHead, []useSlot) {
	return useHead{"2026-11", 12345}, []useSlot{
		{"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", 17, 12}, {"k", 1, 0}, {"zero", 0, 0},
	}
}

// The format of acts/uses stays as it is for those that were written.
func TestUsesFileFormat(t *testing.T) {
	b := encodeUses(someUses())
	if len(b) != 4*slotSize || string(b[4:12]) != "CHANUSE1" || string(b[24:31]) != "2026-11" || b[23] != 0x39 || b[22] != 0x30 {
		t.Errorf("head % x", b[:slotSize])
	}
	if s := b[slotSize:]; s[5] != 43 || !strings.HasPrefix(string(s[6:]), "NzbLsXh8") || s[79] != 17 || s[87] != 12 {
		t.Errorf("slot % x", s[:slotSize])
	}
}

func TestDamagedUsesFile(t *testing.T) {
	head, slots := someUses()
	whole := encodeUses(head, slots)
	for _, c := range []struct {
		what   string
		change func(b []byte) []byte
		slots  int
		fails  bool
	}{
		{"nothing", func(b []byte) []byte { return b }, 3, false},
		{"a slot that was reserved and not written", func(b []byte) []byte { return append(b, make([]byte, slotSize)...) }, 3, false},
		{"empty", func([]byte) []byte { return nil }, 0, true},
		{"cut in a slot", func(b []byte) []byte { return b[:len(b)-1] }, 2, true},
		{"a flipped bit in the head", func(b []byte) []byte { b[20] ^= 1; return b }, 3, true},
		{"a flipped bit in a slot", func(b []byte) []byte { b[slotSize+79] ^= 1; return b }, 2, true},
		{"a slot twice", func(b []byte) []byte { return append(b, b[slotSize:2*slotSize]...) }, 3, true},
	} {
		h, s, err := parseUses(c.change(bytes.Clone(whole)))
		if len(s) != c.slots || (err != nil) != c.fails || !c.fails && h != head {
			t.Errorf("%s: %v, %v, %v", c.what, h, s, err)
		}
	}
}

func FuzzParseUses(f *testing.F) {
	whole := encodeUses(someUses())
	f.Add(whole)
	f.Add(whole[:slotSize])
	f.Add(whole[:len(whole)-7])
	f.Add(encodeUses(useHead{}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, slots, err := parseUses(b)
		for _, s := range slots {
			if s.kid == "" || s.settled < 0 || s.last < s.settled {
				t.Errorf("slot %+v", s)
			}
		}
		if err != nil {
			return
		}
		var dense []byte // without slots of zeros
		for ; len(b) > 0; b = b[slotSize:] {
			if len(bytes.Trim(b[:slotSize], "\x00")) > 0 {
				dense = append(dense, b[:slotSize]...)
			}
		}
		if again := encodeUses(h, slots); !bytes.Equal(again, dense) {
			t.Errorf("it is written back as % x", again)
		}
	})
}

package main

import (
	"strings"
	"testing"
)

func TestSerialsAreReadAsPeopleCopyThem(t *testing.T) {
	const plain = "4a0b1c2d3e4f506172839405a6b7c8d9"
	for _, said := range []string{
		plain,
		"4A0B1C2D3E4F506172839405A6B7C8D9",
		"serial=4A0B1C2D3E4F506172839405A6B7C8D9",
		"0x4a0b1c2d3e4f506172839405a6b7c8d9",
		"4a:0b:1c:2d:3e:4f:50:61:72:83:94:05:a6:b7:c8:d9",
		"  00:4A:0B:1C:2D:3E:4F:50:61:72:83:94:05:A6:B7:C8:D9\n",
		"4a 0b 1c 2d 3e 4f 50 61 72 83 94 05 a6 b7 c8 d9",
	} {
		if got := plainSerial(said); got != plain || !isSerial(got) {
			t.Errorf("%q is read as %q, want %q", said, got, plain)
		}
	}
	for _, said := range []string{
		"", " ", ":", "0", "0x", "serial=", "nosuch", plain[:31] + "g", plain + plain,
		strings.Repeat("٣", 16), // no digit of ours
	} {
		if got := plainSerial(said); isSerial(got) {
			t.Errorf("%q is taken for a serial number: %q", said, got)
		}
	}
}

package clock

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var kept = Anchor{
	BootID: thisBoot, Boot: 48612123456789, Wall: noon.Add(123456789),
	Steady: noon.Add(-150 * time.Minute),
}

func TestAnAnchorOutlastsTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("none there: %v", err)
	}
	for _, a := range []Anchor{kept, {BootID: otherBoot, Wall: noon}} {
		if err := a.Store(path); err != nil {
			t.Fatal(err)
		}
		if got, err := Load(path); err != nil || got != a {
			t.Errorf("%+v, %v, want %+v", got, err, a)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("beside it: %v, %v", left, err)
	}
}

func TestAnAnchorThatCouldNotBeReadIsNotWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	for what, a := range map[string]Anchor{
		"no boot id": {Boot: 1, Wall: noon}, "a boot id of two lines": {BootID: thisBoot + "\nx", Wall: noon},
		"before the boot": {BootID: thisBoot, Boot: -1, Wall: noon}, "the year 10000": {BootID: thisBoot, Wall: noon.AddDate(8000, 0, 0)},
	} {
		if err := a.Store(path); !errors.Is(err, ErrAnchor) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was written: %v", err)
	}
}

func TestADamagedAnchorIsNone(t *testing.T) {
	good := string(kept.text())
	if _, err := ParseAnchor([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := []byte(good)
		bad[i] ^= 1
		if _, err := ParseAnchor(bad); !errors.Is(err, ErrAnchor) {
			t.Errorf("a bit of byte %d: %v", i, err)
		}
		if _, err := ParseAnchor([]byte(good[:i])); !errors.Is(err, ErrAnchor) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	for what, bad := range map[string]string{
		"more behind it":    good + "\n",
		"more before it":    "\n" + good,
		"CRLF":              strings.ReplaceAll(good, "\n", "\r\n"),
		"another checksum":  strings.Replace(good, "crc32c ", "crc32c 0", 1),
		"a time with zone":  strings.Replace(good, "789Z\n", "789+00:00\n", 1),
		"a zero in front":   strings.Replace(good, "boot 4", "boot 04", 1),
		"two of them":       good + good,
		"a megabyte of it":  strings.Repeat(good, 5000),
		"capital letters":   strings.ToUpper(good),
		"from the next one": strings.Replace(good, "clock 1", "clock 2", 1),
	} {
		if _, err := ParseAnchor([]byte(bad)); !errors.Is(err, ErrAnchor) {
			t.Errorf("%s: %v", what, err)
		}
	}
	path := filepath.Join(t.TempDir(), "clock")
	if err := os.WriteFile(path, []byte(strings.Repeat(good, 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, ErrAnchor) {
		t.Errorf("a file of a megabyte: %v", err)
	}
}

// What parses is written back as the same bytes.
func FuzzParseAnchor(f *testing.F) {
	f.Add(kept.text())
	f.Add(Anchor{BootID: otherBoot, Wall: noon}.text())
	f.Add([]byte("chancery clock 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseAnchor(text)
		if err != nil {
			if !errors.Is(err, ErrAnchor) || (a != Anchor{}) {
				t.Errorf("%+v, %v", a, err)
			}
			return
		}
		if again := a.text(); !bytes.Equal(again, text) {
			t.Errorf("%q is written as %q", text, again)
		}
	})
}

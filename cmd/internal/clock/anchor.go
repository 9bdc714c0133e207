package clock

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
)

// An Anchor is what a Guard keeps for the next process.
type Anchor struct {
	BootID string
	Boot   time.Duration
	Wall   time.Time // by the time that is agreed, at Boot
	Steady time.Time // since when both clocks have agreed; zero: they do not
}

// maxAnchor is more than any anchor takes.
const maxAnchor = 512

// ErrAnchor: what was read is no anchor.
var ErrAnchor = errors.New("not a clock anchor")

const anchorTime = "2006-01-02T15:04:05.000000000Z"

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	anchorText = regexp.MustCompile(`\Achancery clock 1
boot_id ([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})
boot ([0-9]{1,19})
wall (\S{30})
steady (\S{30}|-)
crc32c [0-9a-f]{8}
\z`)
)

// text writes an anchor down.
func (a Anchor) text() []byte {
	steady := "-"
	if !a.Steady.IsZero() {
		steady = a.Steady.UTC().Format(anchorTime)
	}
	body := fmt.Appendf(nil, "chancery clock 1\nboot_id %s\nboot %d\nwall %s\nsteady %s\n",
		a.BootID, a.Boot.Nanoseconds(), a.Wall.UTC().Format(anchorTime), steady)
	return fmt.Appendf(body, "crc32c %08x\n", crc32.Checksum(body, castagnoli))
}

// ParseAnchor reads an anchor, in its one spelling, or returns an error wrapping
// ErrAnchor.
func ParseAnchor(text []byte) (Anchor, error) {
	m := anchorText.FindSubmatch(text)
	if m == nil || len(text) > maxAnchor {
		return Anchor{}, fmt.Errorf("%w: it does not have the form of one", ErrAnchor)
	}
	boot, err := strconv.ParseInt(string(m[2]), 10, 64)
	if err != nil {
		return Anchor{}, fmt.Errorf("%w: the time since boot: %w", ErrAnchor, err)
	}
	a := Anchor{BootID: string(m[1]), Boot: time.Duration(boot)}
	if a.Wall, err = time.Parse(anchorTime, string(m[3])); err != nil {
		return Anchor{}, fmt.Errorf("%w: the wall clock: %w", ErrAnchor, err)
	}
	if string(m[4]) != "-" {
		if a.Steady, err = time.Parse(anchorTime, string(m[4])); err != nil {
			return Anchor{}, fmt.Errorf("%w: since when the clocks agree: %w", ErrAnchor, err)
		}
	}
	if string(a.text()) != string(text) { // the checksum, and every other spelling
		return Anchor{}, fmt.Errorf("%w: its checksum or its spelling is wrong", ErrAnchor)
	}
	return a, nil
}

// Load reads the anchor at path. It returns an error wrapping fs.ErrNotExist if
// there is none, and one wrapping ErrAnchor if it is damaged.
func Load(path string) (Anchor, error) {
	f, err := os.Open(path)
	if err != nil {
		return Anchor{}, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxAnchor+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Anchor{}, err
	}
	return ParseAnchor(text)
}

// Store puts the anchor at path, whole and durably, with mode 0600. An anchor that
// could not be read again, as one without a boot id, is refused.
func (a Anchor) Store(path string) error {
	text := a.text()
	if _, err := ParseAnchor(text); err != nil {
		return err
	}
	if err := renameio.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

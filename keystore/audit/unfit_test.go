package audit

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTilesMadeAgain: only a log that had tiles can miss them; a first start, and one
// after a start that ended before anything was signed, say nothing.
func TestTilesMadeAgain(t *testing.T) {
	var told bytes.Buffer
	r := newRig(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&told, nil)) })
	lifecycle := filepath.Join(r.cfg.Dir, "lifecycle")
	said := func(when, want string) {
		t.Helper()
		if got := told.String(); (want == "") != !strings.Contains(got, "level=WARN") || !strings.Contains(got, want) {
			t.Errorf("%s: want %q, and it says:\n%s", when, want, got)
		}
		told.Reset()
	}
	again := func() {
		t.Helper()
		r.open()
		r.act(1)
		r.close()
	}
	r.act(3)
	r.close()
	said("a first start", "")

	works(t, os.RemoveAll(filepath.Join(lifecycle, "tile")))
	works(t, os.Remove(filepath.Join(lifecycle, "checkpoint")))
	again()
	said("entries, and nothing signed of them yet", "")

	works(t, os.RemoveAll(filepath.Join(lifecycle, "tile")))
	again()
	said("the tiles are gone", "tiles of an audit log are gone")

	tiles, err := filepath.Glob(filepath.Join(lifecycle, "tile", "0", "000.p", "*"))
	if err != nil || len(tiles) == 0 {
		t.Fatal(tiles, err)
	}
	for _, path := range tiles {
		b, err := os.ReadFile(path)
		works(t, err)
		b[0] ^= 1
		works(t, os.WriteFile(path, b, 0o600))
	}
	again()
	said("the tiles are others", "do not fit")
	r.sound()
}

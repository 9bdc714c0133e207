package catalog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/keystore"
)

func TestS05TheNewestChangeIsKeptInAFile(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		cfg := at.config()
		cfg.Mark = filepath.Join(t.TempDir(), "mark")
		c, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := os.Stat(cfg.Mark); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("before the first change: %v", err)
		}
		kept := func() marked {
			t.Helper()
			m, err := parseMark(readFile(t, cfg.Mark))
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		mustCreate(t, c, keySet("web"))
		first := kept()
		change := step(t, c, "web", 1, keystore.Pending)
		second := kept()
		if first.revision != 1 || second.revision != change.Revision || first.transition == second.transition {
			t.Errorf("%+v, then %+v", first, second)
		}
		step(t, at.open(t), "web", 1, keystore.Published) // by another
		if kept() != second {
			t.Error("it knows what it has not seen")
		}
		mustView(t, c)
		if got := kept().revision; got != change.Revision+1 {
			t.Errorf("after a view: %d", got)
		}
		info, err := os.Stat(cfg.Mark)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		mustView(t, c)
		if again, err := os.Stat(cfg.Mark); err != nil || !os.SameFile(info, again) {
			t.Error("it is written without a change")
		}
	})
}

// A copy of yesterday's file in the place of today's is noticed without the log.
func TestS05AnOlderCopyIsBehind(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Path: filepath.Join(dir, "catalog.db"), Mark: filepath.Join(dir, "mark")}
	turn := func(name string) {
		t.Helper()
		c, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		mustCreate(t, c, keySet(name))
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	turn("web")
	old := readFile(t, cfg.Path)
	turn("edge")
	now := readFile(t, cfg.Path)
	another := func() error { // changes that this node has not seen, in place of the one it has
		if err := os.WriteFile(cfg.Path, old, 0o600); err != nil {
			return err
		}
		c := open(t, cfg.Path)
		mustCreate(t, c, keySet("legacy"))
		mustCreate(t, c, keySet("devices"))
		return c.Close()
	}
	for name, spoil := range map[string]func() error{
		"an older copy":             func() error { return os.WriteFile(cfg.Path, old, 0o600) },
		"none":                      func() error { return os.Remove(cfg.Path) },
		"one that went another way": another,
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(cfg.Path)
		_, err := Open(t.Context(), cfg)
		if !errors.Is(err, ErrBehind) || !strings.Contains(err.Error(), "hint") {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(cfg.Path); string(after) != string(before) {
			t.Errorf("%s: it was changed", name)
		}
	}
	if err := os.WriteFile(cfg.Path, now, 0o600); err != nil {
		t.Fatal(err)
	}
	turn("devices")
}

func TestAMarkThatIsSpoiledIsRefused(t *testing.T) {
	whole := string(formatMark(marked{17, strings.Repeat("0a", 16)}))
	for name, text := range map[string]string{
		"empty": "", "cut": whole[:len(whole)-1], "a line more": whole + "x\n", "another version": strings.Replace(whole, "mark 1", "mark 2", 1),
		"no revision": strings.Replace(whole, "17", "", 1), "zero": strings.Replace(whole, "17", "0", 1), "a sign": strings.Replace(whole, "17", "+17", 1),
		"a leading zero": strings.Replace(whole, "17", "017", 1), "upper case": strings.Replace(whole, "0a", "0A", 1), "a space": strings.Replace(whole, "17", "17 ", 1),
	} {
		path := filepath.Join(t.TempDir(), "mark")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "catalog.db"), Mark: path})
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "hint") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What cannot be kept is told, counts meanwhile, and is kept with the next change.
func TestAMarkThatCannotBeWrittenIsTold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	cfg := Config{Path: filepath.Join(t.TempDir(), "catalog.db"), Mark: filepath.Join(dir, "mark")}
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mustCreate(t, c, keySet("web"))
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, "could not be kept") {
		t.Errorf("warnings: %q", w)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mustView(t, c)
	if w := c.Warnings(); w != nil {
		t.Errorf("warnings: %q", w)
	}
	if m, err := parseMark(readFile(t, cfg.Mark)); err != nil || m.revision != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

func FuzzMark(f *testing.F) {
	f.Add(formatMark(marked{1, strings.Repeat("0a", 16)}))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseMark(text)
		if err == nil && string(formatMark(m)) != string(text) {
			t.Errorf("what parses is spelled differently: %+v", m)
		}
	})
}

// What a failover lost may have been published and signed with, by any node: a hint
// that has one of them go on at once would have its tokens rejected.
func TestS05TheHintForALostChangeStopsEveryNodeAndWaits(t *testing.T) {
	m := &mark{path: "/var/lib/chancery/catalog.mark"}
	err := m.check(marked{revision: 7, transition: strings.Repeat("a", 32)}, head{})
	if !errors.Is(err, ErrBehind) {
		t.Fatal(err)
	}
	for _, what := range []string{"stop every node", "wait until all that they published and signed has expired", m.path} {
		if !strings.Contains(err.Error(), what) {
			t.Errorf("nothing of %q in %v", what, err)
		}
	}
}

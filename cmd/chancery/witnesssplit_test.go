package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestASplitIsToldUntilItIsTakenAway: a log that showed another tree once, and the one
// that was cosigned the next time, passed the second look in silence.
func TestASplitIsToldUntilItIsTakenAway(t *testing.T) {
	key := newFileKey(t)
	l, edited := newGrownLog(t, key), newGrownLog(t, key)
	l.enter(t, 3, "a good reason")
	edited.enter(t, 3, "a better reason")
	state := t.TempDir()
	look := func(at string, more ...string) (int, string, string) {
		return runWitness(t, append([]string{"--dir", state, "--name", "alice.example/laptop", "--log", l.vkey, "--once", at}, more...)...)
	}
	if status, out, errs := look(l.dir); status != 0 || strings.Contains(out, "split") {
		t.Fatalf("the first look: %d %s%s", status, out, errs)
	}
	if status, out, errs := look(edited.dir); status != 1 || !strings.Contains(errs, "are not what the 3 cosigned before became") ||
		!strings.Contains(out, "split: localhost:8443/audit/dev/lifecycle: ") {
		t.Fatalf("a log that split: %d %s%s", status, out, errs)
	}
	l.enter(t, 4, "another")
	status, out, errs := look(l.dir)
	cosigned := onlyFile(t, filepath.Join(state, "logs", "*.cosigned"))
	other := onlyFile(t, filepath.Join(state, "logs", "*.split"))
	want := "split: localhost:8443/audit/dev/lifecycle: two trees of 3 entries, each signed by a log key: " + cosigned + " was cosigned, " + other + " was not\n"
	if status != 1 || !strings.Contains(out, "7 entries, consistent with the 3 entries before") || !strings.Contains(out, want) || !strings.HasPrefix(errs, "hint: a split stands until ") {
		t.Errorf("the log as it was cosigned again: %d %s%s, want %q", status, out, errs, want)
	}
	if status, out, _ := look(l.dir, "--json"); status != 1 ||
		!strings.Contains(out, `"splits":[{"origin":"localhost:8443/audit/dev/lifecycle","size":3,"cosigned":"`+cosigned+`","other":"`+other+`"}]`) {
		t.Errorf("as JSON: %d %s", status, out)
	}
	if err := os.Rename(other, other+"-known"); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := look(l.dir); status != 0 || strings.Contains(out, "split") {
		t.Errorf("after it was taken away: %d %s%s", status, out, errs)
	}
}

func onlyFile(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) != 1 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	return files[0]
}

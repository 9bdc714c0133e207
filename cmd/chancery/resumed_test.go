package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/keystore/audit"
)

// TestAReviewThatIsStoppedSaysHowToGoOn: Ctrl-C loses nothing but the time since
// the state was kept last.
func TestAReviewThatIsStoppedSaysHowToGoOn(t *testing.T) {
	dir := t.TempDir()
	writeLife(t, dir)
	file := filepath.Join(t.TempDir(), "log.state")
	args := []string{"--dir", dir, "audit", "verify", "--resume", file}

	stopped, stop := context.WithCancel(t.Context())
	stop()
	var errs bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &errs, getenv: func(string) string { return "" }}
	vkey, err := os.ReadFile(filepath.Join(dir, "audit.vkey"))
	if err != nil {
		t.Fatal(err)
	}
	status := a.run(stopped, append(args, "--key", strings.TrimSpace(string(vkey)))) // to be stopped at its file is another matter
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := audit.ParseState(b)
	if err != nil {
		t.Fatal(err)
	}
	want := "error: stopped at " + count(s.Entries(), "entry", "entries") + "; go on with --resume " + file
	if status != exitFailed || !strings.Contains(errs.String(), want) {
		t.Errorf("exit status %d, %q, want %q", status, errs.String(), want)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	status, out := typed(t, args...)
	if want := "verified before: " + count(s.Entries(), "entry", "entries") + ", by the state of "; status != exitDone || !strings.Contains(out, want) {
		t.Errorf("exit status %d, %q, want %q", status, out, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: others can read it", info.Mode(), err)
	}
}

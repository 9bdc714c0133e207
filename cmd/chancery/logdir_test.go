package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestUnreadableLog: who may not read a log was told of sockets and keys.
func TestUnreadableLog(t *testing.T) {
	denied := &fs.PathError{Op: "open", Path: "audit/lifecycle/checkpoint", Err: fs.ErrPermission}
	a := &app{}
	for _, c := range []struct {
		of   string
		err  error
		hint string
	}{
		{"a file of the log", failure{denied}, logPermissionHint},
		{"with a hint of its own", failure{hinted{denied, "sudo"}}, "sudo"},
		{"something else", failure{errors.New("no")}, ""},
	} {
		err := withReadHint(func(*cobra.Command, []string) error { return c.err })(nil, nil)
		if got := a.hint(err); got != c.hint {
			t.Errorf("%s: hint %q, want %q", c.of, got, c.hint)
		}
	}
	if err := withReadHint(func(*cobra.Command, []string) error { return usagef("no") })(nil, nil); !errors.As(err, new(usageError)) {
		t.Errorf("wrong use becomes %v", err)
	}
	for _, c := range (&app{}).auditCommand().Commands() {
		if c.RunE == nil {
			t.Errorf("%s does nothing", c.Name())
		}
	}
}

func TestLogDirHint(t *testing.T) {
	data := t.TempDir()
	if err := os.MkdirAll(filepath.Join(data, "audit", "lifecycle", "tile"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dir, hint string }{
		{data, "there is one in " + filepath.Join(data, "audit")},
		{filepath.Join(data, "audit", "lifecycle"), "there is one in " + filepath.Join(data, "audit")},
		{filepath.Join(data, "audit", "lifecycle", "tile"), "there is one in " + filepath.Join(data, "audit")},
		{filepath.Join(data, "nowhere"), "give the audit directory"},
	} {
		err := isLogDir(c.dir)
		if err == nil {
			t.Errorf("%s passes for an audit directory", c.dir)
		}
		if got := logDirHint(c.dir, err); !strings.HasPrefix(got, c.hint) {
			t.Errorf("%s: hint %q, want %q", c.dir, got, c.hint)
		}
	}
	if got := logDirHint(data, fs.ErrPermission); got != logPermissionHint {
		t.Errorf("what may not be read: %q", got)
	}
	if err := isLogDir(filepath.Join(data, "audit")); err != nil {
		t.Error(err)
	}
	if err := os.Rename(filepath.Join(data, "audit", "lifecycle"), filepath.Join(data, "audit", "acts")); err != nil {
		t.Fatal(err)
	}
	if err := isLogDir(filepath.Join(data, "audit")); err != nil {
		t.Errorf("a log that lost lifecycle is not even looked at: %v", err)
	}
}

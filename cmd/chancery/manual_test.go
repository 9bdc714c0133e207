package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"chancery/cmd/internal/manual"
	"chancery/cmd/internal/manual/manualtest"
	"chancery/signer/api"
)

func TestManPages(t *testing.T) { manualtest.Pages(t, new(app).root(), "1") }

// Each shell that there is reads its script, and bash really completes: commands,
// values, and the names that the daemon of --dir has.
func TestCompletion(t *testing.T) {
	dir, err := os.MkdirTemp("", "chancery") // a socket's path is at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f, err := startFake(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.stop)

	scripts := map[string][]byte{}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		var out bytes.Buffer
		a := &app{out: &out, err: os.Stderr, getenv: os.Getenv}
		if status := a.run(t.Context(), []string{"completion", shell}); status != exitDone || out.Len() == 0 {
			t.Errorf("completion %s: status %d, %d bytes", shell, status, out.Len())
		}
		scripts[shell] = out.Bytes()
		if path, err := exec.LookPath(shell); err == nil && shell != "powershell" {
			file := filepath.Join(t.TempDir(), "script")
			if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			if said, err := exec.Command(path, "-n", file).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", shell, err, said)
			}
		}
	}
	for _, c := range []struct {
		line []string
		want []string
	}{
		{[]string{"chancery", "rot"}, []string{"rotation"}},
		{[]string{"chancery", "--as", ""}, roles},
		{[]string{"chancery", "audit", "report", "--format", ""}, []string{"html", "json", "text"}},
		{[]string{"chancery", "sign", "digest", "--format", ""}, []string{"der", "raw"}},
		{[]string{"chancery", "policy", "explain", "--action", "key.s"}, []string{"key.suspend"}},
		{[]string{"chancery", "policy", "explain", "--as", ""}, nil},
		{[]string{"chancery", "audit", "list", "--action", "key.act"}, []string{"key.activate"}},
		{[]string{"chancery", "audit", "list", "--code", "idem"}, []string{"idempotency_in_progress", "idempotency_mismatch"}},
		{[]string{"chancery", "--dir", dir, "resume", ""}, []string{"web"}},
		{[]string{"chancery", "--dir", dir, "sign", "jwt", "--keyset", "we"}, []string{"web"}},
		{[]string{"chancery", "--dir", dir, "sign", "digest", "--keyset", ""}, nil}, // web was offered, which signs none
		{[]string{"chancery", "--dir", dir, "audit", "list", "--keyset", ""}, []string{"web"}},
		{[]string{"chancery", "--dir", filepath.Join(dir, "none"), "resume", ""}, nil},
		{[]string{"chancery", "resume", ""}, nil},
	} {
		got := slices.DeleteFunc(manualtest.Bash(t, scripts["bash"], c.line...), func(s string) bool { return s == "" })
		want := slices.Clone(c.want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q is completed by %q, want %q", c.line, got, want)
		}
	}
}

// A key set whose purpose does not fit the command was offered as well.
func TestKeySetsThatFit(t *testing.T) {
	sets := []api.KeySet{{Name: "web", Purpose: "jwt"}, {Name: "devices-ca", Purpose: "ca"}, {Name: "release", Purpose: "digest"}, {Name: "edge", Purpose: "jwt"}}
	want := map[string][]string{"chancery sign jwt": {"web", "edge"}, "chancery bench": {"web", "edge"}, "chancery sign digest": {"release"}}
	for _, c := range manual.Commands(new(app).root()) {
		if c.LocalFlags().Lookup("keyset") == nil {
			continue
		}
		fitting, ok := want[c.CommandPath()]
		if !ok {
			fitting = []string{"web", "devices-ca", "release", "edge"}
		}
		delete(want, c.CommandPath())
		if got := namesOf(purposeFor(c), sets); !slices.Equal(got, fitting) {
			t.Errorf("%s offers %q, want %q", c.CommandPath(), got, fitting)
		}
	}
	if len(want) > 0 {
		t.Errorf("no command is called %v", want)
	}
}

// Every flag that takes a value was thought of: it has values, names, files or
// nothing to offer, and what is said to be a file is a flag there is.
func TestPathsAreFlags(t *testing.T) {
	left := slices.Clone(paths)
	for _, c := range manual.Commands(new(app).root()) {
		left = slices.DeleteFunc(left, func(name string) bool { return c.Flag(name) != nil })
	}
	if len(left) > 0 {
		t.Errorf("no command has a flag %q", left)
	}
}

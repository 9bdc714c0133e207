package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery/cmd/internal/manual/manualtest"
)

func TestManPages(t *testing.T) { manualtest.Pages(t, rootCommand(testClocks()), "8") }

// The daemon completes its commands in bash, too.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "chanceryd")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv(asDaemon, "1")
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, err := exec.Command("chanceryd", "completion", shell).Output(); err != nil || len(out) == 0 {
			t.Errorf("completion %s: %v", shell, err)
		}
	}
	script, err := exec.Command("chanceryd", "completion", "bash").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string][]string{
		"chanceryd ch":                         {"check"},
		"chanceryd bench-token --algorithms E": {"ES256", "ES384", "ES512", "EdDSA"},
	} {
		got := manualtest.Bash(t, script, strings.Split(line, " ")...)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q is completed by %q, want %q", line, got, want)
		}
	}
}

// Package manualtest tests what a command tells of itself: its man pages and what
// shells complete.
package manualtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"chancery/cmd/internal/manual"
)

// Pages tests that every command below root tells what it is for, and that its
// page has all its flags and commands and renders without a warning. mandoc is
// needed for that, which CI has.
func Pages(t *testing.T, root *cobra.Command, section string) {
	for _, gap := range manual.Gaps(root) {
		t.Error(gap)
	}
	dir := t.TempDir()
	if err := manual.Write(dir, root, section, manual.Source()); err != nil {
		t.Fatal(err)
	}
	for _, c := range manual.Commands(root) {
		page, err := os.ReadFile(filepath.Join(dir, manual.Name(c)+"."+section))
		if err != nil {
			t.Error(err)
			continue
		}
		text := strings.NewReplacer(`\-`, "-", `\fB`, "", `\fR`, "", `\fI`, "").Replace(string(page))
		has := func(what string) {
			if !strings.Contains(text, what) {
				t.Errorf("the page of %s lacks %q", c.CommandPath(), what)
			}
		}
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" {
				has("\n.BR " + manual.Name(sub) + " (" + section + ")\n")
			}
		}
		flag := func(f *pflag.Flag) { has("--" + f.Name) }
		c.NonInheritedFlags().VisitAll(flag)
		c.InheritedFlags().VisitAll(flag)
	}
	mandoc := tool(t, "mandoc")
	pages, err := filepath.Glob(filepath.Join(dir, "*."+section))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mandoc, append([]string{"-T", "lint", "-W", "warning"}, pages...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// frame is what bash does around a completion, without the package that most
// systems have for it: COMP_WORDS is the line so far, split at white space.
const frame = `
_get_comp_words_by_ref() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${COMP_WORDS[COMP_CWORD]}; prev=${COMP_WORDS[COMP_CWORD-1]}; }
compopt() { :; }
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMP_TYPE=63
"__start_$(basename "$1")"
printf '%s\n' "${COMPREPLY[@]}"
`

// Bash returns what bash offers at the end of a command line, after the script
// that the program prints; its first word is the program's name in PATH.
func Bash(t *testing.T, script []byte, line ...string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "completion.bash")
	if err := os.WriteFile(path, script, 0o600); err != nil {
		t.Fatal(err)
	}
	bash := tool(t, "bash")
	if out, err := exec.Command(bash, "-n", path).CombinedOutput(); err != nil {
		t.Fatalf("the script is not bash's: %v\n%s", err, out)
	}
	var said bytes.Buffer
	cmd := exec.Command(bash, append([]string{"-c", frame, "bash", path}, line...)...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("completing %q: %v\n%s", line, err, said.Bytes())
	}
	var offers []string
	for offer := range strings.Lines(string(out)) {
		word, _, _ := strings.Cut(strings.TrimSpace(offer), " ") // its description after it
		offers = append(offers, word)
	}
	return offers
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("there is no %s (hint: scripts/test installs it)", name)
	}
	t.Skipf("there is no %s", name)
	return ""
}

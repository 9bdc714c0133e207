package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// readmeCommands returns the lines a reader types: those that begin with "$ "
// in the console blocks of the README, in order.
func readmeCommands(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	inside := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "```console":
			inside = true
		case strings.HasPrefix(line, "```"):
			inside = false
		case inside && strings.HasPrefix(line, "$ "):
			commands = append(commands, line[2:])
		case inside:
			t.Errorf("a console block holds what nobody types: %q", line)
		}
	}
	return commands
}

// buildCommands builds both commands into dir.
func buildCommands(t *testing.T, dir string) {
	t.Helper()
	for _, c := range []struct{ name, cgo string }{{"chanceryd", "1"}, {"chancery", "0"}} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, c.name), "chancery/cmd/"+c.name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+c.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", c.name, err, out)
		}
	}
}

// TestReadmeCommandsRun types every command of the README, in order, in an
// empty directory.
func TestReadmeCommandsRun(t *testing.T) {
	needSoftHSM(t)
	if testing.Short() {
		t.Skip("types the whole README")
	}
	dir := tempDir(t)
	build := filepath.Join(dir, ".build")
	if err := os.Mkdir(build, 0o755); err != nil {
		t.Fatal(err)
	}
	buildCommands(t, build)
	commands := readmeCommands(t)
	if len(commands) < 20 {
		t.Fatalf("only %d commands in the README", len(commands))
	}
	script := "set -eo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\nset -v\n" + strings.Join(commands, "\n") + "\n"
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"0 problems", "leaf.crt: OK", "max-age=", `"token":`, "keystore hsm ok"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

// TestQuickstartTwice runs the README's first command as a new user does, and
// once more: the second run continues where the first one was.
func TestQuickstartTwice(t *testing.T) {
	t.Parallel()
	needSoftHSM(t)
	if testing.Short() {
		t.Skip("runs the quickstart twice")
	}
	if err := exec.Command("/usr/bin/python3", "-c", "import jwt").Run(); err != nil {
		lacks(t, "no PyJWT (Debian: python3-jwt)")
	}
	dir := filepath.Join(tempDir(t), "dev")
	for _, start := range []string{"first", "again"} {
		out, err := exec.Command("../../scripts/quickstart", dir).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", start, err, out)
		}
		for _, want := range []string{
			"ready (" + start + " start)", "verified by PyJWT: ES256", "verified by PyJWT: RS256", "verified by PyJWT: EdDSA",
			"leaf.crt: OK", "verifications until the last expired, none failed", " entries proven, ", ", 0 problems",
		} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: the output lacks %q:\n%s", start, want, out)
			}
		}
	}
}

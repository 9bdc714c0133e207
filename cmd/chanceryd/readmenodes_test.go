package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chancery/keystore/catalog/postgrestest"
)

// README's way to two nodes, typed as it stands but for the database's URL.
func TestReadmeTwoNodes(t *testing.T) {
	needSoftHSM(t)
	url, _, _ := postgrestest.Database(t)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```sh\nchanceryd dev --dir dev-a ")
	block, _, closed := strings.Cut(rest, "```")
	const there = "postgres://chancery@127.0.0.1/chancery?sslmode=disable"
	if !ok || !closed || !strings.Contains(block, there) {
		t.Fatal("README shows no two nodes")
	}
	dir := tempDir(t)
	build := filepath.Join(dir, ".build")
	if err := os.Mkdir(build, 0o755); err != nil {
		t.Fatal(err)
	}
	buildCommands(t, build)
	script := "set -eo pipefail\nexport PATH=$PWD/.build:$PATH\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n" +
		"chanceryd dev --dir dev-a " + strings.Replace(block, there, url, 1)
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"│ a           │ live", "│ b (answers) │ live", "web: version 2 follows version 1"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

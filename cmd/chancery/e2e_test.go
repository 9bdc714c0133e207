package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestEndToEnd types the same commands at a real daemon with a real token, both
// built as they are shipped: chancery without C.
func TestEndToEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the daemon")
	}
	if _, err := exec.LookPath("softhsm2-util"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no SoftHSM: install softhsm2")
		}
		t.Skip("no SoftHSM: install softhsm2")
	}
	bin := t.TempDir()
	build(t, bin, "CGO_ENABLED=0", ".")
	build(t, bin, "CGO_ENABLED=1", "../chanceryd")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/e2e",
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "chancery") // a socket's path is at most 107 bytes
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			env.Setenv("DEV", filepath.Join(dir, "dev"))
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": status,
			"await":  await,
		},
	})
}

func build(t *testing.T, bin, env, pkg string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", bin+string(filepath.Separator), pkg)
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
}

// await waits for a file: "await PATH".
func await(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	for range 600 {
		if exists(path) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%s does not appear", path)
}

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
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
			"soon":   soon,
		},
	})
}

// The quickstart removed endpoints.json before it was refused by a daemon that
// holds the directory, which could not be asked by --dir any more.
func TestQuickstartLeavesARunningDaemonAlone(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the daemon")
	}
	if err := exec.Command("/usr/bin/python3", "-c", "import jwt").Run(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no PyJWT: install python3-jwt")
		}
		t.Skip("no PyJWT: install python3-jwt")
	}
	top := t.TempDir() // with a build of its own, for others run the script as well
	build(t, filepath.Join(top, ".build"), "CGO_ENABLED=1", "../chanceryd")
	scripts, err := filepath.Abs("../../scripts")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(top, "dev")
	if err := errors.Join(
		os.Symlink(scripts, filepath.Join(top, "scripts")),
		os.Symlink("/bin/true", filepath.Join(top, "go")), // builds nothing
		os.Mkdir(dir, 0o700),
	); err != nil {
		t.Fatal(err)
	}
	held := flock.New(filepath.Join(dir, "lock")) // as its daemon does
	if got, err := held.TryLock(); !got || err != nil {
		t.Fatal(got, err)
	}
	defer held.Close()
	ends := filepath.Join(dir, "endpoints.json")
	if err := os.WriteFile(ends, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(top, "scripts", "quickstart"), dir)
	cmd.Env = append(os.Environ(), "PATH="+top+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another daemon holds") {
		t.Errorf("%v\n%s", err, out)
	}
	if data, err := os.ReadFile(ends); err != nil || string(data) != "{}" {
		t.Errorf("endpoints.json: %q, %v", data, err)
	}
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

// soon runs a command again until what it prints matches: "soon PATTERN chancery ...".
func soon(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	for range 200 {
		if err := ts.Exec(args[1], args[2:]...); err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("nothing that matches %s is printed", args[0])
}

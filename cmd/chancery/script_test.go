package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"chancery": main, "chanceryd": fakeBenchToken})
}

// TestCommand types commands as a person does, at a daemon with software keys.
func TestCommand(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "chancery") // a socket's path is at most 107 bytes
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			f, err := startFake(dir)
			if err != nil {
				return err
			}
			env.Defer(f.stop)
			env.Setenv("GORACE", "atexit_sleep_ms=10") // a second by default, for each command
			env.Setenv("DEV", dir)
			env.Setenv("PUBLIC", f.public)
			env.Values["fake"] = f
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status":      status,
			"daemon":      daemonCommand,
			"makelog":     makeLog,
			"makepeers":   makePeers,
			"rotatelog":   rotateLog,
			"flipbyte":    flipByte,
			"makeacts":    makeActs,
			"publish":     publishLog,
			"publishfile": publishFile,
			"makedigests": makeDigests,
			"makepast":    makePast,
			"makehistory": makeHistory,
		},
	})
}

// status runs a command and wants its exit status: "status 2 chancery ...".
func status(ts *testscript.TestScript, _ bool, args []string) {
	want, got := args[0], "0"
	err := ts.Exec(args[1], args[2:]...)
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = strconv.Itoa(e.ExitCode())
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %s, want %s", got, want)
	}
}

// daemonCommand changes the fake: "daemon stop", "daemon early", ...
func daemonCommand(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value("fake").(*fake)
	if len(args) != 1 {
		ts.Fatalf("usage: daemon WORD")
	}
	if args[0] == "stop" {
		f.stop()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode = args[0]
}

// makeLog writes a real log of a few entries into DIR/audit, and DIR/audit.vkey.
func makeLog(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(writeLog(context.Background(), dir))
}

// flipByte changes the byte in the middle of the first occurrence of a text.
func flipByte(ts *testscript.TestScript, _ bool, args []string) {
	path := filepath.Clean(ts.MkAbs(args[0]))
	data, err := os.ReadFile(path)
	ts.Check(err)
	at := indexOf(data, args[1])
	if at < 0 {
		ts.Fatalf("%s is not in %s", args[1], path)
	}
	data[at+len(args[1])/2] ^= 1
	ts.Check(os.WriteFile(path, data, 0o600))
}

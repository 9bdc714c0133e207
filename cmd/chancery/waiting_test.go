//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A pipe that nobody writes to kept the first signal from ending the command.
func TestASignalEndsTheReadingOfAPolicy(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	testStops(t, [][]string{
		{"policy", "check", pipe},
		{"policy", "test", pipe},
		{"policy", "explain", "--config", pipe, "--as", "dev:dns:a.test", "--action", "audit.read"},
		{"policy", "explain", "--policy", pipe, "--as", "dev:dns:a.test", "--action", "audit.read"},
		{"policy", "explain", "--config", "none", "--as", "dev:dns:a.test", "--action", "jwt.sign", "--claims", "@" + pipe},
	})
}

// Only what read a policy ended at the first signal: audit match and the others went
// on waiting for a file or for standard input, and for the answer to a question.
func TestASignalEndsAllReading(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "lifecycle"), 0o700); err != nil {
		t.Fatal(err)
	}
	testStops(t, [][]string{
		{"audit", "match", pipe, dir},
		{"audit", "match", "-", dir},
		{"audit", "verify", "--key", "@" + pipe, dir},
		{"audit", "verify", "--checkpoint", pipe, dir},
		{"audit", "verify", "--witness", "@" + pipe, dir},
		{"audit", "report", "--key", pipe, dir},
		{"audit", "show", "--key", pipe, "0", dir},
		{"audit", "check-proof", pipe},
		{"audit", "check-proof", "-"},
		{"sign", "jwt", "--keyset", "web", "--claims", "-"},
		{"sign", "jwt", "--keyset", "web", "--claims", "{}", "--cnf-certificate", "@" + pipe},
		{"sign", "csr", "--authority", "a", "--profile", "b", "--csr", pipe},
		{"verify", "--jwks", "https://localhost:1", "-"},
	})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := ask(ctx, silent{t.Context()}, io.Discard, "?"); !errors.Is(err, context.Canceled) {
		t.Errorf("a question: %v", err)
	}
}

// testStops runs commands after a signal, of which each would wait for ever.
func testStops(t *testing.T, commands [][]string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for _, args := range commands {
		var out, told bytes.Buffer
		a := &app{in: silent{t.Context()}, out: &out, err: &told, getenv: func(string) string { return "" }}
		if status := a.run(ctx, args); status != 1 || !strings.Contains(told.String(), context.Canceled.Error()) {
			t.Errorf("%v: %d, %s", args, status, told.String())
		}
	}
}

// silent is a standard input at which nobody types until the test is over.
type silent struct{ over context.Context }

func (s silent) Read([]byte) (int, error) {
	<-s.over.Done()
	return 0, io.EOF
}

// A file is hashed for its signature only once the daemon has said by which hash.
func TestASignalEndsTheHashingOfAFile(t *testing.T) {
	dir, err := os.MkdirTemp("", "chancery") // a socket's path is at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	f, err := startFake(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.stop()
	ctx, stop := context.WithCancel(t.Context())
	var out, told bytes.Buffer
	a := &app{in: signalled{silent{t.Context()}, stop}, out: &out, err: &told, getenv: func(string) string { return "" }}
	status := a.run(ctx, []string{"--dir", dir, "sign", "digest", "--keyset", "release", "--file", "-"})
	if status != 1 || !strings.Contains(told.String(), context.Canceled.Error()) || out.Len() > 0 {
		t.Errorf("%d, %s%s", status, out.String(), told.String())
	}
}

// signalled is a silent input before which a signal comes as soon as it is read.
type signalled struct {
	silent
	signal func()
}

func (s signalled) Read(p []byte) (int, error) {
	s.signal()
	return s.silent.Read(p)
}

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func fakeIn(t *testing.T) *fake {
	t.Helper()
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
	return f
}

// A refused handshake says which certificate is to be looked at.
func TestHandshakeHints(t *testing.T) {
	here, elsewhere := fakeIn(t), fakeIn(t)
	for _, c := range []struct {
		name, cert, ca, err, hint string
	}{
		{"both fit", here.dir, here.dir, "", ""},
		{"a client of another root", elsewhere.dir, here.dir, "unknown certificate authority", "does not know who issued the client certificate"},
		{"a daemon of another root", here.dir, elsewhere.dir, "unknown authority", "the daemon's certificate is not from the roots given"},
	} {
		for range 30 { // the alert races with the end of the connection
			var out, stderr bytes.Buffer
			a := &app{out: &out, err: &stderr, getenv: func(string) string { return "" }}
			stem := filepath.Join(c.cert, "clients", "operator")
			status := a.run(t.Context(), []string{
				"--endpoint", "unix:" + filepath.Join(here.dir, "ops.sock"), "--cert", stem + ".crt", "--key", stem + ".key",
				"--ca", filepath.Join(c.ca, "ca.crt"), "token", "list",
			})
			if (status == exitDone) != (c.err == "") || !strings.Contains(stderr.String(), c.err) || !strings.Contains(stderr.String(), c.hint) {
				t.Errorf("%s: exit %d, %s", c.name, status, stderr.String())
			}
		}
	}
}

// One connection more than the daemon takes is closed, which was told as a broken
// pipe or an EOF and nothing else.
func TestAFullDaemonIsNamed(t *testing.T) {
	f := fakeIn(t)
	f.mu.Lock()
	f.mode = "full"
	f.mu.Unlock()
	for range 30 { // our first words race with the end of the connection
		var out, stderr bytes.Buffer
		a := &app{out: &out, err: &stderr, getenv: func(string) string { return "" }}
		status := a.run(t.Context(), []string{"--dir", f.dir, "token", "list"})
		if status != exitFailed || !strings.Contains(stderr.String(), "\nhint: the daemon closed the connection without an answer") {
			t.Fatalf("exit %d, %s", status, stderr.String())
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestAnInterruptedWatchFails(t *testing.T) {
	f := fakeIn(t)
	f.versions[2].State = "pending" // it never becomes active by itself
	ctx, interrupt := context.WithCancel(t.Context())
	var out, stderr bytes.Buffer
	// It is interrupted when it has said how things stand, however long that took.
	said := writerFunc(func(p []byte) (int, error) {
		interrupt()
		return stderr.Write(p)
	})
	a := &app{out: &out, err: said, getenv: func(string) string { return "" }, dir: f.dir}
	c, err := a.connect(roleOperator)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.watch(ctx, c, "web", 9); err == nil {
		t.Error("it ended as if version 9 signed")
	}
	if !strings.Contains(stderr.String(), "version 3 pending") {
		t.Errorf("it said %q", stderr.String())
	}
}

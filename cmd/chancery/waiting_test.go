//go:build unix

package main

import (
	"bytes"
	"context"
	"path/filepath"
	"syscall"
	"testing"
)

// A pipe that nobody writes to kept the first signal from ending the command.
func TestASignalEndsTheReadingOfAPolicy(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for _, args := range [][]string{
		{"policy", "check", pipe},
		{"policy", "test", pipe},
		{"policy", "explain", "--config", pipe, "--as", "dev:dns:a.test", "--action", "audit.read"},
		{"policy", "explain", "--policy", pipe, "--as", "dev:dns:a.test", "--action", "audit.read"},
		{"policy", "explain", "--config", "none", "--as", "dev:dns:a.test", "--action", "jwt.sign", "--claims", "@" + pipe},
	} {
		var out, told bytes.Buffer
		a := &app{in: &bytes.Buffer{}, out: &out, err: &told, getenv: func(string) string { return "" }}
		if status := a.run(ctx, args); status != 1 { // it would wait for ever
			t.Errorf("%v: %d, %s", args, status, told.String())
		}
	}
}

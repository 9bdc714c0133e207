package main

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/keystore/catalog/postgrestest"
)

// A daemon that waited for its database heard no signal: SIGTERM did nothing, and
// the service manager killed it.
func TestStoppingWhileTheDatabaseIsAway(t *testing.T) {
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away.Close()
	dir := tempDir(t)
	d := launch(t, dir, "dev", "--dir", dir, "--postgres", "postgres://chancery@"+away.Addr().String()+"/chancery?sslmode=disable")
	for began := time.Now(); !strings.Contains(d.log.String(), "the catalog cannot be opened"); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("it does not say that it waits")
		}
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.ended(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// A node whose start took longer than its lease to sign ended with an error, as on
// a database that is far away: its writes were refused by then.
func TestStartingOnASlowDatabase(t *testing.T) {
	_, name, server := postgrestest.Database(t)
	far := server.Proxy(t)
	slow := time.Now().Add(12 * time.Second)
	far.Before(func(string) {
		if time.Now().Before(slow) {
			time.Sleep(50 * time.Millisecond)
		}
	})
	startDev(t, tempDir(t), "--fast", "--postgres", far.URL(name))
}

package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// Systemd hears when the daemon is ready, when a reload begins and has ended,
// and when it stops (sd_notify(3)).
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	needSoftHSM(t)
	dir := tempDir(t)
	path := filepath.Join(dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	hears := func(pattern string) {
		t.Helper()
		if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1024)
		n, err := l.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %s: %v", pattern, err)
		}
		if !regexp.MustCompile(`^` + pattern + `$`).Match(buf[:n]) {
			t.Fatalf("systemd hears %q, want %s", buf[:n], pattern)
		}
	}
	cmd := exec.Command(os.Args[0], "dev", "--dir", filepath.Join(dir, "d"))
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	d := launchCommand(t, filepath.Join(dir, "d"), cmd)
	hears(`READY=1`)
	d.awaitReady()
	d.reload()
	hears(`RELOADING=1\nMONOTONIC_USEC=[0-9]+\n`)
	hears(`READY=1`)
	d.stop()
	hears(`STOPPING=1`)
}

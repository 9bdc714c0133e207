package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"chancery/signer/api"
)

// A manager hears what systemd would.
type manager struct {
	t    *testing.T
	path string

	mu    sync.Mutex // guards heard
	heard []string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{t: t, path: filepath.Join(tempDir(t), "notify")}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 4096)
		for {
			n, err := l.Read(buf)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.heard = append(m.heard, string(buf[:n]))
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return m
}

// hears waits for the next message that fits, and forgets it and those before it.
func (m *manager) hears(pattern string) string {
	m.t.Helper()
	fits := regexp.MustCompile(`^(?:` + pattern + `)$`)
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		m.mu.Lock()
		for i, text := range m.heard {
			if fits.MatchString(text) {
				m.heard = m.heard[i+1:]
				m.mu.Unlock()
				return text
			}
		}
		m.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	}
	m.t.Fatalf("systemd does not hear %s, but %q", pattern, m.heard)
	return ""
}

// pings returns how often it hears that the daemon makes progress in a while.
func (m *manager) pings(while time.Duration) (n int) {
	m.mu.Lock()
	m.heard = nil
	m.mu.Unlock()
	time.Sleep(while)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, text := range m.heard {
		if text == daemon.SdNotifyWatchdog {
			n++
		}
	}
	return n
}

// launchUnder starts chanceryd dev as a unit of the manager would.
func launchUnder(t *testing.T, m *manager, env ...string) *chanceryd {
	t.Helper()
	needSoftHSM(t)
	dir := filepath.Join(tempDir(t), "d")
	setClock(t, dir, "0s")
	cmd := exec.Command(os.Args[0], "dev", "--dir", dir)
	cmd.Env = append(os.Environ(), append(env, "NOTIFY_SOCKET="+m.path, testClock+"="+dir+".clock")...)
	return launchCommand(t, dir, cmd)
}

// Systemd hears when the daemon is ready, when a reload begins and has ended,
// when it stops, and all the while whether it may sign and if not why.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	d := launchUnder(t, m)
	m.hears(`READY=1`)
	d.awaitReady()
	m.hears(`STATUS=signs`)
	if _, err := d.client("operator").Suspend(t.Context(), "web", api.OperateRequest{Reason: "a drill"}); err != nil {
		t.Fatal(err)
	}
	m.hears(`STATUS=signs, and is not ready: keyset web: suspended`)
	if _, err := d.client("operator").Resume(t.Context(), "web", api.OperateRequest{Reason: "it is over"}); err != nil {
		t.Fatal(err)
	}
	m.hears(`STATUS=signs`)
	setClock(t, d.dir, "1h")
	m.hears(`STATUS=signs nothing: clock: the wall clock stepped by \+1h0m0s against boot time at .*`)
	setClock(t, d.dir, "0s")
	m.hears(`STATUS=signs`)
	d.reload()
	m.hears(`RELOADING=1\nMONOTONIC_USEC=[0-9]+\n`)
	m.hears(`READY=1`)
	d.stop()
	m.hears(`STOPPING=1\nSTATUS=stopping`)
}

// S18: a daemon that is stopped, or that does not get through where every request
// has to, lets systemd's watchdog run out; one whose keystore hangs does not, for a
// restart would not help.
func TestS18TheWatchdog(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	d := launchUnder(t, m, "WATCHDOG_USEC=400000")
	m.hears(`READY=1`)
	d.awaitReady()
	m.hears(`WATCHDOG=1`)
	m.hears(`WATCHDOG=1`)

	d.signalWorkers(syscall.SIGSTOP)
	if n := m.pings(2 * time.Second); n == 0 {
		t.Error("a module that hangs lets the watchdog run out")
	}
	d.signalWorkers(syscall.SIGCONT)

	if err := d.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	m.pings(200 * time.Millisecond) // what was under way
	if n := m.pings(1500 * time.Millisecond); n != 0 {
		t.Errorf("a daemon that is stopped made progress %d times", n)
	}
	if err := d.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	m.hears(`WATCHDOG=1`)
	d.sign(d.client("issuer"), "web", `{}`)
}

// S18: nothing is told while a lock that every request takes is held for ever, or
// while the admin door does not answer.
func TestS18AWedgeStopsTheWatchdog(t *testing.T) {
	m := newManager(t)
	t.Setenv("NOTIFY_SOCKET", m.path)
	t.Setenv("WATCHDOG_USEC", "40000")
	v := &views{leases: new(leases)}
	v.Install(snapshot(1), instant{})
	var mu sync.Mutex // guards broken
	var broken error
	h := &herald{log: slog.New(slog.DiscardHandler), progress: func() error {
		if _, err := v.Current(); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		return broken
	}}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Watch(ctx)
	}()
	m.hears(`WATCHDOG=1`)

	v.mu.Lock()
	m.pings(50 * time.Millisecond) // what was under way
	if n := m.pings(500 * time.Millisecond); n != 0 {
		t.Errorf("progress behind a lock that is held, %d times", n)
	}
	v.mu.Unlock()
	m.hears(`WATCHDOG=1`)

	mu.Lock()
	broken = errors.New("/livez answers with status 500")
	mu.Unlock()
	m.pings(50 * time.Millisecond)
	if n := m.pings(300 * time.Millisecond); n != 0 {
		t.Errorf("progress without an answer, %d times", n)
	}

	v.mu.Lock() // what hangs keeps the end from nobody
	defer v.mu.Unlock()
	time.Sleep(50 * time.Millisecond)
	stop()
	<-ended
}

// A systemd that takes no message holds nothing up for long, and a status is one
// line.
func TestASystemdThatDoesNotListen(t *testing.T) {
	path := filepath.Join(tempDir(t), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	log := new(syncBuffer)
	h := &herald{log: slog.New(slog.NewTextHandler(log, nil))}
	for range 1000 {
		h.Ready()
		if log.String() != "" {
			break
		}
	}
	if !strings.Contains(log.String(), "telling systemd failed") {
		t.Errorf("it took everything, or nobody was told: %q", log)
	}
	if got := oneLine("one\ntwo " + strings.Repeat("é", statusMost)); !strings.HasPrefix(got, "one; two é") || len(got) > statusMost+3 || !strings.HasSuffix(got, "é…") {
		t.Errorf("%q", got)
	}
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// How often the status is looked at, how long systemd may take to take a message,
// and how long a status is at most.
const (
	statusEvery = time.Second
	tellWithin  = time.Second
	statusMost  = 1024
)

// A herald tells systemd how the daemon is doing (sd_notify(3)), where there is
// one: when it is ready, whether it may sign and if not why, and that it makes
// progress. What it says may be waited for by nobody.
type herald struct {
	log *slog.Logger
	// status is whether the node may sign, in words.
	status func() string
	// progress returns once everything that requests go through has answered. An
	// error is that it did not. It may hang.
	progress func() error

	said string // the last status, owned by Run
}

// Run tells the status whenever it changes, until ctx ends.
func (h *herald) Run(ctx context.Context) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for {
		if now := oneLine(h.status()); now != h.said {
			h.said = now
			h.tell("STATUS=" + now)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Watch tells systemd at half the interval it asks for (WatchdogSec=) that the
// daemon makes progress, as long as it does, until ctx ends. A progress that hangs
// is left behind: there is nothing to end it by, and systemd ends the process.
func (h *herald) Watch(ctx context.Context) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		h.log.Warn("systemd's watchdog cannot be told", "err", err)
	}
	if interval == 0 {
		return
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	asked, answer := false, make(chan error, 1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if !asked {
				asked = true
				go func() { answer <- h.progress() }()
			}
		case err := <-answer:
			asked = false
			if err != nil {
				h.log.Error("the daemon makes no progress", "err", err)
				continue
			}
			h.tell(daemon.SdNotifyWatchdog)
		}
	}
}

// Reloading and Ready are told around a reload.
func (h *herald) Reloading() {
	h.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

func (h *herald) Ready() { h.tell(daemon.SdNotifyReady) }

func (h *herald) Stopping() { h.tell(daemon.SdNotifyStopping + "\nSTATUS=stopping") }

// tell sends a message, unless systemd takes none.
func (h *herald) tell(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		defer conn.Close()
		if err = conn.SetWriteDeadline(time.Now().Add(tellWithin)); err == nil {
			_, err = conn.Write([]byte(state))
		}
	}
	if err != nil {
		h.log.Warn("telling systemd failed", "err", err)
	}
}

// oneLine makes a status of a text: one line, and not too long a one.
func oneLine(text string) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\n", "; "), "?")
	if len(text) > statusMost {
		text = strings.ToValidUTF8(text[:statusMost], "") + "…"
	}
	return text
}

// status is whether the node may sign, in words, and the first thing that is
// wrong.
func (n *node) status() string {
	_, err := n.signable()
	if err == nil {
		err = n.audit.Health()
	}
	for _, c := range n.checks() {
		failed := c.Run()
		switch {
		case failed != nil && err != nil:
			return fmt.Sprintf("signs nothing: %s: %v", c.Name, failed)
		case failed != nil:
			return fmt.Sprintf("signs, and is not ready: %s: %v", c.Name, failed)
		}
	}
	if err != nil { // and no check says why
		return fmt.Sprintf("signs nothing: %v", err)
	}
	return "signs"
}

// progress goes where every request goes, and returns when each lock was got and
// the admin handler has answered. What they answer counts for nothing: a keystore,
// a catalog, a log or a clock that is down is no reason to start again.
func (n *node) progress() error {
	_, _ = n.signable()
	_ = n.audit.Health()
	_ = n.keys.Proven("")
	r, err := http.NewRequest(http.MethodGet, "/livez", nil)
	if err != nil {
		return err
	}
	answer := &statusOnly{header: make(http.Header)}
	n.admin.ServeHTTP(answer, r)
	if answer.status != http.StatusOK {
		return fmt.Errorf("/livez answers with status %d", answer.status)
	}
	return nil
}

// statusOnly is a http.ResponseWriter that keeps the status.
type statusOnly struct {
	header http.Header
	status int
}

func (w *statusOnly) Header() http.Header { return w.header }

func (w *statusOnly) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *statusOnly) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return len(b), nil
}

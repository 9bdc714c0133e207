package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/telemetry"
	"chancery/keystore/audit"
)

// anchors send the newest signed checkpoints to places outside the node, so that
// whoever keeps them can tell a log that was cut or made anew. They are the simple
// kind: nobody there checks what comes. One that hangs holds up nothing but itself.
type anchors struct {
	dir string // of the logs
	log *slog.Logger
	all []*anchor
}

// An anchor is one such place.
type anchor struct {
	name  string
	every time.Duration
	send  func(context.Context, audit.Published) error

	mu      sync.Mutex
	sent    time.Time // when everything there was had last been sent
	trouble error
}

// anchorDeadline is how long one checkpoint may take on its way.
const anchorDeadline = 10 * time.Second

func newAnchors(dir string, list []config.LogAnchor, log *slog.Logger, now func() time.Time) (*anchors, error) {
	a := &anchors{dir: dir, log: log}
	for _, c := range list {
		send, err := sender(c, now)
		if err != nil {
			return nil, err
		}
		a.all = append(a.all, &anchor{name: c.Name(), every: c.Every, send: send})
	}
	return a, nil
}

func (a *anchors) metrics(m *telemetry.Metrics, now func() time.Time) {
	for _, at := range a.all {
		m.Gauge("chancery_log_anchor_age_seconds", "Seconds since the anchor had the newest checkpoints; -1: never.",
			map[string]string{"anchor": at.name}, func() float64 {
				at.mu.Lock()
				defer at.mu.Unlock()
				if at.sent.IsZero() {
					return -1
				}
				return now().Sub(at.sent).Seconds()
			})
	}
}

// Run sends until ctx ends.
func (a *anchors) Run(ctx context.Context, now func() time.Time) {
	var all sync.WaitGroup
	for _, at := range a.all {
		all.Go(func() { a.keep(ctx, at, now) })
	}
	all.Wait()
}

// keep sends to one anchor what is new, at once and then every so often.
func (a *anchors) keep(ctx context.Context, at *anchor, now func() time.Time) {
	sizes := make(map[string]int64) // by origin
	for {
		began := now()
		err := a.round(ctx, at, sizes)
		if ctx.Err() != nil {
			return
		}
		a.tell(at, err, began)
		if !sleep(ctx, at.every) {
			return
		}
	}
}

func (a *anchors) round(ctx context.Context, at *anchor, sizes map[string]int64) error {
	newest, err := audit.Newest(a.dir)
	if err != nil {
		return err
	}
	for _, p := range newest {
		if sizes[p.Origin] == p.Size {
			continue
		}
		within, cancel := context.WithTimeout(ctx, anchorDeadline)
		err := at.send(within, p)
		cancel()
		if err != nil {
			return err
		}
		sizes[p.Origin] = p.Size
	}
	return nil
}

func (a *anchors) tell(at *anchor, err error, when time.Time) {
	at.mu.Lock()
	defer at.mu.Unlock()
	if err == nil {
		at.sent = when
	}
	switch {
	case err != nil && at.trouble == nil:
		a.log.Warn("an anchor of the log does not take checkpoints; it is tried again", "anchor", at.name, "err", err)
	case err == nil && at.trouble != nil:
		a.log.Info("an anchor of the log takes checkpoints again", "anchor", at.name)
	}
	at.trouble = err
}

// Trouble returns why an anchor has no new checkpoints, or "".
func (at *anchor) Trouble() string {
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.trouble == nil {
		return ""
	}
	return "checkpoints do not get there: " + at.trouble.Error()
}

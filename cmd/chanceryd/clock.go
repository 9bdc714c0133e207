package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"sync"
	"time"

	"chancery/cmd/internal/clock"
	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/keystore/catalog"
	"chancery/signer/api"
)

// clocks are where a node has the time from.
type clocks struct {
	now    func() time.Time
	read   func() clock.Reading
	glance func() clock.Reading // read, without the kernel's word on synchronisation
}

func systemClocks() clocks { return clocks{time.Now, clock.Read, clock.Glance} }

// How often wall clock and boot time are compared, and how often what is known of
// them is kept.
const (
	clockEvery = time.Second
	keepEvery  = time.Minute
)

// errClock: the node's wall clock was stepped.
var errClock = errors.New("nothing is signed by a wall clock that was stepped")

// clockKeeper compares the wall clock with boot time each second, and whenever
// someone is about to sign by it, so that no token has its times from a clock that
// was stepped. A change of state is entered in the log.
type clockKeeper struct {
	clocks
	node    string
	slog    *slog.Logger
	owed    *debts
	changed func()        // called after a change of state
	wake    chan struct{} // capacity 1: the state has changed

	// keeping is held from when the anchor is taken until it is on the disk, so that
	// no older one replaces a newer one. It is acquired before mu.
	keeping sync.Mutex
	failed  string // guarded by keeping: why the anchor could not be written, so that it is logged once

	mu    sync.Mutex // guards what follows
	guard *clock.Guard
	path  string // of the anchor; empty before Open
}

func newClockKeeper(c clocks, node string, owed *debts, log *slog.Logger, changed func()) *clockKeeper {
	return &clockKeeper{
		clocks: c, node: node, slog: log, owed: owed, changed: changed,
		wake: make(chan struct{}, 1), guard: clock.New(math.MaxInt64, clock.Anchor{}),
	}
}

// Open begins to compare, for the smallest skew of all key sets, with what a
// former process has kept at path.
func (k *clockKeeper) Open(path string, skew time.Duration) {
	kept, err := clock.Load(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.slog.Info("nothing is known of the clock of a former start")
	case err != nil:
		k.slog.Warn("what was kept of the clock cannot be read: this counts as a first start", "err", err)
	}
	k.mu.Lock()
	k.guard, k.path = clock.New(skew, kept), path
	k.feed()
	k.mu.Unlock()
	k.keep()
}

// feed takes a reading. The caller holds mu.
func (k *clockKeeper) feed() {
	r := k.read()
	change := k.guard.Feed(r)
	if change == clock.NoChange {
		return
	}
	since, trouble := k.guard.State()
	rec := keystore.Record{
		Principal: "chancery", Action: keystore.ActClockSettled, Outcome: keystore.OutcomeDone,
		Detail: map[string]string{"node": k.node, "wall": r.Wall.UTC().Format(time.RFC3339Nano), "offset": k.guard.Offset().String()},
	}
	if change == clock.Stepped {
		rec.Action, rec.Detail["since"] = keystore.ActClockStep, since.UTC().Format(time.RFC3339Nano)
		k.slog.Error("nothing is signed", "err", trouble)
	} else {
		k.slog.Info("wall clock and boot time agree again: signing goes on", "offset", k.guard.Offset().String())
	}
	k.owed.owe(string(rec.Action), rec)
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run compares until ctx ends.
func (k *clockKeeper) Run(ctx context.Context) {
	tick, keep := time.NewTicker(clockEvery), time.NewTicker(keepEvery)
	defer tick.Stop()
	defer keep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.mu.Lock()
			k.feed()
			k.mu.Unlock()
			continue
		case <-keep.C:
		case <-k.wake:
			k.changed()
		}
		k.keep()
	}
}

// Close keeps what is known for the next start.
func (k *clockKeeper) Close() {
	k.mu.Lock()
	if k.path != "" {
		k.feed()
	}
	k.mu.Unlock()
	k.keep()
}

// keep writes the anchor. That it cannot be written is no reason not to sign: the
// next start then knows less.
func (k *clockKeeper) keep() {
	k.keeping.Lock()
	defer k.keeping.Unlock()
	k.mu.Lock()
	path, anchor := k.path, k.guard.Anchor()
	k.mu.Unlock()
	if path == "" {
		return
	}
	text := ""
	if err := anchor.Store(path); err != nil {
		text = err.Error()
	}
	if text != "" && text != k.failed {
		k.slog.Warn("what is known of the clock cannot be kept for the next start", "err", text)
	}
	k.failed = text
}

// Look returns nil, or why nothing may be signed now: an *api.Error that wraps
// clock.ErrStepped. It reads the clocks anew, so that nothing is signed between a
// step and the next comparison.
func (k *clockKeeper) Look() error {
	r := k.glance()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.guard.Agrees(r) {
		return nil
	}
	k.feed()
	_, trouble := k.guard.State()
	if trouble == nil {
		return nil
	}
	e := api.Errorf(api.CodeLeaseExpired, "the wall clock of this node was stepped, so nothing is signed until it is put right or confirmed").Because(trouble)
	e.RetryAfter = 1
	return e
}

// Held is Look for those who tell no caller: its text stays the same.
func (k *clockKeeper) Held() error {
	if k.Look() != nil {
		return errClock
	}
	return nil
}

// Now returns the time the node goes by: the wall clock's, or while that was
// stepped, what it would be otherwise. So no certificate, no schedule and no entry
// of the log has its time from a clock that nobody can vouch for.
func (k *clockKeeper) Now() time.Time {
	now := k.now()
	r := k.glance()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.guard.Agrees(r) {
		return now
	}
	return k.guard.Time(r)
}

// Set changes the skew, after a reload.
func (k *clockKeeper) Set(skew time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.guard.Set(skew)
}

// Trouble returns nil, or how the wall clock was stepped, as last compared.
func (k *clockKeeper) Trouble() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, trouble := k.guard.State()
	return trouble
}

// Steady returns since when, in this boot, wall clock and boot time have agreed
// without interruption; the zero time while they do not.
func (k *clockKeeper) Steady() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.guard.Steady()
}

// Unsynchronised returns nil, or that nothing is known to keep the clock right.
func (k *clockKeeper) Unsynchronised() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.guard.Unsynchronised()
}

func (k *clockKeeper) offset() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.guard.Offset()
}

// metrics tells of the clock.
func (k *clockKeeper) metrics(m *telemetry.Metrics) {
	one := func(trouble func() error) func() float64 {
		return func() float64 {
			if trouble() != nil {
				return 0
			}
			return 1
		}
	}
	m.Gauge("chancery_clock_ok", "1 while wall clock and boot time agree, 0 while nothing is signed because they do not.", nil, one(k.Trouble))
	m.Gauge("chancery_clock_synchronised", "1 while the kernel says that the wall clock is kept right, 0 otherwise.", nil, one(k.Unsynchronised))
	m.Gauge("chancery_clock_offset_seconds", "How far the wall clock is ahead of the time that is agreed.", nil,
		func() float64 { return k.offset().Seconds() })
}

// signable returns the snapshot to sign by: the one in force, while the clock can
// be gone by.
func (n *node) signable() (*keystore.View, error) {
	if err := n.clock.Look(); err != nil {
		return nil, err
	}
	view, err := n.views.Current()
	if errors.Is(err, catalog.ErrFenced) { // asking again does not help
		return nil, api.Errorf(api.CodeLeaseExpired, "this node was fenced: an operator said that it does not come back, or another one has its name; it signs nothing until it is started anew").Because(err)
	}
	if errors.Is(err, errClocks) {
		e := api.Errorf(api.CodeLeaseExpired, "the clocks of this node and of the key catalog do not agree, so nothing is signed").Because(err)
		e.RetryAfter = 1
		return nil, e
	}
	return view, err
}

// unsynchronised is a condition of readiness, unless the configuration says that
// it is none.
func (n *node) unsynchronised() error {
	if n.config.Load().AcceptUnsynchronisedClock {
		return nil
	}
	return n.clock.Unsynchronised()
}

// unsynchronisedNote tells of a clock that is accepted as it is.
func (n *node) unsynchronisedNote() string {
	if n.clock.Unsynchronised() != nil {
		return clock.ErrUnsynchronised.Error() + ", which the configuration accepts"
	}
	return ""
}

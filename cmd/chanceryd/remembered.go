package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// remembered is what the lifecycle log has from former processes.
type remembered struct {
	proven  map[keystore.KID]bool // keys this node has seen sign
	last    keystore.Record       // the last that came from the catalog's outbox
	stopped map[string]string     // why, by keystore whose token was stopped last
	open    []keystore.Record     // intents of destructions without an outcome
}

// readLifecycle reads the lifecycle log.
func readLifecycle(dir string) (remembered, error) {
	r := remembered{proven: make(map[keystore.KID]bool), stopped: make(map[string]string)}
	for at, err := range audit.Entries(dir, audit.Filter{Log: "lifecycle"}) {
		if err != nil {
			return remembered{}, fmt.Errorf("reading the lifecycle log: %w", err)
		}
		r.add(at.Entry.Record)
	}
	return r, nil
}

func (r *remembered) add(rec keystore.Record) {
	switch rec.Action {
	case keystore.ActKeyProven:
		r.proven[rec.KID] = true
		return
	case keystore.ActKeyOrphan, keystore.ActKeyHalfPair, keystore.ActKeyMissing, keystore.ActKeyAttributes, keystore.ActKeyResurrected,
		keystore.ActKeyDisputed:
		return // entered without a step
	case keystore.ActTokenState:
		switch keystore.TokenState(rec.State) { // a token that is away is stopped still
		case keystore.TokenReady:
			delete(r.stopped, rec.Detail["keystore"])
		case keystore.TokenStopped:
			r.stopped[rec.Detail["keystore"]] = rec.Reason
		}
	case keystore.ActKeyDestroy:
		r.open = slices.DeleteFunc(r.open, func(open keystore.Record) bool { return open.ID == rec.ID })
		if rec.Outcome == keystore.OutcomeIntent {
			r.open = append(r.open, rec)
		}
	}
	if noun, _, _ := strings.Cut(string(rec.Action), "."); noun == "key" || noun == "keyset" {
		r.last = rec
	}
}

// stopAgain stops the keystores that were stopped when the last process ended,
// before anything is signed. The comparison at the start sees whether they still
// have to be.
func (n *node) stopAgain(stopped map[string]string) {
	for name, why := range stopped {
		if p, ok := n.providers[name]; ok && n.stops.Stop(name, why) {
			n.stops.tell(p)
		}
	}
}

// closeIntents enters that it is not known what became of destructions that a
// former process began, unless an outcome has been entered since.
func (n *node) closeIntents(ctx context.Context) error {
	for _, rec := range n.left {
		rec.Outcome = keystore.OutcomeDone
		if _, done, err := n.audit.Entered(ctx, rec); err != nil {
			return err
		} else if done {
			continue
		}
		rec.Outcome = keystore.OutcomeUnknown
		rec.Detail["cause"] = "the daemon ended before its outcome was entered"
		if _, err := n.audit.Lifecycle(ctx, rec); err != nil {
			return fmt.Errorf("closing an intent: %w", err)
		}
	}
	return nil
}

// sinceBoot is a clock that nobody sets and that counts sleep.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // Linux has had this clock since 2.6.39; without it no time passes
	}
	return time.Duration(t.Nano())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery/keystore"
	"chancery/keystore/catalog"
	"chancery/signer"
)

// horizons raises exp horizons in the catalog, and knows whether that works: a
// catalog that can be read and not written stops signing as well, once tokens
// reach beyond what it has.
type horizons struct {
	catalog *catalog.Catalog
	wake    chan struct{} // capacity 1: there is something to try again

	mu  sync.Mutex // guards what follows
	err error      // why the last write failed; nil if it did not
	kid keystore.KID
	to  time.Time // what it was to be
}

func newHorizons(c *catalog.Catalog) *horizons {
	return &horizons{catalog: c, wake: make(chan struct{}, 1)}
}

// RaiseHorizon is the catalog's.
func (h *horizons) RaiseHorizon(ctx context.Context, kid keystore.KID, to time.Time) error {
	err := h.catalog.RaiseHorizon(ctx, kid, to)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil || errors.Is(err, keystore.ErrNotFound) || errors.Is(err, keystore.ErrOvertaken): // it answers
		h.err = nil
	case signer.EndedByCaller(ctx): // who went, or gave it no time: Run finds out
		h.again(kid, to)
	default:
		h.err = err
		h.again(kid, to)
	}
	return err
}

// again has Run try. The caller holds mu.
func (h *horizons) again(kid keystore.KID, to time.Time) {
	h.kid, h.to = kid, to
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Trouble returns nil, or why horizons cannot be raised.
func (h *horizons) Trouble() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		return nil
	}
	return fmt.Errorf("it cannot be written: %w", h.err)
}

// Run tries again what was not written, at once and each second until it can be, so
// that a node that nobody asks any more because it is not ready finds out by itself,
// and that one whose callers do not wait for it finds out that it is not.
func (h *horizons) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		for h.tryAgain(ctx); h.Trouble() != nil; h.tryAgain(ctx) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
	}
}

// tryAgain raises the horizon that was last not raised. Trouble tells whether it could.
func (h *horizons) tryAgain(ctx context.Context) {
	h.mu.Lock()
	kid, to := h.kid, h.to
	h.mu.Unlock()
	ctx, cancel := signer.Within(ctx, settleWithin)
	defer cancel()
	_ = h.RaiseHorizon(ctx, kid, to)
}

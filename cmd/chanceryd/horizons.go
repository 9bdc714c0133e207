package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery/keystore"
	"chancery/keystore/catalog"
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
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled): // the caller went
	default:
		h.err, h.kid, h.to = err, kid, to
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
	return err
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

// Run tries again what could not be written, each second until it can, so that
// a node that nobody asks any more because it is not ready finds out by itself.
func (h *horizons) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		for h.Trouble() != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			h.mu.Lock()
			kid, to := h.kid, h.to
			h.mu.Unlock()
			within, cancel := context.WithTimeout(ctx, settleWithin)
			_ = h.RaiseHorizon(within, kid, to) // Trouble tells
			cancel()
		}
	}
}

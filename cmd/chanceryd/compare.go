package main

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/rotation"
)

// comparing compares the catalog with what the keystores hold: at the start,
// whenever a token is up again that was not, since it may be another one or have
// lost keys, and now and then.
type comparing struct {
	rotator *rotation.Rotator
	log     *slog.Logger
	wake    chan struct{} // capacity 1

	orphans atomic.Int64 // as last compared; -1: not compared yet

	mu   sync.Mutex      // guards down
	down map[string]bool // keystores that were not up since they were last compared
}

func newComparing(r *rotation.Rotator, m *telemetry.Metrics, log *slog.Logger) *comparing {
	c := &comparing{rotator: r, log: log, wake: make(chan struct{}, 1), down: make(map[string]bool)}
	c.orphans.Store(-1)
	m.Gauge("chancery_orphan_keys", "Keys in keystores that no version names, as last compared; NaN before that.", nil,
		func() float64 {
			if n := c.orphans.Load(); n >= 0 {
				return float64(n)
			}
			return math.NaN()
		})
	m.Gauge("chancery_missing_keys", "Versions whose private keys are missing or do not do what they are asked.", nil,
		func() float64 { return float64(r.Troubled()) })
	return c
}

// Token is told of a token's state. It does not wait. A worker that only
// restarts is no reason to compare.
func (c *comparing) Token(s keystore.TokenStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s.State {
	case keystore.TokenStarting:
	case keystore.TokenReady:
		if c.down[s.Keystore] {
			delete(c.down, s.Keystore)
			select {
			case c.wake <- struct{}{}:
			default:
			}
		}
	default:
		c.down[s.Keystore] = true
	}
}

// compareEvery is how often keystores are compared when nothing has happened.
const compareEvery = 10 * time.Minute

// Run compares when there is reason to, until ctx ends.
func (c *comparing) Run(ctx context.Context) {
	tick := time.NewTicker(compareEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-tick.C:
		}
		c.compare(ctx)
	}
}

// compare finishes what a crash left, and tells what does not fit.
func (c *comparing) compare(ctx context.Context) {
	found, err := c.rotator.Reconcile(ctx)
	if err != nil && ctx.Err() == nil {
		c.log.Warn("not everything could be compared; rotation goes on with what can be reached", "err", err)
	}
	for _, o := range found.Orphans {
		c.log.Warn("a key on a token is not the catalog's: it is neither used nor deleted",
			"keystore", o.Keystore, "id", o.Object.ID, "label", o.Object.Label, "type", o.Object.Type,
			"lacks", o.Object.Missing) // "private half": what a crash in a generation may leave
	}
	for _, m := range found.Missing {
		c.log.Error("a version's private key is not on its token", "keyset", m.KeySet, "version", m.Version, "keystore", m.Keystore)
	}
	c.orphans.Store(int64(len(found.Orphans)))
}

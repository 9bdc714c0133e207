package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/rotation"
	"chancery/signer/api"
)

// comparing compares the catalog with what the keystores hold, with the log, and
// with what is published: at the start,
// whenever a token is up again that was not, since it may be another one or have
// lost keys, now and then, and when an operator asks. A keystore in which a
// destroyed key is there again is stopped, until a comparison does not see it.
type comparing struct {
	rotator *rotation.Rotator
	stops   *stops
	keys    *keyring
	log     *slog.Logger
	wake    chan struct{} // capacity 1
	// disputes compares with log and publication; nil: nothing does.
	disputes *disputes

	mu    sync.Mutex                    // guards what follows
	down  map[string]bool               // keystores that were not up since they were last compared
	turn  map[string]int64              // of the last comparison of each keystore that saw it
	stray map[string]int                // keys that no version names, by keystore, as last compared
	last  map[string]api.Reconciliation // by keystore
	at    time.Time                     // of the last comparison of all; zero: none yet

	disputed int // what log, catalog or publication disagreed in, as last compared
}

func newComparing(r *rotation.Rotator, s *stops, k *keyring, m *telemetry.Metrics, log *slog.Logger) *comparing {
	c := &comparing{
		rotator: r, stops: s, keys: k, log: log, wake: make(chan struct{}, 1),
		down: make(map[string]bool), turn: make(map[string]int64), stray: make(map[string]int), last: make(map[string]api.Reconciliation),
	}
	m.Gauge("chancery_orphan_keys", "Keys in keystores that no version names, as last compared; NaN before that.", nil, c.orphans)
	m.Gauge("chancery_missing_keys", "Versions whose private keys are missing or do not do what they are asked.", nil,
		func() float64 { return float64(r.Troubled()) })
	m.Gauge("chancery_disputed_versions", "In how many things log, catalog and published sets disagree, as last compared.", nil, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(c.disputed)
	})
	m.Gauge("chancery_keysets_configured_otherwise", "Key sets of which this node takes no step, because another has configured them otherwise.", nil,
		func() float64 { return float64(r.Disagreeing()) })
	return c
}

func (c *comparing) orphans() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return math.NaN()
	}
	n := 0
	for _, stray := range c.stray {
		n += stray
	}
	return float64(n)
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
			c.Kick()
		}
	default:
		c.down[s.Keystore] = true
	}
}

// Kick has the keystores compared soon. It does not wait.
func (c *comparing) Kick() {
	select {
	case c.wake <- struct{}{}:
	default:
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

// compare finishes what a crash left, and logs what does not fit.
func (c *comparing) compare(ctx context.Context) {
	found, err := c.Reconcile(ctx, "")
	if err == nil {
		err = found.Err()
	}
	if err != nil && ctx.Err() == nil {
		c.log.Warn("not everything could be compared; rotation goes on with what can be reached", "err", err)
	}
	for _, m := range found.Mismatches {
		level := slog.LevelWarn
		switch m.Kind {
		case rotation.KeyMissing, rotation.KeyResurrected:
			level = slog.LevelError
		case rotation.KeyAdopted, rotation.KeyFinished:
			level = slog.LevelInfo
		}
		text := "keystore and catalog do not agree"
		if m.Kind.Disagrees() {
			level, text = slog.LevelError, "log, catalog and published set do not agree"
		}
		c.log.Log(ctx, level, text, "kind", m.Kind, "keystore", m.Keystore, "what", m.What,
			"keyset", m.KeySet, "version", m.Version, "id", m.Object.ID, "label", m.Object.Label, "type", m.Object.Type, "lacks", m.Object.Missing)
	}
}

// Reconcile compares a keystore, or all, and puts in force what comes of it.
func (c *comparing) Reconcile(ctx context.Context, only string) (rotation.Reconciliation, error) {
	found, err := c.rotator.Reconcile(ctx, only)
	if err != nil {
		return found, err
	}
	c.dispute(ctx, &found, only)
	for _, name := range c.keep(found, only == "") {
		if p, err := c.keys.Provider(name); err == nil {
			c.stops.tell(p)
		}
	}
	return found, nil
}

// enforce stops a keystore or lets it go on, and reports whether that changed.
// A comparison that saw nothing, or less than a later one, changes nothing. Its
// caller holds mu.
func (c *comparing) enforce(k rotation.Compared, all []rotation.Mismatch) bool {
	if !k.Seen || k.Turn <= c.turn[k.Keystore] {
		return false
	}
	c.turn[k.Keystore] = k.Turn
	if why := resurrected(all, k.Keystore); why != "" {
		return c.stops.Stop(k.Keystore, why)
	}
	return c.stops.Lift(k.Keystore)
}

// resurrected names the destroyed keys that are there again in a keystore; "":
// none.
func resurrected(all []rotation.Mismatch, name string) string {
	i := slices.IndexFunc(all, func(m rotation.Mismatch) bool { return m.Keystore == name && m.Kind == rotation.KeyResurrected })
	if i < 0 {
		return ""
	}
	return fmt.Sprintf("the destroyed key of %s version %d is there again", all[i].KeySet, all[i].Version)
}

// keep keeps what was found, by keystore, and puts it in force. It returns the
// keystores that were stopped by it, or go on.
func (c *comparing) keep(found rotation.Reconciliation, all bool) (changed []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if all {
		c.at = found.At
	}
	for _, k := range found.Keystores {
		if c.enforce(k, found.Mismatches) {
			changed = append(changed, k.Keystore)
		}
		one := rotation.Reconciliation{At: found.At, Keystores: []rotation.Compared{k}}
		stray := 0
		for _, m := range found.Mismatches {
			if m.Keystore != k.Keystore {
				continue
			}
			one.Mismatches = append(one.Mismatches, m)
			if m.Stray() {
				stray++
			}
		}
		c.last[k.Keystore] = wireReconciliation(one)
		if k.Seen {
			c.stray[k.Keystore] = stray
		}
	}
	return changed
}

// Last returns what was last found in each keystore; false: not all have been
// compared yet. Its time is the oldest of theirs.
func (c *comparing) Last() (api.Reconciliation, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := wireReconciliation(rotation.Reconciliation{})
	for _, name := range sortedKeys(c.last) {
		one := c.last[name]
		if all.At.IsZero() || one.At.Before(all.At) {
			all.At = one.At
		}
		all.Keystores = append(all.Keystores, one.Keystores...)
		all.Findings = append(all.Findings, one.Findings...)
	}
	return all, !c.at.IsZero()
}

// wireReconciliation is what was found, in the words of the wire.
func wireReconciliation(r rotation.Reconciliation) api.Reconciliation {
	reply := api.Reconciliation{At: r.At.UTC(), Keystores: []api.Compared{}, Findings: []api.Mismatch{}}
	for _, k := range r.Keystores {
		one := api.Compared{Keystore: k.Keystore, Keys: k.Objects}
		if k.Err != nil {
			one.Error = k.Err.Error()
		}
		reply.Keystores = append(reply.Keystores, one)
	}
	for _, m := range r.Mismatches {
		f := api.Mismatch{
			Kind: string(m.Kind), Keystore: m.Keystore, KeySet: m.KeySet, Version: m.Version, KID: string(m.KID),
			Token: m.Object.Token, KeyID: m.Object.ID, Label: m.Object.Label, Type: m.Object.Type, Lacks: m.Object.Missing,
			What: m.What, Todo: m.Todo, Entry: m.Entry,
		}
		if m.Version != 0 {
			f.State = m.State.String()
		}
		reply.Findings = append(reply.Findings, f)
	}
	return reply
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/signer/api"
)

// tokens is the keystores as signer sees them.
type tokens struct {
	providers map[string]keystore.Provider
	comparing *comparing
}

func (t *tokens) Status() []keystore.TokenStatus { return tokenStates(t.providers) }

func tokenStates(providers map[string]keystore.Provider) []keystore.TokenStatus {
	var all []keystore.TokenStatus
	for _, name := range sortedKeys(providers) {
		all = append(all, providers[name].Status()...)
	}
	return all
}

// reconcileWithin bounds a comparison that an operator waits for.
const reconcileWithin = 20 * time.Second

// Reconcile goes on when the request's time is over, so that a keystore that
// hangs keeps the others' findings from nobody.
func (t *tokens) Reconcile(ctx context.Context, name string) (api.Reconciliation, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reconcileWithin)
	defer cancel()
	found, err := t.comparing.Reconcile(ctx, name)
	if err != nil && !errors.Is(err, keystore.ErrNotFound) {
		return api.Reconciliation{}, wireError(err)
	}
	return wireReconciliation(found), err
}

func (t *tokens) Reconciled() (api.Reconciliation, bool) { return t.comparing.Last() }

func (t *tokens) Retry(ctx context.Context, token string) error {
	for name, p := range t.providers {
		retrier, ok := p.(keystore.Retrier)
		if !ok {
			continue
		}
		for _, s := range p.Status() {
			if token == name || token == s.Serial || token == s.Label {
				if err := retrier.Retry(ctx, cmp.Or(s.Serial, s.Label)); err != nil {
					return err
				}
				return t.unstop(ctx, name)
			}
		}
	}
	return fmt.Errorf("token %q: %w", token, keystore.ErrNotFound)
}

// told is which state of each token has been entered.
type told struct {
	mu     sync.Mutex
	states map[string]keystore.TokenStatus
}

// isNews reports whether a state is to be entered, and takes it for entered. That
// a worker died and another one took its place is no news: under a module that
// crashes at each fiftieth signature it happens forty times a second, and the
// lifecycle log is kept for ever. A token that takes long to start becomes
// unavailable, which is.
func (t *told) isNews(s keystore.TokenStatus) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	last, known := t.states[s.Keystore]
	if known && (s.State == keystore.TokenStarting || s.State == last.State && s.Err == last.Err && s.Serial == last.Serial) {
		return false
	}
	if t.states == nil {
		t.states = make(map[string]keystore.TokenStatus)
	}
	t.states[s.Keystore] = s
	return true
}

// unstop compares a keystore that is stopped once more, and returns why it still
// is, if so.
func (t *tokens) unstop(ctx context.Context, name string) error {
	if t.comparing.stops.Why(name) == nil {
		return nil
	}
	if _, err := t.comparing.Reconcile(ctx, name); err != nil {
		return err
	}
	return t.comparing.stops.Why(name)
}

// tokenState has a token's change of state entered. It never waits: a provider
// calls it. While the log cannot be written the newest state of each token is
// kept.
func (n *node) tokenState(s keystore.TokenStatus) {
	if !n.enterToken(s) {
		return
	}
	if n.running.Load() {
		n.comparing.Token(s)
	}
	n.changed()
}

// enterToken has the state of a token entered, if it is news, and reports
// whether it is. What a stop makes of it is decided under the same lock, so that a
// state from before a stop is not entered after it.
func (n *node) enterToken(s keystore.TokenStatus) bool {
	n.tokenMu.Lock()
	defer n.tokenMu.Unlock()
	s = n.stops.over(s)
	if !n.told.isNews(s) {
		return false
	}
	n.owed.owe("token "+s.Keystore, keystore.Record{
		Principal: "chancery", Action: keystore.ActTokenState, Outcome: keystore.OutcomeDone, State: string(s.State),
		Reason: s.Err, Detail: map[string]string{"keystore": s.Keystore, "token": s.Label, "serial": s.Serial},
	})
	return true
}

// tokenMetrics tells how each token is doing, by its keystore.
func tokenMetrics(m *telemetry.Metrics, providers map[string]keystore.Provider) {
	for name, p := range providers {
		status := func() (s keystore.TokenStatus) {
			if all := p.Status(); len(all) > 0 {
				s = all[0]
			}
			return s
		}
		labels := map[string]string{"keystore": name}
		m.Gauge("chancery_token_ready", "1 while the keystore's token signs, 0 otherwise.", labels, func() float64 {
			if status().State == keystore.TokenReady {
				return 1
			}
			return 0
		})
		m.Gauge("chancery_token_workers", "Processes that sign with the keystore's token.", labels,
			func() float64 { return float64(status().Workers) })
		m.Counter("chancery_token_worker_restarts_total", "Processes that were started in the place of others.", labels,
			func() float64 { return float64(status().Restarts) })
	}
}

// probeLabel begins the label of the probe key that each node has on a token.
const probeLabel = "chancery/" + string(keystore.PurposeProbe) + "/"

// isProbe reports whether an object that is no version's key belongs on a token
// all the same: it is the probe key in use, or looks like that of another node.
func (n *node) isProbe(keystoreName string, o keystore.Object) bool {
	if n.leases.shared && strings.HasPrefix(o.Label, probeLabel) {
		return true
	}
	p, ok := n.providers[keystoreName].(interface {
		ProbeKey() (keystore.KeyRef, bool)
	})
	if !ok {
		return false
	}
	ref, made := p.ProbeKey()
	return made && o.ID == ref.ID.String()
}

// How often each token makes a real signature, and how long that may take. Some
// devices drop a session after 15 idle seconds.
const (
	probeEvery  = 10 * time.Second
	probeWithin = 5 * time.Second
)

// probe has a token's probe key sign now and then until ctx ends, so that a
// token that fails while nobody asks is noticed: an open session is not health.
// What comes of it is the token's state.
func (n *node) probe(ctx context.Context, name string, p keystore.Provider) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			within, cancel := context.WithTimeout(ctx, probeWithin)
			if err := p.Probe(within); err != nil && ctx.Err() == nil {
				n.log.Debug("a probe failed", "keystore", name, "err", err)
			}
			cancel()
		}
	}
}

// tokensWithin is how long rotation waits at the start for tokens to come up.
const tokensWithin = 5 * time.Second

// awaitTokens waits until no token is starting any more, or for tokensWithin.
func (n *node) awaitTokens(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tokensWithin)
	defer cancel()
	starting := func() bool {
		return slices.ContainsFunc(tokenStates(n.providers), func(s keystore.TokenStatus) bool {
			return s.State == keystore.TokenStarting
		})
	}
	for tick := time.NewTicker(5 * time.Millisecond); starting(); {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}

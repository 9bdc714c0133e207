package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"chancery/keystore"
)

// stops are the keystores that sign nothing until an operator acts, because a
// key that was destroyed is there again: who put it back may have put back
// others, and can use them. A stop lasts until a comparison does not see such a
// key any more. It is in the log as a state of the token, and so outlasts the
// process.
type stops struct {
	now  func() time.Time
	told func(keystore.TokenStatus) // of each change

	mu      sync.Mutex // guards stopped
	stopped map[string]stop
}

type stop struct {
	why   string
	since time.Time
}

func newStops(now func() time.Time, told func(keystore.TokenStatus)) *stops {
	return &stops{now: now, told: told, stopped: make(map[string]stop)}
}

// Stop stops a keystore. It reports whether it went on before.
func (s *stops) Stop(name, why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, already := s.stopped[name]
	if !already {
		s.stopped[name] = stop{why, s.now()}
	}
	return !already
}

// Lift lets a keystore go on. It reports whether it was stopped.
func (s *stops) Lift(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was := s.stopped[name]
	delete(s.stopped, name)
	return was
}

// Why returns why a keystore is stopped, as an error that wraps
// keystore.ErrUnavailable, or nil.
func (s *stops) Why(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.stopped[name]; ok {
		return fmt.Errorf("%w: keystore %s is stopped: %s", keystore.ErrUnavailable, name, at.why)
	}
	return nil
}

// over lays a stop over the state of a token that would serve otherwise.
func (s *stops) over(t keystore.TokenStatus) keystore.TokenStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.stopped[t.Keystore]; ok && t.State == keystore.TokenReady {
		t.State, t.Since, t.Err = keystore.TokenStopped, at.since, at.why
	}
	return t
}

// tell tells of the tokens of a keystore whose stop has changed.
func (s *stops) tell(p keystore.Provider) {
	for _, t := range p.Status() {
		s.told(t)
	}
}

// A stoppable is a keystore that makes and uses keys only while it is not
// stopped. What is there can be looked at, and destroyed, at any time.
type stoppable struct {
	keystore.Provider
	name  string
	stops *stops
}

func (p *stoppable) Generate(ctx context.Context, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) ([]byte, error) {
	if err := p.stops.Why(p.name); err != nil {
		return nil, err
	}
	return p.Provider.Generate(ctx, id, purpose, alg)
}

func (p *stoppable) Find(ctx context.Context, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) ([]byte, error) {
	if err := p.stops.Why(p.name); err != nil {
		return nil, err
	}
	return p.Provider.Find(ctx, id, purpose, alg)
}

func (p *stoppable) Open(ctx context.Context, ref keystore.KeyRef, purpose keystore.Purpose) (keystore.Key, error) {
	if err := p.stops.Why(p.name); err != nil {
		return nil, err
	}
	key, err := p.Provider.Open(ctx, ref, purpose)
	if err != nil {
		return nil, err
	}
	if several, ok := key.(keystore.BatchSigner); ok {
		return stoppableBatch{stoppableKey{key, p}, several}, nil
	}
	return stoppableKey{key, p}, nil
}

func (p *stoppable) Status() []keystore.TokenStatus {
	all := p.Provider.Status()
	for i := range all {
		all[i] = p.stops.over(all[i])
	}
	return all
}

// Retry implements keystore.Retrier.
func (p *stoppable) Retry(ctx context.Context, token string) error {
	retrier, ok := p.Provider.(keystore.Retrier)
	if !ok {
		return fmt.Errorf("token %q: %w", token, keystore.ErrNotFound)
	}
	return retrier.Retry(ctx, token)
}

// ProbeKey returns the probe key in use, if one was made.
func (p *stoppable) ProbeKey() (keystore.KeyRef, bool) {
	prober, ok := p.Provider.(interface {
		ProbeKey() (keystore.KeyRef, bool)
	})
	if !ok {
		return keystore.KeyRef{}, false
	}
	return prober.ProbeKey()
}

// A stoppableKey signs while its keystore is not stopped, and releases nothing
// that was under way when it was.
type stoppableKey struct {
	keystore.Key
	of *stoppable
}

func (k stoppableKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return k.SignAsked(ctx, message, nil)
}

// SignAsked implements keystore.Announcer.
func (k stoppableKey) SignAsked(ctx context.Context, message []byte, asked func()) ([]byte, error) {
	if err := k.of.stops.Why(k.of.name); err != nil {
		return nil, err
	}
	sig, err := keystore.SignAsked(ctx, k.Key, message, asked)
	if err != nil {
		return nil, err
	}
	if err := k.of.stops.Why(k.of.name); err != nil {
		return nil, err
	}
	return sig, nil
}

// A stoppableBatch is a stoppableKey that signs several messages in one call.
type stoppableBatch struct {
	stoppableKey
	several keystore.BatchSigner
}

func (k stoppableBatch) SignBatch(ctx context.Context, messages [][]byte) ([][]byte, []error) {
	return k.SignBatchAsked(ctx, messages, nil)
}

// SignBatchAsked implements keystore.BatchAnnouncer.
func (k stoppableBatch) SignBatchAsked(ctx context.Context, messages [][]byte, asked func(place int)) ([][]byte, []error) {
	if err := k.of.stops.Why(k.of.name); err != nil {
		return keystore.RefuseBatch(len(messages), err)
	}
	sigs, errs := keystore.SignBatchAsked(ctx, k.several, messages, asked)
	why := k.of.stops.Why(k.of.name)
	for i := range errs {
		if why != nil && errs[i] == nil {
			sigs[i], errs[i] = nil, why
		}
	}
	return sigs, errs
}

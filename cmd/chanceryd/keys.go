package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// proofDeadline bounds one challenge of one key.
const proofDeadline = 20 * time.Second

// keyring opens private keys, and keeps which of them this node has proven.
//
// A row of the catalog is a claim: a version signs or is published here only
// after this node has seen the token sign a challenge that verifies under the
// row's public key. The proof is an entry of the lifecycle log, so it is
// remembered across restarts and no one who can write only the catalog can make
// one up.
type keyring struct {
	providers map[string]keystore.Provider
	await     func(ctx context.Context, keystore string) error // until its keys may sign
	log       *audit.Log
	slog      *slog.Logger
	changed   func() // called after something was proven
	// lost is told of each error of a key of a version, what it may mean for the
	// version is for lost to say.
	lost func(keystore.KID, error)
	// found is told that a key has done what it was asked.
	found func(keystore.KID)

	mu      sync.Mutex // guards what follows
	proven  map[keystore.KID]bool
	open    map[keystore.KID]keystore.Key
	opening map[keystore.KID]*opening
	busy    map[string]bool   // a goroutine proves keys of this keystore
	failing map[string]string // what last went wrong there, so that it is logged once

	closing chan struct{} // closed by Close
	wg      sync.WaitGroup
}

// Proven reports whether this node has seen the key of kid sign.
func (k *keyring) Proven(kid keystore.KID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.proven[kid]
}

// Provider returns the provider of a configured keystore.
func (k *keyring) Provider(name string) (keystore.Provider, error) {
	p, ok := k.providers[name]
	if !ok {
		return nil, fmt.Errorf("keystore %q: %w in the configuration", name, keystore.ErrNotFound)
	}
	return p, nil
}

// Open returns the private key of a proven version.
func (k *keyring) Open(ctx context.Context, set *keystore.KeySet, v *keystore.Version) (keystore.Key, error) {
	if err := k.await(ctx, v.Keystore); err != nil {
		return nil, err
	}
	for {
		k.mu.Lock()
		key, open := k.open[v.KID]
		proven := k.proven[v.KID]
		o, under := k.opening[v.KID]
		if proven && !open && !under {
			o = &opening{done: make(chan struct{})}
			k.opening[v.KID] = o
		}
		k.mu.Unlock()
		switch {
		case !proven:
			return nil, fmt.Errorf("%w: key %s has not been seen signing by this node", keystore.ErrUnavailable, v.KID)
		case open:
			return key, nil
		case !under:
			k.openFor(ctx, o, set, v)
			return o.key, o.err
		}
		select {
		case <-o.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("opening key %s: %w", v.KID, context.Cause(ctx))
		}
		if over := errors.Is(o.err, context.Canceled) || errors.Is(o.err, context.DeadlineExceeded); !over {
			return o.key, o.err
		} // whoever opened it had no time left, which is not ours
	}
}

// An opening is of a key that many may want: one opens it, for all of them.
type opening struct {
	done chan struct{} // closed when key or err is there
	key  keystore.Key
	err  error
}

// openFor opens a key for all who wait for it.
func (k *keyring) openFor(ctx context.Context, o *opening, set *keystore.KeySet, v *keystore.Version) {
	key, err := k.openFresh(ctx, set.Purpose, v)
	if err != nil {
		k.lost(v.KID, err)
		o.err = err
	} else {
		k.found(v.KID)
		o.key = k.watched(key, v.KID)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.opening, v.KID)
	if err == nil {
		k.open[v.KID] = o.key
	}
	close(o.done)
}

// A watchedKey tells of the errors of a version's key, and of their end.
type watchedKey struct {
	keystore.Key
	kid    keystore.KID
	ring   *keyring
	failed *atomic.Bool
}

func (k *keyring) watched(key keystore.Key, kid keystore.KID) keystore.Key {
	w := watchedKey{key, kid, k, new(atomic.Bool)}
	if several, ok := key.(keystore.BatchSigner); ok {
		return watchedBatch{w, several}
	}
	return w
}

func (w watchedKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return w.SignAsked(ctx, message, nil)
}

// SignAsked implements keystore.Announcer.
func (w watchedKey) SignAsked(ctx context.Context, message []byte, asked func()) ([]byte, error) {
	sig, err := keystore.SignAsked(ctx, w.Key, message, asked)
	w.saw(err)
	return sig, err
}

// saw tells of what became of one message.
func (w watchedKey) saw(err error) {
	switch {
	case err != nil:
		w.ring.lost(w.kid, err)
		w.failed.Store(true) // after that: whoever sees it takes it back
	case w.failed.Load():
		w.failed.Store(false)
		w.ring.found(w.kid)
	}
}

// A watchedBatch is a watchedKey that signs several messages in one call.
type watchedBatch struct {
	watchedKey
	several keystore.BatchSigner
}

func (w watchedBatch) SignBatch(ctx context.Context, messages [][]byte) ([][]byte, []error) {
	return w.SignBatchAsked(ctx, messages, nil)
}

// SignBatchAsked implements keystore.BatchAnnouncer.
func (w watchedBatch) SignBatchAsked(ctx context.Context, messages [][]byte, asked func(place int)) ([][]byte, []error) {
	sigs, errs := keystore.SignBatchAsked(ctx, w.several, messages, asked)
	for _, err := range errs {
		w.saw(err)
	}
	return sigs, errs
}

func (k *keyring) openFresh(ctx context.Context, purpose keystore.Purpose, v *keystore.Version) (keystore.Key, error) {
	p, err := k.Provider(v.Keystore)
	if err != nil {
		return nil, err
	}
	key, err := p.Open(ctx, v.Ref(), purpose)
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", v.KID, err)
	}
	return key, nil
}

// dropAfter is how long after it left active a key is dropped by its keystore. That
// may cost worker processes, and just now the next key is made.
const dropAfter = 1500 * time.Millisecond

// Dropped forgets the keys of versions that were active before and are not now,
// here and, at once if they are compromised, in their keystore.
func (k *keyring) Dropped(ctx context.Context, before, after *keystore.View) {
	if before == nil {
		return
	}
	for _, set := range before.KeySets() {
		old, ok := set.Active()
		if !ok {
			continue
		}
		now, ok := after.KeySet(set.Name)
		if !ok {
			continue
		}
		wait := dropAfter
		if v, ok := now.ByKID(old.KID); ok && v.State == keystore.Active {
			continue
		} else if ok && v.Compromised != nil {
			wait = 0
		} else if set.Purpose == keystore.PurposeAudit {
			continue // it may sign on beside its successor: see overlap
		}
		k.drop(ctx, old, wait)
	}
}

// Forget forgets a key that is about to be destroyed.
func (k *keyring) Forget(kid keystore.KID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.open, kid)
}

func (k *keyring) drop(ctx context.Context, v *keystore.Version, wait time.Duration) {
	k.mu.Lock()
	delete(k.open, v.KID)
	k.mu.Unlock()
	p, err := k.Provider(v.Keystore)
	if err != nil {
		return
	}
	k.wg.Go(func() {
		select {
		case <-time.After(wait):
		case <-k.closing: // the keystores are closed next
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), proofDeadline)
		defer cancel()
		if err := p.Drop(ctx, v.KeyID); err != nil {
			k.slog.Warn("dropping a key that left active failed", "kid", v.KID, "err", err)
		}
	})
}

// Prove has every known version of view that is not proven yet sign a
// challenge. Each keystore is asked in a goroutine of its own, so that one that
// hangs keeps no other back. Unproven tells whether there is reason to call it
// again.
func (k *keyring) Prove(ctx context.Context, view *keystore.View) {
	type claim struct {
		set *keystore.KeySet
		v   *keystore.Version
	}
	claims := make(map[string][]claim)
	for _, set := range view.KeySets() {
		for _, v := range set.Known() {
			if !k.Proven(v.KID) {
				claims[v.Keystore] = append(claims[v.Keystore], claim{set, v})
			}
		}
	}
	for name, list := range claims {
		k.mu.Lock()
		busy := k.busy[name]
		k.busy[name] = true
		k.mu.Unlock()
		if busy {
			continue
		}
		k.wg.Go(func() {
			some := false
			for _, c := range list {
				err := k.prove(ctx, c.set, c.v)
				if err != nil {
					k.lost(c.v.KID, err)
				} else {
					k.found(c.v.KID)
				}
				k.report(name, c.v.KID, err)
				some = some || err == nil
			}
			k.mu.Lock()
			k.busy[name] = false
			k.mu.Unlock()
			if some {
				k.changed()
			}
		})
	}
}

// Unproven reports whether a known version of view is not proven, though its
// token is up.
func (k *keyring) Unproven(view *keystore.View) bool {
	for _, set := range view.KeySets() {
		for _, v := range set.Known() {
			if k.Proven(v.KID) {
				continue
			}
			if p, err := k.Provider(v.Keystore); err == nil && tokenTrouble(p.Status()) == nil {
				return true
			}
		}
	}
	return false
}

// report logs what kept a proof, once for each different cause.
func (k *keyring) report(name string, kid keystore.KID, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	k.mu.Lock()
	again := k.failing[name] == text
	k.failing[name] = text
	k.mu.Unlock()
	if err != nil && !again {
		k.slog.Warn("a key is not proven and is neither published nor used", "keystore", name, "kid", kid, "err", err)
	}
}

// prove is the challenge: a message that begins with a zero byte and ends in
// randomness, so that its signature is new and never anything else's.
func (k *keyring) prove(ctx context.Context, set *keystore.KeySet, v *keystore.Version) error {
	ctx, cancel := context.WithTimeout(ctx, proofDeadline)
	defer cancel()
	pub, err := v.Public()
	if err != nil {
		return fmt.Errorf("reading the public key of the row: %w", err)
	}
	if kid, err := keystore.Thumbprint(pub); err != nil || kid != v.KID {
		return fmt.Errorf("the row's kid %s is not the thumbprint of its public key", v.KID)
	}
	key, err := k.openFresh(ctx, set.Purpose, v)
	if err != nil {
		return err
	}
	challenge := append([]byte{keystore.ProbePrefix}, "chancery challenge "+string(v.KID)+" "...)
	challenge = append(challenge, rand.Text()...)
	message := challenge
	if set.Purpose == keystore.PurposeDigest { // its key signs digests only
		message = keystore.Digest(v.Algorithm, challenge)
	}
	sig, err := key.Sign(ctx, message)
	if err != nil {
		return fmt.Errorf("the token did not sign the challenge: %w", err)
	}
	if err := keystore.Verify(v.Algorithm, pub, challenge, sig); err != nil {
		return fmt.Errorf("the challenge's signature: %w", err)
	}
	_, err = k.log.Lifecycle(ctx, keystore.Record{
		Principal: "chancery", Action: keystore.ActKeyProven, Outcome: keystore.OutcomeDone,
		KeySet: set.Name, KID: v.KID, Version: v.Number, State: v.State.String(),
		Detail: audit.Announcement(set.Purpose, v), // the version may have been published by another node, in whose log that is
	})
	if err != nil {
		return fmt.Errorf("entering the proof: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.proven[v.KID] = true
	k.open[v.KID] = k.watched(key, v.KID)
	return nil
}

// Close waits for every goroutine the keyring started, before the keystores are
// closed. It is called once.
func (k *keyring) Close() {
	close(k.closing)
	k.wg.Wait()
}

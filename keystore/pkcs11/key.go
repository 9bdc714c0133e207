package pkcs11

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"chancery/keystore"
)

// A key is a private key on the token, in whichever generation serves.
type key struct {
	p       *Provider
	ref     keystore.KeyRef
	purpose keystore.Purpose
	public  crypto.PublicKey
	name    keyName

	turn   chan struct{} // one element while someone makes a worker hold it
	heldBy atomic.Uint32 // the generation that holds it, proven; 0: none
}

func (p *Provider) newKey(ref keystore.KeyRef, purpose keystore.Purpose) (*key, error) {
	pub, err := keystore.ParsePublic(ref.SPKI)
	if err != nil {
		return nil, fmt.Errorf("public key of %s: %w", ref.ID, err)
	}
	if err := ref.Algorithm.Fits(pub); err != nil {
		return nil, fmt.Errorf("key %s: %w", ref.ID, err)
	}
	return &key{p: p, ref: ref, purpose: purpose, public: pub, name: nameOf(ref.ID, ref.SPKI), turn: make(chan struct{}, 1)}, nil
}

func (k *key) Public() crypto.PublicKey      { return k.public }
func (k *key) Algorithm() keystore.Algorithm { return k.ref.Algorithm }

// Sign implements keystore.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return k.sign(ctx, &k.p.rooms.signing, message)
}

// sign is Sign for who waits in r.
func (k *key) sign(ctx context.Context, r *room, message []byte) (sig []byte, err error) {
	if err := keystore.CheckMessage(k.purpose, k.ref.Algorithm, message); err != nil {
		return nil, err
	}
	err = k.p.twice(ctx, r, func(g *generation, at *place) error {
		sig, err = k.signIn(ctx, g, at, message)
		return err
	})
	if err != nil {
		return nil, err
	}
	return sig, nil
}

// signIn has g sign, making it hold the key first where it does not.
func (k *key) signIn(ctx context.Context, g *generation, at *place, message []byte) ([]byte, error) {
	for {
		if k.heldBy.Load() != g.number {
			err := k.holdOnce(ctx, g)
			if errors.Is(err, errNotHeld) && ctx.Err() == nil {
				continue // it was dropped between its search and its challenge
			}
			if err != nil {
				return nil, err
			}
		}
		sig, err := k.ask(ctx, g, at, message)
		if errors.Is(err, errNotHeld) {
			k.heldBy.CompareAndSwap(g.number, 0) // it was dropped
			continue
		}
		return sig, err
	}
}

// ask has g sign with a key it holds, and verifies. What does not verify is
// dropped, and the generation with it: nobody knows whose handle that was.
func (k *key) ask(ctx context.Context, g *generation, at *place, message []byte) ([]byte, error) {
	sig, err := g.ask(ctx, at, verbSign, k.p.cfg.Deadlines.Sign, k.name[:], message)
	if err != nil {
		return nil, err
	}
	if k.purpose == keystore.PurposeDigest {
		err = keystore.VerifyDigest(k.ref.Algorithm, k.public, message, sig)
	} else {
		err = keystore.Verify(k.ref.Algorithm, k.public, message, sig)
	}
	if err != nil {
		err = fmt.Errorf("key %s: %w", k.ref.ID, err)
		k.p.cfg.Log.ErrorContext(ctx, "a signature does not verify and was not released",
			"keystore", k.p.cfg.Name, "key", k.ref.ID.String(), "err", err)
		g.end(err)
		return nil, err
	}
	return sig, nil
}

// holdOnce makes g hold the key, though many may want that now.
func (k *key) holdOnce(ctx context.Context, g *generation) error {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for the key: %w", keystore.ErrUnavailable, context.Cause(ctx))
	}
	if k.heldBy.Load() == g.number {
		return nil
	}
	at, err := k.p.rooms.desk.enter(ctx)
	if err != nil {
		return err
	}
	defer at.leave()
	return k.hold(ctx, g, at)
}

// hold makes g hold the key: the worker finds and checks the pair of that
// CKA_ID, its public half is compared with ours, and it signs a challenge. The
// place is one at the desk.
func (k *key) hold(ctx context.Context, g *generation, at *place) error {
	spki, err := g.ask(ctx, at, verbFind, k.p.cfg.Deadlines.Find, keyBody(k.ref.ID, k.purpose, k.ref.Algorithm))
	if err != nil {
		return err
	}
	if nameOf(k.ref.ID, spki) != k.name {
		return fmt.Errorf("key %s: %w: the token has another public key under that name", k.ref.ID, keystore.ErrNotFound)
	}
	if err := k.challenge(ctx, g, at); err != nil {
		return err
	}
	k.heldBy.Store(g.number)
	return nil
}

// challenge has g sign something fresh with a key it holds. Its place is one at
// the desk, so that it waits for no caller's signature.
func (k *key) challenge(ctx context.Context, g *generation, at *place) error {
	message := newChallenge()
	if k.purpose == keystore.PurposeDigest {
		message = keystore.Digest(k.ref.Algorithm, message)
	}
	_, err := k.ask(ctx, g, at, message)
	return err
}

// newChallenge returns a message that no key of any purpose signs as anything
// but a challenge.
func newChallenge() []byte {
	const text = "chancery challenge "
	m := make([]byte, 0, 1+len(text)+32)
	m = append(append(m, keystore.ProbePrefix), text...)
	m = m[:cap(m)]
	rand.Read(m[1+len(text):])
	return m
}

func keyBody(id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) []byte {
	return marshalRequest(keyRequest{id, purpose, alg})
}

// marshalRequest is json.Marshal of one of this package's own types, which cannot fail.
func marshalRequest(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// unmarshalAnswer reads what a worker said. A worker that says something else
// is not to be believed any more, but it is the next use that will tell.
func unmarshalAnswer(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: worker's answer: %w", keystore.ErrUnavailable, err)
	}
	return nil
}

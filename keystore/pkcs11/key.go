package pkcs11

import (
	"context"
	"crypto"
	cryptorand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"chancery/keystore"
)

// A key is a private key on the token, in whichever workers serve.
type key struct {
	p       *Provider
	ref     keystore.KeyRef
	purpose keystore.Purpose
	public  crypto.PublicKey
	name    keyName
	slots   [clerkSlot + 1]holding
	doubt   quarantine
	blame   blame // marks the key for a generation that ended for it
	sampled bool  // not every signature for a caller is verified
	size    int   // of a signature

	looking chan struct{} // one element while a clerk looks for it
	mu      sync.Mutex
	missing time.Time // when a clerk last found no such key
}

// A holding is whether the worker of one slot holds the key.
type holding struct {
	by atomic.Uint32 // the generation that does, proven; 0: none
}

// missingFor is how long it is believed that a key is missing.
const missingFor = 2 * time.Second

func (p *Provider) newKey(ref keystore.KeyRef, purpose keystore.Purpose) (*key, error) {
	pub, err := keystore.ParsePublic(ref.SPKI)
	if err != nil {
		return nil, fmt.Errorf("public key of %s: %w", ref.ID, err)
	}
	if err := ref.Algorithm.Fits(pub); err != nil {
		return nil, fmt.Errorf("key %s: %w", ref.ID, err)
	}
	k := &key{p: p, ref: ref, purpose: purpose, public: pub, name: nameOf(ref.ID, ref.SPKI), looking: make(chan struct{}, 1)}
	k.sampled = p.cfg.Verify == VerifySampled && purpose == keystore.PurposeJWT && !ref.Algorithm.IsRSA()
	k.size = ref.Algorithm.SignatureSize(pub)
	k.blame = func(cause error) bool { return k.doubt.failed(p.cfg.Now, cause, 1) }
	return k, nil
}

func (k *key) Public() crypto.PublicKey      { return k.public }
func (k *key) Algorithm() keystore.Algorithm { return k.ref.Algorithm }

// Sign implements keystore.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return k.SignAsked(ctx, message, nil)
}

// SignAsked implements keystore.Announcer.
func (k *key) SignAsked(ctx context.Context, message []byte, asked func()) ([]byte, error) {
	if err := keystore.CheckMessage(k.purpose, k.ref.Algorithm, message); err != nil {
		return nil, err
	}
	tries := 2
	trial, err := k.doubt.refuses(k.p.cfg.Now)
	if err != nil {
		return nil, err
	}
	if trial {
		tries = 1 // it ends one worker at most
	}
	return k.signOne(ctx, tries, message, asked)
}

// signOne signs a message that fits, by so many workers at most if they end under
// it. asked may be nil.
func (k *key) signOne(ctx context.Context, tries int, message []byte, asked func()) (sig []byte, err error) {
	err = k.sure(ctx, func() error {
		return k.p.served(ctx, tries, func(g *generation, at *place) error {
			if sig, err = k.signIn(ctx, g, at, message, &asked); err == nil {
				g.signed.Add(1)
				k.doubt.signed() // not by a challenge: a worker signs one of those before it signs for callers
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return sig, nil
}

// open makes some worker hold the key, which proves it.
func (k *key) open(ctx context.Context) error {
	return k.sure(ctx, func() error {
		return repeat(ctx, 2, func(bool) error {
			g, err := k.p.anyWorker(ctx)
			if err != nil {
				return err
			}
			return k.holdOnce(ctx, g)
		})
	})
}

// sure has a key that a worker did not find looked for by a process that sees
// the token afresh. If that one finds it, the workers show what they saw when
// they started: they go, and f is done once more.
func (k *key) sure(ctx context.Context, f func() error) error {
	err := f()
	if !errors.Is(err, keystore.ErrNotFound) {
		return err
	}
	select { // one clerk for all who ask
	case k.looking <- struct{}{}:
		defer func() { <-k.looking }()
	case <-ctx.Done():
		return gaveUp(ctx)
	}
	k.mu.Lock()
	recent := time.Since(k.missing) < missingFor
	k.mu.Unlock()
	if recent {
		return err
	}
	// The workers may have been replaced while this one waited for its turn.
	if err := f(); !errors.Is(err, keystore.ErrNotFound) {
		return err
	}
	old := k.p.hall.workers()
	fresh := k.p.errand(ctx, true, func(g *generation, at *place) error { return k.hold(ctx, g, at) })
	if fresh != nil {
		k.mu.Lock()
		k.missing = time.Now()
		k.mu.Unlock()
		return err
	}
	k.p.cfg.Log.WarnContext(ctx, "workers do not see a key that is on the token, and are replaced", "keystore", k.p.cfg.Name, "key", k.ref.ID.String())
	if err := k.p.relieve(ctx, old); err != nil {
		return err
	}
	return f()
}

// signIn has g sign, making it hold the key first where it does not.
func (k *key) signIn(ctx context.Context, g *generation, at *place, message []byte, asked *func()) ([]byte, error) {
	if err := k.heldBy(ctx, g); err != nil {
		return nil, err
	}
	return k.ask(ctx, g, at, message, asked, k.check)
}

// heldBy makes g hold the key where it does not.
func (k *key) heldBy(ctx context.Context, g *generation) error {
	if k.slots[g.slot].by.Load() == g.number {
		return nil
	}
	return k.holdOnce(ctx, g)
}

// ask has g sign with a key it holds, and looks at the signature. What does not
// verify is dropped, and the generation with it: nobody knows whose handle that
// was. *asked is called, and taken away, when g has the message; both may be nil.
func (k *key) ask(ctx context.Context, g *generation, at *place, message []byte, asked *func(), look func(message, sig []byte) error) ([]byte, error) {
	c, err := g.begin(ctx, at, k.blame, verbSign, k.p.cfg.Deadlines.Sign, k.name[:], message)
	if err != nil {
		return nil, err
	}
	if asked != nil && *asked != nil {
		(*asked)()
		*asked = nil
	}
	sig, err := g.await(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := look(message, sig); err != nil {
		k.condemn(ctx, g, err)
		return nil, err
	}
	return sig, nil
}

// holdOnce makes g hold the key, though many may want that now.
func (k *key) holdOnce(ctx context.Context, g *generation) error {
	h := &k.slots[g.slot]
	at, err := g.desk.enter(ctx)
	if err != nil {
		return err
	}
	defer at.leave()
	if h.by.Load() == g.number { // while this one waited for the desk
		return nil
	}
	return k.hold(ctx, g, at)
}

// hold makes g hold the key: the worker finds and checks the pair of that
// CKA_ID, its public half is compared with ours, and it signs a challenge. The
// place is one at the desk.
func (k *key) hold(ctx context.Context, g *generation, at *place) error {
	g.finds(k.ref.ID)
	spki, err := g.askFor(ctx, at, k.blame, verbFind, k.p.cfg.Deadlines.Find, keyBody(k.ref.ID, k.purpose, k.ref.Algorithm))
	if err != nil {
		return err
	}
	if nameOf(k.ref.ID, spki) != k.name {
		return fmt.Errorf("key %s: %w: the token has another public key under that name", k.ref.ID, keystore.ErrNotFound)
	}
	if err := k.challenge(ctx, g, at); err != nil {
		return err
	}
	k.slots[g.slot].by.Store(g.number)
	return nil
}

// challenge has g sign something fresh with a key it holds. Its place is one at
// the desk, so that it waits for no caller's signature.
func (k *key) challenge(ctx context.Context, g *generation, at *place) error {
	message := newChallenge()
	if k.purpose == keystore.PurposeDigest {
		message = keystore.Digest(k.ref.Algorithm, message)
	}
	_, err := k.ask(ctx, g, at, message, nil, k.verify)
	return err
}

// newChallenge returns a message that no key of any purpose signs as anything
// but a challenge.
func newChallenge() []byte {
	const text = "chancery challenge "
	m := make([]byte, 0, 1+len(text)+32)
	m = append(append(m, keystore.ProbePrefix), text...)
	m = m[:cap(m)]
	cryptorand.Read(m[1+len(text):])
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

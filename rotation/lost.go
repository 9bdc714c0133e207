package rotation

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"chancery/keystore"
)

// A lostKey is the private key of a version that did not do what it was asked.
// One answer makes it doubtful, which is told. A second one, some time later,
// makes it gone: then its version is not activated, and another one is made in
// its place. It is asked again for as long as it is known, since a token may
// have had a stale view.
type lostKey struct {
	text  string
	gone  bool
	asked time.Time     // when it last said so
	pause time.Duration // until it is asked again
}

// How long a doubtful key is left before it is asked again; the pause doubles.
const (
	firstDoubt   = 2 * time.Second
	longestDoubt = time.Minute
)

// Lost tells the rotator that the private key of a version did not do what it
// was asked. Errors that may pass are not about the key and change nothing.
func (r *Rotator) Lost(kid keystore.KID, err error) {
	if !settles(err) || kid == "" {
		return
	}
	now := r.now()
	r.mu.Lock()
	l, known := r.lost[kid]
	if !known {
		l = &lostKey{asked: now, pause: firstDoubt}
		r.lost[kid] = l
	}
	l.text = "its key cannot be used: " + brief(err)
	r.mu.Unlock()
	if !known {
		r.cfg.Log.Error("a version's private key does not do what it is asked", "kid", kid, "err", err)
		r.Changed()
	}
}

// Found takes back what Lost was told: the key has done what it was asked.
func (r *Rotator) Found(kid keystore.KID) {
	r.mu.Lock()
	_, known := r.lost[kid]
	delete(r.lost, kid)
	r.mu.Unlock()
	if known {
		r.cfg.Log.Info("a version's private key does again what it is asked", "kid", kid)
		r.Changed()
	}
}

// Trouble returns why the private key of a version does not do what it is
// asked, or "".
func (r *Rotator) Trouble(kid keystore.KID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.lost[kid]; ok {
		return l.text
	}
	return ""
}

// Troubled returns how many versions have a private key that does not do what it
// is asked.
func (r *Rotator) Troubled() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.lost)
}

// gone is Facts.Gone.
func (r *Rotator) gone(kid keystore.KID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.lost[kid]; ok && l.gone {
		return l.text
	}
	return ""
}

// confirm asks the keys of a set again that are in doubt and whose pause is
// over, and returns how long it is to the next time. Its caller holds the set's
// lock.
func (r *Rotator) confirm(ctx context.Context, ks *keystore.KeySet) time.Duration {
	next := poll
	for _, v := range ks.Known() {
		r.mu.Lock()
		l, ok := r.lost[v.KID]
		var wait time.Duration
		if ok {
			wait = l.asked.Add(l.pause).Sub(r.now())
		}
		r.mu.Unlock()
		if !ok {
			continue
		}
		if wait <= 0 {
			wait = r.askAgain(ctx, ks, v)
		}
		next = min(next, max(wait, time.Millisecond))
	}
	return next
}

// askAgain asks a key in doubt, and returns how long to leave it then.
func (r *Rotator) askAgain(ctx context.Context, ks *keystore.KeySet, v *keystore.Version) time.Duration {
	err := r.prove(ctx, ks, v)
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.lost[v.KID]
	if !ok { // it was found
		return poll
	}
	l.asked, l.pause = r.now(), min(2*l.pause, longestDoubt)
	l.gone = l.gone || settles(err)
	return l.pause
}

// doubt leaves a key that has just not done what it was asked for a while, and
// asks it again.
func (r *Rotator) doubt(ctx context.Context, ks *keystore.KeySet, v *keystore.Version) error {
	timer := time.NewTimer(firstDoubt)
	defer timer.Stop()
	select {
	case <-timer.C:
		r.askAgain(ctx, ks, v)
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the successor's key: %w", keystore.ErrUnavailable, context.Cause(ctx))
	}
}

// prove has the keystore show that it can sign with v before v becomes active
// (rule 8).
func (r *Rotator) prove(ctx context.Context, ks *keystore.KeySet, v *keystore.Version) error {
	p, err := r.cfg.Keys.Provider(v.Keystore)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, findWithin)
	defer cancel()
	spki, err := p.Find(ctx, v.KeyID, ks.Purpose, v.Algorithm)
	if err == nil && !bytes.Equal(spki, v.SPKI) {
		err = fmt.Errorf("keystore %s holds another public key for it than the catalog: %w", v.Keystore, keystore.ErrSignature)
	}
	if err != nil {
		r.Lost(v.KID, err)
		return fmt.Errorf("the key that is to be activated: %w", err)
	}
	r.Found(v.KID)
	return nil
}

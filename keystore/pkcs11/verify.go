package pkcs11

import (
	"context"
	"fmt"
	"math/rand/v2"

	"chancery/keystore"
)

// Verify is which signatures are verified under the public key before their
// callers get them.
type Verify string

const (
	// VerifyAll: every one.
	VerifyAll Verify = "all"
	// VerifySampled: one of sampleOf, chosen at random, of the signatures by ECDSA
	// and Ed25519 keys of purpose jwt; all others, and every challenge. It gives up
	// that a wrong signature never leaves: a device that computes wrongly is noticed
	// after some signatures, its tokens are refused by those who verify them, and by a
	// wrong Ed25519 signature beside a right one of the same message anybody can
	// compute the key. RSA signatures, by which anybody could as well, are quickly
	// verified.
	VerifySampled Verify = "sampled"

	sampleOf = 16
)

// check is verify for a signature that a caller gets, all of them or a sample. One
// that is no member of the sample has the length of a signature.
func (k *key) check(message, sig []byte) error {
	if k.sampled && len(sig) == k.size && rand.Uint32N(sampleOf) != 0 {
		return nil
	}
	return k.verify(message, sig)
}

// verify returns an error wrapping keystore.ErrSignature if sig is not the key's
// signature of message.
func (k *key) verify(message, sig []byte) (err error) {
	if k.purpose == keystore.PurposeDigest {
		err = keystore.VerifyDigest(k.ref.Algorithm, k.public, message, sig)
	} else {
		err = keystore.Verify(k.ref.Algorithm, k.public, message, sig)
	}
	if err != nil {
		return fmt.Errorf("key %s: %w", k.ref.ID, err)
	}
	return nil
}

// condemn ends the generation that made a wrong signature.
func (k *key) condemn(ctx context.Context, g *generation, err error) {
	k.p.cfg.Log.ErrorContext(ctx, "a signature does not verify and was not released",
		"keystore", k.p.cfg.Name, "key", k.ref.ID.String(), "err", err)
	if k.doubt.failed(k.p.cfg.Now, err, 2) {
		g.expected.Store(true)
	}
	g.end(err)
}

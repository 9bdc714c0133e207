package keystoretest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"

	"chancery/keystore"
)

// A SoftKey is a Key in memory, for tests of what stands above a keystore. It
// signs what fits its purpose, as a token's key does. It may be used
// concurrently.
type SoftKey struct {
	purpose keystore.Purpose
	alg     keystore.Algorithm
	private crypto.Signer
}

// rsaKey is made once: it takes longer than most tests.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) {
	return rsa.GenerateKey(rand.Reader, keystore.RSABits)
})

// NewKey returns a SoftKey. Those of RSA algorithms share one pair, the others
// are fresh.
func NewKey(t testing.TB, purpose keystore.Purpose, alg keystore.Algorithm) *SoftKey {
	t.Helper()
	k := &SoftKey{purpose: purpose, alg: alg}
	var err error
	switch {
	case alg.Curve() != nil:
		k.private, err = ecdsa.GenerateKey(alg.Curve(), rand.Reader)
	case alg.IsRSA():
		k.private, err = rsaKey()
	default:
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatalf("making a key for %s: %v", alg, err)
	}
	return k
}

// Public returns the public half.
func (k *SoftKey) Public() crypto.PublicKey { return k.private.Public() }

// Algorithm returns the algorithm the key was made for.
func (k *SoftKey) Algorithm() keystore.Algorithm { return k.alg }

// SPKI returns the DER SubjectPublicKeyInfo and the KID.
func (k *SoftKey) SPKI(t testing.TB) ([]byte, keystore.KID) {
	t.Helper()
	spki, err := keystore.MarshalPublic(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	kid, err := keystore.Thumbprint(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return spki, kid
}

// Sign is keystore.Key's.
func (k *SoftKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	if err := keystore.CheckMessage(k.purpose, k.alg, message); err != nil {
		return nil, err
	}
	digest := message
	if k.purpose != keystore.PurposeDigest {
		digest = keystore.Digest(k.alg, message)
	}
	sig, err := k.sign(digest)
	if err != nil {
		return nil, err
	}
	return sig, keystore.VerifyDigest(k.alg, k.Public(), digest, sig)
}

func (k *SoftKey) sign(digest []byte) ([]byte, error) {
	switch private := k.private.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, private, digest)
		if err != nil {
			return nil, err
		}
		return JOSE(k.alg, r, s), nil
	case *rsa.PrivateKey:
		if k.alg.IsPSS() {
			return rsa.SignPSS(rand.Reader, private, k.alg.Hash(), digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.SignPKCS1v15(nil, private, k.alg.Hash(), digest)
	}
	return ed25519.Sign(k.private.(ed25519.PrivateKey), digest), nil
}

// A SoftBatch is a SoftKey that signs batches.
type SoftBatch struct {
	*SoftKey
	Calls atomic.Int64 // of SignBatch
}

// SignBatch is keystore.BatchSigner's.
func (k *SoftBatch) SignBatch(ctx context.Context, messages [][]byte) ([][]byte, []error) {
	k.Calls.Add(1)
	n := len(messages)
	if n > keystore.MaxBatch {
		return keystore.RefuseBatch(n, fmt.Errorf("a batch has at most %d messages, this one %d", keystore.MaxBatch, n))
	}
	sigs, errs := make([][]byte, n), make([]error, n)
	for i, m := range messages {
		sigs[i], errs[i] = k.Sign(ctx, m)
	}
	return sigs, errs
}

// JOSE writes r and s in the form RFC 7518 Section 3.4 has for them.
func JOSE(alg keystore.Algorithm, r, s *big.Int) []byte {
	half := (alg.Curve().Params().BitSize + 7) / 8
	sig := make([]byte, 2*half)
	r.FillBytes(sig[:half])
	s.FillBytes(sig[half:])
	return sig
}

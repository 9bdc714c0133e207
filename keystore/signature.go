package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// Digest returns what a signature by alg covers: the hash of message, or for
// EdDSA the message itself. For a key of purpose digest the message already is
// the digest; call it only for the other purposes.
func Digest(alg Algorithm, message []byte) []byte {
	h := alg.Hash()
	if h == 0 {
		return message
	}
	w := h.New()
	w.Write(message)
	return w.Sum(nil)
}

// Verify returns nil if sig, in JOSE form, is alg's signature of message by the
// private half of pub, and otherwise an error wrapping ErrSignature.
//
// JOSE form (RFC 7518 Section 3.4, RFC 8037 Section 3.1): for ECDSA r and s as
// big-endian integers of the curve's full width, one after the other; for RSA a
// string as long as the modulus; for Ed25519 the 64 bytes of RFC 8032.
func Verify(alg Algorithm, pub crypto.PublicKey, message, sig []byte) error {
	return VerifyDigest(alg, pub, Digest(alg, message), sig)
}

// VerifyDigest is Verify for a message that has been hashed: digest is what
// Digest returns.
func VerifyDigest(alg Algorithm, pub crypto.PublicKey, digest, sig []byte) error {
	if err := alg.Fits(pub); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if want := alg.SignatureSize(pub); len(sig) != want {
		return fmt.Errorf("%w: %d bytes, want %d", ErrSignature, len(sig), want)
	}
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		half := len(sig) / 2
		r, s := new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])
		ok = ecdsa.Verify(k, digest, r, s)
	case *rsa.PublicKey:
		var err error
		if alg.IsPSS() {
			err = rsa.VerifyPSS(k, alg.Hash(), digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			err = rsa.VerifyPKCS1v15(k, alg.Hash(), digest, sig)
		}
		ok = err == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, digest, sig)
	}
	if !ok {
		return fmt.Errorf("%w: it does not verify under the public key", ErrSignature)
	}
	return nil
}

// SignatureASN1 turns a signature in JOSE form into the form X.509 uses: for
// ECDSA the DER of ECDSA-Sig-Value (RFC 3279 Section 2.2.3), otherwise the same
// bytes.
func SignatureASN1(alg Algorithm, sig []byte) ([]byte, error) {
	if alg.Curve() == nil {
		return sig, nil
	}
	if len(sig) == 0 || len(sig)%2 != 0 {
		return nil, errors.New("an ECDSA signature in JOSE form has an even number of bytes")
	}
	half := len(sig) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]),
	})
}

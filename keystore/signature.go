package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
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
		var space [maxDER]byte
		ok = ecdsa.VerifyASN1(k, digest, appendDER(space[:0], sig)) // which looks at the ranges of r and s
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

// maxJOSE is the longest ECDSA signature in JOSE form, which is ES512's.
const maxJOSE = 2 * 66

// maxDER is the longest ECDSA-Sig-Value: a SEQUENCE of two integers of 521 bits.
const maxDER = 3 + 2*(2+66)

// appendDER appends the DER of ECDSA-Sig-Value (RFC 3279 Section 2.2.3) to b, for a
// signature in JOSE form of at most maxJOSE bytes.
func appendDER(b, sig []byte) []byte {
	r, s := magnitude(sig[:len(sig)/2]), magnitude(sig[len(sig)/2:])
	const sequence, integer = 0x30, 0x02
	n := 2 + sign(r) + len(r) + 2 + sign(s) + len(s)
	b = append(b, sequence)
	if n > 127 {
		b = append(b, 0x81) // the length is in the next byte
	}
	b = append(b, byte(n))
	for _, x := range [...][]byte{r, s} {
		b = append(b, integer, byte(sign(x)+len(x)))
		if sign(x) == 1 {
			b = append(b, 0)
		}
		b = append(b, x...)
	}
	return b
}

// magnitude returns a big-endian integer without the zeros before it, but for one if
// it is zero.
func magnitude(x []byte) []byte {
	for len(x) > 1 && x[0] == 0 {
		x = x[1:]
	}
	return x
}

// sign returns how many zero bytes keep the DER of x from being a negative integer.
func sign(x []byte) int {
	if len(x) > 0 && x[0] >= 0x80 {
		return 1
	}
	return 0
}

// SignatureASN1 turns a signature in JOSE form into the form X.509 uses: for
// ECDSA the DER of ECDSA-Sig-Value (RFC 3279 Section 2.2.3), otherwise the same
// bytes.
func SignatureASN1(alg Algorithm, sig []byte) ([]byte, error) {
	if alg.Curve() == nil {
		return sig, nil
	}
	if len(sig) == 0 || len(sig)%2 != 0 || len(sig) > maxJOSE {
		return nil, fmt.Errorf("an ECDSA signature in JOSE form has an even number of bytes up to %d, not %d", maxJOSE, len(sig))
	}
	return appendDER(make([]byte, 0, maxDER), sig), nil
}

package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // registered for Algorithm.Hash
	_ "crypto/sha512" // registered for Algorithm.Hash
	"fmt"
	"slices"
)

// An Algorithm is a signature algorithm by its JOSE name (RFC 7518 Section 3.1,
// RFC 8037 Section 3.1). The zero value means "not said".
type Algorithm string

// The algorithms a key set may have. For PS* the salt is as long as the hash
// (RFC 7518 Section 3.5). EdDSA is Ed25519; RFC 9864 deprecates the name, which
// is kept for the verifiers that exist.
const (
	ES256 Algorithm = "ES256"
	ES384 Algorithm = "ES384"
	ES512 Algorithm = "ES512"
	RS256 Algorithm = "RS256"
	RS384 Algorithm = "RS384"
	RS512 Algorithm = "RS512"
	PS256 Algorithm = "PS256"
	PS384 Algorithm = "PS384"
	PS512 Algorithm = "PS512"
	EdDSA Algorithm = "EdDSA"
)

// RSABits is the modulus of the RSA keys Chancery generates, in bits, where a
// keystore is not told otherwise.
const RSABits = 2048

var algorithms = []Algorithm{ES256, ES384, ES512, RS256, RS384, RS512, PS256, PS384, PS512, EdDSA}

// Algorithms returns every algorithm there is, in a fixed order.
func Algorithms() []Algorithm { return slices.Clone(algorithms) }

// ParseAlgorithm returns the algorithm with the JOSE name s, compared exactly.
func ParseAlgorithm(s string) (Algorithm, error) {
	if slices.Contains(algorithms, Algorithm(s)) {
		return Algorithm(s), nil
	}
	return "", fmt.Errorf("unknown algorithm %q", s)
}

// Hash returns the hash the algorithm applies to a message, or 0 for EdDSA,
// which hashes inside.
func (a Algorithm) Hash() crypto.Hash {
	switch a {
	case ES256, RS256, PS256:
		return crypto.SHA256
	case ES384, RS384, PS384:
		return crypto.SHA384
	case ES512, RS512, PS512:
		return crypto.SHA512
	}
	return 0
}

// Curve returns the curve of an ECDSA algorithm, or nil.
func (a Algorithm) Curve() elliptic.Curve {
	switch a {
	case ES256:
		return elliptic.P256()
	case ES384:
		return elliptic.P384()
	case ES512:
		return elliptic.P521()
	}
	return nil
}

// IsRSA reports whether keys of the algorithm are RSA keys.
func (a Algorithm) IsRSA() bool { return a.IsPKCS1() || a.IsPSS() }

// IsPKCS1 reports whether the algorithm is RSASSA-PKCS1-v1_5.
func (a Algorithm) IsPKCS1() bool { return a == RS256 || a == RS384 || a == RS512 }

// IsPSS reports whether the algorithm is RSASSA-PSS.
func (a Algorithm) IsPSS() bool { return a == PS256 || a == PS384 || a == PS512 }

// SignatureSize returns the length in bytes of a signature in JOSE form by pub.
func (a Algorithm) SignatureSize(pub crypto.PublicKey) int {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return 2 * ((k.Curve.Params().BitSize + 7) / 8)
	case *rsa.PublicKey:
		return k.Size()
	case ed25519.PublicKey:
		return ed25519.SignatureSize
	}
	return 0
}

// Fits returns nil if pub is a key of the algorithm: the right type, the right
// curve, and for RSA a modulus of 2048, 3072 or 4096 bits with exponent 65537.
func (a Algorithm) Fits(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if c := a.Curve(); c == nil || k.Curve != c {
			return fmt.Errorf("an ECDSA key on %s is no key for %s", k.Curve.Params().Name, a)
		}
		return nil
	case *rsa.PublicKey:
		if !a.IsRSA() {
			return fmt.Errorf("an RSA key is no key for %s", a)
		}
		if n := k.N.BitLen(); n != 2048 && n != 3072 && n != 4096 {
			return fmt.Errorf("an RSA modulus of %d bits is not 2048, 3072 or 4096", n)
		}
		if k.E != 65537 {
			return fmt.Errorf("RSA exponent %d is not 65537", k.E)
		}
		return nil
	case ed25519.PublicKey:
		if a != EdDSA {
			return fmt.Errorf("an Ed25519 key is no key for %s", a)
		}
		if len(k) != ed25519.PublicKeySize { // ed25519.Verify panics on it
			return fmt.Errorf("an Ed25519 key of %d bytes is not of %d", len(k), ed25519.PublicKeySize)
		}
		return nil
	}
	return fmt.Errorf("%T is no key for %s", pub, a)
}

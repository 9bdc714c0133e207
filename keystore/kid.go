package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// A KID is the name the world sees of a key: the RFC 7638 thumbprint of its
// public half by SHA-256, 43 characters of base64url.
type KID string

// Thumbprint returns the KID of pub, an *ecdsa.PublicKey, *rsa.PublicKey or
// ed25519.PublicKey (RFC 7638 Section 3, RFC 8037 Section 2).
func Thumbprint(pub crypto.PublicKey) (KID, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	var canonical string
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 04 || X || Y, each of the curve's full width
		if err != nil {
			return "", fmt.Errorf("encoding the public point: %w", err)
		}
		half := (len(point) - 1) / 2
		canonical = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`,
			k.Curve.Params().Name, b64(point[1:1+half]), b64(point[1+half:]))
	case *rsa.PublicKey:
		var e [8]byte
		binary.BigEndian.PutUint64(e[:], uint64(k.E))
		i := 0
		for i < len(e)-1 && e[i] == 0 {
			i++
		}
		canonical = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, b64(e[i:]), b64(k.N.Bytes()))
	case ed25519.PublicKey:
		canonical = fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":%q}`, b64(k))
	default:
		return "", fmt.Errorf("no thumbprint for %T", pub)
	}
	sum := sha256.Sum256([]byte(canonical))
	return KID(b64(sum[:])), nil
}

// A KeyID is a provider's name for a key pair: 16 random bytes, the CKA_ID of
// both halves on a PKCS#11 token. It is written down before the key is made.
type KeyID [16]byte

// NewKeyID returns a fresh random KeyID.
func NewKeyID() KeyID {
	var id KeyID
	rand.Read(id[:]) // never fails, by its contract
	return id
}

// String returns id as 32 lower-case hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero value, which names no key.
func (id KeyID) IsZero() bool { return id == KeyID{} }

// ParseKeyID reads what String returns, in that spelling only.
func ParseKeyID(s string) (KeyID, error) {
	var id KeyID
	if len(s) != 2*len(id) {
		return KeyID{}, fmt.Errorf("key id has %d characters, want %d", len(s), 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id.String() != s {
		return KeyID{}, errors.New("key id is not lower-case hexadecimal")
	}
	return id, nil
}

// SPKIHash is the SHA-256 of a DER SubjectPublicKeyInfo.
type SPKIHash [sha256.Size]byte

// MarshalPublic returns the DER SubjectPublicKeyInfo of pub (RFC 5280 Section 4.1.2.7).
func MarshalPublic(pub crypto.PublicKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(pub) }

// ParsePublic reads a DER SubjectPublicKeyInfo.
func ParsePublic(spki []byte) (crypto.PublicKey, error) { return x509.ParsePKIXPublicKey(spki) }

// HashSPKI returns the SHA-256 of spki.
func HashSPKI(spki []byte) SPKIHash { return sha256.Sum256(spki) }

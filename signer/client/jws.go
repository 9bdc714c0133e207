package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // registered for algorithm.hash
	_ "crypto/sha512" // registered for algorithm.hash
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"

	"chancery/signer/api"
)

// MaxToken is the longest token that is looked at, in bytes.
const MaxToken = 64 << 10

// tokenLimits are what the daemon allows in a request, around the members it adds.
func tokenLimits() api.Limits { return api.Limits{Bytes: MaxToken} }

// A Header is what the protected header of a token says, as far as it counts.
type Header struct {
	Algorithm string `json:"alg"`
	KID       string `json:"kid"`
	Type      string `json:"typ,omitempty"`
}

// A jws is a token in JWS compact serialization, taken apart and not believed.
type jws struct {
	header    Header
	rawHeader []byte // JSON
	payload   []byte
	input     string // what the signature covers
	signature []byte
}

// parseJWS takes token apart (RFC 7515 Section 7.1): three parts of strict
// base64url, a header of one JSON object without anything that would name a key
// or change how the rest is read. Its errors wrap ErrMalformed or ErrAlgorithm.
func parseJWS(token string) (*jws, error) { return parseSized(token, MaxToken) }

// parseSized is parseJWS for what has at most so many bytes.
func parseSized(token string, most int) (*jws, error) {
	if len(token) > most {
		return nil, fmt.Errorf("%w: over %d bytes", ErrMalformed, most)
	}
	switch dots := strings.Count(token, "."); dots {
	case 2:
	case 4:
		return nil, fmt.Errorf("%w: five parts are an encrypted token", ErrMalformed)
	default:
		return nil, fmt.Errorf("%w: %d parts, want three", ErrMalformed, dots+1)
	}
	last := strings.LastIndexByte(token, '.')
	t := &jws{input: token[:last]}
	head, payload, _ := strings.Cut(t.input, ".")
	var err error
	if t.rawHeader, err = decodePart("header", head); err != nil {
		return nil, err
	}
	if t.payload, err = decodePart("payload", payload); err != nil {
		return nil, err
	}
	if t.signature, err = decodePart("signature", token[last+1:]); err != nil {
		return nil, err
	}
	return t, t.readHeader()
}

func decodePart(name, part string) ([]byte, error) {
	if strings.ContainsAny(part, "\r\n") { // which encoding/base64 would skip
		return nil, fmt.Errorf("%w: the %s is not base64url", ErrMalformed, name)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, fmt.Errorf("%w: the %s is not base64url", ErrMalformed, name)
	}
	return b, nil
}

func (t *jws) readHeader() error {
	err := api.Object(t.rawHeader, tokenLimits(), func(name, value []byte) error {
		switch string(name) {
		case "alg":
			return readString(name, value, &t.header.Algorithm)
		case "kid":
			return readString(name, value, &t.header.KID)
		case "typ":
			return readString(name, value, &t.header.Type)
		case "crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc":
			// RFC 8725 Sections 3.1 and 3.10: a token brings no key along, and we
			// know no extension that would be critical.
			return fmt.Errorf("%w: header member %q is refused", ErrMalformed, name)
		}
		return nil
	})
	if err != nil {
		return malformed("header", err)
	}
	if _, ok := algorithmNamed(t.header.Algorithm); !ok {
		return fmt.Errorf("%w %q", ErrAlgorithm, t.header.Algorithm)
	}
	return nil
}

func readString(name, value []byte, to *string) error {
	if len(value) == 0 || value[0] != '"' || json.Unmarshal(value, to) != nil {
		return fmt.Errorf("%w: %q is not a string", ErrMalformed, name)
	}
	return nil
}

// An algorithm is how a JOSE signature algorithm is checked. The list is the
// daemon's; neither "none" nor HMAC is in it.
type algorithm struct {
	hash  crypto.Hash
	curve elliptic.Curve // of ECDSA
	pss   bool
}

func algorithmNamed(name string) (algorithm, bool) {
	switch name {
	case "ES256":
		return algorithm{hash: crypto.SHA256, curve: elliptic.P256()}, true
	case "ES384":
		return algorithm{hash: crypto.SHA384, curve: elliptic.P384()}, true
	case "ES512":
		return algorithm{hash: crypto.SHA512, curve: elliptic.P521()}, true
	case "RS256":
		return algorithm{hash: crypto.SHA256}, true
	case "RS384":
		return algorithm{hash: crypto.SHA384}, true
	case "RS512":
		return algorithm{hash: crypto.SHA512}, true
	case "PS256":
		return algorithm{hash: crypto.SHA256, pss: true}, true
	case "PS384":
		return algorithm{hash: crypto.SHA384, pss: true}, true
	case "PS512":
		return algorithm{hash: crypto.SHA512, pss: true}, true
	case "EdDSA":
		return algorithm{}, true
	}
	return algorithm{}, false
}

// fits reports whether pub is a key of the algorithm.
func (a algorithm) fits(pub crypto.PublicKey) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return a.curve != nil && k.Curve == a.curve
	case *rsa.PublicKey:
		// RFC 7518 Section 3.3: at least 2048 bits. An even exponent or 1 is no key.
		bits := k.N.BitLen()
		return a.hash != 0 && a.curve == nil && bits >= 2048 && bits <= 8192 && k.E > 2 && k.E%2 == 1
	case ed25519.PublicKey:
		return a.hash == 0 && len(k) == ed25519.PublicKeySize
	}
	return false
}

// verify reports whether signature, in JOSE form (RFC 7518 Section 3.4: r and s
// of full width), is pub's for input. pub fits the algorithm.
func (a algorithm) verify(pub crypto.PublicKey, input string, signature []byte) bool {
	digest := []byte(input)
	if a.hash != 0 {
		h := a.hash.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		half := (k.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*half {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])
		return ecdsa.Verify(k, digest, r, s)
	case *rsa.PublicKey:
		if len(signature) != k.Size() {
			return false
		}
		if a.pss { // RFC 7518 Section 3.5: the salt is as long as the hash
			return rsa.VerifyPSS(k, a.hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(k, a.hash, digest, signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, signature)
	}
	return false
}

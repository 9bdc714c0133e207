package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"chancery/signer/api"
)

// Limits on a key set that is fetched.
const (
	maxKeySet = 256 << 10 // bytes
	maxKeys   = 100
)

// A Key is a public key of a published key set.
type Key struct {
	KID       string
	Algorithm string // the only one it verifies
	Public    crypto.PublicKey
}

// keySet holds the keys of a JWKS that may verify, by kid.
type keySet map[string]Key

// parseKeySet reads a JWK Set (RFC 7517 Section 5). Keys that are not for
// verifying, of a type or algorithm we do not know, or without "alg" or "kid"
// are passed over. Two keys of one kid, or a private or symmetric key, condemn
// the whole set: whoever published it cannot be relied on.
func parseKeySet(data []byte) (keySet, error) {
	var list []json.RawMessage
	err := api.Object(data, api.Limits{Bytes: maxKeySet}, func(name, value []byte) error {
		if string(name) != "keys" {
			return nil
		}
		return json.Unmarshal(value, &list)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the key set: %w", err)
	}
	if list == nil {
		return nil, errors.New("reading the key set: it has no list of keys")
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("reading the key set: %d keys, over %d", len(list), maxKeys)
	}
	set := make(keySet, len(list))
	for i, raw := range list {
		key, ok, err := parseKey(raw)
		if err != nil {
			return nil, fmt.Errorf("reading key %d of the set: %w", i, err)
		}
		if !ok {
			continue
		}
		if _, taken := set[key.KID]; taken {
			return nil, fmt.Errorf("reading key %d of the set: its kid occurs twice", i)
		}
		set[key.KID] = key
	}
	return set, nil
}

// parseKey reads one JWK; ok is false for one that is passed over.
func parseKey(raw []byte) (key Key, ok bool, err error) {
	var use string
	var ops []string
	err = api.Object(raw, api.Limits{}, func(name, value []byte) error {
		switch string(name) {
		case "d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv":
			return errors.New("it is not a public key")
		case "kid":
			return readString(name, value, &key.KID)
		case "alg":
			return readString(name, value, &key.Algorithm)
		case "use":
			return readString(name, value, &use)
		case "key_ops":
			return json.Unmarshal(value, &ops)
		}
		return nil
	})
	if err != nil {
		return Key{}, false, err
	}
	alg, known := algorithmNamed(key.Algorithm)
	if !known || key.KID == "" || use != "" && use != "sig" || ops != nil && !slices.Contains(ops, "verify") {
		return Key{}, false, nil
	}
	var parsed jose.JSONWebKey
	if err := parsed.UnmarshalJSON(raw); err != nil || !parsed.Valid() || !alg.fits(parsed.Key) {
		return Key{}, false, nil
	}
	key.Public = parsed.Key
	return key, true, nil
}

// Describe tells the key's algorithm and kind in words: "ES256, EC P-256".
func (k Key) Describe() string {
	switch pub := k.Public.(type) {
	case *ecdsa.PublicKey:
		return k.Algorithm + ", EC " + pub.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("%s, RSA %d bits", k.Algorithm, pub.N.BitLen())
	case ed25519.PublicKey:
		return k.Algorithm + ", Ed25519"
	}
	return k.Algorithm
}

// ParseKeys reads a JWK Set (RFC 7517 Section 5) of at most 256 KiB and 100 keys, as
// a Verifier reads one that it fetched, and returns the keys that may verify, by kid.
// That a kid is the thumbprint of its key is for the caller to check.
func ParseKeys(data []byte) (map[string]Key, error) { return parseKeySet(data) }

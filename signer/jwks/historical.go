package jwks

import (
	"bytes"
	"cmp"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"chancery/keystore"
)

// A HistoricalKey is one that a key set had and has no more.
type HistoricalKey struct {
	Public    crypto.PublicKey
	Algorithm keystore.Algorithm
	KID       keystore.KID
	IssuedAt  time.Time // it became known
	NotBefore time.Time // it began to sign; zero: it never did
	// Expires is when it left the set: nothing that it signed was valid after that.
	Expires time.Time
	Revoked time.Time // zero: it is not
	Reason  string    // of that: ReasonCompromised; empty: not said
}

// MaxHistory is the longest list of historical keys, in bytes. In base64, which a
// JWS signs, it is below keystore.MaxMessage.
const MaxHistory = 512 << 10

// ReasonCompromised says that the private key is believed to be in other hands
// (OpenID Federation 1.0 Section 8.7.3).
const ReasonCompromised = "compromised"

// revocation is the "revoked" member of a historical key.
type revocation struct {
	At     int64  `json:"revoked_at"`
	Reason string `json:"reason,omitempty"`
}

// lifetime are the members that a JWK of a history has beside those of the key
// (OpenID Federation 1.0 Section 8.7.2).
type lifetime struct {
	IssuedAt  int64       `json:"iat,omitempty"`
	NotBefore int64       `json:"nbf,omitempty"`
	Expires   int64       `json:"exp"`
	Revoked   *revocation `json:"revoked,omitempty"`
}

// Historical returns the "keys" member of a historical key set (OpenID Federation
// 1.0 Section 8.7.2): a JSON array with each key once, in the order they became
// known. Seconds are counted so that a lifetime is never told shorter than it was.
// Of more keys than fit into MaxHistory bytes those are left out that became known
// first: the log has them all, and a verifier does not know what is not there.
// It returns an error wrapping ErrEmpty if there is no key, and another if one
// contradicts itself.
func Historical(keys []HistoricalKey) ([]byte, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("the history: %w", ErrEmpty)
	}
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b HistoricalKey) int {
		return cmp.Or(a.IssuedAt.Compare(b.IssuedAt), cmp.Compare(a.KID, b.KID))
	})
	each, size := make([][]byte, 0, len(keys)), len("[]")
	for i := range slices.Backward(keys) {
		one, err := keys[i].encode()
		if err != nil {
			return nil, fmt.Errorf("historical key %s: %w", keys[i].KID, err)
		}
		if size += len(one) + len(","); size > MaxHistory {
			break
		}
		each = append(each, one)
	}
	slices.Reverse(each)
	return append(append([]byte{'['}, bytes.Join(each, []byte{','})...), ']'), nil
}

// encode returns the key as a JWK with its lifetime.
func (k *HistoricalKey) encode() ([]byte, error) {
	switch {
	case k.Expires.IsZero():
		return nil, errors.New("it has not left the set")
	case k.Expires.Before(k.IssuedAt), !k.NotBefore.IsZero() && k.Expires.Before(k.NotBefore):
		return nil, errors.New("it left the set before it was in it")
	}
	spki, err := keystore.MarshalPublic(k.Public)
	if err != nil {
		return nil, err
	}
	key, err := public(&keystore.Version{SPKI: spki, Algorithm: k.Algorithm, KID: k.KID})
	if err != nil {
		return nil, err
	}
	life := lifetime{IssuedAt: unix(k.IssuedAt), NotBefore: unix(k.NotBefore), Expires: unix(k.Expires.Add(time.Second - time.Nanosecond))}
	if !k.Revoked.IsZero() {
		life.Revoked = &revocation{unix(k.Revoked), k.Reason}
	}
	return join(key, life)
}

// unix is t in whole seconds, rounded down; 0 for the zero time.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// join returns one JSON object with the members of both.
func join(key jose.JSONWebKey, life lifetime) ([]byte, error) {
	a, err := json.Marshal(key)
	if err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	b, err := json.Marshal(life)
	if err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	return append(append(a[:len(a)-1], ','), b[1:]...), nil
}

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"chancery/signer/api"
)

// MaxHistory is the longest signed history that is looked at, in bytes.
const MaxHistory = 1 << 20

// historyType is the typ of a signed history (OpenID Federation 1.0 Section 8.7.2).
const historyType = "jwk-set+jwt"

func historyLimits() api.Limits { return api.Limits{Bytes: MaxHistory, Members: 4096} }

// A History is what an issuer says of keys it had and has no more.
type History struct {
	IssuedAt time.Time
	Signer   Key // that signed it
	Keys     map[string]PastKey
}

// A PastKey is one of them. What it signed was good from NotBefore, or IssuedAt,
// until Expires, unless the key is revoked.
type PastKey struct {
	Key
	IssuedAt  time.Time // it became known; zero: not said
	NotBefore time.Time // it began to sign; zero: not said
	Expires   time.Time
	Revoked   time.Time // zero: it is not
	Reason    string    // of that; empty: not said
}

// History returns what a signed history says, if the issuer's it is: signed by a
// key that the issuer publishes now. Otherwise the error wraps one of those of
// Verify, or ErrMalformed.
func (v *Verifier) History(ctx context.Context, signed string) (*History, error) {
	t, err := parseSized(signed, MaxHistory)
	if err != nil {
		return nil, err
	}
	if !sameType(t.header.Type, historyType) {
		return nil, fmt.Errorf("%w: %q, and a history is %q", ErrType, t.header.Type, historyType)
	}
	key, err := v.cache.key(ctx, t.header.KID)
	if err != nil {
		return nil, err
	}
	if err := t.check(key); err != nil {
		return nil, err
	}
	h, issuer, err := readHistory(t.payload)
	if err != nil {
		return nil, err
	}
	if issuer != v.cfg.Issuer {
		return nil, fmt.Errorf("%w: the history is of %q, want %q", ErrIssuer, issuer, v.cfg.Issuer)
	}
	h.Signer = key
	return h, nil
}

// FetchHistory is History of what is at a URL.
func (v *Verifier) FetchHistory(ctx context.Context, url string) (*History, error) {
	resp, body, err := v.cache.get(ctx, url, MaxHistory, http.Header{"Accept": {"application/jwk-set+jwt"}})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %s answered %q", ErrKeysUnavailable, url, resp.Status)
	}
	return v.History(ctx, string(body))
}

// readHistory reads the payload of a history. Its errors wrap ErrMalformed. A claim
// that would make it a token is refused: whoever signs both would not tell them
// apart.
func readHistory(payload []byte) (h *History, issuer string, err error) {
	h = &History{}
	var list []json.RawMessage
	err = api.Object(payload, historyLimits(), func(name, value []byte) (err error) {
		switch string(name) {
		case "iss":
			return readString(name, value, &issuer)
		case "iat":
			h.IssuedAt, err = readDate(name, value)
			return err
		case "keys":
			return json.Unmarshal(value, &list)
		case "exp", "nbf", "sub", "aud", "jti":
			return fmt.Errorf("%w: %q is a token's, and this a history", ErrMalformed, name)
		}
		return nil
	})
	if err == nil && (issuer == "" || h.IssuedAt.IsZero() || list == nil) {
		err = errors.New(`it lacks "iss", "iat" or "keys"`)
	}
	if err != nil {
		return nil, "", malformed("payload", err)
	}
	h.Keys = make(map[string]PastKey, len(list))
	for i, raw := range list {
		key, ok, err := readPastKey(raw)
		if _, twice := h.Keys[key.KID]; ok && twice {
			err = errors.New("its kid occurs twice")
		}
		if err != nil {
			return nil, "", malformed(fmt.Sprintf("key %d of the history", i), err)
		}
		if ok {
			h.Keys[key.KID] = key
		}
	}
	return h, issuer, nil
}

// readPastKey reads one JWK of a history; ok is false for one that parseKey passes
// over.
func readPastKey(raw []byte) (k PastKey, ok bool, err error) {
	if k.Key, ok, err = parseKey(raw); err != nil {
		return PastKey{}, false, err
	}
	err = api.Object(raw, api.Limits{}, func(name, value []byte) (err error) {
		switch string(name) {
		case "iat":
			k.IssuedAt, err = readDate(name, value)
		case "nbf":
			k.NotBefore, err = readDate(name, value)
		case "exp":
			k.Expires, err = readDate(name, value)
		case "revoked":
			err = k.readRevoked(value)
		}
		return err
	})
	if err == nil && k.Expires.IsZero() {
		err = errors.New("it has no exp")
	}
	return k, ok, err
}

func (k *PastKey) readRevoked(raw []byte) error {
	err := api.Object(raw, api.Limits{}, func(name, value []byte) (err error) {
		switch string(name) {
		case "revoked_at":
			k.Revoked, err = readDate(name, value)
		case "reason":
			err = readString(name, value, &k.Reason)
		}
		return err
	})
	if err == nil && k.Revoked.IsZero() {
		err = errors.New("it is revoked and does not say when")
	}
	return err
}

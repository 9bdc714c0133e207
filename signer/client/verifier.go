package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"chancery/signer/api"
)

// What is wrong with a token, or what kept it from being checked.
var (
	ErrMalformed  = errors.New("malformed token")
	ErrAlgorithm  = errors.New("algorithm not accepted")
	ErrUnknownKey = errors.New("no such key in the issuer's key set")
	ErrSignature  = errors.New("signature does not verify")
	ErrIssuer     = errors.New("another issuer's token")
	ErrAudience   = errors.New("token for another audience")
	ErrType       = errors.New("token type not accepted")
	ErrExpired    = errors.New("token has expired")
	ErrNotYet     = errors.New("token is not valid yet")
	// ErrKeysUnavailable: the key set could not be fetched, and none that may
	// still be used is in the cache. It says nothing about the token.
	ErrKeysUnavailable = errors.New("key set unavailable")
)

// VerifierConfig says whose tokens are accepted. Issuer is required.
type VerifierConfig struct {
	Issuer string // "iss", compared exactly
	// JWKS is the URL of the issuer's key set. Empty: it is read from
	// Issuer/.well-known/openid-configuration, once.
	JWKS     string
	Types    []string      // accepted "typ"; nil: "JWT" and "at+jwt"
	Audience string        // required in "aud", unless empty
	Leeway   time.Duration // the difference of clocks that is forgiven
	HTTP     *http.Client  // nil: one with a timeout of 10 s
	// MinRefetch is the least time between two fetches that only an unknown kid
	// asked for, so that made-up tokens cost nobody requests; 0: 5 s.
	MinRefetch time.Duration
	Now        func() time.Time // nil: time.Now
}

// A Verifier checks tokens of one issuer. It may be used concurrently, and
// starts no goroutine: fetches are made by whoever needs them, one at a time.
type Verifier struct {
	cfg   VerifierConfig
	cache *keyCache
}

// A Token is one that verified.
type Token struct {
	Header    Header
	RawHeader json.RawMessage
	Claims    json.RawMessage // the payload as it was signed
	Issuer    string
	ID        string    // "jti"; empty: not said
	IssuedAt  time.Time // zero: not said
	NotBefore time.Time // zero: not said
	Expires   time.Time
	Key       Key // that verified it
}

// NewVerifier returns a Verifier. It fetches nothing yet.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	if cfg.Issuer == "" {
		return nil, errors.New("verifier has no issuer")
	}
	if cfg.Types == nil {
		cfg.Types = []string{"JWT", "at+jwt"}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MinRefetch == 0 {
		cfg.MinRefetch = 5 * time.Second
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Timeout: 10 * time.Second}
	}
	return &Verifier{cfg: cfg, cache: newKeyCache(cfg)}, nil
}

// Verify returns what token says if it is the issuer's, signed by a key of the
// published set, in its time, and of an accepted type. Otherwise the error wraps
// one of the errors above.
func (v *Verifier) Verify(ctx context.Context, token string) (*Token, error) {
	t, err := parseJWS(token)
	if err != nil {
		return nil, err
	}
	key, err := v.cache.key(ctx, t.header.KID)
	if err != nil {
		return nil, err
	}
	if err := t.check(key); err != nil {
		return nil, err
	}
	return v.judge(t, key, v.cfg.Now())
}

// VerifyUnder is Verify under a key the caller knows, as at a time that may be
// long past. It fetches nothing.
func (v *Verifier) VerifyUnder(token string, key Key, at time.Time) (*Token, error) {
	t, err := parseJWS(token)
	if err != nil {
		return nil, err
	}
	if t.header.KID != key.KID {
		return nil, ErrUnknownKey
	}
	if err := t.check(key); err != nil {
		return nil, err
	}
	return v.judge(t, key, at)
}

// Published returns the key of that kid that the issuer publishes now, or an error
// wrapping ErrUnknownKey or ErrKeysUnavailable.
func (v *Verifier) Published(ctx context.Context, kid string) (Key, error) {
	return v.cache.key(ctx, kid)
}

// check returns nil if t is signed by key. RFC 8725 Section 3.1: the algorithm
// is the key's, and the token may only agree.
func (t *jws) check(key Key) error {
	if t.header.Algorithm != key.Algorithm {
		return fmt.Errorf("%w: the token says %s, its key is for %s", ErrAlgorithm, t.header.Algorithm, key.Algorithm)
	}
	alg, ok := algorithmNamed(key.Algorithm)
	if !ok || !alg.fits(key.Public) || !alg.verify(key.Public, t.input, t.signature) {
		return ErrSignature
	}
	return nil
}

// judge reads the claims of t, whose signature is good, as at now.
func (v *Verifier) judge(t *jws, key Key, now time.Time) (*Token, error) {
	c, err := readClaims(t.payload)
	if err != nil {
		return nil, err
	}
	typed := slices.ContainsFunc(v.cfg.Types, func(typ string) bool { return sameType(typ, t.header.Type) })
	switch {
	case !typed:
		return nil, fmt.Errorf("%w: %q", ErrType, t.header.Type)
	case c.issuer != v.cfg.Issuer:
		return nil, fmt.Errorf("%w: %q, want %q", ErrIssuer, c.issuer, v.cfg.Issuer)
	case v.cfg.Audience != "" && !slices.Contains(c.audience, v.cfg.Audience):
		return nil, fmt.Errorf("%w: %q is not in it", ErrAudience, v.cfg.Audience)
	case !now.Before(c.expires.Add(v.cfg.Leeway)): // RFC 7519 Section 4.1.4: on or after
		return nil, fmt.Errorf("%w: %v ago", ErrExpired, now.Sub(c.expires).Round(time.Second))
	case now.Add(v.cfg.Leeway).Before(c.notBefore):
		return nil, fmt.Errorf("%w: in %v", ErrNotYet, c.notBefore.Sub(now).Round(time.Second))
	}
	return &Token{
		Header: t.header, RawHeader: t.rawHeader, Claims: t.payload, Key: key,
		Issuer: c.issuer, ID: c.id, IssuedAt: c.issuedAt, NotBefore: c.notBefore, Expires: c.expires,
	}, nil
}

// sameType compares media types as RFC 7515 Section 4.1.9 does: letter case and
// a missing "application/" make no difference.
func sameType(a, b string) bool {
	full := func(s string) string {
		s = strings.ToLower(s)
		if !strings.Contains(s, "/") {
			s = "application/" + s
		}
		return s
	}
	return full(a) == full(b)
}

// Unverified returns what the header and the "iss" of token claim. Nothing of it
// has been checked: it is for choosing a Verifier, and for showing.
func Unverified(token string) (header Header, issuer string, err error) {
	t, err := parseJWS(token)
	if err != nil {
		return Header{}, "", err
	}
	c, err := readClaims(t.payload)
	return t.header, c.issuer, err
}

// claims are the registered claims a Verifier looks at.
type claims struct {
	issuer, id                   string
	audience                     []string
	issuedAt, notBefore, expires time.Time
}

// readClaims reads a payload: one JSON object, "exp" among its members.
func readClaims(payload []byte) (c claims, err error) {
	err = api.Object(payload, tokenLimits(), func(name, value []byte) (err error) {
		switch string(name) {
		case "iss":
			err = readString(name, value, &c.issuer)
		case "aud":
			c.audience, err = readAudience(value)
		case "jti":
			_ = json.Unmarshal(value, &c.id) // not everyone's is a string, and nothing is decided by it
		case "iat":
			c.issuedAt, err = readDate(name, value)
		case "nbf":
			c.notBefore, err = readDate(name, value)
		case "exp":
			c.expires, err = readDate(name, value)
		}
		return err
	})
	if err != nil {
		return claims{}, malformed("payload", err)
	}
	if c.expires.IsZero() {
		return claims{}, fmt.Errorf("%w: it has no exp", ErrMalformed)
	}
	return c, nil
}

// readDate reads a NumericDate (RFC 7519 Section 2), which may have a fraction.
func readDate(name, value []byte) (time.Time, error) {
	var seconds float64
	const most = 1 << 40 // the year 36812
	if json.Unmarshal(value, &seconds) != nil || seconds < 0 || seconds > most || string(value) == "null" {
		return time.Time{}, fmt.Errorf("%w: %q is not a date", ErrMalformed, name)
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)).UTC(), nil
}

// readAudience reads "aud": a string or a list of them (RFC 7519 Section 4.1.3).
func readAudience(value []byte) ([]string, error) {
	var one string
	if json.Unmarshal(value, &one) == nil {
		return []string{one}, nil
	}
	var list []string
	if json.Unmarshal(value, &list) != nil {
		return nil, fmt.Errorf("%w: \"aud\" is neither a string nor a list of them", ErrMalformed)
	}
	return list, nil
}

// malformed makes an error of part that wraps ErrMalformed exactly once.
func malformed(part string, err error) error {
	if errors.Is(err, ErrMalformed) {
		return err
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		return fmt.Errorf("%w: the %s: %s", ErrMalformed, part, e.Detail)
	}
	return fmt.Errorf("%w: the %s: %w", ErrMalformed, part, err)
}

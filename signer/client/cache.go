package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"chancery/signer/api"
)

const (
	// longestAge is the longest a key set is kept without asking again.
	longestAge = 24 * time.Hour
	// silentAge is how long one is kept whose server does not say.
	silentAge = time.Minute
	// failurePause is how long a failed fetch answers for those that follow it.
	failurePause = time.Second
)

// A keyCache holds an issuer's key set for as long as the server said
// (RFC 9111), and fetches it when that time is over or a kid is not in it.
type keyCache struct {
	issuer     string
	http       *http.Client
	now        func() time.Time
	minRefetch time.Duration

	// turn holds one token: whoever has it may fetch. Others wait for it, and
	// then look whether there is still something to do.
	turn chan struct{}
	url  string // of the key set; owned by whoever has the turn

	mu      sync.Mutex // guards all below
	keys    keySet     // nil: none yet
	etag    string
	until   time.Time // when keys must not be used any more
	tried   time.Time // last attempt
	failure error     // of the last attempt
}

func newKeyCache(cfg VerifierConfig) *keyCache {
	return &keyCache{
		issuer: cfg.Issuer, http: cfg.HTTP, now: cfg.Now, minRefetch: cfg.MinRefetch,
		url: cfg.JWKS, turn: make(chan struct{}, 1),
	}
}

// key returns the key of the given kid from a set that may be used now. The set
// is fetched at most once for it.
func (c *keyCache) key(ctx context.Context, kid string) (Key, error) {
	key, found, fetch, err := c.look(kid)
	if !fetch {
		return key, result(found, err)
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return Key{}, fmt.Errorf("%w: %w", ErrKeysUnavailable, context.Cause(ctx))
	}
	// Whoever had the turn before may have fetched what we need.
	key, found, fetch, err = c.look(kid)
	if !fetch {
		return key, result(found, err)
	}
	if err := c.fetch(ctx); err != nil {
		return Key{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key, found = c.keys[kid]
	return key, result(found, nil)
}

func result(found bool, err error) error {
	if err == nil && !found {
		return ErrUnknownKey
	}
	return err
}

// look says what the cache has, and whether it is worth fetching.
func (c *keyCache) look(kid string) (key Key, found, fetch bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.keys != nil && now.Before(c.until) {
		key, found = c.keys[kid]
		return key, found, !found && now.Sub(c.tried) >= c.minRefetch, nil
	}
	if c.failure != nil && now.Sub(c.tried) < failurePause {
		return Key{}, false, false, c.failure
	}
	return Key{}, false, true, nil
}

// fetch asks for the key set once; its caller has the turn. A failure leaves
// what is in the cache as it is. Errors wrap ErrKeysUnavailable.
func (c *keyCache) fetch(ctx context.Context) error {
	if c.url == "" {
		url, err := c.discover(ctx)
		if err != nil {
			return c.failed(ctx, err)
		}
		c.url = url
	}
	header := http.Header{"Accept": {"application/jwk-set+json, application/json"}}
	c.mu.Lock()
	if c.keys != nil && c.etag != "" {
		header.Set("If-None-Match", c.etag)
	}
	c.mu.Unlock()
	asked := c.now()
	resp, body, err := c.get(ctx, c.url, maxKeySet, header)
	if err != nil {
		return c.failed(ctx, err)
	}
	var keys keySet
	switch {
	case resp.StatusCode == http.StatusOK:
		if keys, err = parseKeySet(body); err != nil {
			return c.failed(ctx, err)
		}
	case resp.StatusCode == http.StatusNotModified && header.Get("If-None-Match") != "":
	default:
		return c.failed(ctx, fmt.Errorf("%s answered %q", c.url, resp.Status))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if keys != nil {
		c.keys, c.etag = keys, resp.Header.Get("ETag")
	}
	// Counted from the question, not the answer (RFC 9111 Section 4.2.3).
	c.tried, c.failure = c.now(), nil
	c.until = asked.Add(freshness(resp.Header))
	return nil
}

func (c *keyCache) failed(ctx context.Context, cause error) error {
	err := fmt.Errorf("%w: %w", ErrKeysUnavailable, cause)
	if ctx.Err() != nil { // the caller's doing, which proves nothing to others
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried, c.failure = c.now(), err
	return err
}

// discover reads the issuer's metadata, which must be its own (OpenID Connect
// Discovery 1.0 Section 4.3).
func (c *keyCache) discover(ctx context.Context) (string, error) {
	where := strings.TrimSuffix(c.issuer, "/") + "/.well-known/openid-configuration"
	resp, body, err := c.get(ctx, where, maxKeySet, http.Header{"Accept": {"application/json"}})
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %q", where, resp.Status)
	}
	var issuer, jwks string
	err = api.Object(body, api.Limits{Bytes: maxKeySet}, func(name, value []byte) error {
		switch string(name) {
		case "issuer":
			return readString(name, value, &issuer)
		case "jwks_uri":
			return readString(name, value, &jwks)
		}
		return nil
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the metadata of the issuer: %w", err)
	case issuer != c.issuer:
		return "", fmt.Errorf("the metadata is that of %q", issuer)
	case jwks == "":
		return "", errors.New("the metadata names no key set")
	case strings.HasPrefix(c.issuer, "https:") && !strings.HasPrefix(jwks, "https:"):
		return "", errors.New("the metadata leads from https to something weaker")
	}
	return jwks, nil
}

// get reads what is at a URL, if it has at most so many bytes.
func (c *keyCache) get(ctx context.Context, url string, most int, header http.Header) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header = header
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if len(body) > most {
		return nil, nil, fmt.Errorf("reading %s: over %d bytes", url, most)
	}
	return resp, body, nil
}

// freshness returns how long a response may be used: max-age less the Age a
// cache on the way added (RFC 9111 Section 4.2.1).
func freshness(h http.Header) time.Duration {
	age := time.Duration(-1)
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				return 0 // unreadable counts as stale
			}
			age = time.Duration(n) * time.Second
		}
	}
	if age < 0 {
		return silentAge
	}
	if n, err := strconv.ParseUint(h.Get("Age"), 10, 31); err == nil {
		age -= time.Duration(n) * time.Second
	}
	return max(0, min(age, longestAge))
}

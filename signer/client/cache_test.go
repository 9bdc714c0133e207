package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A rotation as a verifier lives it: the cache is asked for a new key before it
// knows it, and asks the issuer in turn, but not for every made-up kid.
func TestUnknownKidRefetchesOnceInAWhile(t *testing.T) {
	one, two := newKey(t, "k1", "ES256"), newKey(t, "k2", "ES256")
	p := &publisher{keys: []json.RawMessage{one.jwk(t)}, control: "public, max-age=900"}
	c := &clock{testNow}
	v := newVerifier(t, p, c, nil)
	verify := func(k signingKey) error {
		_, err := v.Verify(t.Context(), k.sign(t, k.header(), payload("")))
		return err
	}
	step := func(name string, k signingKey, want error, fetches int) {
		t.Helper()
		if err := verify(k); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if n := p.asked(); n != fetches {
			t.Errorf("%s: %d fetches so far, want %d", name, n, fetches)
		}
	}
	step("first use fetches", one, nil, 1)
	step("then the cache answers", one, nil, 1)
	step("an unknown kid so soon after does not", two, ErrUnknownKey, 1)
	c.now = c.now.Add(5 * time.Second)
	step("but later it does", two, ErrUnknownKey, 2)
	if p.notMod != 1 {
		t.Error("the unchanged set was sent again")
	}
	step("only once", two, ErrUnknownKey, 2)
	p.keys = append(p.keys, two.jwk(t))
	c.now = c.now.Add(5 * time.Second)
	step("and finds the new key", two, nil, 3)
	step("beside the old one", one, nil, 3)
	p.keys = p.keys[1:]
	c.now = c.now.Add(899 * time.Second)
	p.control = "public, max-age=2"
	step("the cache holds for max-age", one, ErrExpired, 3)
	c.now = c.now.Add(time.Second)
	step("and no longer", one, ErrUnknownKey, 4)
	c.now = c.now.Add(2 * time.Second)
	step("the new max-age counts", two, ErrExpired, 5)
}

func TestWithoutAKeySetNothingVerifies(t *testing.T) {
	k := newKey(t, "k1", "ES256")
	p := &publisher{keys: []json.RawMessage{k.jwk(t)}, control: "max-age=60", down: true}
	c := &clock{testNow}
	v := newVerifier(t, p, c, nil)
	token := k.sign(t, k.header(), payload(""))
	step := func(name string, want error, fetches int) {
		t.Helper()
		if _, err := v.Verify(t.Context(), token); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if n := p.asked(); n != fetches {
			t.Errorf("%s: %d fetches, want %d", name, n, fetches)
		}
	}
	step("the issuer is down", ErrKeysUnavailable, 1)
	step("and is left alone for a moment", ErrKeysUnavailable, 1)
	c.now, p.down = c.now.Add(time.Second), false
	step("it is back", nil, 2)
	p.down = true
	c.now = c.now.Add(59 * time.Second)
	step("down again, the cache goes on", nil, 2)
	c.now = c.now.Add(time.Second)
	step("until its time is over", ErrKeysUnavailable, 3)
	p.down, p.status = false, 500
	c.now = c.now.Add(time.Second)
	step("an error is no key set", ErrKeysUnavailable, 4)
}

// A27: however many tokens wait for the set, it is fetched once.
func TestA27OneFetchForAll(t *testing.T) {
	k := newKey(t, "k1", "EdDSA")
	p := &publisher{keys: []json.RawMessage{k.jwk(t)}, control: "max-age=60"}
	v := newVerifier(t, p, &clock{testNow}, nil)
	token := k.sign(t, k.header(), payload(""))
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := p.asked(); n != 1 {
		t.Errorf("%d fetches for 32 tokens", n)
	}
}

// Who gives up waiting spoils nothing for the others.
func TestACallersEndIsNoFailure(t *testing.T) {
	k := newKey(t, "k1", "EdDSA")
	p := &publisher{keys: []json.RawMessage{k.jwk(t)}, control: "max-age=60", down: true}
	v := newVerifier(t, p, &clock{testNow}, nil)
	token := k.sign(t, k.header(), payload(""))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(gone, token); !errors.Is(err, ErrKeysUnavailable) {
		t.Errorf("got %v", err)
	}
	p.down = false
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("the next caller: %v", err)
	}
}

func TestDiscovery(t *testing.T) {
	k := newKey(t, "k1", "ES256")
	token := k.sign(t, k.header(), payload(""))
	for _, c := range []struct {
		name, metadata string
		ok             bool
	}{
		{"it leads to the key set", `{"issuer":"` + testIssuer + `","jwks_uri":"` + testIssuer + `/jwks.json","x":[1]}`, true},
		{"another issuer's", `{"issuer":"https://evil.example","jwks_uri":"` + testIssuer + `/jwks.json"}`, false},
		{"none", `{"issuer":"` + testIssuer + `"}`, false},
		{"down to plain HTTP", `{"issuer":"` + testIssuer + `","jwks_uri":"http://keys.example/jwks.json"}`, false},
		{"not JSON", `<html>`, false},
	} {
		p := &publisher{keys: []json.RawMessage{k.jwk(t)}, control: "max-age=60", metadata: c.metadata}
		v := newVerifier(t, p, &clock{testNow}, func(c *VerifierConfig) { c.JWKS = "" })
		if _, err := v.Verify(t.Context(), token); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if p.requests[0] != "/issuers/web/.well-known/openid-configuration" {
			t.Errorf("%s: asked for %s", c.name, p.requests[0])
		}
	}
}

func TestFreshness(t *testing.T) {
	for _, c := range []struct {
		control, age string
		want         time.Duration
	}{
		{"max-age=900", "", 15 * time.Minute},
		{"public, MAX-AGE=\"60\"", "", time.Minute},
		{"max-age=900", "890", 10 * time.Second},
		{"max-age=900", "1000", 0},
		{"max-age=900", "nonsense", 15 * time.Minute},
		{"max-age=99999999", "", longestAge},
		{"max-age=900, no-cache", "", 0},
		{"no-store", "", 0},
		{"max-age=-1", "", 0},
		{"", "", silentAge},
		{"public", "", silentAge},
	} {
		if got := freshness(http.Header{"Cache-Control": {c.control}, "Age": {c.age}}); got != c.want {
			t.Errorf("%q, age %q: %v, want %v", c.control, c.age, got, c.want)
		}
	}
}

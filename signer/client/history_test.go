package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// past returns a JWK of k with more members.
func (k signingKey) past(t testing.TB, more string) string {
	t.Helper()
	return strings.TrimSuffix(string(k.jwk(t)), "}") + more + "}"
}

func historyHeader(k signingKey) string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"jwk-set+jwt"}`, k.alg, k.kid)
}

func historyPayload(keys ...string) string {
	return fmt.Sprintf(`{"iss":%q,"iat":%d,"keys":[%s]}`, testIssuer, testNow.Unix(), strings.Join(keys, ","))
}

func TestAHistoryIsRead(t *testing.T) {
	now, old, lost := newKey(t, "now", "ES256"), newKey(t, "old", "EdDSA"), newKey(t, "lost", "ES384")
	v := newVerifier(t, &publisher{keys: []json.RawMessage{now.jwk(t)}, control: "max-age=60"}, &clock{testNow}, nil)
	signed := now.sign(t, historyHeader(now), historyPayload(
		old.past(t, `,"iat":1000,"nbf":2000,"exp":3000`),
		lost.past(t, `,"exp":4000,"revoked":{"revoked_at":3500,"reason":"compromised","more":1}`),
		`{"kty":"oct-less","exp":1}`,
	))
	h, err := v.History(t.Context(), signed)
	if err != nil {
		t.Fatal(err)
	}
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	if len(h.Keys) != 2 || !h.IssuedAt.Equal(testNow) || h.Signer.KID != "now" {
		t.Errorf("%+v", h)
	}
	if k := h.Keys["old"]; k.Algorithm != "EdDSA" || k.IssuedAt != at(1000) || k.NotBefore != at(2000) || k.Expires != at(3000) || !k.Revoked.IsZero() {
		t.Errorf("%+v", k)
	}
	if k := h.Keys["lost"]; !k.IssuedAt.IsZero() || k.Expires != at(4000) || k.Revoked != at(3500) || k.Reason != "compromised" {
		t.Errorf("%+v", k)
	}
	// A token of then verifies under it, as at then and not as at now.
	token := old.sign(t, old.header(), fmt.Sprintf(`{"iss":%q,"exp":2900,"jti":"j"}`, testIssuer))
	then, err := v.VerifyUnder(token, h.Keys["old"].Key, at(2500))
	if err != nil || then.ID != "j" || then.Key.KID != "old" {
		t.Errorf("%+v, %v", then, err)
	}
	for want, as := range map[error]struct {
		key Key
		at  time.Time
	}{
		ErrExpired:    {h.Keys["old"].Key, at(2900)},
		ErrUnknownKey: {h.Keys["lost"].Key, at(2500)},
		ErrAlgorithm:  {Key{KID: "old", Algorithm: "ES256", Public: now.private.Public()}, at(2500)},
		ErrSignature:  {Key{KID: "old", Algorithm: "EdDSA", Public: newKey(t, "old", "EdDSA").private.Public()}, at(2500)},
	} {
		if _, err := v.VerifyUnder(token, as.key, as.at); !errors.Is(err, want) {
			t.Errorf("%v: %v", want, err)
		}
	}
}

func TestAHistoryThatIsNone(t *testing.T) {
	now, old, other := newKey(t, "now", "ES256"), newKey(t, "old", "EdDSA"), newKey(t, "other", "ES256")
	v := newVerifier(t, &publisher{keys: []json.RawMessage{now.jwk(t)}, control: "max-age=60"}, &clock{testNow}, nil)
	key := old.past(t, `,"exp":3000`)
	good := historyPayload(key)
	if _, err := v.History(t.Context(), now.sign(t, historyHeader(now), good)); err != nil {
		t.Fatal(err)
	}
	signed := func(payload string) string { return now.sign(t, historyHeader(now), payload) }
	for what, c := range map[string]struct {
		history string
		want    error
	}{
		"a token":              {now.sign(t, now.header(), good), ErrType},
		"of no type":           {now.sign(t, `{"alg":"ES256","kid":"now"}`, good), ErrType},
		"by a key of its own":  {old.sign(t, historyHeader(old), good), ErrUnknownKey},
		"by another key":       {other.sign(t, historyHeader(now), good), ErrSignature},
		"of another issuer":    {signed(strings.Replace(good, testIssuer, "https://other.example", 1)), ErrIssuer},
		"with exp":             {signed(strings.Replace(good, `"iat"`, `"exp":1,"iat"`, 1)), ErrMalformed},
		"with sub":             {signed(strings.Replace(good, `"iat"`, `"sub":"x","iat"`, 1)), ErrMalformed},
		"without keys":         {signed(`{"iss":"` + testIssuer + `","iat":1}`), ErrMalformed},
		"without iat":          {signed(strings.Replace(good, `"iat"`, `"iaT"`, 1)), ErrMalformed},
		"keys twice":           {signed(strings.Replace(good, `"keys"`, `"keys":[],"keys"`, 1)), ErrMalformed},
		"a key twice":          {signed(historyPayload(key, key)), ErrMalformed},
		"a key without exp":    {signed(historyPayload(old.past(t, ``))), ErrMalformed},
		"a private key":        {signed(historyPayload(old.past(t, `,"exp":3000,"d":"AA"`))), ErrMalformed},
		"revoked and not when": {signed(historyPayload(old.past(t, `,"exp":3000,"revoked":{"reason":"compromised"}`))), ErrMalformed},
		"revoked and not how":  {signed(historyPayload(old.past(t, `,"exp":3000,"revoked":true`))), ErrMalformed},
		"longer than any":      {signed(strings.Replace(good, testIssuer, strings.Repeat("x", MaxHistory), 1)), ErrMalformed},
	} {
		if h, err := v.History(t.Context(), c.history); !errors.Is(err, c.want) || h != nil {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

// Signed by a key that signs tokens, a history must be no token even where the typ
// is not looked at.
func TestAHistoryIsNoToken(t *testing.T) {
	now, old := newKey(t, "now", "ES256"), newKey(t, "old", "EdDSA")
	signed := now.sign(t, historyHeader(now), historyPayload(old.past(t, `,"exp":3000`)))
	p := &publisher{keys: []json.RawMessage{now.jwk(t)}, control: "max-age=60"}
	for _, types := range [][]string{nil, {"JWT", "jwk-set+jwt"}} {
		v := newVerifier(t, p, &clock{testNow}, func(cfg *VerifierConfig) { cfg.Types = types })
		if token, err := v.Verify(t.Context(), signed); !errors.Is(err, ErrMalformed) {
			t.Errorf("types %v: %+v, %v", types, token, err)
		}
	}
}

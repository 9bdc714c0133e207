package client

import (
	"encoding/base64"
	"errors"
	"testing"
)

// What parses is in the one spelling there is: its parts encode back to it.
func FuzzParseJWS(f *testing.F) {
	k := newKey(f, "k1", "EdDSA")
	f.Add(k.sign(f, k.header(), payload(`,"aud":["a"]`)))
	f.Add("e30.e30.")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("a.b.c.d.e")
	f.Fuzz(func(t *testing.T, token string) {
		j, err := parseJWS(token)
		if err != nil {
			return
		}
		b64 := base64.RawURLEncoding.EncodeToString
		if back := b64(j.rawHeader) + "." + b64(j.payload) + "." + b64(j.signature); back != token {
			t.Errorf("%q parses as %q", token, back)
		}
		if _, ok := algorithmNamed(j.header.Algorithm); !ok {
			t.Errorf("algorithm %q was let through", j.header.Algorithm)
		}
		readClaims(j.payload)
	})
}

// What is in a parsed set is complete and fits.
func FuzzParseKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[` + string(newKey(f, "k1", "ES256").jwk(f)) + `]}`))
	f.Add([]byte(`{"keys":[` + string(newKey(f, "k2", "EdDSA").jwk(f)) + `,{"kty":"oct"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","alg":"RS256","kid":"r","n":"AQAB","e":"AQ"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parseKeySet(data)
		if err != nil {
			return
		}
		for kid, k := range set {
			a, ok := algorithmNamed(k.Algorithm)
			if kid == "" || kid != k.KID || !ok || !a.fits(k.Public) {
				t.Errorf("key %q: %+v", kid, k)
			}
			a.verify(k.Public, "input", make([]byte, 64))
		}
	})
}

// What is in a history that is read is complete, and each key fits.
func FuzzReadHistory(f *testing.F) {
	k := newKey(f, "k1", "ES256")
	f.Add([]byte(historyPayload(k.past(f, `,"iat":1,"nbf":2,"exp":3,"revoked":{"revoked_at":2,"reason":"compromised"}`))))
	f.Add([]byte(historyPayload(k.past(f, `,"exp":1e9`), `{"kty":"RSA"}`)))
	f.Add([]byte(historyPayload()))
	f.Fuzz(func(t *testing.T, payload []byte) {
		h, issuer, err := readHistory(payload)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v does not say what it is", err)
			}
			return
		}
		if issuer == "" || h.IssuedAt.IsZero() {
			t.Errorf("%q: %+v", issuer, h)
		}
		for kid, k := range h.Keys {
			a, ok := algorithmNamed(k.Algorithm)
			if kid == "" || kid != k.KID || !ok || !a.fits(k.Public) || k.Expires.IsZero() {
				t.Errorf("key %q: %+v", kid, k)
			}
		}
	})
}

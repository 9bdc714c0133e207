package client

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const testIssuer = "https://keys.example/issuers/web"

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A signingKey is a key of the issuer in a test.
type signingKey struct {
	kid, alg string
	private  crypto.Signer
}

// rsaKey is made once: it takes long.
var rsaKey = sync.OnceValue(func() crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func newKey(t testing.TB, kid, alg string) signingKey {
	t.Helper()
	var private crypto.Signer
	var err error
	switch {
	case alg == "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case alg[0] == 'E':
		a, _ := algorithmNamed(alg)
		private, err = ecdsa.GenerateKey(a.curve, rand.Reader)
	default:
		private = rsaKey()
	}
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{kid, alg, private}
}

func (k signingKey) jwk(t testing.TB) json.RawMessage {
	t.Helper()
	b, err := jose.JSONWebKey{Key: k.private.Public(), KeyID: k.kid, Algorithm: k.alg, Use: "sig"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sign returns a token with exactly this header and payload.
func (k signingKey) sign(t testing.TB, header, payload string) string {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	a, _ := algorithmNamed(k.alg)
	digest := []byte(input)
	if a.hash != 0 {
		h := a.hash.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	var opts crypto.SignerOpts = a.hash
	if a.pss {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: a.hash}
	}
	var sig []byte
	var err error
	if ec, ok := k.private.(*ecdsa.PrivateKey); ok {
		r, s, e := ecdsa.Sign(rand.Reader, ec, digest)
		half := (ec.Curve.Params().BitSize + 7) / 8
		sig, err = append(r.FillBytes(make([]byte, half)), s.FillBytes(make([]byte, half))...), e
	} else {
		sig, err = k.private.Sign(rand.Reader, digest, opts)
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64(sig)
}

func (k signingKey) header() string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, k.alg, k.kid)
}

// A publisher is an issuer's public listener without a network.
type publisher struct {
	mu       sync.Mutex
	keys     []json.RawMessage
	control  string // Cache-Control
	age      string
	down     bool
	status   int
	requests []string // "GET path" or "GET path etag"
	notMod   int
	metadata string
}

func (p *publisher) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, r.URL.Path)
	if p.down {
		return nil, errors.New("connection refused")
	}
	body := p.metadata
	header := http.Header{"Cache-Control": {p.control}, "Age": {p.age}}
	if strings.HasSuffix(r.URL.Path, "jwks.json") && p.status == 0 {
		set, _ := json.Marshal(map[string]any{"keys": p.keys})
		body = string(set)
		etag := fmt.Sprintf("%x", sha256.Sum256(set))
		header.Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			p.notMod++
			return &http.Response{StatusCode: 304, Header: header, Body: io.NopCloser(strings.NewReader(""))}, nil
		}
	}
	status := p.status
	if status == 0 {
		status = 200
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: header, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func (p *publisher) asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.requests)
}

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newVerifier(t testing.TB, p *publisher, c *clock, change func(*VerifierConfig)) *Verifier {
	t.Helper()
	cfg := VerifierConfig{
		Issuer: testIssuer, JWKS: testIssuer + "/jwks.json", HTTP: &http.Client{Transport: p}, Now: c.Now,
	}
	if change != nil {
		change(&cfg)
	}
	v, err := NewVerifier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func payload(change string) string {
	return fmt.Sprintf(`{"iss":%q,"iat":%d,"nbf":%d,"exp":%d%s}`, testIssuer, testNow.Unix(), testNow.Unix()-60, testNow.Unix()+300, change)
}

func TestEveryAlgorithmVerifies(t *testing.T) {
	for _, alg := range []string{"ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"} {
		k := newKey(t, "k-"+alg, alg)
		v := newVerifier(t, &publisher{keys: []json.RawMessage{k.jwk(t)}, control: "max-age=900"}, &clock{testNow}, nil)
		token := k.sign(t, k.header(), payload(`,"sub":"alice"`))
		got, err := v.Verify(t.Context(), token)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if got.Key.KID != k.kid || got.Header.Algorithm != alg || !got.Expires.Equal(testNow.Add(5*time.Minute)) || !bytes.Contains(got.Claims, []byte("alice")) {
			t.Errorf("%s: got %+v", alg, got)
		}
		// Every bit of the signature counts.
		cut := strings.LastIndexByte(token, '.') + 1
		sig, _ := base64.RawURLEncoding.DecodeString(token[cut:])
		for _, i := range []int{0, len(sig) / 2, len(sig) - 1} {
			sig[i] ^= 1
			if _, err := v.Verify(t.Context(), token[:cut]+base64.RawURLEncoding.EncodeToString(sig)); !errors.Is(err, ErrSignature) {
				t.Errorf("%s with byte %d changed: %v", alg, i, err)
			}
			sig[i] ^= 1
		}
	}
}

// FAULTS.md A06, A07, A12: nothing in a token decides how it is checked.
func TestTokensThatDoNotVerify(t *testing.T) {
	k, other := newKey(t, "k1", "ES256"), newKey(t, "k1", "ES256")
	rs := newKey(t, "r1", "RS256")
	p := &publisher{keys: []json.RawMessage{k.jwk(t), rs.jwk(t)}, control: "max-age=900"}
	v := newVerifier(t, p, &clock{testNow}, func(c *VerifierConfig) { c.Leeway = 5 * time.Second })
	header := func(more string) string { return strings.TrimSuffix(k.header(), "}") + more + "}" }
	b64 := base64.RawURLEncoding.EncodeToString
	at := testNow.Unix()
	good := k.sign(t, k.header(), payload(""))
	confused := func() string { // A07: HMAC keyed with what is public
		input := b64([]byte(`{"alg":"HS256","kid":"k1"}`)) + "." + b64([]byte(payload("")))
		mac := hmac.New(sha256.New, k.jwk(t))
		mac.Write([]byte(input))
		return input + "." + b64(mac.Sum(nil))
	}
	for _, c := range []struct {
		name, token string
		want        error
	}{
		{"it is fine", good, nil},
		{"an unknown header member is ignored", k.sign(t, header(`,"x5t":"abc"`), payload("")), nil},
		{"an access token", k.sign(t, `{"alg":"ES256","kid":"k1","typ":"application/AT+JWT"}`, payload("")), nil},
		{"leeway at the end", k.sign(t, k.header(), fmt.Sprintf(`{"iss":%q,"exp":%d}`, testIssuer, at-4)), nil},
		{"leeway at the beginning", k.sign(t, k.header(), fmt.Sprintf(`{"iss":%q,"nbf":%d,"exp":%d}`, testIssuer, at+5, at+9)), nil},
		{"a date with a fraction", k.sign(t, k.header(), fmt.Sprintf(`{"iss":%q,"exp":%d.5}`, testIssuer, at)), nil},

		{"another key's signature", other.sign(t, k.header(), payload("")), ErrSignature},
		{"expired", k.sign(t, k.header(), fmt.Sprintf(`{"iss":%q,"exp":%d}`, testIssuer, at-5)), ErrExpired},
		{"not valid yet", k.sign(t, k.header(), fmt.Sprintf(`{"iss":%q,"nbf":%d,"exp":%d}`, testIssuer, at+6, at+9)), ErrNotYet},
		{"without exp", k.sign(t, k.header(), fmt.Sprintf(`{"iss":%q}`, testIssuer)), ErrMalformed},
		{"exp in words", k.sign(t, k.header(), fmt.Sprintf(`{"iss":%q,"exp":"%d"}`, testIssuer, at+9)), ErrMalformed},
		{"exp beyond all time", k.sign(t, k.header(), fmt.Sprintf(`{"iss":%q,"exp":1e300}`, testIssuer)), ErrMalformed},
		{"exp twice", k.sign(t, k.header(), payload(`,"exp":99999999999`)), ErrMalformed},
		{"another issuer", k.sign(t, k.header(), fmt.Sprintf(`{"iss":%q,"exp":%d}`, testIssuer+"/", at+9)), ErrIssuer},
		{"no issuer", k.sign(t, k.header(), fmt.Sprintf(`{"exp":%d}`, at+9)), ErrIssuer},
		{"another type", k.sign(t, `{"alg":"ES256","kid":"k1","typ":"logout+jwt"}`, payload("")), ErrType},
		{"no type", k.sign(t, `{"alg":"ES256","kid":"k1"}`, payload("")), ErrType},
		{"an unknown kid", k.sign(t, `{"alg":"ES256","kid":"k2","typ":"JWT"}`, payload("")), ErrUnknownKey},
		{"no kid", k.sign(t, `{"alg":"ES256","typ":"JWT"}`, payload("")), ErrUnknownKey},
		{"an array for a payload", k.sign(t, k.header(), `[1]`), ErrMalformed},

		{"alg none", b64([]byte(`{"alg":"none","kid":"k1"}`)) + "." + b64([]byte(payload(""))) + ".", ErrAlgorithm},
		{"alg HS256 with the public key", confused(), ErrAlgorithm},
		{"alg of another key", k.sign(t, `{"alg":"RS256","kid":"k1","typ":"JWT"}`, payload("")), ErrAlgorithm},
		{"PS256 with an RS256 key", rs.sign(t, `{"alg":"PS256","kid":"r1","typ":"JWT"}`, payload("")), ErrAlgorithm},
		{"alg in lower case", k.sign(t, `{"alg":"es256","kid":"k1","typ":"JWT"}`, payload("")), ErrAlgorithm},
		{"alg twice", k.sign(t, header(`,"alg":"ES256"`), payload("")), ErrMalformed},
		{"Alg", k.sign(t, header(`,"Alg":"none"`), payload("")), ErrMalformed},
		{"crit", k.sign(t, header(`,"crit":["exp"]`), payload("")), ErrMalformed},
		{"b64", k.sign(t, header(`,"b64":false`), payload("")), ErrMalformed},
		{"jwk", other.sign(t, header(`,"jwk":`+string(other.jwk(t))), payload("")), ErrMalformed},
		{"jku", k.sign(t, header(`,"jku":"https://evil.example/"`), payload("")), ErrMalformed},
		{"x5u", k.sign(t, header(`,"x5u":"https://evil.example/"`), payload("")), ErrMalformed},
		{"x5c", k.sign(t, header(`,"x5c":[]`), payload("")), ErrMalformed},
		{"zip", k.sign(t, header(`,"zip":"DEF"`), payload("")), ErrMalformed},
		{"a JWE", "a.b.c.d.e", ErrMalformed},
		{"many dots", strings.Repeat(".", 10000), ErrMalformed},
		{"JSON serialization", `{"payload":"e30","signatures":[]}`, ErrMalformed},
		{"padding", good + "=", ErrMalformed},
		{"a line break", good[:20] + "\n" + good[20:], ErrMalformed},
		{"bits behind the last byte", good[:len(good)-1] + lastOther(good), ErrMalformed},
		{"white space around it", " " + good, ErrMalformed},
		{"too long", good + strings.Repeat("A", MaxToken), ErrMalformed},
		{"nothing", "", ErrMalformed},
	} {
		_, err := v.Verify(t.Context(), c.token)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if n := p.asked(); n != 1 {
		t.Errorf("%d fetches; unknown kids within MinRefetch cost none", n)
	}
}

// lastOther returns the last character of a 64-byte signature's base64url with a
// bit set that stands for nothing: a second spelling.
func lastOther(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, token[len(token)-1])|1])
}

func TestAudience(t *testing.T) {
	k := newKey(t, "k1", "EdDSA")
	v := newVerifier(t, &publisher{keys: []json.RawMessage{k.jwk(t)}}, &clock{testNow}, func(c *VerifierConfig) { c.Audience = "shop" })
	for claims, ok := range map[string]bool{
		`,"aud":"shop"`: true, `,"aud":["bank","shop"]`: true, `,"aud":"shops"`: false, `,"aud":[]`: false, ``: false, `,"aud":{"shop":1}`: false,
	} {
		if _, err := v.Verify(t.Context(), k.sign(t, k.header(), payload(claims))); (err == nil) != ok {
			t.Errorf("%q: %v", claims, err)
		}
	}
}

func TestKeySetsThatAreNotBelieved(t *testing.T) {
	k, r := newKey(t, "k1", "ES256"), newKey(t, "r1", "RS256")
	jwk, rsa := string(k.jwk(t)), string(r.jwk(t))
	private, err := jose.JSONWebKey{Key: k.private, KeyID: "k1", Algorithm: "ES256", Use: "sig"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, set string
		keys      int // -1: refused
	}{
		{"one key", `{"keys":[` + jwk + `]}`, 1},
		{"unknown members", `{"keys":[` + jwk + `],"more":1}`, 1},
		{"no keys", `{"keys":[]}`, 0},
		{"a key type we do not know", `{"keys":[{"kty":"PQ","kid":"x","alg":"ML-DSA-44"},` + jwk + `]}`, 1},
		{"for encryption", `{"keys":[` + strings.Replace(jwk, `"sig"`, `"enc"`, 1) + `]}`, 0},
		{"key_ops without verify", `{"keys":[` + strings.Replace(jwk, `"use":"sig"`, `"key_ops":["encrypt"]`, 1) + `]}`, 0},
		{"without alg", `{"keys":[` + strings.Replace(jwk, `"alg":"ES256",`, ``, 1) + `]}`, 0},
		{"without kid", `{"keys":[` + strings.Replace(jwk, `"kid":"k1",`, ``, 1) + `]}`, 0},
		{"alg of another curve", `{"keys":[` + strings.Replace(jwk, `ES256`, `ES384`, 1) + `]}`, 0},
		{"alg of another type", `{"keys":[` + strings.Replace(rsa, `RS256`, `ES256`, 1) + `]}`, 0},
		{"an HMAC alg", `{"keys":[` + strings.Replace(rsa, `RS256`, `HS256`, 1) + `]}`, 0},
		{"exponent 1", `{"keys":[` + strings.Replace(rsa, `"e":"AQAB"`, `"e":"AQ"`, 1) + `]}`, 0},
		{"one kid twice", `{"keys":[` + jwk + `,` + jwk + `]}`, -1},
		{"a private key", `{"keys":[` + string(private) + `]}`, -1},
		{"a symmetric key", `{"keys":[{"kty":"oct","k":"AAAA","kid":"x"},` + jwk + `]}`, -1},
		{"keys twice", `{"keys":[],"keys":[` + jwk + `]}`, -1},
		{"no list", `{}`, -1},
		{"not an object", `[` + jwk + `]`, -1},
		{"too many", `{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`, -1},
	} {
		set, err := parseKeySet([]byte(c.set))
		if (err != nil) != (c.keys < 0) || err == nil && len(set) != c.keys {
			t.Errorf("%s: %d keys, %v", c.name, len(set), err)
		}
	}
}

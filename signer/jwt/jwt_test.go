package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

const kid = keystore.KID("0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")

var now = time.Date(2026, 3, 1, 12, 0, 0, 999, time.UTC)

func environment() Env {
	return Env{Issuer: "http://localhost:8080/issuers/web", Now: now, Skew: 5 * time.Second}
}

func granted(t testing.TB, keyset string) policy.Grant {
	t.Helper()
	p, err := policy.New(policy.Config{
		Anchors: []policy.Anchor{{Name: "dev", DNS: []string{"issuer.test"}}},
		Rules: []policy.Rule{{
			Name: "issuers", Principals: []string{"dev:dns:issuer.test"},
			Actions: []policy.Action{policy.SignJWT, policy.ReadKeySets}, KeySets: []string{"web", "edge"},
			MaxTTL: time.Hour, Types: []string{"JWT", "at+jwt"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := p.Authorize(policy.Caller{Principal: policy.Principal{Anchor: "dev", Kind: policy.KindDNS, Value: "issuer.test"}},
		policy.SignJWT, policy.Target{KeySet: keyset})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func prepare(t testing.TB, claims string) (*Prepared, error) {
	t.Helper()
	return Prepare(granted(t, "web"), Request{KeySet: "web", Claims: []byte(claims)}, environment())
}

// parts returns header and payload of a signing input.
func parts(t testing.TB, input []byte) (header, payload string) {
	t.Helper()
	h, p, ok := bytes.Cut(input, []byte("."))
	if !ok {
		t.Fatalf("no point in %q", input)
	}
	var decoded [2]string
	for i, part := range [][]byte{h, p} {
		b, err := base64.RawURLEncoding.Strict().AppendDecode(nil, part)
		if err != nil {
			t.Fatal(err)
		}
		decoded[i] = string(b)
	}
	return decoded[0], decoded[1]
}

func TestPayloadIsOursAndThenTheCallersVerbatim(t *testing.T) {
	const ours = `{"iss":"http://localhost:8080/issuers/web","iat":1772366400,"nbf":1772366395,"exp":1772366700,"jti":"JTI"`
	for _, c := range []struct{ claims, payload string }{
		{`{"sub":"x"}`, ours + `,"sub":"x"}`},
		{` { "sub" : "\u0078", "n":9007199254740993,"f":1.0e400 } ` + "\n", ours + `, "sub" : "\u0078", "n":9007199254740993,"f":1.0e400 } ` + "\n"},
		{`{}`, ours + `}`},
		{"\t{ \n} ", ours + " \n} "},
		{`{"":{}}`, ours + `,"":{}}`},
		{`{"a":"{","b":[{"iss":1}]}`, ours + `,"a":"{","b":[{"iss":1}]}`},
	} {
		p, err := prepare(t, c.claims)
		if err != nil {
			t.Errorf("%q: %v", c.claims, err)
			continue
		}
		input, err := p.Redeem(kid, keystore.ES256)
		if err != nil {
			t.Fatal(err)
		}
		header, payload := parts(t, input)
		if want := `{"alg":"ES256","kid":"` + string(kid) + `","typ":"JWT"}`; header != want {
			t.Errorf("header %s, want %s", header, want)
		}
		if got := strings.Replace(payload, p.JTI(), "JTI", 1); got != c.payload {
			t.Errorf("payload %q, want %q", got, c.payload)
		}
		if !json.Valid([]byte(payload)) || p.Exp() != now.Truncate(time.Second).Add(DefaultTTL) {
			t.Errorf("%s, expires %v", payload, p.Exp())
		}
		if keystore.CheckMessage(keystore.PurposeJWT, keystore.ES256, input) != nil {
			t.Errorf("%q is no JWS signing input", input)
		}
	}
}

func TestA01A02A03Refusals(t *testing.T) {
	for _, c := range []struct {
		name, claims string
		code         api.Code
	}{
		{"A02 iss", `{"iss":"x"}`, api.CodeClaimReserved},
		{"A02 iat", `{"a":1,"iat":1}`, api.CodeClaimReserved},
		{"A02 nbf", `{"nbf":null}`, api.CodeClaimReserved},
		{"A02 exp", `{"exp":9999999999}`, api.CodeClaimReserved},
		{"A02 jti", `{"jti":"x"}`, api.CodeClaimReserved},
		{"A02 escaped", `{"\u0069ss":"x"}`, api.CodeClaimReserved},
		{"A02 escaped whole", `{"\u0065\u0078\u0070":1}`, api.CodeClaimReserved},
		{"A02 other case", `{"EXP":1}`, api.CodeClaimReserved},
		{"A02 long s", "{\"i\u017f\u017f\":1}", api.CodeClaimReserved},
		{"A02 twice", `{"sub":"a","sub":"b"}`, api.CodeMalformed},
		{"A03 bad UTF-8", "{\"a\":\"\xff\"}", api.CodeMalformed},
		{"A03 lone surrogate", `{"a":"\ud800"}`, api.CodeMalformed},
		{"A03 trailing data", `{"a":1}{"exp":1}`, api.CodeMalformed},
		{"A03 depth", `{"a":` + strings.Repeat("[", 15000) + strings.Repeat("]", 15000) + `}`, api.CodeMalformed},
		{"array", `[]`, api.CodeMalformed},
		{"null", `null`, api.CodeMalformed},
		{"string", `"{}"`, api.CodeMalformed},
		{"nothing", ``, api.CodeMalformed},
		{"open", `{"a":1`, api.CodeMalformed},
		{"A04 size", `{"a":"` + strings.Repeat("x", 16<<10) + `","b":"` + strings.Repeat("x", 16<<10) + `"}`, api.CodeTooLarge},
	} {
		_, err := prepare(t, c.claims)
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
	}
	for _, claims := range []string{`{"isss":1}`, `{"ex":1}`, `{"aud":"x","sub":"y"}`, `{"is\ud83d\ude00":1}`} {
		if _, err := prepare(t, claims); err != nil {
			t.Errorf("%s: %v", claims, err)
		}
	}
}

func TestLifetimeIsNeverClamped(t *testing.T) {
	of := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		name     string
		ttl      *int64
		fallback time.Duration
		keyset   time.Duration
		want     int64 // 0: refused
		code     api.Code
	}{
		{"one second", of(1), 0, 0, 1, ""},
		{"the limit", of(3600), 0, 0, 3600, ""},
		{"one more", of(3601), 0, 0, 0, api.CodeTTLTooLong},
		{"overflow", of(math.MaxInt64), 0, 0, 0, api.CodeTTLTooLong},
		{"zero", of(0), 0, 0, 0, api.CodeMalformed},
		{"negative", of(math.MinInt64), 0, 0, 0, api.CodeMalformed},
		{"absent", nil, 0, 0, 300, ""},
		{"absent, configured", nil, 10 * time.Second, 0, 10, ""},
		{"absent, default over the limit", nil, 0, 10 * time.Second, 0, api.CodeTTLTooLong},
		{"key set's limit", of(11), 0, 10 * time.Second, 0, api.CodeTTLTooLong},
		{"key set's limit is wider", of(3601), 0, 2 * time.Hour, 0, api.CodeTTLTooLong},
	} {
		env := environment()
		env.DefaultTTL, env.MaxTTL = c.fallback, c.keyset
		p, err := Prepare(granted(t, "web"), Request{KeySet: "web", Claims: []byte(`{}`), TTL: c.ttl}, env)
		if c.want == 0 {
			if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != c.code {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || p.Exp().Unix() != now.Unix()+c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTypIsTheGrants(t *testing.T) {
	for typ, ok := range map[string]bool{"": true, "JWT": true, "at+jwt": true, "jwt": false, "logout+jwt": false, "JWT\",\"b64\":false": false} {
		p, err := Prepare(granted(t, "web"), Request{KeySet: "web", Claims: []byte(`{}`), Typ: typ}, environment())
		if ok != (err == nil) {
			t.Errorf("%q: %v", typ, err)
		}
		if e, is := errors.AsType[*api.Error](err); err != nil && (!is || e.Code != api.CodeTypNotAllowed) {
			t.Errorf("%q: %v", typ, err)
		}
		if err == nil && typ != "" && p.Typ() != typ {
			t.Errorf("%q became %q", typ, p.Typ())
		}
	}
}

func TestNoGrantNoToken(t *testing.T) {
	for name, g := range map[string]policy.Grant{"none": {}, "another key set's": granted(t, "edge")} {
		if _, err := Prepare(g, Request{KeySet: "web", Claims: []byte(`{}`)}, environment()); !errors.Is(err, policy.ErrForbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRedeemOnce(t *testing.T) {
	p, err := prepare(t, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Redeem("", keystore.ES256); err == nil {
		t.Error("redeemed without a key")
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	redeemed := 0
	for range 8 {
		wg.Go(func() {
			if _, err := p.Redeem(kid, keystore.EdDSA); err == nil {
				mu.Lock()
				redeemed++
				mu.Unlock()
			} else if !errors.Is(err, ErrRedeemed) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if redeemed != 1 {
		t.Errorf("redeemed %d times", redeemed)
	}
}

func TestTokensAreTold(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		p, err := prepare(t, `{}`)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`).MatchString(p.JTI()) || seen[p.JTI()] {
			t.Fatalf("jti %q", p.JTI())
		}
		seen[p.JTI()] = true
	}
}

func TestIssuerIsEscaped(t *testing.T) {
	env := environment()
	env.Issuer = "https://x.test/\"ü\\<"
	env.Skew = 1500 * time.Millisecond
	p, err := Prepare(granted(t, "web"), Request{KeySet: "web", Claims: []byte(`{}`)}, env)
	if err != nil {
		t.Fatal(err)
	}
	input, _ := p.Redeem(kid, keystore.RS256)
	_, payload := parts(t, input)
	var got struct {
		Iss      string
		Iat, Nbf int64
	}
	if err := json.Unmarshal([]byte(payload), &got); err != nil || got.Iss != env.Issuer || got.Nbf != got.Iat-2 {
		t.Errorf("%s: %v", payload, err)
	}
	env.Issuer = ""
	if _, err := Prepare(granted(t, "web"), Request{KeySet: "web", Claims: []byte(`{}`)}, env); err == nil {
		t.Error("a token without issuer")
	}
}

// Whatever the claims are, a token's five claims are ours for encoding/json as
// well, which folds case and takes the last, and the rest is the caller's.
func FuzzPrepare(f *testing.F) {
	for _, seed := range []string{`{}`, ` { } `, `{"sub":"x"}`, `{"\u0069ss":"x"}`, "{\"i\u017f\u017f\":1}", `{"Exp":1}`, `{"a":{"iss":1}}`, `{"a":1}}`} {
		f.Add([]byte(seed))
	}
	grant := granted(f, "web")
	f.Fuzz(func(t *testing.T, claims []byte) {
		p, err := Prepare(grant, Request{KeySet: "web", Claims: claims}, environment())
		if err != nil {
			if _, ok := errors.AsType[*api.Error](err); !ok {
				t.Fatalf("%q: %v", claims, err)
			}
			return
		}
		input, err := p.Redeem(kid, keystore.ES256)
		if err != nil {
			t.Fatal(err)
		}
		_, payload := parts(t, input)
		var got struct {
			Iss           string
			Iat, Nbf, Exp int64
			Jti           string
		}
		if err := json.Unmarshal([]byte(payload), &got); err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
		iat := now.Unix()
		if got.Iss != environment().Issuer || got.Iat != iat || got.Nbf != iat-5 || got.Exp != iat+300 || got.Jti != p.JTI() {
			t.Fatalf("%s is read as %+v", payload, got)
		}
		if !strings.HasSuffix(payload, string(claims[bytes.IndexByte(claims, '{')+1:])) {
			t.Fatalf("%s does not end as %s", payload, claims)
		}
		var ours, theirs map[string]json.RawMessage
		if json.Unmarshal([]byte(payload), &ours) != nil || json.Unmarshal(claims, &theirs) != nil || len(ours) != len(theirs)+5 {
			t.Fatalf("%s has %d members, %s has %d", payload, len(ours), claims, len(theirs))
		}
	})
}

func TestPrepareIsCheap(t *testing.T) {
	grant, env := granted(t, "web"), environment()
	claims := []byte(`{"sub":"someone","aud":["a","b"],"scope":"read write"}`)
	n := testing.AllocsPerRun(100, func() {
		p, err := Prepare(grant, Request{KeySet: "web", Claims: claims}, env)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Redeem(kid, keystore.ES256); err != nil {
			t.Fatal(err)
		}
	})
	if n > 12 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPrepareAndRedeem(b *testing.B) {
	grant, env := granted(b, "web"), environment()
	claims := []byte(`{"sub":"someone","aud":["a","b"],"scope":"read write"}`)
	b.ReportAllocs()
	for b.Loop() {
		p, err := Prepare(grant, Request{KeySet: "web", Claims: claims}, env)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Redeem(kid, keystore.ES256); err != nil {
			b.Fatal(err)
		}
	}
}

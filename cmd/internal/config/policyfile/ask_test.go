package policyfile

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/cmd/internal/config/document"
	"chancery/signer/api"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

const asked = `
clients: [{name: dev, ca: none.crt, dns: [a.test]}]
keysets:
  web: {purpose: jwt, algorithm: ES256, max_ttl: 30m, default_ttl: 10m}
  edge: {purpose: jwt, algorithm: EdDSA}
claims_profiles:
  partner: {kind: at+jwt, cnf: named, lifetime: 5m, audiences: [api], required: [scope]}
  bound: {typ: bound+jwt, cnf: caller, forbidden: [sub]}
  jwt_svid: {trust_domains: [example.org]}
policy:
  - {rule: short, principals: ["dev:dns:a.test"], actions: [jwt.sign], keysets: [web], profiles: [at+jwt, id_token], max_ttl: 20m, when: "ttl < 300", claims: {forbidden: [nonce]}, max_claims: 4}
  - {rule: plain, principals: ["dev:dns:a.test"], actions: [jwt.sign], keysets: [web], max_ttl: 15m, types: [JWT, x], cnf: required, when: "has(claims.sub)"}
  - {rule: any, principals: ["dev:dns:a.test"], actions: [jwt.sign], keysets: ["*"], profiles: ["*"], max_ttl: 30m, types: [JWT, JWK], audiences: [api, "b"], max_bytes: 150}
`

// What a daemon refuses was called allowed, because nobody asked the claims profile.
// Whatever is asked, the answer is now what the daemon's own code says to a grant:
// allowed or not, by which rule, with which profile and which code.
func TestAnAnswerIsTheDaemons(t *testing.T) {
	p, findings := parse(document.New("config.yaml"), []byte(asked))
	if p == nil {
		t.Fatal(findings)
	}
	outcomes := map[string]bool{}
	rapid.Check(t, func(t *rapid.T) {
		for range 40 { // so that every outcome is met
			one := anyCase(t)
			q, faults := one.Question()
			if len(faults) > 0 { // aud twice in two spellings: no question
				continue
			}
			x := p.Ask(q)
			rule, profile, code := signed(t, p, q)
			outcomes[x.Rule+" "+x.Code] = true
			if x.Rule != rule || x.Profile != profile || x.Code != code || x.Allowed != (code == "") {
				t.Fatalf("%+v\nanswered %+v\nthe daemon: rule %q, profile %q, code %q", one, x, rule, profile, code)
			}
		}
	})
	for _, seen := range []string{"any ", "any claim_invalid", "any ttl_too_long", "any typ_not_allowed", "any claim_reserved", "any audience_not_allowed", "plain claim_invalid"} {
		if !outcomes[seen] {
			t.Errorf("never %q: %v", seen, outcomes)
		}
	}
}

// anyCase draws a request for a JWT.
func anyCase(t *rapid.T) Case {
	values := map[string]any{
		"aud": "api", "sub": "spiffe://example.org/a", "client_id": "app", "scope": "read", "nonce": "n", "events": map[string]any{},
		"cnf": map[string]any{"kid": "k"}, "sid": "1", "exp": 5, "Aud": "api", "pad": strings.Repeat("x", 60),
	}
	names := []string{"aud", "sub", "client_id", "scope", "nonce", "events", "cnf", "sid", "exp", "Aud", "pad"}
	claims := map[string]any{}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 5, rapid.ID).Draw(t, "claims") {
		claims[name] = values[name]
		if rapid.IntRange(0, 5).Draw(t, "broken") == 0 {
			claims[name] = 7
		}
	}
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return Case{
		As: "dev:dns:a.test", Action: policy.SignJWT, Claims: body,
		KeySet:  rapid.SampledFrom([]string{"web", "web", "edge"}).Draw(t, "keyset"),
		Profile: rapid.SampledFrom([]string{"", "", "jwt", "at+jwt", "id_token", "logout_token", "partner", "bound", "jwt_svid"}).Draw(t, "profile"),
		Typ:     rapid.SampledFrom([]string{"", "", "", "JWT", "x", "at+jwt", "JWK-SET+jwt"}).Draw(t, "typ"),
		TTL:     rapid.SampledFrom([]time.Duration{0, 0, 0, time.Minute, 299 * time.Second, 6 * time.Minute, 16 * time.Minute, 31 * time.Minute}).Draw(t, "ttl"),
		CNF:     rapid.SampledFrom([]string{"", "", strings.Repeat("A", 43), "x"}).Draw(t, "cnf"),
	}
}

// signed authorises and prepares a JWT as package signer does.
func signed(t *rapid.T, p *Part, q Question) (rule, profile, code string) {
	who := policy.Caller{Principal: q.Who, Certificate: &x509.Certificate{Raw: []byte("x")}}
	req := q.Request
	req.Defaults = p.defaults(q)
	g, err := p.Policy.AuthorizeRequest(who, q.Action, q.Target, req)
	if err != nil {
		return "", "", codeOf(t, err)
	}
	ks := p.setting.KeySets[q.Target.KeySet]
	made := p.setting.Profiles[g.Target().Profile]
	asked := jwt.Request{KeySet: q.Target.KeySet, Claims: q.Request.Body, Typ: q.Request.Typ, CNFCertificate: q.CNFCertificate}
	if q.Request.TTL != 0 {
		asked.TTL = &q.Request.TTL
	}
	prepared, err := jwt.Prepare(g, asked, jwt.Env{
		Issuer: "https://keys.test", Now: time.Unix(1_772_366_400, 0), DefaultTTL: ks.DefaultTTL, MaxTTL: ks.MaxTTL, Profile: made,
	})
	if err == nil {
		err = prepared.SignedBy(ks.Algorithm)
	}
	return g.Rule(), g.Target().Profile, codeOf(t, err)
}

func codeOf(t *rapid.T, err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		return string(e.Code)
	}
	if !errors.Is(err, policy.ErrForbidden) {
		t.Fatal(err)
	}
	return policy.CodeForbidden
}

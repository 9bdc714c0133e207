package signer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"chancery/signer/api"
	"chancery/signer/policy"
)

// ruled gives the world a policy with one rule for the issuer and one for the CA.
func (w *world) ruled(t testing.TB, jwt, csr policy.Rule) {
	t.Helper()
	jwt.Name, jwt.Principals, jwt.Actions, jwt.KeySets, jwt.MaxTTL = "jwt", []string{issuer.String()}, []policy.Action{policy.SignJWT}, []string{"web"}, time.Hour
	csr.Name, csr.Principals, csr.Actions, csr.Authorities, csr.Profiles = "csr", []string{client.String()}, []policy.Action{policy.SignCSR}, []string{"devices"}, []string{"tls"}
	csr.Names, csr.MaxTTL = []string{".devices.test"}, 24*time.Hour
	p, err := policy.New(policy.Config{Anchors: []policy.Anchor{{Name: "dev", SPIFFE: []string{"chancery.dev"}}}, Rules: []policy.Rule{jwt, csr}})
	if err != nil {
		t.Fatal(err)
	}
	w.Policy = func() *policy.Policy { return p }
}

func code(err error) api.Code {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e.Code
	}
	return ""
}

// A condition sees the request as it is going to be read, the defaults filled in.
func TestConditionsSeeTheRequestForAJWT(t *testing.T) {
	w := newWorld(t)
	w.ruled(t, policy.Rule{When: `ttl <= 300 && typ == "JWT" && claims.sub.startsWith("x")`}, policy.Rule{})
	short, long := int64(300), int64(301)
	for _, c := range []struct {
		name   string
		req    api.SignJWTRequest
		code   api.Code
		reason string // in the log
	}{
		{"defaults", api.SignJWTRequest{Claims: []byte(`{"sub":"x1"}`)}, "", ""},
		{"escaped", api.SignJWTRequest{Claims: []byte(`{"s\u0075b":"\u0078"}`), TTL: &short}, "", ""},
		{"ttl", api.SignJWTRequest{Claims: []byte(`{"sub":"x1"}`), TTL: &long}, api.CodeForbidden, "no rule of"},
		{"claim", api.SignJWTRequest{Claims: []byte(`{"sub":"y"}`)}, api.CodeForbidden, "no rule of"},
		{"claim that is not there", api.SignJWTRequest{Claims: []byte(`{}`)}, api.CodeForbidden, "rule jwt: when: no such key: sub"},
		{"number that does not fit", api.SignJWTRequest{Claims: []byte(`{"sub":"x","n":1e400}`)}, api.CodeForbidden, "does not fit exactly"},
		{"malformed", api.SignJWTRequest{Claims: []byte(`{"sub":"x","sub":"y"}`)}, api.CodeMalformed, `claims: duplicate name "sub"`},
	} {
		c.req.KeySet = "web"
		refused := len(w.log.refused)
		_, err := w.SignJWT(t.Context(), issuer, c.req)
		if code(err) != c.code {
			t.Errorf("%s: %v; want %q", c.name, err, c.code)
		}
		if c.code == "" {
			continue
		}
		if r := w.log.refused[refused:]; len(r) != 1 || !strings.Contains(r[0].Reason, c.reason) || r[0].Code != string(c.code) {
			t.Errorf("%s: in the log: %+v; want %q", c.name, r, c.reason)
		}
	}
}

func TestLimitsReachTheCaller(t *testing.T) {
	w := newWorld(t)
	w.ruled(t, policy.Rule{Audiences: []string{"api"}}, policy.Rule{MaxNames: 1})
	_, err := w.SignJWT(t.Context(), issuer, api.SignJWTRequest{KeySet: "web", Claims: []byte(`{"aud":"b"}`)})
	if code(err) != api.CodeAudienceNotAllowed || w.signed != 0 {
		t.Errorf("%v, %d signatures", err, w.signed)
	}
	if r := w.log.refused[0]; r.Rule != "jwt" || r.Policy != w.Policy().Hash() || r.Code != "audience_not_allowed" {
		t.Errorf("in the log: %+v", r)
	}
	if _, err := w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test", "b.devices.test"), ""); code(err) != api.CodeNameNotAllowed || w.signed != 0 {
		t.Errorf("two names: %v, %d signatures", err, w.signed)
	}
	if _, err := w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test"), ""); err != nil {
		t.Errorf("one name: %v", err)
	}
}

func TestConditionsSeeTheRequestForACertificate(t *testing.T) {
	w := newWorld(t)
	w.ruled(t, policy.Rule{}, policy.Rule{When: `names.all(n, n.startsWith("a")) && ttl <= 86400`})
	for _, c := range []struct {
		name string
		req  api.SignCSRRequest
		code api.Code
	}{
		{"defaults", csrFor(t, "a.devices.test"), ""},
		{"name", csrFor(t, "a.devices.test", "b.devices.test"), api.CodeForbidden},
		{"ttl", withTTL(csrFor(t, "a.devices.test"), 86401), api.CodeForbidden},
		{"malformed", api.SignCSRRequest{Authority: "devices", Profile: "tls", CSR: "x"}, api.CodeMalformed},
		{"unknown profile", api.SignCSRRequest{Authority: "devices", Profile: "x", CSR: "x"}, api.CodeForbidden},
	} {
		if _, err := w.SignCSR(t.Context(), client, c.req, ""); code(err) != c.code {
			t.Errorf("%s: %v; want %q", c.name, err, c.code)
		}
	}
}

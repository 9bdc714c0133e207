package jwt

import (
	"errors"
	"testing"
	"time"

	"chancery/signer/api"
	"chancery/signer/policy"
)

func TestLimitsOfThePolicyRefuseWithCodesOfTheirOwn(t *testing.T) {
	p, err := policy.New(policy.Config{
		Anchors: []policy.Anchor{{Name: "dev", DNS: []string{"issuer.test"}}},
		Rules: []policy.Rule{{
			Name: "issuers", Principals: []string{"dev:dns:issuer.test"}, Actions: []policy.Action{policy.SignJWT}, KeySets: []string{"web"}, MaxTTL: time.Hour,
			Audiences: []string{"api"}, Scopes: []string{"read", "write"}, MaxClaims: 5, MaxBytes: 120,
			Claims: policy.ClaimRules{Required: []string{"sub"}, Forbidden: []string{"admin"}, Forced: map[string]any{"tenant": "a"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	grant, err := p.Authorize(policy.Caller{Principal: policy.Principal{Anchor: "dev", Kind: policy.KindDNS, Value: "issuer.test"}}, policy.SignJWT, policy.Target{KeySet: "web"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		claims string
		code   api.Code // empty: signed
	}{
		{`{"sub":"x","aud":["api"],"tenant":"a","scope":"write read"}`, ""},
		{`{"sub":"x","aud": "api" ,"ten\u0061nt":"\u0061"}`, ""},
		{`{"aud":"api","tenant":"a"}`, api.CodeClaimMissing},
		{`{"sub":"x","tenant":"a"}`, api.CodeClaimMissing},
		{`{"sub":"x","aud":"api"}`, api.CodeClaimMissing},
		{`{"sub":"x","aud":"api","tenant":"b"}`, api.CodeClaimNotAllowed},
		{`{"sub":"x","aud":"api","tenant":"a","admin":true}`, api.CodeClaimNotAllowed},
		{`{"sub":"x","aud":"api","tenant":"a","\u0041dmin":true}`, api.CodeClaimNotAllowed},
		{`{"sub":"x","aud":"b","tenant":"a"}`, api.CodeAudienceNotAllowed},
		{`{"sub":"x","aud":["api","b"],"tenant":"a"}`, api.CodeAudienceNotAllowed},
		{`{"sub":"x","aud":"api","tenant":"a","scope":"admin"}`, api.CodeScopeNotAllowed},
		{`{"sub":"x","aud":"api","tenant":"a","b":1,"c":1,"d":1}`, api.CodeTooLarge},
		{`{"sub":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","aud":"api","tenant":"a"}`, api.CodeTooLarge},
		{`{"sub":"x","aud":"api","tenant":"a","iss":"x"}`, api.CodeClaimReserved},
		{`{"sub":"x","aud":"api","aud":"b","tenant":"a"}`, api.CodeMalformed},
	} {
		_, err := Prepare(grant, Request{KeySet: "web", Claims: []byte(c.claims)}, environment())
		e, _ := errors.AsType[*api.Error](err)
		if c.code == "" && err != nil || c.code != "" && (e == nil || e.Code != c.code) {
			t.Errorf("%s: %v; want %q", c.claims, err, c.code)
		}
	}
}

// Every limit's name is a code that callers can meet.
func TestEveryLimitIsACode(t *testing.T) {
	for _, l := range []policy.Limit{
		policy.LimitTTL, policy.LimitType, policy.LimitReserved, policy.LimitClaim, policy.LimitMissing,
		policy.LimitAudience, policy.LimitScope, policy.LimitSize, policy.LimitName,
	} {
		if _, ok := api.Codes()[api.Code(l)]; !ok {
			t.Errorf("%s is no code", l)
		}
	}
}

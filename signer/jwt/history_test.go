package jwt

import (
	"errors"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

func TestAHistoryIsNoToken(t *testing.T) {
	p, err := PrepareHistory(`https://keys.example/"`, now, []byte(`[{"kid":"a"}]`))
	if err != nil {
		t.Fatal(err)
	}
	input, err := p.Redeem(kid, keystore.ES256)
	if err != nil {
		t.Fatal(err)
	}
	header, payload := parts(t, input)
	if want := `{"alg":"ES256","kid":"` + string(kid) + `","typ":"jwk-set+jwt"}`; header != want {
		t.Errorf("header %s, want %s", header, want)
	}
	if want := `{"iss":"https://keys.example/\"","iat":1772366400,"keys":[{"kid":"a"}]}`; payload != want {
		t.Errorf("payload %s, want %s", payload, want)
	}
	if _, err := p.Redeem(kid, keystore.ES256); !errors.Is(err, ErrRedeemed) {
		t.Errorf("twice: %v", err)
	}
	for _, c := range []struct{ issuer, keys string }{{"", "[]"}, {"x", ""}, {"x", "{}"}, {"x", `[],"exp":1`}, {"x", " []"}} {
		if _, err := PrepareHistory(c.issuer, now, []byte(c.keys)); err == nil {
			t.Errorf("%q", c)
		}
	}
}

// Whoever could have a token of that type signed would write the history.
func TestNoCallerSignsAKeySet(t *testing.T) {
	const odd = "aPPlication/JWK-set+jwt"
	p, err := policy.New(policy.Config{
		Anchors: []policy.Anchor{{Name: "dev", DNS: []string{"issuer.test"}}},
		Rules: []policy.Rule{{
			Name: "all", Principals: []string{"dev:dns:issuer.test"}, Actions: []policy.Action{policy.SignJWT},
			KeySets: []string{"web"}, MaxTTL: time.Hour, Types: []string{"JWT", TypeKeySet, odd},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := p.Authorize(policy.Caller{Principal: policy.Principal{Anchor: "dev", Kind: policy.KindDNS, Value: "issuer.test"}}, policy.SignJWT, policy.Target{KeySet: "web"})
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{TypeKeySet, odd} {
		_, err := Prepare(g, Request{KeySet: "web", Claims: []byte(`{"keys":[]}`), Typ: typ}, environment())
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeTypNotAllowed {
			t.Errorf("%s: %v", typ, err)
		}
	}
	if _, err := Prepare(g, Request{KeySet: "web", Claims: []byte(`{"keys":[]}`)}, environment()); err != nil {
		t.Errorf("a token with such a claim: %v", err)
	}
}

package jwt

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/signer/policy"
)

// Rule and profile that leave no token passed in silence, and each was refused when
// it was asked for.
func TestARuleThatNoTokenOfAProfileIsWithin(t *testing.T) {
	access := profileOf(t, ProfileConfig{Name: policy.ProfileAccessToken})
	logout := profileOf(t, ProfileConfig{Name: policy.ProfileLogoutToken})
	svid := profileOf(t, ProfileConfig{Name: policy.ProfileJWTSVID, TrustDomains: []string{"example.org"}})
	receipt := profileOf(t, ProfileConfig{Name: "receipt", Typ: "receipt+jwt", Audiences: []string{"shop"}, Required: []string{"order"}, Claims: map[string]Form{"order": FormInteger}, CNF: policy.CNFNamed})
	none := profileOf(t, ProfileConfig{Name: "none", Kind: policy.ProfileLogoutToken, Forbidden: []string{"sid"}})
	forced := func(name string, v any) policy.Rule {
		return policy.Rule{Claims: policy.ClaimRules{Forced: map[string]any{name: v}}}
	}
	forbids := func(names ...string) policy.Rule {
		return policy.Rule{Claims: policy.ClaimRules{Forbidden: names}}
	}
	requires := func(names ...string) policy.Rule {
		return policy.Rule{Claims: policy.ClaimRules{Required: names}}
	}
	for _, c := range []struct {
		name string
		p    *Profile
		rule policy.Rule
		part string // empty: there is none
	}{
		{"nothing said", access, policy.Rule{}, ""},
		{"plain", nil, forbids("aud"), ""},
		{"plain and cnf", nil, policy.Rule{CNF: policy.CNFCaller, Claims: policy.ClaimRules{Required: []string{"cnf"}}}, "claims.required"},
		{"plain and a cnf that is forbidden twice over", nil, policy.Rule{CNF: policy.CNFForbidden, Claims: policy.ClaimRules{Forbidden: []string{"cnf"}}}, ""},
		{"plain and a cnf that is required and forbidden", nil, policy.Rule{CNF: policy.CNFRequired, Claims: policy.ClaimRules{Forbidden: []string{"cnf"}}}, "claims.forbidden"},
		{"cnf of both", receipt, policy.Rule{CNF: policy.CNFCaller}, "cnf"},
		{"the same cnf of both", receipt, policy.Rule{CNF: policy.CNFNamed}, ""},
		{"a claim that the profile has", access, forbids("x", "client_id"), "claims.forbidden"},
		{"in other letters", access, forbids("Client_ID"), "claims.forbidden"},
		{"a claim that it may have", access, forbids("scope"), ""},
		{"a claim that it has not", access, requires("events"), "claims.required"},
		{"a claim that it spells", access, requires("Scope"), "claims.required"},
		{"a claim that it knows", access, requires("scope"), ""},
		{"one of two", logout, forbids("sub"), ""},
		{"the one of two that is left", none, forbids("sub"), "claims.forbidden"},
		{"a value of another form", receipt, forced("order", "a"), "claims.forced.order"},
		{"a value of the form", receipt, forced("order", int64(5)), ""},
		{"no workload", svid, forced("sub", "alice"), "claims.forced.sub"},
		{"a workload", svid, forced("sub", "spiffe://example.org/a"), ""},
		{"audiences of nobody's", receipt, policy.Rule{Audiences: []string{"api"}}, "audiences"},
		{"audiences of which one is", receipt, policy.Rule{Audiences: []string{"api", "shop"}}, ""},
		{"too few claims", access, policy.Rule{MaxClaims: 2}, "max_claims"},
		{"enough claims", access, policy.Rule{MaxClaims: 3, Audiences: []string{"api"}}, ""},
		{"one of two as well", logout, policy.Rule{MaxClaims: 2}, "max_claims"},
		{"one of two, which the rule requires", logout, policy.Rule{MaxClaims: 3, Claims: policy.ClaimRules{Required: []string{"sid"}}}, ""},
	} {
		part, text := c.p.Contradiction(c.rule)
		if part != c.part || (text != "") != (c.part != "") {
			t.Errorf("%s: %q, %s", c.name, part, text)
		}
	}
}

// A token that is prepared contradicts the word that there is none.
func TestNoContradictionIsAFalseAlarm(t *testing.T) {
	profiles := []*Profile{
		nil, profileOf(t, ProfileConfig{Name: policy.ProfileAccessToken}), profileOf(t, ProfileConfig{Name: policy.ProfileLogoutToken}),
		profileOf(t, ProfileConfig{Name: "receipt", Typ: "receipt+jwt", Required: []string{"order"}, Claims: map[string]Form{"order": FormInteger}, CNF: policy.CNFRequired}),
		profileOf(t, ProfileConfig{Name: "bare", Typ: "bare+jwt", Forbidden: []string{"sub"}, CNF: policy.CNFForbidden}),
	}
	claims := []string{"aud", "sub", "sid", "client_id", "order", "cnf", "events", "Sub"}
	values := map[string]any{
		"aud": "api", "sub": "alice", "sid": "1", "client_id": "app", "order": 5, "cnf": map[string]any{"kid": "a"}, "Sub": "bob",
		"events": map[string]any{logoutEvent: map[string]any{}},
	}
	needed := map[string][]string{
		policy.ProfileAccessToken: {"aud", "sub", "client_id"}, policy.ProfileLogoutToken: {"aud", "sub", "events"}, "receipt": {"order", "cnf"},
	}
	prepared := 0
	rapid.Check(t, func(t *rapid.T) {
		some := func(label string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(claims), 0, 2, rapid.ID).Draw(t, label)
		}
		p := rapid.SampledFrom(profiles).Draw(t, "profile")
		r := policy.Rule{
			Name: "r", Principals: []string{"dev:dns:issuer.test"}, Actions: []policy.Action{policy.SignJWT}, KeySets: []string{"web"},
			MaxTTL: time.Hour, Profiles: []string{policy.Any}, MaxClaims: rapid.SampledFrom([]int{0, 0, 2, 4, 7}).Draw(t, "max"),
			CNF: rapid.SampledFrom([]policy.CNF{"", "", policy.CNFRequired, policy.CNFForbidden}).Draw(t, "cnf"),
		}
		if list := some("required"); len(list) > 0 {
			r.Claims.Required = list
		}
		if list := some("forbidden"); len(list) > 0 {
			r.Claims.Forbidden = list
		}
		if rapid.Bool().Draw(t, "force") {
			r.Claims.Forced = map[string]any{"order": rapid.SampledFrom([]any{"a", 5}).Draw(t, "order")}
		}
		made, err := policy.New(policy.Config{Anchors: []policy.Anchor{{Name: "dev", DNS: []string{"issuer.test"}}}, Rules: []policy.Rule{r}})
		if err != nil {
			t.Skip("no policy")
		}
		who := policy.Caller{Principal: policy.Principal{Anchor: "dev", Kind: policy.KindDNS, Value: "issuer.test"}}
		g, err := made.Authorize(who, policy.SignJWT, policy.Target{KeySet: "web", Profile: p.Name()})
		if err != nil {
			t.Fatal(err)
		}
		body := map[string]any{}
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(claims), 0, 6, rapid.ID).Draw(t, "claims") {
			body[name] = values[name]
		}
		if rapid.IntRange(0, 4).Draw(t, "obeys") > 0 { // few at random are prepared
			for _, name := range slices.Concat(r.Claims.Required, needed[p.Name()]) {
				body[name] = values[name]
			}
			for _, name := range r.Claims.Forbidden {
				delete(body, name)
			}
		}
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		env := environment()
		env.Profile = p
		if _, err := Prepare(g, Request{KeySet: "web", Claims: text}, env); err != nil {
			return
		}
		prepared++
		if part, why := p.Contradiction(r); part != "" {
			t.Fatalf("%s is prepared under %+v, but %s: %s", text, r, part, why)
		}
	})
	if prepared == 0 {
		t.Error("nothing was prepared")
	}
}

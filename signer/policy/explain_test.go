package policy

import (
	"slices"
	"testing"
)

func TestExplainSaysOfEveryRuleWhyItDoesNotDecide(t *testing.T) {
	cfg := example()
	cfg.Rules[0].Require.UIDs = []int64{1000}
	cfg.Rules[0].When = "ttl < 30"
	cfg.Rules[1].Audiences = []string{"api"}
	p := mustNew(t, cfg)
	jwt := func(change func(*Question)) Question {
		q := Question{Who: who(t, issuer).Principal, Action: SignJWT, Target: Target{KeySet: "web"}, Unix: &Unix{UID: 1000},
			Request: requestOf(map[string]string{"aud": `"api"`}, 20)}
		change(&q)
		return q
	}
	for _, c := range []struct {
		name  string
		q     Question
		rule  string
		code  string // empty: allowed
		parts []string
	}{
		{"first", jwt(func(*Question) {}), "short-web", "", []string{"", "order", "principals", "principals"}},
		{"another user", jwt(func(q *Question) { q.Unix.UID = 1 }), "issuers", "", []string{"require.uids", "", "principals", "principals"}},
		{"no Unix socket", jwt(func(q *Question) { q.Unix = nil }), "issuers", "", []string{"require.uids", "", "principals", "principals"}},
		{"condition false", jwt(func(q *Question) { q.Request.TTL = 30 }), "issuers", "", []string{"when", "", "principals", "principals"}},
		{"condition unknown", jwt(func(q *Question) { q.Request.TTL = 0 }), "", "forbidden", []string{"when", "order", "principals", "principals"}},
		{"another key set", jwt(func(q *Question) { q.Target.KeySet = "edge" }), "issuers", "", []string{"keysets", "", "principals", "principals"}},
		{"unknown key set", jwt(func(q *Question) { q.Target.KeySet = "x" }), "", "forbidden", []string{"keysets", "keysets", "principals", "principals"}},
		{"another action", jwt(func(q *Question) { q.Action = Rotate }), "", "forbidden", []string{"actions", "actions", "principals", "principals"}},
		{"over a limit", jwt(func(q *Question) { q.Unix = nil; q.Request = requestOf(map[string]string{"aud": `"b"`}, 20) }), "issuers", "audience_not_allowed", []string{"require.uids", "audiences", "principals", "principals"}},
		{"the signer's own", jwt(func(q *Question) { q.Request = requestOf(map[string]string{"Iss": `"b"`}, 20) }), "short-web", "claim_reserved", []string{"claims", "order", "principals", "principals"}},
		{"too long", jwt(func(q *Question) { q.Unix, q.Request.TTL = nil, 3601 }), "issuers", "ttl_too_long", []string{"require.uids", "max_ttl", "principals", "principals"}},
		{"type", jwt(func(q *Question) { q.Unix, q.Request.Typ = nil, "x" }), "issuers", "typ_not_allowed", []string{"require.uids", "types", "principals", "principals"}},
		{"nobody", jwt(func(q *Question) { q.Who = Principal{} }), "", "forbidden", []string{"principals", "principals", "principals", "principals"}},
		{"name", Question{Who: who(t, ca).Principal, Action: SignCSR, Target: Target{Authority: "devices", Profile: "tls"},
			Request: Request{TTL: 5, Names: func([]byte) ([]string, error) { return []string{"x.test"}, nil }}}, "devices", "name_not_allowed", []string{"principals", "principals", "names, max_names", "principals"}},
		{"profile", Question{Who: who(t, ca).Principal, Action: SignCSR, Target: Target{Authority: "devices", Profile: "code"}}, "", "forbidden", []string{"principals", "principals", "profiles", "principals"}},
	} {
		x := p.Explain(c.q)
		var parts []string
		for i, v := range x.Rules {
			parts = append(parts, v.Part)
			if v.Rule != cfg.Rules[i].Name || (v.Part != "") != (v.Text != "") || v.Decides != (v.Rule == x.Rule) {
				t.Errorf("%s: %+v", c.name, v)
			}
		}
		if x.Rule != c.rule || x.Code != c.code || x.Allowed != (c.code == "") || !slices.Equal(parts, c.parts) {
			t.Errorf("%s: %+v\nparts %q, want %q", c.name, x, parts, c.parts)
		}
	}
}

// What Explain answers is what Authorize would grant.
func TestExplainAgreesWithAuthorize(t *testing.T) {
	cfg := example()
	cfg.Rules[0].When = `claims.sub == "x"`
	cfg.Rules[1].Require.GIDs = []int64{5}
	p := mustNew(t, cfg)
	for _, name := range []string{issuer, ca, operator, runner} {
		for _, action := range Actions() {
			for _, keyset := range []string{"web", "edge", "x"} {
				for _, unix := range []*Unix{nil, {GID: 5}} {
					for _, claims := range []map[string]string{{}, {"sub": `"x"`}, {"sub": `"y"`}} {
						caller := who(t, name)
						caller.Unix, caller.Certificate = unix, certificate(t, dns())
						target, request := Target{KeySet: keyset, Authority: "devices", Profile: "tls"}, requestOf(claims, 5)
						g, err := p.AuthorizeRequest(caller, action, target, request)
						x := p.Explain(Question{Who: caller.Principal, Unix: unix, Action: action, Target: target, Request: request})
						if x.Rule != g.Rule() || x.Allowed != (err == nil) {
							t.Errorf("%s %s %s %v %v: %+v, but %q, %v", name, action, keyset, unix, claims, x, g.Rule(), err)
						}
					}
				}
			}
		}
	}
}

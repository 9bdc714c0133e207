package policy

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// ruled is a policy of rules for one principal, with a claims profile receipt
// declared beside those built in.
func ruled(t *testing.T, rules ...Rule) *Policy {
	t.Helper()
	cfg := Config{
		Anchors:        []Anchor{{Name: "dev", DNS: []string{"issuer.test"}}},
		ClaimsProfiles: map[string]json.RawMessage{"receipt": []byte(`{"typ":"receipt+jwt"}`)},
	}
	for _, r := range rules {
		r.Principals = []string{"dev:dns:issuer.test"}
		r.MaxTTL = time.Hour
		cfg.Rules = append(cfg.Rules, r)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Which kind of token a request is for is the rule's to say; what no rule names is
// the plain one alone.
func TestA06WhichProfileAGrantIsFor(t *testing.T) {
	jwt := func(profiles ...string) Rule {
		return Rule{Name: "jwt", Actions: []Action{SignJWT}, KeySets: []string{"web"}, Profiles: profiles}
	}
	both := func(profiles ...string) Rule {
		return Rule{
			Name: "both", Actions: []Action{SignJWT, SignCSR}, KeySets: []string{"web"}, Profiles: profiles,
			Authorities: []string{"devices"}, Names: []string{".devices.test"},
		}
	}
	second := jwt("id_token")
	second.Name = "second"
	for _, c := range []struct {
		name  string
		rules []Rule
		asked string
		want  string // the grant's; empty: none
		rule  string
	}{
		{"a rule without profiles", []Rule{jwt()}, "", "jwt", "jwt"},
		{"and the plain one by name", []Rule{jwt()}, "jwt", "jwt", "jwt"},
		{"and another", []Rule{jwt()}, "at+jwt", "", ""},
		{"the only one", []Rule{jwt("at+jwt")}, "", "at+jwt", "jwt"},
		{"the only one by name", []Rule{jwt("at+jwt")}, "at+jwt", "at+jwt", "jwt"},
		{"no plain one beside it", []Rule{jwt("at+jwt")}, "jwt", "", ""},
		{"two and neither named", []Rule{jwt("at+jwt", "id_token")}, "", "", ""},
		{"two, the plain one among them", []Rule{jwt("at+jwt", "jwt")}, "", "jwt", "jwt"},
		{"any", []Rule{jwt(Any)}, "", "jwt", "jwt"},
		{"any by name", []Rule{jwt(Any)}, "receipt", "receipt", "jwt"},
		{"declared", []Rule{jwt("receipt")}, "", "receipt", "jwt"},
		{"the second rule has it", []Rule{jwt(), second}, "id_token", "id_token", "second"},
		{"the first rule is for the plain one", []Rule{jwt(), second}, "", "jwt", "jwt"},
		{"other letters", []Rule{jwt("at+jwt")}, "AT+jwt", "", ""},

		{"with profiles of certificates alone", []Rule{both("tls")}, "", "jwt", "both"},
		{"which are none of claims", []Rule{both("tls")}, "tls", "", ""},
		{"with both sorts", []Rule{both("tls", "at+jwt")}, "", "at+jwt", "both"},
		{"with both sorts, the plain one", []Rule{both("tls", "at+jwt")}, "jwt", "", ""},
		{"with both sorts, a declared one", []Rule{both("tls", "receipt")}, "receipt", "receipt", "both"},
		{"with any", []Rule{both(Any)}, "", "jwt", "both"},
	} {
		who := Caller{Principal: Principal{Anchor: "dev", Kind: KindDNS, Value: "issuer.test"}}
		g, err := ruled(t, c.rules...).Authorize(who, SignJWT, Target{KeySet: "web", Profile: c.asked})
		if (err == nil) != (c.want != "") || err != nil && !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: %v", c.name, err)
		}
		if g.Target().Profile != c.want || g.Rule() != c.rule {
			t.Errorf("%s: profile %q of rule %q, want %q of %q", c.name, g.Target().Profile, g.Rule(), c.want, c.rule)
		}
	}
	g, err := ruled(t, both("tls")).Authorize(Caller{Principal: Principal{Anchor: "dev", Kind: KindDNS, Value: "issuer.test"}}, SignCSR, Target{Authority: "devices", Profile: "tls"})
	if err != nil || g.Target().Profile != "tls" {
		t.Errorf("a certificate: %v", err)
	}
}

func TestFaultyProfilesOfRules(t *testing.T) {
	for _, c := range []struct {
		path string
		rule Rule
	}{
		{"profiles", Rule{Actions: []Action{ReadAudit}, Profiles: []string{"at+jwt"}}},
		{"profiles[0]", Rule{Actions: []Action{SignJWT}, KeySets: []string{"web"}, Profiles: []string{"a+b"}}},
		{"profiles[1]", Rule{Actions: []Action{SignJWT}, KeySets: []string{"web"}, Profiles: []string{"jwt", "jwt"}}},
		{"types", Rule{Actions: []Action{SignJWT}, KeySets: []string{"web"}, Profiles: []string{"at+jwt"}, Types: []string{"at+jwt"}}},
		{"cnf", Rule{Actions: []Action{SignJWT}, KeySets: []string{"web"}, CNF: "mine"}},
		{"cnf", Rule{Actions: []Action{ReadAudit}, CNF: CNFCaller}},
	} {
		c.rule.Name, c.rule.Principals = "r", []string{"dev:dns:issuer.test"}
		if c.rule.Actions[0] == SignJWT {
			c.rule.MaxTTL = time.Hour
		}
		_, err := New(Config{Anchors: []Anchor{{Name: "dev", DNS: []string{"issuer.test"}}}, Rules: []Rule{c.rule}})
		if fault, ok := errors.AsType[*Fault](joined(err)); !ok || fault.Path != "rules[0]."+c.path {
			t.Errorf("%+v: %v, want a fault of %s", c.rule, err, c.path)
		}
	}
}

// joined returns the first of several errors.
func joined(err error) error {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		return several.Unwrap()[0]
	}
	return err
}

// What a declared profile says is part of the policy, and a policy that says nothing
// of profiles has the hash that it always had.
func TestThePolicysHashHasTheProfiles(t *testing.T) {
	base := Config{Anchors: []Anchor{{Name: "dev", DNS: []string{"issuer.test"}}}}
	hash := func(c Config) string {
		p, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		return p.Hash()
	}
	one, two := base, base
	one.ClaimsProfiles = map[string]json.RawMessage{"receipt": []byte(`{"typ":"a"}`)}
	two.ClaimsProfiles = map[string]json.RawMessage{"receipt": []byte(`{"typ":"b"}`)}
	if hash(one) == hash(two) || hash(one) == hash(base) {
		t.Error("the hash does not tell policies with other profiles apart")
	}
	text, err := json.Marshal(base)
	if err != nil || strings.Contains(string(text), "profile") {
		t.Errorf("%s: %v", text, err)
	}
}

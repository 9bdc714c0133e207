package policy

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestAConditionIsAPartOfFitting(t *testing.T) {
	caller := who(t, issuer)
	caller.Certificate, caller.Unix = certificate(t, dns()), &Unix{UID: 1000, GID: 100}
	request := requestOf(map[string]string{"sub": `"x"`, "roles": `["a","b"]`, "n": "9007199254740993", "f": "0.1", "o": `{"p":[1]}`}, 30)
	for _, c := range []struct{ when, rule string }{
		{`true`, "short-web"},
		{`false`, "issuers"}, // the next one is looked at
		{`principal.anchor == "dev" && principal.kind == "spiffe" && principal.value.endsWith("/issuer")`, "short-web"},
		{`unix.uid == 1000 && unix.gid == 100`, "short-web"},
		{`unix.uid == 0`, "issuers"},
		{`action == "jwt.sign" && keyset == "web" && profile == "jwt" && typ == "JWT"`, "short-web"},
		{`ttl <= 30`, "short-web"},
		{`ttl < 30`, "issuers"},
		{`claims.sub == "x" && "a" in claims.roles && size(claims.roles) == 2`, "short-web"},
		{`claims.roles.exists(r, r.startsWith("b"))`, "short-web"},
		{`claims.n == 9007199254740993`, "short-web"},
		{`claims.n == 9007199254740992`, "issuers"},
		{`claims.f < 0.2 && claims.o.p[0] == 1`, "short-web"},
		{`has(claims.email) && claims.email.endsWith("@x.test")`, "issuers"},
		{`claims.email == "a"`, ""}, // fails closed: no later, wider rule decides
		{`claims.sub < 3`, ""},
		{`claims.sub == "y" || claims.email == "a"`, ""},
	} {
		cfg := example()
		cfg.Rules[0].When = c.when
		g, err := mustNew(t, cfg).AuthorizeRequest(caller, SignJWT, Target{KeySet: "web"}, request)
		if g.Rule() != c.rule || (err == nil) != (c.rule != "") || err != nil && !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: rule %q, %v; want %q", c.when, g.Rule(), err, c.rule)
		}
	}
}

func TestAConditionOnAUnixUserDoesNotFitWithoutOne(t *testing.T) {
	cfg := example()
	cfg.Rules[0].When = "unix.uid != 0"
	p := mustNew(t, cfg)
	for _, c := range []struct {
		name   string
		change func(*Caller)
		rule   string
	}{
		{"over TCP", func(c *Caller) { c.Certificate = certificate(t, dns()) }, "issuers"},
		{"without a certificate", func(c *Caller) { c.Unix = &Unix{UID: 5} }, "issuers"},
		{"with both", func(c *Caller) { c.Certificate, c.Unix = certificate(t, dns()), &Unix{UID: 5} }, "short-web"},
	} {
		caller := who(t, issuer)
		c.change(&caller)
		if g, err := p.Authorize(caller, SignJWT, Target{KeySet: "web"}); err != nil || g.Rule() != c.rule {
			t.Errorf("%s: rule %q, %v", c.name, g.Rule(), err)
		}
	}
}

func TestAConditionRefusesWhatItCannotKnow(t *testing.T) {
	broken := errors.New("not JSON")
	bad := requestOf(nil, 5)
	bad.Object = func([]byte, func(_, _ []byte) error) error { return broken }
	huge := requestOf(map[string]string{"list": "[" + strings.Repeat(`"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",`, 900) + `"x"]`}, 5)
	for _, c := range []struct {
		name, when string
		request    Request
		cause      error
	}{
		{"nothing known of ttl", "ttl < 5", Request{}, nil},
		{"nothing known of typ", "typ == 'JWT'", Request{TTL: 5}, nil},
		{"nothing known of claims", "size(claims) == 0", Request{TTL: 5}, nil},
		{"malformed claims", "size(claims) == 0", bad, broken},
		{"a number too large", "claims.n == 0 || true", requestOf(map[string]string{"n": "9223372036854775808"}, 5), nil},
		{"a number too fine", "claims.n == 0.0 || true", requestOf(map[string]string{"n": "0.10000000000000000001"}, 5), nil},
		{"a number too small", "claims.n == 0.0", requestOf(map[string]string{"n": "1e-999999"}, 5), nil},
		{"a number that is not read", "claims.sub == 'b'", requestOf(map[string]string{"sub": `"a"`, "n": "1e400"}, 5), nil},
		{"a number deep in what is not read", "has(claims.sub)", requestOf(map[string]string{"n": `{"a":[18446744073709551616]}`}, 5), nil},
		{"too expensive for these claims", "[1, 2, 3, 4, 5].all(i, claims.list.all(e, !e.startsWith('b')))", huge, nil},
	} {
		cfg := example()
		cfg.Rules[0].When = c.when
		_, err := mustNew(t, cfg).AuthorizeRequest(who(t, issuer), SignJWT, Target{KeySet: "web"}, c.request)
		if !errors.Is(err, ErrForbidden) || c.cause != nil && !errors.Is(err, c.cause) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// The README said that a number has to be read to refuse. Any in the claims refuses,
// but only a condition that reads claims.
func TestNumbersMatterOnlyToAConditionOnClaims(t *testing.T) {
	cfg := example()
	cfg.Rules[0].When = "ttl > 5"
	g, err := mustNew(t, cfg).AuthorizeRequest(who(t, issuer), SignJWT, Target{KeySet: "web"}, requestOf(map[string]string{"n": "1e400"}, 5))
	if err != nil || g.Rule() != cfg.Rules[1].Name {
		t.Errorf("rule %q, %v", g.Rule(), err)
	}
}

func TestConditionOnNames(t *testing.T) {
	cfg := example()
	cfg.Rules[2].When = `names.all(n, n.startsWith("a")) && ttl < 60 && authority == "devices" && profile == "tls"`
	p := mustNew(t, cfg)
	for list, want := range map[string]bool{"a.devices.test": true, "a.devices.test,b.devices.test": false} {
		request := Request{TTL: 5, Body: []byte(list), Names: func(b []byte) ([]string, error) { return strings.Split(string(b), ","), nil }}
		if _, err := p.AuthorizeRequest(who(t, ca), SignCSR, Target{Authority: "devices", Profile: "tls"}, request); (err == nil) != want {
			t.Errorf("%s: %v", list, err)
		}
	}
}

func TestConditionsAreCheckedWhenTheyAreLoaded(t *testing.T) {
	for _, c := range []struct{ when, want string }{
		{"ttl <", "rules[0].when: Syntax error"},
		{"ttl <\n 5 &&& true", "line 2, column"},
		{"ttl", "the expression is of type int, not bool"},
		{"claims.x", "of type dyn, not bool"},
		{"principal.name == 'x'", "undeclared reference to 'principal.name'"},
		{"now > 5", "undeclared reference to 'now'"},
		{"typ == 5", "found no matching overload"},
		{"typ.matches('(')", "invalid matches argument"},
		{"names.size() < 5", "the expression reads names, which jwt.sign does not have"},
		{"claims.a.all(x, claims.b.all(y, claims.c.all(z, x == y && y == z)))", "is estimated to cost up to"},
		{"true" + strings.Repeat(" && true", 1000), "longer than 4096 bytes"},
		{strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200), "rules[0].when: "},
	} {
		cfg := example()
		cfg.Rules[0].When = c.when
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60s: %v; want %q", c.when, err, c.want)
		}
	}
	cfg := example()
	cfg.Rules[1].When = "ttl < 5" // the rule reads key sets too, which has none
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "reads ttl, which keysets.read does not have") {
		t.Error(err)
	}
}

func TestNumbersFitExactlyOrNotAtAll(t *testing.T) {
	for text, want := range map[string]any{
		"0": int64(0), "-7": int64(-7), "9223372036854775807": int64(1<<63 - 1),
		"0.0": 0.0, "1.50": 1.5, "0.1": 0.1, "1e3": 1000.0, "-2.5E-3": -0.0025, "12.50e+1": 125.0, "1e22": 1e22, "0e999": 0.0,
		"-0": nil, "9223372036854775808": nil, "9007199254740993.0": nil, "1e400": nil, "1e-400": nil, "0.1000000000000000000001": nil,
		"1e99999999999": nil, "1E-99999999999999999999": nil, "5e-324": 5e-324, "4e-324": nil,
	} {
		got, err := exactNumber(text)
		if got != want || (err == nil) != (want != nil) {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
}

// No claims make an evaluation panic, or run longer than it may; what it says is
// allowed, refused or not fitting, and the same each time.
func FuzzConditionOnClaims(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":"x","b":[1,"x",null]}`, `{"a":1.5e3,"b":{"c":[]}}`, `{"b":["x",["x"]]}`, `{"a":1e-400}`} {
		f.Add(s)
	}
	cfg := example()
	cfg.Rules[0].When = `(has(claims.a) && claims.a == "x") || (has(claims.b) && claims.b.exists(e, e == "x" || e.contains("y"))) || size(claims) > 3`
	p := mustNew(f, cfg)
	caller := who(f, issuer)
	f.Fuzz(func(t *testing.T, text string) {
		var m map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &m) != nil {
			return
		}
		request := Request{TTL: 5, Typ: "JWT", Body: []byte(text), Object: func([]byte, func(_, _ []byte) error) error { return nil }}
		one, err := p.AuthorizeRequest(caller, SignJWT, Target{KeySet: "web"}, request)
		two, again := p.AuthorizeRequest(caller, SignJWT, Target{KeySet: "web"}, request)
		if one.Rule() != two.Rule() || (err == nil) != (again == nil) || err != nil && !errors.Is(err, ErrForbidden) {
			t.Fatalf("%q, %v; %q, %v", one.Rule(), err, two.Rule(), again)
		}
	})
}

func BenchmarkAuthorizeWithACondition(b *testing.B) {
	cfg := example()
	cfg.Rules[0].When = `ttl <= 60 && claims.sub.startsWith("x")`
	p, caller, request := mustNew(b, cfg), who(b, issuer), requestOf(map[string]string{"sub": `"xyz"`}, 30)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.AuthorizeRequest(caller, SignJWT, Target{KeySet: "web"}, request); err != nil {
			b.Fatal(err)
		}
	}
}

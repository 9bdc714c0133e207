package policyfile

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/cmd/internal/config/document"
	"chancery/signer/policy"
)

const good = `
data: 7 # whatever else is there is not looked at
clients: [{name: dev, ca: none.crt, dns: [issuer.test]}]
keysets: {web: {purpose: jwt, max_ttl: 1m}, edge: {default_ttl: 90s}, plain: {}}
authorities: {devices: {profiles: {tls: {max_ttl: 1h}, code: {default_ttl: 2h}}}}
policy:
  - {rule: web, principals: ["dev:dns:issuer.test"], actions: [jwt.sign], keysets: [web], max_ttl: 1m, when: "claims.n == 3 && claims.f < 0.5 && claims.list[0] == null"}
`

func load(t testing.TB, text string) (*Part, []document.Finding) {
	t.Helper()
	return parse(document.New("config.yaml"), []byte(text))
}

func TestThePolicyPartIsReadAlone(t *testing.T) {
	p, findings := load(t, good)
	if p == nil || len(findings) > 0 {
		t.Fatal(findings)
	}
	for _, c := range []struct {
		action policy.Action
		target policy.Target
		want   int64
	}{
		{policy.SignJWT, policy.Target{KeySet: "web"}, 60},
		{policy.SignJWT, policy.Target{KeySet: "edge"}, 90},
		{policy.SignJWT, policy.Target{KeySet: "plain"}, 300},
		{policy.SignCSR, policy.Target{Authority: "devices", Profile: "tls"}, 3600},
		{policy.SignCSR, policy.Target{Authority: "devices", Profile: "code"}, 7200},
		{policy.SignCSR, policy.Target{Authority: "other", Profile: "x"}, 86400},
		{policy.Rotate, policy.Target{KeySet: "web"}, 0},
	} {
		if got, _ := p.defaults(Question{Question: policy.Question{Action: c.action, Target: c.target}})(cmp.Or(c.target.Profile, policy.ProfileJWT)); got != c.want {
			t.Errorf("%s %+v: %d s, want %d", c.action, c.target, got, c.want)
		}
	}
	for _, c := range []struct{ old, new, want string }{
		{"keysets: [web]", "keysets: [wbe]", "policy[0].keysets[0]: there is no key set \"wbe\" (hint: did you mean web?)"},
		{"dev:dns:issuer.test", "dev:dns:other.test", "policy[0].principals[0]"},
		{"rule: web, ", "", "policy[0]: rule is missing"},
		{"clients:", "client:", "clients is missing"},
		{"name: dev, ", "", "clients[0]: name is missing"},
		{"max_ttl: 1m, when", "when", "policy[0].max_ttl: max_ttl is missing: a rule to sign has a limit"},
	} {
		p, findings := load(t, strings.Replace(good, c.old, c.new, 1))
		found := false
		for _, f := range findings {
			found = found || strings.Contains(f.String(), c.want) && f.Line > 0
		}
		if p != nil || !found {
			t.Errorf("%s: %v; want %q", c.new, findings, c.want)
		}
	}
}

// YAML's values reach the policy as the JSON that a caller would send.
func TestClaimsOfACaseAreJSON(t *testing.T) {
	for yaml, want := range map[string]string{
		"{}":                            `{}`,
		"{n: 3, f: 0.25, list: [null]}": `{"n":3,"f":0.25,"list":[null]}`,
		"{a: 'x \"y\"', b: {c: true}}":  `{"a":"x \"y\"","b":{"c":true}}`,
		"{\"1\": 1e3}":                  `{"1":1e3}`,
		"{a: yes}":                      `{"a":"yes"}`,
		"'{ \"a\" : 1 }'":               `{ "a" : 1 }`,
		"{a: 0x10}":                     "", "{a: .5}": "", "{a: 1, a: 2}": "", "{a: &x 1}": "", "{a: !!str 1}": "",
		"{a: 2026-01-01}": "", "{1: 2}": `{"1":2}`, "[1]": "", "7": "",
	} {
		text := "config: c\ncases: [{name: a, as: \"dev:dns:a.test\", action: jwt.sign, expect: deny, claims: " + yaml + "}]\n"
		c, findings := parseCases(document.New("cases.yaml"), []byte(text), ".")
		if want == "" && c == nil && document.Failed(findings) {
			continue
		}
		if c == nil || string(c.Cases[0].Claims) != want {
			t.Errorf("%s: %v, %v; want %s", yaml, c, findings, want)
		}
	}
}

func TestCasesAreRelativeToTheirFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config.yaml", good)
	write("cases.yaml", `
config: config.yaml
cases:
  - {name: fits, as: "dev:dns:issuer.test", action: jwt.sign, keyset: web, claims: {n: 3, f: 0.25, list: [null]}, expect: allow, rule: web}
  - {name: does not, as: "dev:dns:issuer.test", action: jwt.sign, keyset: web, claims: {n: 4, f: 0.25, list: [null]}, expect: allow}
`)
	c, findings := LoadCases(filepath.Join(dir, "cases.yaml"))
	if c == nil {
		t.Fatal(findings)
	}
	p, findings := Load(c.Config)
	if p == nil {
		t.Fatal(findings)
	}
	if r := c.Run(p); len(r) != 2 || !r[0].Passed || r[1].Passed || r[1].Wrong != "it is denied: forbidden: no rule fits" {
		t.Errorf("%+v", r)
	}
}

// Any text gives findings or cases that can be asked, and claims that are JSON.
func FuzzCases(f *testing.F) {
	f.Add("config: a\ncases: [{name: a, as: \"dev:dns:a.test\", action: jwt.sign, keyset: web, expect: allow, claims: {a: [1, {b: null}]}}]")
	f.Add("config: a\ncases: [{name: a, as: \"dev:dns:issuer.test\", uid: 5, gid: 5, action: csr.sign, names: [a.b], expect: deny, ttl: 5s}]")
	f.Add("cases: {}\nconfig: [")
	f.Add("config: a\ncases: [{name: a, as: \"dev:dns:a.test\", action: jwt.sign, keyset: web, profile: partner, cnf_certificate: x, ttl: 5m, expect: deny, claims: {aud: [api], sub: 1}}]")
	var parts []*Part
	for _, text := range []string{good, asked} {
		p, findings := load(f, text)
		if p == nil {
			f.Fatal(findings)
		}
		parts = append(parts, p)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, findings := parseCases(document.New("cases.yaml"), []byte(text), "/")
		if c == nil {
			if !document.Failed(findings) {
				t.Fatal("no cases, and no error")
			}
			return
		}
		for _, p := range parts {
			for _, x := range c.Known(p) {
				if x.Line < 1 || x.Column < 1 || strings.ContainsAny(x.String(), "\n\x1b") {
					t.Fatalf("finding %q at %d:%d", x, x.Line, x.Column)
				}
			}
			for i, r := range c.Run(p) {
				if claims := c.Cases[i].Claims; claims != nil && !json.Valid(claims) || r.Passed != (r.Wrong == "") || r.Explain.Allowed != (r.Explain.Code == "") {
					t.Fatalf("%s, %+v", claims, r)
				}
			}
		}
	})
}

// Any text gives findings, each with its place, or a policy.
func FuzzPolicyPart(f *testing.F) {
	f.Add(good)
	f.Add("clients: []\npolicy: [{rule: a, principals: [x], actions: [jwt.sign], when: 'claims.all(', require: {uids: [-1]}, claims: {forced: {a: [1]}}}]")
	f.Fuzz(func(t *testing.T, text string) {
		p, findings := load(t, text)
		if (p == nil) != document.Failed(findings) {
			t.Fatalf("%v, %v", p, findings)
		}
		for _, x := range findings {
			if x.Line < 1 || x.Column < 1 || strings.ContainsAny(x.String(), "\n\x1b") {
				t.Fatalf("finding %q at %d:%d", x, x.Line, x.Column)
			}
		}
	})
}

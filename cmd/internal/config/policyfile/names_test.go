package policyfile

import (
	"fmt"
	"slices"
	"testing"

	"chancery/cmd/internal/config/document"
	"chancery/signer/ca"
	"chancery/signer/policy"
)

const certified = `
clients: [{name: dev, ca: none.crt, dns: [a.test, b.test]}]
authorities: {devices: {profiles: {tls: {names_under: [devices.test], usages: [server], max_ttl: 12h}}}}
policy:
  - {rule: tls, principals: ["dev:dns:a.test"], actions: [csr.sign], authorities: [devices], profiles: [tls], max_ttl: 1h, names: [.devices.test]}
  - {rule: one, principals: ["dev:dns:b.test"], actions: [csr.sign], authorities: [devices], profiles: [tls], max_ttl: 1h, names: [.devices.test], when: size(names) == 0}
`

// A CSR without names was allowed, which the daemon answers with name_not_allowed:
// it counts names of which there are none, and finds nothing against them. It does so
// after the lifetime, and where a condition reads the names.
func TestACSRWithoutNamesIsRefused(t *testing.T) {
	p, findings := parse(document.New("config.yaml"), []byte(certified))
	if p == nil {
		t.Fatal(findings)
	}
	for _, c := range []struct{ as, ttl, names, rule, code string }{
		{"a.test", "12h", "[]", "tls", "ttl_too_long"},
		{"a.test", "1h", "[]", "tls", "name_not_allowed"},
		{"a.test", "1h", "[x.devices.test]", "tls", ""},
		{"a.test", "1h", "[x.test]", "tls", "name_not_allowed"},
		{"b.test", "1h", "[]", "", "name_not_allowed"},
		{"b.test", "1h", "[x.devices.test]", "", "forbidden"},
	} {
		text := fmt.Sprintf("config: c\ncases: [{name: a, as: \"dev:dns:%s\", action: csr.sign, authority: devices, profile: tls, ttl: %s, names: %s, expect: deny}]\n", c.as, c.ttl, c.names)
		cases, findings := parseCases(document.New("cases.yaml"), []byte(text), ".")
		if cases == nil {
			t.Fatal(findings)
		}
		if known := cases.Known(p); len(known) > 0 {
			t.Errorf("%+v: %v", c, known)
		}
		if x := cases.Run(p)[0].Explain; x.Rule != c.rule || x.Code != c.code || x.Allowed != (c.code == "") {
			t.Errorf("%+v: %+v", c, x)
		}
	}
}

// A case with more names than a CSR may have was allowed, which the daemon refuses as
// malformed.
func TestACaseHasNoMoreNamesThanACSR(t *testing.T) {
	for n, fine := range map[int]bool{ca.MaxNames: true, ca.MaxNames + 1: false} {
		c := Case{As: "dev:dns:a.test", Action: policy.SignCSR, Names: slices.Repeat([]string{"x.devices.test"}, n)}
		_, faults := c.Question()
		if told := slices.ContainsFunc(faults, func(f *policy.Fault) bool { return f.Path == "names" }); told == fine {
			t.Errorf("%d names: %v", n, faults)
		}
	}
}

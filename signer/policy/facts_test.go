package policy

import (
	"crypto/x509"
	"strings"
	"testing"
)

// with returns the example with a change to its rule issuers.
func with(change func(*Rule)) Config {
	cfg := example()
	change(&cfg.Rules[1])
	return cfg
}

func TestARuleNeedsEveryFactItAsksFor(t *testing.T) {
	cert := certificate(t, uris("spiffe://chancery.dev/issuer"))
	other := certificate(t, uris("spiffe://chancery.dev/issuer"))
	for _, c := range []struct {
		name    string
		require Require
		cert    *x509.Certificate
		unix    *Unix
		fits    bool
	}{
		{"nothing asked", Require{}, nil, nil, true},
		{"uid", Require{UIDs: []int64{7, 1000}}, cert, &Unix{1000, 5}, true},
		{"another uid", Require{UIDs: []int64{7, 1000}}, cert, &Unix{1001, 7}, false},
		{"root is no exception", Require{UIDs: []int64{1000}}, cert, &Unix{0, 0}, false},
		{"the zero uid is a uid", Require{UIDs: []int64{0}}, cert, &Unix{0, 0}, true},
		{"no Unix socket", Require{UIDs: []int64{0}}, cert, nil, false},
		{"uid without a certificate", Require{UIDs: []int64{1000}}, nil, &Unix{1000, 5}, false},
		{"gid", Require{GIDs: []int64{5}}, cert, &Unix{1000, 5}, true},
		{"another gid", Require{GIDs: []int64{5}}, cert, &Unix{5, 6}, false},
		{"pin", Require{PINs: []string{PinOf(cert)}}, cert, nil, true},
		{"another pin", Require{PINs: []string{PinOf(cert)}}, other, nil, false},
		{"pin without a certificate", Require{PINs: []string{PinOf(cert)}}, nil, nil, false},
		{"all three", Require{[]int64{1}, []int64{2}, []string{PinOf(cert)}}, cert, &Unix{1, 2}, true},
		{"two of three", Require{[]int64{1}, []int64{2}, []string{PinOf(cert)}}, cert, &Unix{1, 3}, false},
	} {
		p := mustNew(t, with(func(r *Rule) { r.Require = c.require }))
		caller := who(t, issuer)
		caller.Certificate, caller.Unix = c.cert, c.unix
		if _, err := p.Authorize(caller, SignJWT, Target{KeySet: "edge"}); (err == nil) != c.fits {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Facts split no role: the same principal, or the same key, is one caller.
func TestFactsAreNoLoopholeForConflictingRoles(t *testing.T) {
	pin := PinOf(certificate(t, dns()))
	pinned := func(anchor string) string { return anchor + ":pin:" + pin }
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"by user", func(cfg *Config) {
			cfg.Rules[1].Require.UIDs = []int64{1}
			cfg.Rules = append(cfg.Rules, Rule{Name: "x", Principals: []string{runner}, Actions: []Action{Rotate}, KeySets: []string{Any}, Require: Require{UIDs: []int64{2}}})
		}, "ci:dns:runner-7.ci.example.com would both sign and operate"},
		{"by condition", func(cfg *Config) {
			cfg.Rules = append(cfg.Rules, Rule{Name: "x", Principals: []string{issuer}, Actions: []Action{ReadAudit}, When: "unix.uid == 7"})
		}, "dev:spiffe:spiffe://chancery.dev/issuer would both sign and read the log"},
		{"by two names for one key", func(cfg *Config) {
			cfg.Rules[1].Require.PINs = []string{pin}
			cfg.Rules[3].Require.PINs = []string{pin}
		}, "whoever holds the key " + pin + " would both sign and operate"},
		{"by a name and a pin", func(cfg *Config) {
			cfg.Anchors[1].PINs = []string{pin}
			cfg.Rules[3].Principals = append(cfg.Rules[3].Principals, pinned("ci"))
			cfg.Rules[1].Require.PINs = []string{pin}
		}, "whoever holds the key " + pin + " would both sign and operate"},
		{"by two anchors", func(cfg *Config) {
			cfg.Anchors[0].PINs, cfg.Anchors[1].PINs = []string{pin}, []string{pin}
			cfg.Rules[3].Principals = append(cfg.Rules[3].Principals, pinned("ci"))
			cfg.Rules[1].Principals = append(cfg.Rules[1].Principals, pinned("dev"))
		}, "whoever holds the key " + pin + " would both sign and operate"},
		{"the same role twice is none", func(cfg *Config) {
			cfg.Rules[0].Require.PINs, cfg.Rules[1].Require.PINs = []string{pin}, []string{pin}
		}, ""},
	} {
		cfg := example()
		c.change(&cfg)
		_, err := New(cfg)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

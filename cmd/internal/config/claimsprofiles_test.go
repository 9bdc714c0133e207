package config

import (
	"os"
	"slices"
	"strings"
	"testing"

	"chancery/signer/policy"
)

// The claims profiles that README shows load, and a rule can name them.
func TestTheClaimsProfilesInREADMELoad(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```yaml\nclaims_profiles:\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("README shows no claims profiles")
	}
	dir := world(t)
	text := strings.Replace(devText(t, dir, false), "\npolicy:\n", "\nclaims_profiles:\n"+block+"\npolicy:\n", 1)
	cfg, findings := loadText(t, dir, strings.Replace(text, "types: [JWT, at+jwt]", "profiles: [partner, receipt]", 1))
	for _, f := range findings {
		t.Error(f)
	}
	if cfg == nil {
		t.Fatal("no configuration")
	}
	for name, kind := range map[string]string{"partner": "at+jwt", "receipt": "receipt", "jwt_svid": "jwt_svid", "id_token": "id_token", "jwt": "jwt"} {
		if p, ok := cfg.ClaimsProfile(name); !ok || p.Kind() != kind || (p == nil) != (name == policy.ProfileJWT) {
			t.Errorf("%s: %v, %v", name, p, ok)
		}
	}
}

// A change of a profile is a change of the policy, and needs no restart.
func TestAProfileIsPolicy(t *testing.T) {
	dir := world(t)
	good := devText(t, dir, false)
	hashes := map[string]bool{}
	var first *Config
	for _, profiles := range []string{"", "\nclaims_profiles:\n  receipt: {typ: receipt+jwt}", "\nclaims_profiles:\n  receipt: {typ: receipt+jwt, required: [order]}"} {
		cfg, findings := loadText(t, dir, strings.Replace(good, "\npolicy:\n", profiles+"\npolicy:\n", 1))
		if len(findings) > 0 {
			t.Fatal(findings)
		}
		p, err := policy.New(cfg.PolicyConfig())
		if err != nil {
			t.Fatal(err)
		}
		hashes[p.Hash()] = true
		if first == nil {
			first = cfg
		}
		if what := first.NeedsRestart(cfg); what != "" {
			t.Errorf("%s needs a restart", what)
		}
	}
	if len(hashes) != 3 {
		t.Errorf("%d hashes of three policies", len(hashes))
	}
}

// A06: what is said where a key set signs kinds that have the same typ, and not
// where it does not.
func TestA06KindsThatLookAlike(t *testing.T) {
	dir := world(t)
	good := devText(t, dir, false)
	for _, c := range []struct {
		says string // of the issuer's rule, for web, legacy and edge
		want int    // warnings
	}{
		{"types: [JWT, at+jwt]", 0},
		{"profiles: [at+jwt, logout_token]", 0},
		{"profiles: [at+jwt, logout_token, id_token]", 0},
		{"profiles: [jwt, at+jwt]", 0},
		{"profiles: [jwt, at+jwt]\n    types: [at+jwt]", 3},
		{"profiles: [jwt, at+jwt]\n    types: [application/AT+JWT]", 3},
		{"profiles: [jwt, id_token]", 3},
		{"profiles: ['*']", 3},
	} {
		_, findings := loadText(t, dir, strings.Replace(good, "types: [JWT, at+jwt]", c.says, 1))
		if Failed(findings) || len(findings) != c.want || slices.ContainsFunc(findings, func(f Finding) bool { return !strings.Contains(f.Message, "the same typ") }) {
			t.Errorf("%s: %v", c.says, findings)
		}
	}
}

package config

import (
	"path/filepath"
	"strings"
	"testing"

	"chancery/cmd/internal/config/policyfile"
	"chancery/signer/policy"
)

// The policy part read alone is the same policy, under the same hash.
func TestThePolicyPartAloneIsTheSamePolicy(t *testing.T) {
	dir := world(t)
	text := strings.Replace(devText(t, dir, false), "serials: []", "serials: [\"0a\"]", 1)
	text = strings.Replace(text, "actions: [jwt.sign, keysets.read]\n", "actions: [jwt.sign, keysets.read]\n    audiences: [a]\n    require: {uids: [5]}\n    when: ttl < 60\n    claims: {forced: {n: 3}}\n", 1)
	text = strings.Replace(text, "actions: [jwt.sign, keysets.read]", "actions: [jwt.sign]", 1)
	text += "claims_profiles:\n  partner: {kind: at+jwt, lifetime: 5m, audiences: [a]}\n"
	cfg, findings := loadText(t, dir, text)
	if Failed(findings) {
		t.Fatal(findings)
	}
	whole, err := policy.New(cfg.PolicyConfig())
	if err != nil {
		t.Fatal(err)
	}
	part, findings := policyfile.Load(filepath.Join(dir, "config.yaml"))
	if part == nil || part.Policy.Hash() != whole.Hash() {
		t.Errorf("%v, %v", part, findings)
	}
}

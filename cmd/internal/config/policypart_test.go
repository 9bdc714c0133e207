package config

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// chancery policy check said less of the same policy than chanceryd check: nothing of
// a rule that outlives the key set, of a JWT-SVID without a trust domain, and of kinds
// that look alike. And neither said anything of most of the others.
func TestThePolicyPartAloneSaysTheSame(t *testing.T) {
	dir := world(t)
	good := devText(t, dir, false)
	const types = "types: [JWT, at+jwt]"
	for _, c := range []struct{ old, new, want string }{
		{"max_ttl: 1h\n  - rule: ca", "max_ttl: 2h\n  - rule: ca", "error: policy[0].max_ttl: 2h0m0s is more than max_ttl of key set edge"},
		{"max_ttl: 1h\n  - rule: ca", "max_ttl: 1m\n  - rule: ca", "warning: keysets.edge.default_ttl: 5m0s is more than any rule allows"},
		{types, "profiles: [jwt_svid]", "error: policy[0].profiles[0]: there is no JWT-SVID until its trust domain is declared"},
		{types, "profiles: [jwt, id_token]", "warning: policy[0].profiles: key set web signs tokens of the kinds id_token, jwt with the same typ"},
		{types, "types: [JWT, Application/JWK-set+jwt]", `error: policy[0].types[1]: "Application/JWK-set+jwt" is for signed key sets`},
		{types, "types: []", "error: policy[0].types: the list is empty"},
		{types, "profiles: []", "error: policy[0].profiles: the list is empty"},
		{types, "max_bytes: 0", "error: policy[0].max_bytes: 0 would be no limit"},
		{types, "claims: {}", "error: policy[0].claims: it is empty: any claims would be allowed"},
		{types, "claims: {required: []}", "error: policy[0].claims.required: the list is empty"},
		{types, "claims: {forced: {}}", "error: policy[0].claims.forced: it is empty"},
		{types, "require: {}", "error: policy[0].require: it is empty: nothing is required (hint: leave it out, or say uids, gids or pins)"},
		{types, "profiles: [at+jwt]\n    claims: {forbidden: [sub]}", `error: policy[0].claims.forbidden: no token is signed: the rule forbids the claim "sub", which tokens of the profile at+jwt have`},
		{types, "profiles: [at+jwt, logout_token]\n    claims: {forbidden: [client_id]}", `warning: policy[0].claims.forbidden: no token of the profile at+jwt is signed: the rule forbids`},
		{types, "cnf: caller\n    claims: {required: [cnf]}", `error: policy[0].claims.required: no token is signed: the rule requires the claim "cnf", and that one is the signer's`},
		{"rule: ca\n", "rule: ca\n    when: 1 > 2\n", "warning: policy[1].when: it is false whatever is asked"},
		{"rule: ca\n", "rule: ca\n    max_names: 0\n", "error: policy[1].max_names: 0 would be no limit"},
		{"\npolicy:\n", "\nclaims_profiles: {a: {typ: a, audiences: []}}\npolicy:\n", "error: claims_profiles.a.audiences: the list is empty"},
		{"\npolicy:\n", "\nclaims_profiles: {a.b: {typ: a}}\npolicy:\n", `error: claims_profiles."a.b": "a.b" is no name`},
		{"\npolicy:\n", "\nclaims_profiles: {tls: {typ: a}}\npolicy:\n", "error: claims_profiles.tls: authority devices has a profile of certificates of this name"},
		{"actions: [jwt.sign, keysets.read]\n    keysets: [web, legacy, edge]", "actions: [jwt.sign]\n    keysets: [devices]", `error: policy[0].keysets[0]: key set devices is of purpose "ca" and signs no JWT`},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Errorf("%q is not in the file", c.old)
			continue
		}
		_, whole := loadText(t, dir, text)
		_, part := policyfile.Load(filepath.Join(dir, "config.yaml"))
		if diff := cmp.Diff(texts(whole), texts(part)); diff != "" {
			t.Errorf("%s: -chanceryd check +chancery policy check\n%s", c.new, diff)
		}
		if len(part) == 0 || !slices.ContainsFunc(part, func(f Finding) bool { return strings.Contains(f.String(), c.want) }) {
			t.Errorf("%s: %v\nwant %s", c.new, texts(part), c.want)
		}
	}
}

func texts(found []Finding) (list []string) {
	for _, f := range found {
		list = append(list, f.String())
	}
	return list
}

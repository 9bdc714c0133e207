package policy

import (
	"strings"
	"testing"
)

// Leave to have digests signed is leave for that alone, of the key sets that the rule
// names; it has no limits, and it is signing, which nobody does who operates or audits.
func TestDigests(t *testing.T) {
	const releaser = "dev:spiffe:spiffe://chancery.dev/release"
	rule := func(change func(*Rule)) Config {
		r := Rule{Name: "release", Principals: []string{releaser}, Actions: []Action{SignDigest}, KeySets: []string{"release"}}
		if change != nil {
			change(&r)
		}
		return Config{Anchors: []Anchor{{Name: "dev", SPIFFE: []string{"chancery.dev"}}}, Rules: []Rule{r}}
	}
	p, err := New(rule(nil))
	if err != nil {
		t.Fatal(err)
	}
	grant, err := p.Authorize(who(t, releaser), SignDigest, Target{KeySet: "release"})
	if err != nil || !grant.Allows(SignDigest) || grant.Allows(SignJWT) || grant.Allows(SignCSR) || grant.Target().KeySet != "release" {
		t.Errorf("%+v, %v", grant, err)
	}
	for action, target := range map[Action]Target{
		SignDigest: {KeySet: "web"}, SignJWT: {KeySet: "release"}, ReadKeySets: {KeySet: "release"}, SignCSR: {KeySet: "release"}, Rotate: {KeySet: "release"},
	} {
		if _, err := p.Authorize(who(t, releaser), action, target); err == nil {
			t.Errorf("%s of %+v is allowed", action, target)
		}
	}
	if _, err := p.Authorize(who(t, "dev:spiffe:spiffe://chancery.dev/other"), SignDigest, Target{KeySet: "release"}); err == nil {
		t.Error("somebody else may")
	}
	for what, change := range map[string]func(*Rule){
		"no action of the rule uses this": func(r *Rule) { r.Names = []string{".example.com"} },
		"has types":                       func(r *Rule) { r.Types = []string{"JWT"} },
		"only a rule to sign":             func(r *Rule) { r.MaxTTL = 1e9 },
		"needs at least one":              func(r *Rule) { r.KeySets = nil },
		"both sign and operate":           func(r *Rule) { r.Actions = append(r.Actions, Suspend) },
		"both sign and read the log":      func(r *Rule) { r.Actions = append(r.Actions, ReadAudit) },
	} {
		if _, err := New(rule(change)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

package jwt

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"chancery/signer/policy"
)

// Contradiction returns why no claims are both what the profile wants and within the
// limits of a rule: the member of the rule that stands against it, and the same in
// words. Nothing if some may be, or it cannot be told.
func (p *Profile) Contradiction(r policy.Rule) (part, text string) {
	cnf, said := cmp.Or(r.CNF, p.CNF()), p.CNF()
	if said != "" && said != cnf {
		return "cnf", fmt.Sprintf("the rule says %s of cnf, and the profile %s: neither gives way", r.CNF, said)
	}
	for _, name := range r.Claims.Required {
		if why := p.bars(name, cnf); why != "" {
			return "claims.required", fmt.Sprintf("the rule requires the claim %q, and %s", name, why)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Claims.Forced)) {
		why := p.bars(name, cnf)
		if why == "" {
			why = p.misses(name, r.Claims.Forced[name])
		}
		if why != "" {
			return "claims.forced." + name, fmt.Sprintf("the rule requires the claim %q, and %s", name, why)
		}
	}
	for _, name := range r.Claims.Forbidden {
		if p.wants(name, cnf) {
			return "claims.forbidden", fmt.Sprintf("the rule forbids the claim %q, which tokens of the profile %s have", name, p.Name())
		}
	}
	if len(r.Audiences) > 0 && !slices.ContainsFunc(r.Audiences, func(a string) bool { return p.misses("aud", a) == "" }) {
		return "audiences", fmt.Sprintf("none of them is an audience of the profile %s", p.Name())
	}
	if n := p.least(r, cnf); r.MaxClaims > 0 && n > r.MaxClaims {
		return "max_claims", fmt.Sprintf("rule and profile %s require %d claims, more than %d", p.Name(), n, r.MaxClaims)
	}
	return "", ""
}

// bars returns why no token of the profile has a claim of the caller's, or nothing.
func (p *Profile) bars(name string, cnf policy.CNF) string {
	if strings.EqualFold(name, "cnf") {
		switch {
		case cnf == policy.CNFCaller || cnf == policy.CNFNamed:
			return "that one is the signer's"
		case cnf == policy.CNFForbidden:
			return "there is none"
		case cnf == policy.CNFRequired && name != "cnf":
			return `it is spelt "cnf"`
		}
		return ""
	}
	if p == nil {
		return ""
	}
	switch i, exact := p.find([]byte(name)); {
	case i < 0:
		return ""
	case p.claims[i].forbidden:
		return fmt.Sprintf("it is not for tokens of the profile %s", p.name)
	case !exact:
		return fmt.Sprintf("for the profile %s it is spelt %q", p.name, p.claims[i].name)
	}
	return ""
}

// misses returns why a claim with a value is not what the profile wants, or nothing.
func (p *Profile) misses(name string, value any) string {
	if p == nil {
		return ""
	}
	i, exact := p.find([]byte(name))
	text, err := json.Marshal(value)
	if err != nil || !exact || p.claims[i].form == nil {
		return ""
	}
	if want := p.claims[i].form(text); want != "" {
		return fmt.Sprintf("its value is not %s, as the profile %s wants", want, p.name)
	}
	return ""
}

// wants reports whether every token of the profile has a claim of the caller's, in
// whatever letters a rule spells it.
func (p *Profile) wants(name string, cnf policy.CNF) bool {
	if strings.EqualFold(name, "cnf") {
		return cnf == policy.CNFRequired
	}
	return slices.ContainsFunc(p.always(), func(s string) bool { return strings.EqualFold(s, name) })
}

// always returns the claims that every token of the profile has.
func (p *Profile) always() (names []string) {
	if p == nil {
		return nil
	}
	for i := range p.claims {
		if bit := uint64(1) << i; p.required&bit != 0 || p.either == bit {
			names = append(names, p.claims[i].name)
		}
	}
	return names
}

// least returns how many claims a caller has to write under a rule at least.
func (p *Profile) least(r policy.Rule, cnf policy.CNF) int {
	needed := map[string]bool{}
	all := slices.Concat(r.Claims.Required, slices.Collect(maps.Keys(r.Claims.Forced)), p.always())
	if r.Audiences != nil {
		all = append(all, "aud")
	}
	if cnf == policy.CNFRequired {
		all = append(all, "cnf")
	}
	for _, name := range all {
		needed[name] = true
	}
	if p == nil || p.either == 0 {
		return len(needed)
	}
	for i := range p.claims {
		if p.either&(1<<i) != 0 && needed[p.claims[i].name] {
			return len(needed)
		}
	}
	return len(needed) + 1
}

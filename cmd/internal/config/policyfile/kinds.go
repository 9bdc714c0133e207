package policyfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"chancery/cmd/internal/config/document"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// declared looks at what claims profiles are called.
func (j judge) declared() {
	for _, n := range slices.Sorted(maps.Keys(j.Declared)) {
		path := document.Join("claims_profiles", n)
		if !document.IsName(n) && !slices.Contains(policy.BuiltInProfiles(), n) {
			j.Errorf(path, document.NameHint, "%q is no name", n)
		}
		for _, a := range slices.Sorted(maps.Keys(j.Authorities)) {
			if _, both := j.Authorities[a][n]; both {
				j.Errorf(path, "a rule names both by their names alone", "authority %s has a profile of certificates of this name", a)
			}
		}
	}
}

// kinds looks whether what a rule allows can be signed, for each of the claims
// profiles that it lists.
func (j judge) kinds(path string, r Rule) {
	for i, n := range r.Profiles {
		at := fmt.Sprintf("%s.profiles[%d]", path, i)
		p, there := j.Profiles[n]
		if n == policy.ProfileJWTSVID && !there && slices.Contains(r.Actions, policy.SignJWT) && !j.Has("claims_profiles.jwt_svid") {
			j.Errorf(at, "claims_profiles: {jwt_svid: {trust_domains: [example.org]}}", "there is no JWT-SVID until its trust domain is declared")
		}
		for _, ks := range slices.Sorted(maps.Keys(j.KeySets)) {
			alg := j.KeySets[ks].Algorithm
			if p != nil && alg != "" && lists(r.KeySets, ks) && j.KeySets[ks].signs() && !p.SignedBy(alg) {
				j.Warnf(at, "", "no token of the profile %s is signed by %s, the algorithm of key set %s: each is refused", n, alg, ks)
			}
		}
	}
	if !slices.Contains(r.Profiles, policy.Any) { // under which a kind that does not fit is one of many
		j.contradictions(path, r)
	}
}

// contradictions looks for a kind of token of which none is within the rule. If there
// is another, that may be meant.
func (j judge) contradictions(path string, r Rule) {
	claims := j.claimsOf(r)
	parts, texts := make([]string, len(claims)), make([]string, len(claims))
	for i, n := range claims {
		parts[i], texts[i] = j.Profiles[n].Contradiction(policy.Rule(r))
	}
	some := slices.Contains(parts, "")
	for i, n := range claims {
		switch {
		case parts[i] == "":
		case parts[i] == "cnf":
			at := fmt.Sprintf("%s.profiles[%d]", path, slices.Index(r.Profiles, n))
			j.Errorf(at, "leave one of them out", "%s", texts[i])
		case some:
			j.Warnf(path+"."+parts[i], "a rule for that profile alone", "no token of the profile %s is signed: %s", n, texts[i])
		default:
			j.Errorf(path+"."+parts[i], "", "no token is signed: %s", texts[i])
		}
	}
}

// confusable warns where the keys of one key set sign tokens of different kinds that
// have the same typ: a verifier of one kind may take a token of the other (RFC 8725
// Section 3.12).
func (j judge) confusable() {
	for _, ks := range slices.Sorted(maps.Keys(j.KeySets)) {
		if !j.KeySets[ks].signs() {
			continue
		}
		kinds := make(map[string][]string) // by typ
		first := make(map[string]int)      // the rule that adds the second kind
		for i, r := range j.Rules {
			if !lists(r.KeySets, ks) {
				continue
			}
			for _, n := range j.claimsOf(r) {
				for _, typ := range typesOf(j.Profiles[n], r) {
					kind := j.Profiles[n].Kind()
					if !slices.Contains(kinds[typ], kind) {
						kinds[typ] = append(kinds[typ], kind)
					}
					if _, said := first[typ]; !said && len(kinds[typ]) == 2 {
						first[typ] = i
					}
				}
			}
		}
		for _, typ := range slices.Sorted(maps.Keys(first)) {
			slices.Sort(kinds[typ])
			j.Warnf(fmt.Sprintf("policy[%d].profiles", first[typ]), "a key set for each kind, or a typ of its own",
				"key set %s signs tokens of the kinds %s with the same typ, %s: a verifier of one may take another for it", ks, strings.Join(kinds[typ], ", "), typ)
		}
	}
}

// typesOf returns what typ tokens of a profile have under a rule, in the letters
// that verifiers compare: case and "application/" make no difference (RFC 7515
// Section 4.1.9).
func typesOf(p *jwt.Profile, r Rule) []string {
	types := p.Types()
	if p == nil {
		types = r.Types
		if len(types) == 0 {
			types = []string{policy.DefaultType}
		}
	}
	folded := make([]string, len(types))
	for i, t := range types {
		folded[i] = strings.TrimPrefix(strings.ToLower(t), "application/")
	}
	return folded
}

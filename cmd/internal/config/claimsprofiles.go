package config

import (
	"fmt"
	"slices"
	"strings"

	"chancery/cmd/internal/config/policyfile"
	"chancery/keystore"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// A ClaimsProfile is a claims profile as it was written.
type ClaimsProfile = policyfile.ClaimsProfile

// ClaimsProfile returns a claims profile that is built in or declared, and whether
// there is one. The plain one is nil.
func (c *Config) ClaimsProfile(name string) (*jwt.Profile, bool) {
	p, ok := c.profiles[name]
	return p, ok
}

// fillClaimsProfiles checks the claims profiles and keeps them, checked, with those
// that are built in.
func (c *Config) fillClaimsProfiles(f *findings) {
	c.profiles = jwt.BuiltIns()
	c.profiles[policy.ProfileJWT] = nil
	for _, n := range sorted(c.ClaimsProfiles) {
		path := join("claims_profiles", n)
		p, err := jwt.NewProfile(c.ClaimsProfiles[n].Config(n))
		if err == nil {
			c.profiles[n] = p
			continue
		}
		policyfile.ClaimsFaults(f.Findings, path, err)
	}
}

// claimsProfiles checks what the file says of claims profiles beside themselves.
func (k checker) claimsProfiles() {
	for _, n := range sorted(k.ClaimsProfiles) {
		if !name.MatchString(n) && !slices.Contains(policy.BuiltInProfiles(), n) {
			k.errorf(join("claims_profiles", n), nameHint, "%q is no name", n)
		}
		for _, a := range sorted(k.Authorities) {
			if _, both := k.Authorities[a].Written[n]; both {
				k.errorf(join("claims_profiles", n), "a rule names both by their names alone", "authority %s has a profile of certificates of this name", a)
			}
		}
	}
	for i, r := range k.Rules {
		k.rulesProfiles(fmt.Sprintf("policy[%d]", i), r)
	}
	k.confusable()
}

// profilesOf returns the profiles that a rule can name: those of certificates, those
// of claims, or both.
func (c *Config) profilesOf(r Rule) map[string]bool {
	known := make(map[string]bool)
	if slices.Contains(r.Actions, policy.SignCSR) {
		for _, a := range c.Authorities {
			for p := range a.Written {
				known[p] = true
			}
		}
	}
	if slices.Contains(r.Actions, policy.SignJWT) {
		for _, p := range policy.BuiltInProfiles() {
			known[p] = true
		}
		for p := range c.ClaimsProfiles {
			known[p] = true
		}
	}
	return known
}

// claimsOf returns the claims profiles that a rule lets JWTs have, by name.
func (c *Config) claimsOf(r Rule) []string {
	if !slices.Contains(r.Actions, policy.SignJWT) {
		return nil
	}
	if slices.Contains(r.Profiles, policy.Any) {
		return sorted(c.profiles)
	}
	var names []string
	for _, n := range r.Profiles {
		if _, ok := c.profiles[n]; ok {
			names = append(names, n)
		}
	}
	if len(names) == 0 && (len(r.Profiles) == 0 || slices.Contains(r.Actions, policy.SignCSR)) {
		return []string{policy.ProfileJWT}
	}
	return names
}

// rulesProfiles checks that what a rule allows can be signed.
func (k checker) rulesProfiles(path string, r Rule) {
	for i, n := range r.Profiles {
		at := fmt.Sprintf("%s.profiles[%d]", path, i)
		p, there := k.profiles[n]
		if n == policy.ProfileJWTSVID && !there && slices.Contains(r.Actions, policy.SignJWT) && !k.has("claims_profiles.jwt_svid") {
			k.errorf(at, "claims_profiles: {jwt_svid: {trust_domains: [example.org]}}", "there is no JWT-SVID until its trust domain is declared")
		}
		if p != nil && r.CNF != "" && p.CNF() != "" && r.CNF != p.CNF() {
			k.errorf(at, "leave one of them out", "the rule says %s of cnf, and the profile %s: neither gives way", r.CNF, p.CNF())
		}
		for _, ks := range sorted(k.KeySets) {
			if p != nil && lists(r.KeySets, ks) && k.KeySets[ks].Purpose == keystore.PurposeJWT && !p.SignedBy(k.KeySets[ks].Algorithm) {
				k.warnf(at, "", "no token of the profile %s is signed by %s, the algorithm of key set %s: each is refused", n, k.KeySets[ks].Algorithm, ks)
			}
		}
	}
}

// confusable warns where the keys of one key set sign tokens of different kinds that
// have the same typ: a verifier of one kind may take a token of the other (RFC 8725
// Section 3.12).
func (k checker) confusable() {
	for _, ks := range sorted(k.KeySets) {
		if k.KeySets[ks].Purpose != keystore.PurposeJWT {
			continue
		}
		kinds := make(map[string][]string) // by typ
		first := make(map[string]int)      // the rule that adds the second kind
		for i, r := range k.Rules {
			if !lists(r.KeySets, ks) {
				continue
			}
			for _, n := range k.claimsOf(r) {
				for _, typ := range typesOf(k.profiles[n], r) {
					kind := k.profiles[n].Kind()
					if !slices.Contains(kinds[typ], kind) {
						kinds[typ] = append(kinds[typ], kind)
					}
					if _, said := first[typ]; !said && len(kinds[typ]) == 2 {
						first[typ] = i
					}
				}
			}
		}
		for _, typ := range sorted(first) {
			slices.Sort(kinds[typ])
			k.warnf(fmt.Sprintf("policy[%d].profiles", first[typ]), "a key set for each kind, or a typ of its own",
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

package policyfile

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"chancery/cmd/internal/config/document"
	"chancery/keystore"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// A judge has one method for each thing that is said of a policy.
type judge struct {
	Setting
	*document.Findings
}

// Judge says what is wrong with the policy, and what of it is hardly meant, at the
// members of the file. It returns the policy, or nil if that cannot be made.
func (s Setting) Judge(f *document.Findings) *policy.Policy {
	j := judge{s, f}
	p, err := policy.New(s.Config)
	if err != nil {
		Faults(f, err)
	}
	for i, r := range s.Rules {
		path := fmt.Sprintf("policy[%d]", i)
		j.named(path, r)
		empties(f, path, emptyRule(r))
		j.types(path, r)
		j.purposes(path, r)
		j.lifetimes(path, r)
		j.kinds(path, r)
	}
	j.declared()
	j.confusable()
	j.digests()
	j.defaults()
	if p == nil {
		return nil
	}
	for _, remark := range p.Remarks() {
		path, text, hint := at(remark)
		f.Warnf(path, hint, "%s", text)
	}
	return p
}

// named looks whether what a rule names exists, as far as the file has it.
func (j judge) named(path string, r Rule) {
	if j.KeySets != nil {
		exist(j.Findings, path+".keysets", "key set", r.KeySets, j.KeySets)
	}
	if j.Authorities != nil {
		exist(j.Findings, path+".authorities", "authority", r.Authorities, j.Authorities)
	}
	if j.Authorities != nil || !slices.Contains(r.Actions, policy.SignCSR) {
		exist(j.Findings, path+".profiles", "profile", r.Profiles, j.profilesOf(r))
	}
}

// types looks for a typ that no token ever has.
func (j judge) types(path string, r Rule) {
	for i, typ := range r.Types {
		if jwt.IsKeySetType(typ) {
			j.Errorf(fmt.Sprintf("%s.types[%d]", path, i), "remove it", "%q is for signed key sets, which no caller can have signed", typ)
		}
	}
}

// purposes looks for key sets that do not sign what a rule lets be signed.
func (j judge) purposes(path string, r Rule) {
	jwts, digests := slices.Contains(r.Actions, policy.SignJWT), slices.Contains(r.Actions, policy.SignDigest)
	for i, n := range r.KeySets {
		at := fmt.Sprintf("%s.keysets[%d]", path, i)
		ks, ok := j.KeySets[n]
		if !ok || ks.Purpose == "" {
			continue
		}
		if jwts && ks.Purpose != keystore.PurposeJWT && !slices.ContainsFunc(r.Actions, alsoOtherPurposes) {
			j.Errorf(at, "", "key set %s is of purpose %.40q and signs no JWT", n, string(ks.Purpose))
		}
		signs := ks.Purpose == keystore.PurposeDigest || ks.Purpose == keystore.PurposeJWT && jwts
		also := slices.ContainsFunc(r.Actions, func(a policy.Action) bool { return a != policy.SignDigest && alsoOtherPurposes(a) })
		if digests && !signs && !also {
			j.Errorf(at, "", "key set %s is of purpose %.40q and signs no digests", n, string(ks.Purpose))
		}
	}
}

func alsoOtherPurposes(a policy.Action) bool {
	return a != policy.SignJWT && a != policy.SignCSR && a != policy.ReadAudit && a != policy.ManageTokens && a != policy.Reconcile
}

// lifetimes compares what a rule allows with what rotation counts on: a token that
// outlives max_ttl would outlive its key.
func (j judge) lifetimes(path string, r Rule) {
	if !slices.Contains(r.Actions, policy.SignJWT) {
		return
	}
	for _, n := range slices.Sorted(maps.Keys(j.KeySets)) {
		ks := j.KeySets[n]
		if ks.Purpose == keystore.PurposeJWT && lists(r.KeySets, n) && r.MaxTTL > ks.MaxTTL {
			j.Errorf(path+".max_ttl", "lower it, or raise max_ttl of the key set",
				"%v is more than max_ttl of key set %s, %v", r.MaxTTL, n, ks.MaxTTL)
		}
	}
}

// lists reports whether a rule's list of names has n in it.
func lists(names []string, n string) bool {
	return slices.Contains(names, n) || slices.Contains(names, policy.Any)
}

// digests warns of a key set of purpose digest that signs nothing: only a rule that
// says so lets it.
func (j judge) digests() {
	for _, n := range slices.Sorted(maps.Keys(j.KeySets)) {
		signs := slices.ContainsFunc(j.Rules, func(r Rule) bool {
			return slices.Contains(r.Actions, policy.SignDigest) && lists(r.KeySets, n)
		})
		if j.KeySets[n].Purpose == keystore.PurposeDigest && !signs {
			j.Warnf(document.Join("keysets", n), "add a rule with action digest.sign", "no rule lets anybody have digests signed by this key set")
		}
	}
}

// defaults looks for a default_ttl with which every request that names no ttl is
// refused, because no rule lets anything live that long.
func (j judge) defaults() {
	for _, n := range slices.Sorted(maps.Keys(j.KeySets)) {
		if ks := j.KeySets[n]; ks.Purpose == keystore.PurposeJWT {
			j.allowed(document.Join("keysets", n)+".default_ttl", ks.DefaultTTL, func(r Rule) bool {
				return slices.Contains(r.Actions, policy.SignJWT) && lists(r.KeySets, n)
			})
		}
	}
	for _, n := range slices.Sorted(maps.Keys(j.Authorities)) {
		for _, p := range slices.Sorted(maps.Keys(j.Authorities[n])) {
			path := document.Join(document.Join("authorities", n)+".profiles", p)
			j.allowed(path+".default_ttl", j.Authorities[n][p].DefaultTTL, func(r Rule) bool {
				return slices.Contains(r.Actions, policy.SignCSR) && lists(r.Authorities, n) && lists(r.Profiles, p)
			})
		}
	}
}

// allowed warns if ttl, the value at path, is over the limit of all the rules by
// which it may be used.
func (j judge) allowed(path string, ttl time.Duration, uses func(Rule) bool) {
	most := time.Duration(0)
	for _, r := range j.Rules {
		if uses(r) {
			most = max(most, r.MaxTTL)
		}
	}
	if most > 0 && ttl > most && !j.Said(path) {
		j.Warnf(path, "lower it, or raise max_ttl of a rule", "%v is more than any rule allows, %v: a request without ttl is refused", ttl, most)
	}
}

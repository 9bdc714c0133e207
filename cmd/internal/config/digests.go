package config

import (
	"fmt"
	"slices"

	"chancery/keystore"
	"chancery/signer/policy"
)

// digests looks at a key set of purpose digest, which signs only if a rule says so
// by its name.
func (k checker) digests(path, name string, ks KeySet) {
	if ks.Algorithm == keystore.EdDSA {
		k.errorf(path+".algorithm", "ES256", "EdDSA signs messages and no digests (RFC 8032 Section 5.1)")
	}
	if !slices.ContainsFunc(k.Rules, func(r Rule) bool {
		return slices.Contains(r.Actions, policy.SignDigest) && lists(r.KeySets, name)
	}) {
		k.warnf(path, "add a rule with action digest.sign", "no rule lets anybody have digests signed by this key set")
	}
}

// digestRule looks at the key sets of a rule that lets digests be signed.
func (k checker) digestRule(path string, r Rule) {
	if !slices.Contains(r.Actions, policy.SignDigest) {
		return
	}
	for i, n := range r.KeySets {
		ks, ok := k.KeySets[n]
		signs := ks.Purpose == keystore.PurposeDigest || ks.Purpose == keystore.PurposeJWT && slices.Contains(r.Actions, policy.SignJWT)
		also := slices.ContainsFunc(r.Actions, func(a policy.Action) bool { return a != policy.SignDigest && alsoOtherPurposes(a) })
		if ok && ks.Purpose != "" && !signs && !also {
			k.errorf(fmt.Sprintf("%s.keysets[%d]", path, i), "", "key set %s is of purpose %.40q and signs no digests", n, string(ks.Purpose))
		}
	}
}

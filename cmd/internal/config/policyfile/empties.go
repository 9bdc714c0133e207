package policyfile

import (
	"maps"
	"slices"

	"chancery/cmd/internal/config/document"
)

// What is there and says nothing would be taken for no limit, by us, and for the
// strictest one, by a reader.

// An empty is a member that says nothing.
type empty struct{ text, hint string }

const removeHint = "remove it"

// emptyRule returns the members of a rule that say nothing if they are there.
func emptyRule(r Rule) map[string]empty {
	found := map[string]empty{}
	list := func(member string, n int) {
		if n == 0 {
			found[member] = empty{"the list is empty", removeHint}
		}
	}
	count := func(member string, n int) {
		if n == 0 {
			found[member] = empty{"0 would be no limit", "leave it out for no limit; the least is 1"}
		}
	}
	list("keysets", len(r.KeySets))
	list("authorities", len(r.Authorities))
	list("names", len(r.Names))
	list("types", len(r.Types))
	list("profiles", len(r.Profiles))
	list("claims.required", len(r.Claims.Required))
	list("claims.forbidden", len(r.Claims.Forbidden))
	if len(r.Claims.Forced) == 0 {
		found["claims.forced"] = empty{"it is empty: no claim is forced", removeHint}
	}
	if r.Require.UIDs == nil && r.Require.GIDs == nil && r.Require.PINs == nil {
		found["require"] = empty{"it is empty: nothing is required", "leave it out, or say uids, gids or pins"}
	}
	if r.Claims.Required == nil && r.Claims.Forbidden == nil && r.Claims.Forced == nil {
		found["claims"] = empty{"it is empty: any claims would be allowed", "leave it out for any claims, or say required, forbidden or forced"}
	}
	count("max_claims", r.MaxClaims)
	count("max_bytes", r.MaxBytes)
	count("max_names", r.MaxNames)
	return found
}

// emptyProfile is emptyRule for a claims profile.
func emptyProfile(p ClaimsProfile) map[string]empty {
	found := map[string]empty{}
	for member, n := range map[string]int{"required": len(p.Required), "forbidden": len(p.Forbidden), "audiences": len(p.Audiences), "trust_domains": len(p.TrustDomains)} {
		if n == 0 {
			found[member] = empty{"the list is empty", removeHint}
		}
	}
	if len(p.Claims) == 0 {
		found["claims"] = empty{"it is empty: it says of no claim what form it has", removeHint}
	}
	return found
}

// empties says so of those members below path that are there.
func empties(f *document.Findings, path string, all map[string]empty) {
	for _, member := range slices.Sorted(maps.Keys(all)) {
		at := path + "." + member
		if f.Has(at) && !f.Unread[at] && !f.Said(at) && !f.Below(at) {
			f.Errorf(at, all[member].hint, "%s", all[member].text)
		}
	}
}

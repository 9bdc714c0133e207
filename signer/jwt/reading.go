package jwt

import (
	"strings"

	"chancery/signer/api"
	"chancery/signer/policy"
)

// A reading is how far the claims of one request are what its profile wants. The
// nil reading wants nothing.
type reading struct {
	profile *Profile // nil: the plain one, of a rule that says something of cnf
	bind    binding
	seen    uint64 // of the profile's claims
	bound   bool   // cnf is among the claims
	several bool   // aud has more than one member
}

// newReading returns a reading of claims for a profile under what is said of cnf.
func newReading(p *Profile, b binding) *reading {
	if p == nil && b.cnf == "" {
		return nil
	}
	return &reading{profile: p, bind: b}
}

// claim reads one claim. Its errors are *objection.
func (r *reading) claim(name, value []byte) error {
	if r == nil {
		return nil
	}
	if len(name) == len("cnf") && strings.EqualFold(string(name), "cnf") {
		return r.confirmation(string(name) == "cnf", value)
	}
	if r.profile == nil {
		return nil
	}
	i, exact := r.profile.find(name)
	if i < 0 {
		return nil
	}
	c := &r.profile.claims[i]
	switch {
	case c.forbidden:
		return ofProfile(c.name, "is not for tokens of the profile %s", r.profile.name)
	case !exact: // who folds letter case would read it, and it was not checked
		return ofProfile(c.name, "is spelt in other letters")
	}
	r.seen |= 1 << i
	r.several = r.several || r.profile.azp && c.name == "aud" && several(value)
	if c.form == nil {
		return nil
	}
	if want := c.form(value); want != "" {
		return ofProfile(c.name, "is not %s", want)
	}
	return nil
}

// confirmation reads the claim cnf of the caller's.
func (r *reading) confirmation(exact bool, value []byte) error {
	switch {
	case r.bind.cnf == policy.CNFCaller:
		return against(r.bind.part, api.CodeClaimReserved, `the claim "cnf" is the signer's: it binds the token to the caller's certificate`)
	case r.bind.cnf == policy.CNFNamed:
		return against(r.bind.part, api.CodeClaimReserved, `the claim "cnf" is the signer's: it binds the token to the certificate that the request names as cnf_certificate`)
	case r.bind.cnf == policy.CNFForbidden:
		return r.bind.invalid("is not for these tokens")
	case !exact:
		return r.bind.invalid("is spelt in other letters")
	}
	r.bound = true
	if want := isConfirmation(value); want != "" {
		return r.bind.invalid("is not %s", want)
	}
	return nil
}

// done looks for what is missing. Its errors are *objection.
func (r *reading) done() error {
	if r == nil {
		return nil
	}
	if r.bind.cnf == policy.CNFRequired && !r.bound {
		return r.bind.invalid("is missing")
	}
	p := r.profile
	if p == nil {
		return nil
	}
	for i := range p.claims {
		if p.required&^r.seen&(1<<i) != 0 {
			return ofProfile(p.claims[i].name, "is missing, which tokens of the profile %s have", p.name)
		}
	}
	if p.either != 0 && p.either&r.seen == 0 {
		return ofProfile(p.among(p.either), "is missing: tokens of the profile %s have one at least", p.name)
	}
	if azp, known := p.find([]byte("azp")); known && r.several && r.seen&(1<<azp) == 0 {
		return ofProfile("azp", "is missing, which tokens for several audiences have")
	}
	return nil
}

// among returns the names of some of the claims.
func (p *Profile) among(bits uint64) string {
	var names []string
	for i := range p.claims {
		if bits&(1<<i) != 0 {
			names = append(names, p.claims[i].name)
		}
	}
	return strings.Join(names, `" or "`)
}

// ofProfile is claimInvalid where the profile refuses.
func ofProfile(name, format string, args ...any) error {
	return &objection{partProfile, claimInvalid(name, format, args...)}
}

// claimInvalid names a claim that is not as profile or rule want it, and nothing
// that the caller wrote.
func claimInvalid(name, format string, args ...any) *api.Error {
	return api.Errorf(api.CodeClaimInvalid, `the claim "%s" `+format, append([]any{name}, args...)...)
}

package policy

import (
	"slices"
)

// The claims profiles that are built in: the kinds of JWT that a grant can be for.
// Package jwt has what each of them wants.
const (
	ProfileJWT         = "jwt"          // plain: the caller's claims as they are
	ProfileAccessToken = "at+jwt"       // RFC 9068
	ProfileIDToken     = "id_token"     // OpenID Connect Core 1.0 Section 2
	ProfileLogoutToken = "logout_token" // OpenID Connect Back-Channel Logout 1.0 Section 2.4
	ProfileJWTSVID     = "jwt_svid"     // SPIFFE JWT-SVID
)

// BuiltInProfiles returns the names of the claims profiles that are built in.
func BuiltInProfiles() []string {
	return []string{ProfileJWT, ProfileAccessToken, ProfileIDToken, ProfileLogoutToken, ProfileJWTSVID}
}

// CNF says whose key a token is bound to by its claim cnf (RFC 7800 Section 3.1).
// Empty: the rule or profile says nothing of it.
type CNF string

// What a rule or a profile may say of cnf.
const (
	CNFCaller    CNF = "caller"    // we bind it to the caller's client certificate (RFC 8705 Section 3.1)
	CNFNamed     CNF = "named"     // we bind it to the certificate that the request names
	CNFRequired  CNF = "required"  // the caller's claims have it
	CNFForbidden CNF = "forbidden" // there is none
)

// CNFs returns all that can be said of cnf.
func CNFs() []CNF { return []CNF{CNFCaller, CNFNamed, CNFRequired, CNFForbidden} }

// profiles checks what r says of profiles, and finds which of them are of claims.
func (b *builder) profiles(cfg Config, path string, r *rule) {
	jwt, csr := slices.Contains(r.Actions, SignJWT), slices.Contains(r.Actions, SignCSR)
	b.check(!csr || len(r.Profiles) > 0, path+".profiles", "%s needs at least one", SignCSR)
	b.check(jwt || csr || len(r.Profiles) == 0, path+".profiles", "no action of the rule uses this")
	b.each(path+".profiles", r.Profiles, checkProfile)
	b.check(jwt || r.CNF == "", path+".cnf", "only %s has this", SignJWT)
	b.check(r.CNF == "" || slices.Contains(CNFs(), r.CNF), path+".cnf", "%q is nothing to say of cnf (hint: one of %v)", string(r.CNF), CNFs())
	if !jwt {
		return
	}
	claims := r.Profiles
	if csr { // it lists those of certificates too
		claims = slices.DeleteFunc(slices.Clone(claims), func(name string) bool { return name != Any && !cfg.isClaimsProfile(name) })
	}
	plain := len(claims) == 0 || names(claims, ProfileJWT)
	b.check(plain || len(r.Types) == 0, path+".types", "no profile of the rule takes its type from here: only %s does", ProfileJWT)
	r.kinds = claims
}

func (c Config) isClaimsProfile(name string) bool {
	_, declared := c.ClaimsProfiles[name]
	return declared || slices.Contains(BuiltInProfiles(), name)
}

// checkProfile is checkTarget for profiles: at+jwt is one.
func checkProfile(s string) error {
	if s == ProfileAccessToken {
		return nil
	}
	return checkTarget(s)
}

// profiled returns target with the claims profile that a JWT has under r, and
// whether r lets it have that. The profile that is not named is the only one that r
// lists, or the plain one. A rule that lists none lets a JWT have the plain one
// alone.
func (r *rule) profiled(action Action, target Target) (Target, bool) {
	if action != SignJWT {
		return target, true
	}
	listed := r.kinds
	if target.Profile == "" {
		target.Profile = ProfileJWT
		if len(listed) == 1 && listed[0] != Any {
			target.Profile = listed[0]
		}
	}
	if len(listed) == 0 {
		return target, target.Profile == ProfileJWT
	}
	return target, names(listed, target.Profile)
}

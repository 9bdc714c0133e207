package jwt

import (
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"chancery/keystore"
	"chancery/signer/policy"
)

// The types that are one kind's alone.
const (
	typeAccessToken = "at+jwt"     // RFC 9068 Section 2.1
	typeLogoutToken = "logout+jwt" // Back-Channel Logout 1.0 Section 2.4
)

// LogoutLifetime is the longest lifetime of a logout token: two minutes, so that
// one that was caught cannot be replayed for long (Back-Channel Logout 1.0 Section 4).
const LogoutLifetime = 2 * time.Minute

// BuiltIns returns the profiles that are there without being declared, by name: an
// access token, an ID token and a logout token. A JWT-SVID needs a trust domain.
// The plain profile is the nil one, and not among them.
func BuiltIns() map[string]*Profile {
	built := make(map[string]*Profile)
	for _, name := range []string{policy.ProfileAccessToken, policy.ProfileIDToken, policy.ProfileLogoutToken} {
		p, err := NewProfile(ProfileConfig{Name: name})
		if err != nil { // it has nothing that could be wrong
			panic(err)
		}
		built[name] = p
	}
	return built
}

// accessToken is an OAuth 2.0 access token, RFC 9068 Section 2.2. iss, exp, iat and
// jti are ours.
func (b *profileBuilder) accessToken() {
	b.p.types = []string{typeAccessToken}
	b.know("aud", audience(nil))
	b.know("sub", isText)
	b.know("client_id", isClientID) // RFC 8693 Section 4.3
	b.require([]string{"aud", "sub", "client_id"})
	b.authentication()         // Section 2.2.1
	b.know("scope", isScope)   // Section 2.2.3
	b.know("groups", isGroups) // Section 2.2.3.1
	b.know("roles", isGroups)
	b.know("entitlements", isGroups)
	b.noEvents()
}

// idToken is an OpenID Connect Core 1.0 ID token, Section 2; at_hash and c_hash are
// from 3.1.3.6 and 3.3.2.11.
func (b *profileBuilder) idToken() {
	b.p.types = []string{policy.DefaultType}
	b.know("sub", isSubject)
	b.know("aud", audience(nil))
	b.require([]string{"sub", "aud"})
	b.know("azp", isText)
	b.p.azp = true // clients may want it: Section 3.1.3.7 (4) before errata set 2
	b.know("nonce", isText)
	b.authentication()
	b.know("at_hash", isHalfHash)
	b.know("c_hash", isHalfHash)
	b.noEvents()
}

// authentication is what OpenID Connect Core 1.0 Section 2 says of how somebody was
// authenticated.
func (b *profileBuilder) authentication() {
	b.know("auth_time", isTime)
	b.know("acr", isText)
	b.know("amr", isTexts)
}

// noEvents keeps a token from being taken for a logout token or another security
// event (RFC 8417 Section 2.2), which are told by this claim where nobody looks at
// typ (RFC 8725 Section 3.12).
func (b *profileBuilder) noEvents() { b.forbid([]string{"events"}) }

// logoutToken is an OpenID Connect Back-Channel Logout 1.0 logout token, Section 2.4.
func (b *profileBuilder) logoutToken() {
	b.p.types = []string{typeLogoutToken}
	b.know("aud", audience(nil))
	b.know("events", isLogout)
	b.require([]string{"aud", "events"})
	b.know("sub", isSubject)
	b.know("sid", isText)
	b.p.either = b.bit("sub") | b.bit("sid")
	b.forbid([]string{"nonce"}) // so that it is never taken for an ID token
	b.check(b.p.lifetime <= LogoutLifetime, "lifetime", "%v is more than a logout token has, %v", b.p.lifetime, LogoutLifetime)
	b.p.lifetime = b.p.within(LogoutLifetime)
}

// jwtSVID is a SPIFFE JWT-SVID of a workload in one of domains: Sections 2.1 (alg),
// 2.3 (typ), 3.1 (sub) and 3.2 (aud).
func (b *profileBuilder) jwtSVID(domains []spiffeid.TrustDomain) {
	b.p.types = []string{"JWT", "JOSE"}
	b.p.algorithms = []keystore.Algorithm{
		keystore.RS256, keystore.RS384, keystore.RS512, keystore.ES256, keystore.ES384, keystore.ES512,
		keystore.PS256, keystore.PS384, keystore.PS512,
	}
	b.know("sub", isWorkload(domains))
	b.know("aud", audience(nil))
	b.require([]string{"sub", "aud"})
	b.noEvents()
}

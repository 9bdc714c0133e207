// Package jwt turns claims that a caller wrote into the signing input of a JWS
// (RFC 7515, RFC 7519). It checks and composes; it does not sign, and reads no
// clock.
//
// The header is made here and has three members, in this order:
//
//	{"alg":ALG,"kid":KID,"typ":TYP}
//
// The payload is ours first, and then the caller's text, verbatim:
//
//	{"iss":ISSUER,"iat":IAT,"nbf":NBF,"exp":EXP,"jti":JTI , CLAIMS after its "{"
//	 └────────────────── ours ───────────────────────────┘
//
// The comma is left out before an object without members. iat is now in whole
// seconds, nbf is the clock skew before it, exp is iat and the lifetime, jti is
// 128 random bits in base64url. Where rule or profile bind the token to a
// certificate, "cnf":{"x5t#S256":…} is ours too, after jti (RFC 8705 Section 3.1),
// and then no caller may name it. A caller who names one of these five, in any
// letter case, is refused, and so is every text that two parsers could read in
// two ways (api.Object); nothing is overwritten, clamped or spelt anew.
//
// A Profile says more of tokens of one kind: their typ, who they are for, and which
// claims they have, of what form. The plain profile, nil, says nothing more. A token
// is of the profile that its grant is for (RFC 8725 Sections 3.11 and 3.12):
//
//	at+jwt        an access token, RFC 9068
//	id_token      an ID token, OpenID Connect Core 1.0 Section 2
//	logout_token  OpenID Connect Back-Channel Logout 1.0 Section 2.4
//	jwt_svid      a SPIFFE JWT-SVID
//
//	p, err := jwt.Prepare(grant, jwt.Request{KeySet: "web", Claims: claims}, env)
//	input, err := p.Redeem(v.KID, v.Algorithm)   // once
//	sig, err := key.Sign(ctx, input)             // the token is input "." BASE64URL(sig)
package jwt

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// DefaultTTL is the lifetime of a token that is asked for without one, where
// the key set's configuration says no other.
const DefaultTTL = 300 * time.Second

// A Request is what a caller asks for.
type Request struct {
	KeySet string
	Claims []byte // one JSON object; not kept
	TTL    *int64 // seconds; nil: Env.DefaultTTL
	Typ    string // empty: policy.DefaultType, or the profile's

	CNFCertificate string // PEM, or its SHA-256 in base64url; empty: none is named
}

// An Env is what the key set and the moment add.
type Env struct {
	Issuer     string
	Now        time.Time
	Skew       time.Duration // nbf is so long before iat
	DefaultTTL time.Duration // 0: DefaultTTL
	MaxTTL     time.Duration // of the key set, beside the grant's; 0: the grant's alone
	Profile    *Profile      // the grant's; nil: the plain one
}

// A Prepared is a token that was checked and granted and can be signed once.
type Prepared struct {
	grant    policy.Grant
	profile  *Profile
	typ      string
	jti      string
	exp      int64 // Unix seconds
	payload  []byte
	redeemed atomic.Bool
}

// ErrRedeemed: a Prepared was redeemed before.
var ErrRedeemed = errors.New("the prepared token was redeemed before")

// Prepare checks req against grant, which must be to sign a JWT with the same
// key set and profile, and returns what is to be signed. Its errors are *api.Error
// malformed, claim_reserved, claim_invalid, ttl_too_long, typ_not_allowed,
// too_large, claim_not_allowed, claim_missing, audience_not_allowed or
// scope_not_allowed, or wrap policy.ErrForbidden if the grant is for something else.
func Prepare(grant policy.Grant, req Request, env Env) (*Prepared, error) {
	if !grant.Allows(policy.SignJWT) || grant.Target().KeySet != req.KeySet {
		return nil, fmt.Errorf("%w: the grant is not for a JWT by this key set", policy.ErrForbidden)
	}
	if grant.Target().Profile != env.Profile.Name() {
		return nil, fmt.Errorf("%w: the grant is not for a JWT of this profile", policy.ErrForbidden)
	}
	if env.Issuer == "" {
		return nil, api.Errorf(api.CodeInternal, "internal error").Because(errors.New("the key set has no issuer"))
	}
	j, err := judge(grant.Terms(), req, env)
	if err != nil {
		return nil, plain(err)
	}
	if j.bound.cnf == policy.CNFCaller {
		cert := grant.Caller().Certificate
		if cert == nil {
			return nil, fmt.Errorf("%w: the caller has no certificate to bind the token to", policy.ErrForbidden)
		}
		j.bound.thumbprint = thumbprint(cert.Raw)
	}
	iat := env.Now.Unix()
	p := &Prepared{grant: grant, profile: env.Profile, typ: j.typ, jti: newJTI(), exp: iat + j.ttl}
	p.payload = appendPayload(env.Issuer, iat, iat-seconds(env.Skew), iat+j.ttl, p.jti, j.bound, j.theirs)
	return p, nil
}

// Object walks over claims as Prepare reads them: it is api.Object within
// api.ClaimsLimits, and its errors say that they are about the claims.
func Object(text []byte, each func(name, value []byte) error) error {
	return inClaims(api.Object(text, api.ClaimsLimits, each))
}

// inClaims says of an error of api.Object that its offsets count from where the
// claims begin.
func inClaims(err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Code == api.CodeClaimReserved || e.Code == api.CodeClaimInvalid {
		return err
	}
	return api.Errorf(e.Code, "claims: %s", e.Detail)
}

// reserved returns the claim of ours that name is, or is in another letter
// case, or "". Verifiers that fold letter case, encoding/json among them, would
// take the caller's for ours.
func reserved(name []byte) string {
	if len(name) < 3 || len(name) > 5 { // U+017F, which folds to s, has two bytes
		return ""
	}
	for _, ours := range [...]string{"iss", "iat", "nbf", "exp", "jti"} {
		if strings.EqualFold(string(name), ours) {
			return ours
		}
	}
	return ""
}

func newJTI() string {
	var random [16]byte
	rand.Read(random[:]) // never fails, by its contract
	return base64.RawURLEncoding.EncodeToString(random[:])
}

// seconds returns d in whole seconds, rounded up.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func appendPayload(issuer string, iat, nbf, exp int64, jti string, bound binding, theirs claims) []byte {
	const ours = len(`{"iss":"","iat":,"nbf":,"exp":,"jti":"",`) + 3*len("-9223372036854775808")
	b := make([]byte, 0, ours+len(issuer)+len(jti)+bound.len()+len(theirs.rest))
	b = appendString(append(b, `{"iss":`...), issuer)
	b = strconv.AppendInt(append(b, `,"iat":`...), iat, 10)
	b = strconv.AppendInt(append(b, `,"nbf":`...), nbf, 10)
	b = strconv.AppendInt(append(b, `,"exp":`...), exp, 10)
	b = append(append(append(b, `,"jti":"`...), jti...), '"')
	b = bound.append(b)
	if !theirs.empty {
		b = append(b, ',')
	}
	return append(b, theirs.rest...)
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil { // a string always has a form in JSON
				panic(err)
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// Redeem returns the JWS signing input (RFC 7515 Section 5.1) under the header
// of a key: its name and algorithm, which must be one pair. The second time it
// returns ErrRedeemed.
func (p *Prepared) Redeem(kid keystore.KID, alg keystore.Algorithm) ([]byte, error) {
	if kid == "" || alg == "" {
		return nil, errors.New("redeeming a token: no key named")
	}
	if err := p.SignedBy(alg); err != nil {
		return nil, err
	}
	if p.redeemed.Swap(true) {
		return nil, ErrRedeemed
	}
	var space [160]byte // enough for a thumbprint and the usual types
	h := appendString(append(space[:0], `{"alg":`...), string(alg))
	h = appendString(append(h, `,"kid":`...), string(kid))
	h = append(appendString(append(h, `,"typ":`...), p.typ), '}')

	b64 := base64.RawURLEncoding
	input := make([]byte, 0, b64.EncodedLen(len(h))+1+b64.EncodedLen(len(p.payload)))
	input = append(b64.AppendEncode(input, h), '.')
	return b64.AppendEncode(input, p.payload), nil
}

// SignedBy returns nil if the token may be signed by an algorithm, or an error
// wrapping policy.ErrForbidden: its profile does not allow that.
func (p *Prepared) SignedBy(alg keystore.Algorithm) error {
	if p.profile.SignedBy(alg) {
		return nil
	}
	return fmt.Errorf("%w: tokens of the profile %s are not signed by %s", policy.ErrForbidden, p.profile.name, alg)
}

// Grant returns the grant the token was prepared under.
func (p *Prepared) Grant() policy.Grant { return p.grant }

// Exp returns when the token expires.
func (p *Prepared) Exp() time.Time { return time.Unix(p.exp, 0).UTC() }

// JTI returns the token's identifier.
func (p *Prepared) JTI() string { return p.jti }

// Typ returns the token's type.
func (p *Prepared) Typ() string { return p.typ }

package jwt

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery/signer/api"
	"chancery/signer/policy"
)

// What refuses a request beside the members of a rule.
const (
	partProfile = "profile"
	partKeySet  = "keyset"
)

// Judge returns why Prepare would refuse req under a grant on these terms, or nil.
// Nothing is prepared, and nothing can be signed for it. Of env neither Issuer nor
// Now is looked at, and the caller is taken to have a certificate, as each has.
func Judge(t policy.Terms, req Request, env Env) *policy.Objection {
	_, err := judge(t, req, env)
	if err == nil {
		return nil
	}
	o := &policy.Objection{Part: "claims", Code: policy.CodeForbidden, Text: strings.TrimPrefix(err.Error(), policy.ErrForbidden.Error()+": ")}
	if x, ok := errors.AsType[*objection](err); ok {
		o.Part = x.part
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		o.Code, o.Text = string(e.Code), e.Detail
	}
	if name := env.Profile.Name(); o.Part == partProfile && !strings.Contains(o.Text, "the profile "+name) {
		o.Text = fmt.Sprintf("%s, says the profile %s", o.Text, name)
	}
	return o
}

// A judged is a request that may be prepared.
type judged struct {
	typ    string
	ttl    int64 // seconds
	bound  binding
	theirs claims
}

// judge is everything that is asked of a request but who makes it. Its errors are
// Prepare's, each in an *objection where it is known what refuses.
func judge(t policy.Terms, req Request, env Env) (j judged, err error) {
	if j.typ, err = env.Profile.typ(t, req.Typ); err != nil {
		return judged{}, err
	}
	if j.ttl, err = lifetime(t, req, env); err != nil {
		return judged{}, err
	}
	if j.bound, err = bind(t, env.Profile, req.CNFCertificate); err != nil {
		return judged{}, err
	}
	if j.theirs, err = checkClaims(t, req.Claims, newReading(env.Profile, j.bound)); err != nil {
		return judged{}, err
	}
	return j, nil
}

// An objection is an error of judge, and what refuses.
type objection struct {
	part string
	err  error
}

func (o *objection) Error() string { return o.err.Error() }
func (o *objection) Unwrap() error { return o.err }

// against returns an error that the caller sees, and what refuses.
func against(part string, code api.Code, format string, args ...any) error {
	return &objection{part, api.Errorf(code, format, args...)}
}

// plain returns an error of judge without what refuses.
func plain(err error) error {
	if o, ok := errors.AsType[*objection](err); ok {
		return o.err
	}
	return err
}

// lifetime returns the token's lifetime in seconds.
func lifetime(t policy.Terms, req Request, env Env) (int64, error) {
	limit, part := t.MaxTTL(), "max_ttl"
	if env.MaxTTL > 0 && env.MaxTTL < limit {
		limit, part = env.MaxTTL, partKeySet
	}
	if shorter := env.Profile.within(limit); shorter < limit {
		limit, part = shorter, partProfile
	}
	most := int64(limit / time.Second)
	if req.TTL == nil {
		ttl := env.DefaultTTL
		if ttl == 0 {
			ttl = DefaultTTL
		}
		ttl = env.Profile.within(ttl)
		if n := int64(ttl / time.Second); n <= most {
			return n, nil
		}
		return 0, against(part, api.CodeTTLTooLong, "the default ttl of %d s is over the limit of %d s: ask for a shorter one", int64(ttl/time.Second), most)
	}
	switch ttl := *req.TTL; {
	case ttl <= 0:
		return 0, against("ttl", api.CodeMalformed, `member "ttl" is not positive`)
	case ttl > most:
		return 0, against(part, api.CodeTTLTooLong, "a ttl of %d s is over the limit of %d s", ttl, most)
	default:
		return ttl, nil
	}
}

// claims is what there is to know of a caller's claims.
type claims struct {
	rest  []byte // the text after the first "{"
	empty bool   // the object has no members

	check policy.ClaimsCheck
}

func checkClaims(t policy.Terms, text []byte, wanted *reading) (claims, error) {
	c := claims{empty: true}
	var err error
	if c.check, err = t.CheckClaims(len(text)); err != nil {
		return claims{}, limited(inClaims(err))
	}
	err = api.Object(text, api.ClaimsLimits, func(name, value []byte) error {
		c.empty = false
		if r := reserved(name); r != "" {
			return against("claims", api.CodeClaimReserved, "the claim %q is the signer's", r)
		}
		if err := c.check.Member(name, value); err != nil {
			return err
		}
		return wanted.claim(name, value)
	})
	if err == nil {
		err = c.check.Done()
	}
	if err != nil {
		return claims{}, limited(inClaims(err))
	}
	if err := wanted.done(); err != nil {
		return claims{}, err
	}
	c.rest = text[bytes.IndexByte(text, '{')+1:] // only white space can stand before it
	return c, nil
}

// limited says of a limit of the policy what its code is.
func limited(err error) error {
	if r, ok := errors.AsType[*policy.Refusal](err); ok {
		return against(r.Part(), api.Code(r.Limit), "%s", r.Text)
	}
	return err
}

package signer

import (
	"time"

	"chancery/signer/api"
	"chancery/signer/ca"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// jwtRequest is what the policy's expressions may read of req, or nothing if it has
// none. Nothing is decoded here.
func (s *Service) jwtRequest(rules *policy.Policy, req api.SignJWTRequest) policy.Request {
	if !rules.HasExpressions() {
		return policy.Request{}
	}
	r := policy.Request{Typ: req.Typ, Body: req.Claims, Object: jwt.Object, Defaults: func(name string) (int64, string) {
		settings, _ := s.Settings(req.KeySet)
		var profile *jwt.Profile // the plain one, or one there is not, which is refused anyway
		if name != policy.ProfileJWT {
			profile, _ = s.Profile(name)
		}
		ttl, typ := profile.Defaults(settings.DefaultTTL)
		return int64(ttl / time.Second), typ
	}}
	if req.TTL != nil {
		r.TTL = *req.TTL
	}
	return r
}

// csrRequest is jwtRequest for a certificate.
func (s *Service) csrRequest(rules *policy.Policy, req api.SignCSRRequest) policy.Request {
	if !rules.HasExpressions() {
		return policy.Request{}
	}
	r := policy.Request{Body: []byte(req.CSR), Names: ca.Names, Defaults: func(name string) (int64, string) {
		authority, _ := s.Authority(req.Authority)
		profile := authority.Profiles[name]
		if profile == nil {
			return 0, ""
		}
		return int64(profile.DefaultTTL() / time.Second), ""
	}}
	if req.TTL != nil {
		r.TTL = *req.TTL
	}
	return r
}

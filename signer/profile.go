package signer

import (
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// profile returns the claims profile that a grant is for, nil for the plain one, and
// whether there is one.
func (s *Service) profile(grant policy.Grant) (*jwt.Profile, bool) {
	name := grant.Target().Profile
	if name == policy.ProfileJWT {
		return nil, true
	}
	p, ok := s.Profile(name)
	return p, ok && p != nil
}

// builtIn finds the claims profiles that need no declaration.
func builtIn() func(name string) (*jwt.Profile, bool) {
	profiles := jwt.BuiltIns()
	return func(name string) (*jwt.Profile, bool) {
		p, ok := profiles[name]
		return p, ok
	}
}

package config

import (
	"chancery/cmd/internal/config/policyfile"
	"chancery/signer/jwt"
)

// A ClaimsProfile is a claims profile as it was written.
type ClaimsProfile = policyfile.ClaimsProfile

// ClaimsProfile returns a claims profile that is built in or declared, and whether
// there is one. The plain one is nil.
func (c *Config) ClaimsProfile(name string) (*jwt.Profile, bool) {
	p, ok := c.profiles[name]
	return p, ok
}

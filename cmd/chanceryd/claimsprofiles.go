package main

import "chancery/signer/jwt"

// claimsProfile is a claims profile as the configuration in force has it.
func (n *node) claimsProfile(name string) (*jwt.Profile, bool) {
	return n.config.Load().ClaimsProfile(name)
}

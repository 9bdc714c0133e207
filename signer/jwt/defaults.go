package jwt

import (
	"cmp"
	"time"

	"chancery/signer/policy"
)

// Defaults returns the lifetime and the typ of a token that is asked for without
// them, where ttl is the key set's default; 0: DefaultTTL.
func (p *Profile) Defaults(ttl time.Duration) (time.Duration, string) {
	ttl = p.within(cmp.Or(ttl, DefaultTTL))
	if p == nil {
		return ttl, policy.DefaultType
	}
	return ttl, p.types[0]
}

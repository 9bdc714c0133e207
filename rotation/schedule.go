package rotation

import (
	"slices"
	"time"

	"chancery/keystore"
)

// MaxKnown is how many versions of a key set may be known at once.
//
// Consumers have limits of their own, of which the lowest known is 100 keys (AWS
// IAM's OpenID providers).
const MaxKnown = 20

// manyKnown is how many known versions are told to an operator.
const manyKnown = 15

// isLimited reports whether no more than MaxKnown versions may be known. Log keys
// stay known for ever, in a list that no verifier of tokens reads.
func isLimited(ks *keystore.KeySet) bool { return ks.Purpose != keystore.PurposeAudit }

// A Schedule is when a key set rotates and what its rotations may count on.
type Schedule struct {
	// Every is how long a version signs before the next one does. Zero: on
	// request only.
	Every time.Duration
	// MaxAge is the Cache-Control max-age of the published set.
	MaxAge time.Duration
	// CacheFor is A, the longest any complying cache holds the published set:
	// max-age, stale-while-revalidate and stale-if-error summed over all tiers.
	CacheFor time.Duration
	// Skew is S, the clock skew between here and verifiers, their leeway included.
	Skew time.Duration
	// Lifetime is L, the longest lifetime of what the key set signs; of digests, which
	// have no expiry, how long they are retained. Zero: it never expires, and a version
	// that has signed stays known for ever.
	Lifetime time.Duration
	// Lease is how long a node may go on signing by an old view of the catalog.
	Lease time.Duration
	// NoHorizon: what versions' horizons say does not count, as where a database that
	// takes over may not have received the last of them.
	NoHorizon bool
	// DestroyAfter is how long a retired version's key is kept. Zero: for ever,
	// and keys of purpose ca and audit are kept for ever whatever it says. Plan
	// knows the step, so that it can be shown; a Rotator destroys only what an
	// operator asks for, and plans as if DestroyAfter were zero.
	DestroyAfter time.Duration
	// Ahead publishes the successor as soon as its predecessor activates, for
	// purposes jwt and audit; otherwise a successor is published only when a
	// rotation comes near.
	Ahead bool
	// SignEarly lets a version sign before rule 1 allows if otherwise nothing would,
	// because the one that did is compromised. Verifiers may reject its tokens until
	// then.
	SignEarly bool
}

// A Spec is a key set as it is configured.
type Spec struct {
	Name      string
	Purpose   keystore.Purpose
	Algorithm keystore.Algorithm // of the next version
	Keystore  string             // of the next version
	// Announced are the algorithms beside Algorithm that later versions may have.
	// Once the set has been served it is too late to announce more (rule 11).
	Announced []keystore.Algorithm
	Schedule  Schedule
}

// Ahead reports whether key sets of purpose p publish their successors ahead.
func Ahead(p keystore.Purpose) bool {
	return p == keystore.PurposeJWT || p == keystore.PurposeAudit
}

// announced returns every algorithm of s, in the fixed order.
func (s Spec) announced() []keystore.Algorithm {
	return slices.DeleteFunc(keystore.Algorithms(), func(a keystore.Algorithm) bool {
		return a != s.Algorithm && !slices.Contains(s.Announced, a)
	})
}

// promise returns what the schedule promises the world from at.
func (s Schedule) promise(at time.Time) keystore.Promise {
	return keystore.Promise{At: at, MaxAge: s.MaxAge, CacheFor: s.CacheFor, MaxLifetime: s.Lifetime}
}

// lead is how long before a rotation its successor is made when it is not
// published ahead: the window of rule 1 and time to generate the key.
func (s Schedule) lead() time.Duration {
	return s.CacheFor + s.Skew + min(time.Minute, s.Every/10)
}

// moment brings a time into the form the catalog keeps: UTC, whole
// microseconds, no monotonic reading.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

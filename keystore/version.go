package keystore

import (
	"crypto"
	"time"
)

// A Version is one key pair of a key set and all that is known of its life.
// Times are zero until they happen.
type Version struct {
	Number    int       // from 1, never reused
	Algorithm Algorithm // for ever
	Keystore  string    // the configured keystore that holds the private half
	KeyID     KeyID     // the provider's name for it, chosen before it was made
	KID       KID       // empty while pending
	SPKI      []byte    // DER public key; nil while pending
	State     State
	Maker     string // the node that records it and makes its key; empty: from before there were nodes

	CreatedAt   time.Time // recorded as pending
	PublishedAt time.Time // became published
	ServedAt    time.Time // the last node acknowledged that it serves a set with it
	ActivatedAt time.Time // became active
	StoppedAt   time.Time // left active: the end of signing
	RetiredAt   time.Time // left the set
	DestroyedAt time.Time // private key proven gone, or abandoned

	// ExpHorizon is a time no token it signed outlives, raised ahead of need.
	// Zero: nothing has been signed.
	ExpHorizon time.Time
	// MaxLifetime is the longest lifetime in force at any time while it was active.
	MaxLifetime time.Duration

	Suspended   *Fact // nil unless suspended now
	Compromised *Fact // nil unless compromised
}

// A Fact stands beside a version's state: since when, by whom, and why.
type Fact struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

// Ref names the version's key to its provider.
func (v *Version) Ref() KeyRef {
	return KeyRef{ID: v.KeyID, Algorithm: v.Algorithm, SPKI: v.SPKI}
}

// Public returns the version's public key.
func (v *Version) Public() (crypto.PublicKey, error) { return ParsePublic(v.SPKI) }

// Signs reports whether the version may sign as far as its own row says:
// active, neither suspended nor compromised.
func (v *Version) Signs() bool {
	return v.State == Active && v.Suspended == nil && v.Compromised == nil
}

// A KeySet is a name, never reused, a purpose for ever, and numbered versions.
type KeySet struct {
	Name      string
	Purpose   Purpose
	Algorithm Algorithm // of the next version
	Keystore  string    // of the next version
	// Announced are the algorithms that discovery lists from the set's first day,
	// beside those of its versions: some verifiers read the list once.
	Announced []Algorithm
	Revision  int64 // the catalog revision that last changed it
	CreatedAt time.Time
	// ServedAt is when a node was first to serve its published set: no node has
	// served one before. Zero: none has.
	ServedAt time.Time
	RotateBy *Fact     // a rotation an operator asked for and that is not done
	Promises []Promise // what was promised to caches, oldest first, the last one in force
	Versions []Version // by number
	// Acks are what nodes have said of the versions that are known: since when each
	// set a node serves has the version.
	Acks []Ack
}

// A Promise is what one configuration promised the world's caches and verifiers
// about a key set, from At until the next Promise.
type Promise struct {
	At          time.Time
	MaxAge      time.Duration // Cache-Control max-age as configured
	CacheFor    time.Duration // A: the longest a complying cache holds a set
	MaxLifetime time.Duration // L: the longest token lifetime the policy allows
}

// Active returns the version in state Active, suspended or not.
func (ks *KeySet) Active() (*Version, bool) {
	return ks.find(func(v *Version) bool { return v.State == Active })
}

// Version returns the version with the given number.
func (ks *KeySet) Version(number int) (*Version, bool) {
	return ks.find(func(v *Version) bool { return v.Number == number })
}

// ByKID returns the version with the given KID.
func (ks *KeySet) ByKID(kid KID) (*Version, bool) {
	return ks.find(func(v *Version) bool { return kid != "" && v.KID == kid })
}

// AckOf returns what a node has said of a version.
func (ks *KeySet) AckOf(node string, version int) (Ack, bool) {
	for _, a := range ks.Acks {
		if a.Node == node && a.Version == version {
			return a, true
		}
	}
	return Ack{}, false
}

// First reports whether no set without v was ever served, so that no cache can
// hold an older one: every other version never was in the published set, or had
// left it, unserved, before a node first served it.
func (ks *KeySet) First(v *Version) bool {
	for i := range ks.Versions {
		u := &ks.Versions[i]
		if u.Number == v.Number || u.PublishedAt.IsZero() {
			continue
		}
		left := u.State == Retired || u.State == Destroyed
		if !left || !u.ServedAt.IsZero() || !u.ActivatedAt.IsZero() || !ks.ServedAt.IsZero() && !u.RetiredAt.Before(ks.ServedAt) {
			return false
		}
	}
	return true
}

// Needs reports whether a node that serves the set has to serve v with it: one
// that signs or has signed, since what it signed is verified by it, and the
// first one, since it signs as soon as it is served. A node that cannot serve
// these does not serve the set.
func (ks *KeySet) Needs(v *Version) bool {
	switch {
	case v.Compromised != nil:
		return false
	case v.State == Published:
		return ks.First(v)
	}
	return v.State == Active || v.State == Retiring
}

// InState returns the versions in state s, by number.
func (ks *KeySet) InState(s State) []*Version {
	var vs []*Version
	for i := range ks.Versions {
		if ks.Versions[i].State == s {
			vs = append(vs, &ks.Versions[i])
		}
	}
	return vs
}

// Known returns the versions the world sees, by number.
func (ks *KeySet) Known() []*Version {
	var vs []*Version
	for i := range ks.Versions {
		if ks.Versions[i].State.Known() && ks.Versions[i].Compromised == nil {
			vs = append(vs, &ks.Versions[i])
		}
	}
	return vs
}

func (ks *KeySet) find(is func(*Version) bool) (*Version, bool) {
	for i := range ks.Versions {
		if is(&ks.Versions[i]) {
			return &ks.Versions[i], true
		}
	}
	return nil, false
}

// Clone returns a deep copy of ks.
func (ks *KeySet) Clone() *KeySet {
	c := *ks
	c.RotateBy = cloneFact(ks.RotateBy)
	c.Announced = append([]Algorithm(nil), ks.Announced...)
	c.Promises = append([]Promise(nil), ks.Promises...)
	c.Acks = append([]Ack(nil), ks.Acks...)
	c.Versions = append([]Version(nil), ks.Versions...)
	for i := range c.Versions {
		v := &c.Versions[i]
		v.SPKI = append([]byte(nil), v.SPKI...)
		v.Suspended, v.Compromised = cloneFact(v.Suspended), cloneFact(v.Compromised)
	}
	return &c
}

func cloneFact(f *Fact) *Fact {
	if f == nil {
		return nil
	}
	c := *f
	return &c
}

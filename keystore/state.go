package keystore

import (
	"fmt"
	"slices"
)

// State is where a key version is in its life. It only moves forward.
// The zero value means "not said". NIST SP 800-57 Part 1 Section 7 names the
// states differently; NIST returns its word.
type State uint8

// The states, in order. "Known" means: in the JWKS for purpose jwt, in ca.pem
// for ca, in the list of log keys for audit, in GET /v1/keysets for digest.
const (
	Pending   State = iota + 1 // recorded; its key may not exist yet
	Published                  // known to the world, not signing
	Active                     // known, signing
	Retiring                   // known, no longer signing
	Retired                    // no longer known; private key still held
	Destroyed                  // private key gone
	Abandoned                  // never came to be
)

var stateNames = [...]string{"", "pending", "published", "active", "retiring", "retired", "destroyed", "abandoned"}

// String returns the state's name in lower case.
func (s State) String() string {
	if int(s) < len(stateNames) && s != 0 {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// NIST returns the name NIST SP 800-57 Part 1 gives the state.
func (s State) NIST() string {
	switch s {
	case Pending, Published:
		return "pre-activation"
	case Active:
		return "active"
	case Retiring, Retired:
		return "deactivated"
	case Destroyed, Abandoned:
		return "destroyed"
	}
	return ""
}

// ParseState returns the state with the name s, compared exactly.
func ParseState(s string) (State, error) {
	if i := slices.Index(stateNames[1:], s); i >= 0 {
		return State(i + 1), nil
	}
	return 0, fmt.Errorf("unknown state %q", s)
}

// MarshalText returns the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseState.
func (s *State) UnmarshalText(b []byte) (err error) {
	*s, err = ParseState(string(b))
	return err
}

// Known reports whether the world sees a version in this state.
func (s State) Known() bool { return s == Published || s == Active || s == Retiring }

// MayBecome reports whether a version may go from s to next.
func (s State) MayBecome(next State) bool {
	switch s {
	case Pending:
		return next == Published || next == Abandoned
	case Published:
		return next == Active || next == Retired // retired unused, on compromise
	case Active:
		return next == Retiring || next == Retired // straight to retired on compromise
	case Retiring:
		return next == Retired
	case Retired:
		return next == Destroyed
	}
	return false
}

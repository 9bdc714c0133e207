package keystore_test

import (
	"crypto"
	"encoding"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"chancery/keystore"
)

var states = []keystore.State{
	keystore.Pending, keystore.Published, keystore.Active, keystore.Retiring, keystore.Retired, keystore.Destroyed, keystore.Abandoned,
}

func TestStatesOnlyMoveForward(t *testing.T) {
	may := map[keystore.State][]keystore.State{
		keystore.Pending:   {keystore.Published, keystore.Abandoned},
		keystore.Published: {keystore.Active, keystore.Retired},
		keystore.Active:    {keystore.Retiring, keystore.Retired},
		keystore.Retiring:  {keystore.Retired},
		keystore.Retired:   {keystore.Destroyed},
	}
	for from := range keystore.State(10) {
		for to := range keystore.State(10) {
			if got, want := from.MayBecome(to), slices.Contains(may[from], to); got != want {
				t.Errorf("%v may become %v: %v, want %v", from, to, got, want)
			}
			if from.MayBecome(to) && to <= from {
				t.Errorf("%v → %v goes back", from, to)
			}
			// A key that left the set never comes back to it.
			if from.MayBecome(to) && from > keystore.Pending && !from.Known() && to.Known() {
				t.Errorf("%v → %v revives a key", from, to)
			}
		}
	}
}

func TestWordsOfStates(t *testing.T) {
	for _, c := range []struct {
		state keystore.State
		name  string
		known bool
		nist  string
	}{
		{0, "State(0)", false, ""},
		{keystore.Pending, "pending", false, "pre-activation"},
		{keystore.Published, "published", true, "pre-activation"},
		{keystore.Active, "active", true, "active"},
		{keystore.Retiring, "retiring", true, "deactivated"},
		{keystore.Retired, "retired", false, "deactivated"},
		{keystore.Destroyed, "destroyed", false, "destroyed"},
		{keystore.Abandoned, "abandoned", false, "destroyed"},
		{8, "State(8)", false, ""},
		{255, "State(255)", false, ""},
	} {
		if c.state.String() != c.name || c.state.Known() != c.known || c.state.NIST() != c.nist {
			t.Errorf("%d: %v, known %v, NIST %q", c.state, c.state, c.state.Known(), c.state.NIST())
		}
	}
}

func TestWordsReadAsTheyAreWritten(t *testing.T) {
	for _, s := range states {
		text, err := encoding.TextMarshaler(s).MarshalText()
		var again keystore.State
		if err != nil || again.UnmarshalText(text) != nil || again != s {
			t.Errorf("%v reads as %v, %v", s, again, err)
		}
	}
	for _, a := range keystore.Algorithms() {
		if again, err := keystore.ParseAlgorithm(string(a)); err != nil || again != a {
			t.Errorf("%v reads as %v, %v", a, again, err)
		}
	}
	for _, p := range []keystore.Purpose{"jwt", "ca", "audit", "digest", "probe"} {
		if again, err := keystore.ParsePurpose(string(p)); err != nil || again != p {
			t.Errorf("%v reads as %v, %v", p, again, err)
		}
	}
	for _, bad := range []string{"", " ", "Active", "active ", "State(3)", "es256", "ES256K", "HS256", "none", "JWT", "tls"} {
		if v, err := keystore.ParseState(bad); err == nil || v != 0 {
			t.Errorf("%q is the state %v", bad, v)
		}
		if v, err := keystore.ParseAlgorithm(bad); err == nil || v != "" {
			t.Errorf("%q is the algorithm %v", bad, v)
		}
		if v, err := keystore.ParsePurpose(bad); err == nil || v != "" {
			t.Errorf("%q is the purpose %v", bad, v)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	all := keystore.Algorithms()
	all[0] = "none"
	if keystore.Algorithms()[0] != keystore.ES256 {
		t.Error("a caller changed the list of algorithms")
	}
	hashes := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	for _, a := range append(keystore.Algorithms(), "", "none") {
		kinds := 0
		for _, is := range []bool{a.Curve() != nil, a.IsPKCS1(), a.IsPSS(), a == keystore.EdDSA} {
			if is {
				kinds++
			}
		}
		if want := 1; kinds != want && a != "" && a != "none" {
			t.Errorf("%s is of %d kinds", a, kinds)
		}
		if a.IsRSA() != (a.IsPKCS1() || a.IsPSS()) {
			t.Errorf("%s: RSA %v", a, a.IsRSA())
		}
		if want := hashes[strings.TrimLeft(string(a), "ERPS")]; a.Hash() != want {
			t.Errorf("%s hashes by %v, want %v", a, a.Hash(), want)
		}
	}
	if keystore.ES256.SignatureSize(nil) != 0 {
		t.Error("a signature by no key has a size")
	}
}

// A rejected PIN and another token are also a backend that is unavailable; the
// other kinds are nothing but themselves.
func TestKindsOfErrors(t *testing.T) {
	kinds := []error{
		keystore.ErrNotFound, keystore.ErrExists, keystore.ErrAmbiguous, keystore.ErrUnavailable, keystore.ErrPINRejected,
		keystore.ErrTokenChanged, keystore.ErrSignature, keystore.ErrMessage, keystore.ErrAttributes, keystore.ErrUnsupported,
		keystore.ErrOvertaken, keystore.ErrUncertain,
	}
	for _, err := range kinds {
		for _, kind := range kinds {
			down := kind == keystore.ErrUnavailable && (err == keystore.ErrPINRejected || err == keystore.ErrTokenChanged)
			if got := errors.Is(fmt.Errorf("doing it: %w", err), kind); got != (err == kind || down) {
				t.Errorf("%v is %v: %v", err, kind, got)
			}
		}
	}
}

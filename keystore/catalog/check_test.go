package catalog

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

// inState returns a version as it is in that state after the usual life.
func inState(number int, state keystore.State) keystore.Version {
	v := pending(number)
	life := map[keystore.State][]keystore.State{
		keystore.Pending:   nil,
		keystore.Abandoned: {keystore.Abandoned},
		keystore.Published: {keystore.Published},
		keystore.Active:    {keystore.Published, keystore.Active},
		keystore.Retiring:  {keystore.Published, keystore.Active, keystore.Retiring},
		keystore.Retired:   {keystore.Published, keystore.Active, keystore.Retiring, keystore.Retired},
		keystore.Destroyed: {keystore.Published, keystore.Active, keystore.Retiring, keystore.Retired, keystore.Destroyed},
	}
	for _, to := range life[state] {
		advance(&v, to, epoch)
	}
	return v
}

func TestStatesMoveForwardOnly(t *testing.T) {
	allowed := 0
	for from := keystore.Pending; from <= keystore.Abandoned; from++ {
		for to := keystore.Pending; to <= keystore.Abandoned; to++ {
			before := keySet("web")
			before.Versions = []keystore.Version{inState(1, from)}
			after := before.Clone()
			advance(&after.Versions[0], to, epoch)
			if to == from {
				after = before.Clone()
			}
			err := checkChange(before, after)
			if want := to == from || from.MayBecome(to); (err == nil) != want {
				t.Errorf("%v to %v: %v", from, to, err)
			}
			if err == nil {
				allowed++
			} else if !errors.Is(err, ErrIllegal) {
				t.Errorf("%v to %v: an error of no kind: %v", from, to, err)
			}
		}
	}
	if want := 7 + 8; allowed != want {
		t.Errorf("%d transitions allowed, want %d", allowed, want)
	}
}

func TestIllegalChanges(t *testing.T) {
	fact := func() *keystore.Fact { return &keystore.Fact{At: epoch, By: "op", Reason: "r"} }
	later := epoch.Add(time.Hour)
	first := func(f func(*keystore.Version)) func(*keystore.KeySet) {
		return func(ks *keystore.KeySet) { f(&ks.Versions[0]) }
	}
	second := func(f func(*keystore.Version)) func(*keystore.KeySet) {
		return func(ks *keystore.KeySet) { f(&ks.Versions[1]) }
	}
	for _, tc := range []struct {
		says   string
		change func(*keystore.KeySet)
	}{
		{"name", func(ks *keystore.KeySet) { ks.Name = "other" }},
		{"no name", func(ks *keystore.KeySet) { ks.Name = "../web" }},
		{"purpose", func(ks *keystore.KeySet) { ks.Purpose = keystore.PurposeCA }},
		{"unknown purpose", func(ks *keystore.KeySet) { ks.Purpose = "other" }},
		{"unknown algorithm", func(ks *keystore.KeySet) { ks.Algorithm = "none" }},
		{"keystore", func(ks *keystore.KeySet) { ks.Keystore = "" }},
		{"created", func(ks *keystore.KeySet) { ks.CreatedAt = later }},
		{"revision", func(ks *keystore.KeySet) { ks.Revision++ }},
		{"acknowledgement", func(ks *keystore.KeySet) { ks.ServedAt = later }},
		{"since when", func(ks *keystore.KeySet) { ks.RotateBy = &keystore.Fact{By: "op"} }},
		{"promise", func(ks *keystore.KeySet) { ks.Promises = nil }},
		{"promise", func(ks *keystore.KeySet) { ks.Promises[0].CacheFor = 0 }},
		{"negative", func(ks *keystore.KeySet) { ks.Promises = append(ks.Promises, keystore.Promise{At: epoch, MaxAge: -1}) }},
		{"never removed", func(ks *keystore.KeySet) { ks.Versions = ks.Versions[:2] }},
		{"place", func(ks *keystore.KeySet) { ks.Versions = ks.Versions[1:] }},
		{"place", func(ks *keystore.KeySet) { ks.Versions[1].Number = 7 }},
		{"place", func(ks *keystore.KeySet) { ks.Versions = append(ks.Versions, pending(9)) }},
		{"begins as pending", func(ks *keystore.KeySet) { ks.Versions = append(ks.Versions, inState(4, keystore.Published)) }},
		{"signed nothing", func(ks *keystore.KeySet) {
			v := pending(4)
			v.ExpHorizon = later
			ks.Versions = append(ks.Versions, v)
		}},
		{"key id", func(ks *keystore.KeySet) {
			v := pending(4)
			v.KeyID = keystore.KeyID{}
			ks.Versions = append(ks.Versions, v)
		}},
		{"versions active", second(func(v *keystore.Version) { advance(v, keystore.Active, epoch) })},
		{"never change", first(func(v *keystore.Version) { v.Algorithm = keystore.ES256 })},
		{"never change", first(func(v *keystore.Version) { v.Keystore = "other" })},
		{"never change", first(func(v *keystore.Version) { v.KeyID = keystore.NewKeyID() })},
		{"never change", first(giveKey)},
		{"public key", first(func(v *keystore.Version) { v.SPKI = nil })},
		{"activated never changes", first(func(v *keystore.Version) { v.ActivatedAt = later })},
		{"stopped", first(func(v *keystore.Version) { v.StoppedAt = later })},
		{"created never changes", first(func(v *keystore.Version) { v.CreatedAt = later })},
		{"acknowledgement", first(func(v *keystore.Version) { v.ServedAt = later })},
		{"only raised", first(func(v *keystore.Version) { v.ExpHorizon = epoch })},
		{"only raised", first(func(v *keystore.Version) { v.MaxLifetime = time.Second })},
		{"taken back", first(func(v *keystore.Version) { v.Compromised = nil })},
		{"taken back", first(func(v *keystore.Version) { v.Compromised = &keystore.Fact{At: later} })},
		{"since when", first(func(v *keystore.Version) { v.Suspended = &keystore.Fact{By: "op"} })},
		{"not said when it was stopped", first(func(v *keystore.Version) { v.State = keystore.Retiring })},
		{"not said when it was retired", second(func(v *keystore.Version) { v.State = keystore.Retired })},
		{"not activated", func(ks *keystore.KeySet) {
			advance(&ks.Versions[0], keystore.Retiring, epoch)
			ks.Versions[1].Suspended = fact()
			advance(&ks.Versions[1], keystore.Active, epoch)
		}},
		{"KID", func(ks *keystore.KeySet) {
			v := &ks.Versions[2]
			advance(v, keystore.Published, epoch)
			v.KID = keystore.KID(strings.Repeat("A", 43))
		}},
		{"public key", func(ks *keystore.KeySet) {
			v := &ks.Versions[2]
			advance(v, keystore.Published, epoch)
			v.SPKI = append(v.SPKI, 0)
		}},
		{"public key", func(ks *keystore.KeySet) {
			v := &ks.Versions[2]
			giveKey(v) // still pending
		}},
		{"at most 20", func(ks *keystore.KeySet) {
			for i := range ks.Versions[3:] {
				advance(&ks.Versions[3+i], keystore.Published, epoch)
			}
		}},
	} {
		t.Run(tc.says, func(t *testing.T) {
			before := keySet("web")
			active := inState(1, keystore.Active)
			active.ExpHorizon, active.MaxLifetime, active.Compromised = later, time.Hour, fact()
			before.Versions = []keystore.Version{active, inState(2, keystore.Published), pending(3)}
			if strings.HasPrefix(tc.says, "at most") {
				for i := range 20 {
					before.Versions = append(before.Versions, pending(4+i))
				}
			}
			if err := checkChange(before, before.Clone()); err != nil {
				t.Fatal("no change:", err)
			}
			after := before.Clone()
			tc.change(after)
			err := checkChange(before, after)
			if !errors.Is(err, ErrIllegal) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got: %v", err)
			}
		})
	}
}

func TestUnique(t *testing.T) {
	ks := keySet("web")
	ks.Versions = []keystore.Version{inState(1, keystore.Active), pending(2)}
	mine := identityOf("web", &ks.Versions[0])
	for _, tc := range []struct {
		name  string
		taken []identity
		ok    bool
	}{
		{"alone", nil, true},
		{"its own row", []identity{mine}, true},
		{"strangers", []identity{{keyset: "edge", number: 1, keyID: keystore.NewKeyID()}, {keyset: "edge", number: 2, keyID: keystore.NewKeyID()}}, true},
		{"key id", []identity{{keyset: "edge", number: 1, keyID: mine.keyID}}, false},
		{"kid", []identity{{keyset: "edge", number: 1, keyID: keystore.NewKeyID(), kid: mine.kid, spki: keystore.SPKIHash{1}}}, false},
		{"spki", []identity{{keyset: "edge", number: 1, keyID: keystore.NewKeyID(), kid: "other", spki: mine.spki}}, false},
	} {
		if err := checkUnique(ks, tc.taken); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	twice := ks.Clone()
	twice.Versions[1].KeyID = twice.Versions[0].KeyID
	if err := checkUnique(twice, nil); err == nil {
		t.Error("one key id for two versions of a set")
	}
}

func ExampleErrIllegal() {
	before := keySet("web")
	before.Versions = []keystore.Version{inState(1, keystore.Retiring)}
	after := before.Clone()
	after.Versions[0].State = keystore.Active
	fmt.Println(checkChange(before, after))
	// Output: key set "web" version 1: illegal change: active, and said to have been stopped
}

package keystore_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// life is a key set with a version in each state, by number, and facts.
func life() *keystore.KeySet {
	fact := func(why string) *keystore.Fact { return &keystore.Fact{At: noon, By: "operator", Reason: why} }
	ks := &keystore.KeySet{
		Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.ES256, Keystore: "main", Revision: 7,
		CreatedAt: noon, RotateBy: fact("audit"), Promises: []keystore.Promise{{At: noon, CacheFor: time.Minute}},
	}
	for i, s := range []keystore.State{
		keystore.Abandoned, keystore.Destroyed, keystore.Retired, keystore.Retiring, keystore.Active, keystore.Published, keystore.Pending,
	} {
		v := keystore.Version{Number: i + 1, State: s, Algorithm: keystore.ES256, Keystore: "main", KeyID: keystore.KeyID{byte(i)}}
		if s != keystore.Pending && s != keystore.Abandoned {
			v.KID, v.SPKI = keystore.KID(s.String()), []byte(s.String())
		}
		ks.Versions = append(ks.Versions, v)
	}
	ks.Versions[3].Compromised = fact("stolen")
	ks.Versions[4].Suspended = fact("drill")
	return ks
}

func TestCloneSharesNothing(t *testing.T) {
	ks, before := life(), life()
	c := ks.Clone()
	if diff := cmp.Diff(ks, c); diff != "" {
		t.Fatalf("the copy differs: %s", diff)
	}
	c.Name, c.RotateBy.Reason, c.Promises[0].CacheFor = "other", "other", 0
	for i := range c.Versions {
		v := &c.Versions[i]
		v.State, v.KID = keystore.Destroyed, "other"
		for j := range v.SPKI {
			v.SPKI[j] = 0
		}
		for _, f := range []*keystore.Fact{v.Suspended, v.Compromised} {
			if f != nil {
				f.Reason = "other"
			}
		}
	}
	c.Versions, c.Promises = append(c.Versions, keystore.Version{}), append(c.Promises, keystore.Promise{})
	if diff := cmp.Diff(before, ks); diff != "" {
		t.Errorf("changing the copy changed the set: %s", diff)
	}
	if c := (&keystore.KeySet{}).Clone(); c.RotateBy != nil || c.Versions != nil || c.Promises != nil {
		t.Errorf("the copy of nothing is %+v", c)
	}
}

func numbers(vs []*keystore.Version) (ns []int) {
	for _, v := range vs {
		ns = append(ns, v.Number)
	}
	return ns
}

func TestVersionsAreFound(t *testing.T) {
	ks := life()
	if v, ok := ks.Active(); !ok || v.Number != 5 || v != &ks.Versions[4] {
		t.Errorf("active: %+v; a suspended version is active still", v)
	}
	if v, ok := ks.Version(6); !ok || v.State != keystore.Published {
		t.Errorf("version 6: %+v", v)
	}
	if v, ok := ks.ByKID("retired"); !ok || v.Number != 3 {
		t.Errorf("by kid: %+v", v)
	}
	for _, kid := range []keystore.KID{"", "nobody"} { // pending versions have no kid
		if v, ok := ks.ByKID(kid); ok {
			t.Errorf("kid %q is version %d", kid, v.Number)
		}
	}
	if v, ok := ks.Version(8); ok {
		t.Errorf("version 8: %+v", v)
	}
	if got := numbers(ks.InState(keystore.Pending)); !slices.Equal(got, []int{7}) {
		t.Errorf("pending: %v", got)
	}
	if got := numbers(ks.Known()); !slices.Equal(got, []int{5, 6}) {
		t.Errorf("known: %v; a compromised version is known no more", got)
	}
	if v, ok := (&keystore.KeySet{}).Active(); ok || v != nil {
		t.Errorf("nothing has the active version %+v", v)
	}
}

func TestSigns(t *testing.T) {
	fact := &keystore.Fact{}
	for _, s := range states {
		for _, c := range []struct {
			v    keystore.Version
			want bool
		}{
			{keystore.Version{State: s}, s == keystore.Active},
			{keystore.Version{State: s, Suspended: fact}, false},
			{keystore.Version{State: s, Compromised: fact}, false},
		} {
			if c.v.Signs() != c.want {
				t.Errorf("%+v signs: %v", c.v, c.v.Signs())
			}
		}
	}
	v := life().Versions[4]
	if ref := v.Ref(); ref.ID != v.KeyID || ref.Algorithm != v.Algorithm || string(ref.SPKI) != string(v.SPKI) {
		t.Errorf("ref %+v of %+v", ref, v)
	}
}

// A version that left the set when it was first served may have been in it.
func TestFirst(t *testing.T) {
	for _, c := range []struct {
		left time.Time
		want bool
	}{
		{noon.Add(-time.Second), true},
		{noon, false},
		{noon.Add(time.Second), false},
	} {
		ks := keystore.KeySet{ServedAt: noon, Versions: []keystore.Version{
			{Number: 1, State: keystore.Retired, PublishedAt: noon.Add(-time.Hour), RetiredAt: c.left},
			{Number: 2, State: keystore.Published, PublishedAt: noon},
		}}
		if got := ks.First(&ks.Versions[1]); got != c.want {
			t.Errorf("the one before it left %v after noon: first %t, want %t", c.left.Sub(noon), got, c.want)
		}
	}
}

func TestView(t *testing.T) {
	var sets []*keystore.KeySet
	for _, name := range []string{"web", "edge", "legacy"} {
		sets = append(sets, &keystore.KeySet{Name: name})
	}
	view := keystore.NewView(7, noon, sets)
	if view.Revision() != 7 || !view.ReadAt().Equal(noon) {
		t.Errorf("revision %d, read at %v", view.Revision(), view.ReadAt())
	}
	var names []string
	for _, ks := range view.KeySets() {
		names = append(names, ks.Name)
	}
	if !slices.Equal(names, []string{"edge", "legacy", "web"}) {
		t.Errorf("key sets: %v", names)
	}
	if ks, ok := view.KeySet("edge"); !ok || ks != sets[1] {
		t.Errorf("edge: %+v", ks)
	}
	if ks, ok := view.KeySet("Edge"); ok {
		t.Errorf("Edge: %+v", ks)
	}
	view.KeySets()[0] = nil // the slice is the caller's
	if view.KeySets()[0] == nil {
		t.Error("a caller changed the view")
	}
}

package rotation

import (
	"testing"
	"time"

	"chancery/keystore"
)

// A version was suspended on a node that could not reach the catalog. Another node
// had the next one sign, knowing nothing of it: the suspension was recorded of what
// had stopped by then, and the key set signed on.
func TestASuspensionOutlivesASwapOfAnotherNode(t *testing.T) {
	for _, c := range []struct {
		name      string
		activated time.Duration // when the other node had version 2 sign
		suspended bool          // version 2 is, too
	}{
		{"before the suspension", 9 * time.Second, false},
		{"after it", 11 * time.Second, true},
	} {
		now := at(10 * time.Second)
		catalog, kept := newMemory(func() time.Time { return now }), newPedal()
		r := New(Config{Catalog: catalog, Keys: newSoftware(), Audit: catalog, Brake: kept, Node: "a", Shared: true, Now: func() time.Time { return now }})
		if _, err := catalog.Create(t.Context(), lives(fast, active(0), published(0))); err != nil {
			t.Fatal(err)
		}
		r.adopt([]Spec{{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: fast}})
		first := catalog.set("web").Versions[0].KID
		if _, err := r.view(t.Context()); err != nil { // which it goes by when there is none to be had
			t.Fatal(err)
		}
		catalog.down = errCrash
		s, err := r.Suspend(t.Context(), "olga", "web", first, "stolen")
		if err != nil || !s.Suspended || s.Entry != "" {
			t.Fatalf("%+v, %v", s, err)
		}
		catalog.down = nil
		_, err = catalog.Update(t.Context(), "web", -1, func(_ keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			ks.Versions[0].State, ks.Versions[0].StoppedAt = keystore.Retiring, at(c.activated)
			ks.Versions[1].State, ks.Versions[1].ActivatedAt = keystore.Active, at(c.activated)
			return []keystore.Record{{Action: keystore.ActKeyActivate}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		now = at(12 * time.Second)
		if err := r.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		set := catalog.set("web")
		if set.Versions[0].Suspended == nil || (set.Versions[1].Suspended != nil) != c.suspended {
			t.Errorf("%s: suspended are %v and %v", c.name, set.Versions[0].Suspended, set.Versions[1].Suspended)
		}

		if _, err := r.Resume(t.Context(), "olga", "web", "", "a false alarm"); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := r.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v, _ := catalog.set("web").Active(); v.Suspended != nil {
			t.Errorf("%s: version %d was resumed, and is suspended", c.name, v.Number)
		}
		r.Wait()
	}
}

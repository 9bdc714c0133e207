package rotation

import (
	"errors"
	"testing"
	"time"

	"chancery/keystore"
)

// TestS01KillAtEveryDurablePoint ends the process at each durable point of two
// rotations in turn, before and after it holds: catalog, log and token. After
// the restart the state is the old one or the new one, the set is never without
// its active version, and every key on the token has its row.
func TestS01KillAtEveryDurablePoint(t *testing.T) {
	points := 0
	for _, after := range []bool{false, true} {
		for _, where := range []string{"catalog", "token"} {
			for n := 1; crashAt(t, where, n, after); n++ {
				points++
			}
		}
	}
	if points < 40 {
		t.Errorf("only %d points", points)
	}
	t.Logf("killed at %d durable points", points)
}

// crashAt reports whether the n-th point was reached.
func crashAt(t *testing.T, where string, n int, after bool) bool {
	t.Helper()
	clock := start
	now := func() time.Time { return clock }
	catalog, token := newMemory(now), newSoftware()
	spec := Spec{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: fast}
	boot := func() *Rotator {
		r := New(Config{Catalog: catalog, Keys: token, Audit: catalog, Brake: newPedal(), Now: now})
		if _, err := catalog.drain(); err != nil && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		if err := r.Ensure(t.Context(), []Spec{spec}); err != nil && !errors.Is(err, errCrash) && !errors.Is(err, keystore.ErrExists) {
			t.Fatal(err)
		}
		return r
	}
	fuse := catalog.fuse
	if where == "token" {
		fuse = token.fuse
	}
	fuse.left, fuse.after = n, after
	crashed, signing := false, false
	r := boot()
	for range 80 {
		if s, _, err := r.of("web"); err == nil && !fuse.dead {
			_, err = r.locked(t.Context(), "web", s)
			if err != nil && !errors.Is(err, errCrash) && !errors.Is(err, keystore.ErrNotFound) {
				t.Fatalf("%s point %d: %v", where, n, err)
			}
		}
		if fuse.dead {
			*fuse, crashed = *newFuse(), true
			r = boot()
		}
		if ks, ok := catalog.sets["web"]; ok {
			signing = whole(t, where, n, ks, token, signing)
			for _, v := range ks.Known() {
				catalog.acknowledge("web", []int{v.Number}, clock)
			}
		}
		clock = clock.Add(time.Second)
	}
	if !signing {
		t.Errorf("%s point %d: nothing signs", where, n)
	}
	return crashed
}

func newFuse() *fuse { return &fuse{} }

// whole demands that a set is in one piece, and reports whether it signs.
func whole(t *testing.T, where string, n int, ks *keystore.KeySet, token *software, signing bool) bool {
	t.Helper()
	_, active := ks.Active()
	if signing && !active {
		t.Errorf("%s point %d: the set is without its active version", where, n)
	}
	rows := map[keystore.KeyID]bool{}
	for _, v := range ks.Versions {
		rows[v.KeyID] = true
	}
	for id := range token.keys {
		if !rows[id] {
			t.Errorf("%s point %d: a key without a row", where, n)
		}
	}
	return active
}

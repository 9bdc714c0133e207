package catalog

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chancery/keystore"
)

// TestMain becomes the process that TestS01KillAtAnyMoment kills, if asked to.
func TestMain(m *testing.M) {
	if path := os.Getenv("CATALOG_TEST_UPDATE"); path != "" {
		updateForEver(path)
		return
	}
	// Each check is dozens of synced writes; -rapid.checks=1000 for more.
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var epoch = time.Date(2026, 11, 2, 8, 0, 0, 123456000, time.UTC)

func open(t testing.TB, path string) *Catalog {
	t.Helper()
	c, err := Open(context.Background(), Config{Path: path, Now: func() time.Time { return epoch }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func fresh(t testing.TB) *Catalog {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "catalog.db"))
}

func keySet(name string) *keystore.KeySet {
	return &keystore.KeySet{
		Name: name, Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", CreatedAt: epoch,
		Promises: []keystore.Promise{{At: epoch, MaxAge: time.Minute, CacheFor: 2 * time.Minute, MaxLifetime: time.Hour}},
	}
}

func pending(number int) keystore.Version {
	return keystore.Version{
		Number: number, Algorithm: keystore.EdDSA, Keystore: "hsm", KeyID: keystore.NewKeyID(),
		State: keystore.Pending, CreatedAt: epoch,
	}
}

// giveKey gives v a fresh public key.
func giveKey(v *keystore.Version) {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	if v.SPKI, err = keystore.MarshalPublic(pub); err != nil {
		panic(err)
	}
	if v.KID, err = keystore.Thumbprint(pub); err != nil {
		panic(err)
	}
}

// advance moves v to a state with the times and key that state has.
func advance(v *keystore.Version, to keystore.State, at time.Time) {
	switch to {
	case keystore.Published:
		giveKey(v)
		v.PublishedAt = at
	case keystore.Active:
		v.ActivatedAt = at
	case keystore.Retiring:
		v.StoppedAt = at
	case keystore.Retired:
		if v.State == keystore.Active {
			v.StoppedAt = at
		}
		v.RetiredAt = at
	case keystore.Destroyed, keystore.Abandoned:
		v.DestroyedAt = at
	}
	v.State = to
}

func record(action keystore.Action) keystore.Record {
	return keystore.Record{Principal: "chancery", Action: action, Outcome: keystore.OutcomeDone}
}

func mustCreate(t testing.TB, c *Catalog, ks *keystore.KeySet) Change {
	t.Helper()
	change, err := c.Create(t.Context(), ks, record(keystore.ActKeySetCreate))
	if err != nil {
		t.Fatal(err)
	}
	return change
}

// step is an Update that moves one version, appending it first if it is new.
func step(t testing.TB, c *Catalog, name string, number int, to keystore.State) Change {
	t.Helper()
	change, err := c.Update(t.Context(), name, -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		if to == keystore.Pending {
			ks.Versions = append(ks.Versions, pending(number))
		} else {
			advance(&ks.Versions[number-1], to, epoch.Add(time.Duration(to)*time.Second))
		}
		return []keystore.Record{record(keystore.Action("key." + to.String()))}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return change
}

// activated returns a catalog whose key set "web" has an active version 1.
func activated(t testing.TB) *Catalog {
	t.Helper()
	c := fresh(t)
	mustCreate(t, c, keySet("web"))
	for _, to := range []keystore.State{keystore.Pending, keystore.Published, keystore.Active} {
		step(t, c, "web", 1, to)
	}
	return c
}

func set(t testing.TB, c *Catalog, name string) *keystore.KeySet {
	t.Helper()
	view, err := c.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ks, ok := view.KeySet(name)
	if !ok {
		t.Fatalf("no key set %q", name)
	}
	return ks
}

// updateForEver counts up in the key set at path until it is killed, saying
// each number after it is durable. A number stands in the set and in the record
// of its change.
func updateForEver(path string) {
	ctx := context.Background()
	c, err := Open(ctx, Config{Path: path})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for {
		n := ""
		_, err := c.Update(ctx, "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			n = fmt.Sprint(ks.Revision + 1)
			ks.RotateBy = &keystore.Fact{At: epoch, By: "test", Reason: n}
			ks.Versions = append(ks.Versions, pending(len(ks.Versions)+1))
			if i := len(ks.Versions) - 2; i >= 0 {
				advance(&ks.Versions[i], keystore.Abandoned, epoch)
			}
			rec := record(keystore.ActRotate)
			rec.Reason = n
			return []keystore.Record{rec}, nil
		})
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

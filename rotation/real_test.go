package rotation

import (
	"context"
	"maps"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
)

// real is the catalog and the log that a node has, joined as a node joins them.
type real struct {
	*catalog.Catalog
	log *audit.Log
	t   *testing.T
}

func (r real) Create(ctx context.Context, ks *keystore.KeySet, recs ...keystore.Record) (string, error) {
	if _, err := r.Catalog.Create(ctx, ks, recs...); err != nil {
		return "", err
	}
	return r.drain(ctx)
}

func (r real) Update(ctx context.Context, name string, expect int64, f func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error)) (string, error) {
	if _, err := r.Catalog.Update(ctx, name, expect, f); err != nil {
		return "", err
	}
	return r.drain(ctx)
}

func (r real) drain(ctx context.Context) (entry string, err error) {
	rows, err := r.Outbox(ctx)
	for _, row := range rows {
		receipt, err := r.log.Lifecycle(ctx, row.Record)
		if err != nil {
			return "", err
		}
		if err := r.Mark(ctx, row.ID, receipt.Entry); err != nil {
			return "", err
		}
		entry = receipt.Entry
	}
	return entry, err
}

// serve has the node acknowledge all that is known, and sign.
func (r real) serve(now time.Time) {
	view, err := r.View(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	ks, _ := view.KeySet("web")
	var numbers []int
	for _, v := range ks.Known() {
		numbers = append(numbers, v.Number)
	}
	if _, err := r.Acknowledge(r.t.Context(), "dev", "web", numbers, now); err != nil {
		r.t.Fatal(err)
	}
	if v, ok := ks.Active(); ok {
		if err := r.RaiseHorizon(r.t.Context(), v.KID, now.Add(fast.Lifetime)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestRealCatalogAndLog rotates on the real catalog, log and brake, which have
// their own view of what a legal change is.
func TestRealCatalogAndLog(t *testing.T) {
	dir := t.TempDir()
	var passed atomic.Int64 // seconds; the log has goroutines that look at the clock
	now := func() time.Time { return start.Add(time.Duration(passed.Load()) * time.Second) }
	store, err := catalog.Open(t.Context(), catalog.Config{Path: filepath.Join(dir, "catalog.db"), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	log, err := audit.Open(t.Context(), audit.Config{Dir: filepath.Join(dir, "audit"), Host: "localhost:1", Node: "dev", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close(context.Background())
	brake, err := catalog.OpenBrake(filepath.Join(dir, "brake"))
	if err != nil {
		t.Fatal(err)
	}
	defer brake.Close()
	node := real{store, log, t}
	r := New(Config{Catalog: node, Keys: newSoftware(), Audit: log, Brake: brake, Now: now})
	spec := Spec{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: fast}
	if err := r.Ensure(t.Context(), []Spec{spec}); err != nil {
		t.Fatal(err)
	}
	s, _, _ := r.of("web")
	for second := range 70 {
		for range 3 {
			if _, err := r.locked(t.Context(), "web", s); err != nil {
				t.Fatalf("second %d: %v", second, err)
			}
			node.serve(now())
		}
		switch second {
		case 30:
			if _, err := r.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil {
				t.Fatal(err)
			}
		case 45:
			if _, err := r.Resume(t.Context(), "olga", "web", "", "no doubt"); err != nil {
				t.Fatal(err)
			}
		case 50:
			if _, err := r.Rotate(t.Context(), Request{By: "olga", KeySet: "web", Reason: "drill"}); err != nil {
				t.Fatal(err)
			}
		}
		passed.Add(1)
	}
	ks, _, err := r.keySet(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := ks.Active(); !ok || v.Number != 4 || len(ks.InState(keystore.Retired)) < 2 {
		t.Errorf("after 70 seconds: %+v", ks.Versions)
	}
	published := 0
	for at, err := range audit.Entries(filepath.Join(dir, "audit"), audit.Filter{Action: keystore.ActKeyPublish}) {
		if err != nil {
			t.Fatal(err)
		}
		e := at.Entry
		v, _ := ks.Version(e.Version)
		if want := audit.Announcement(keystore.PurposeJWT, v); e.KID != v.KID || !maps.Equal(e.Detail, want) {
			t.Errorf("version %d is announced as %v, want %v", e.Version, e.Detail, want)
		}
		published++
	}
	if published != len(ks.Versions) {
		t.Errorf("%d versions are announced, want %d", published, len(ks.Versions))
	}
}

package catalog

import (
	"path/filepath"
	"testing"
	"time"

	"chancery/keystore"
)

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "catalog.db")
	c := open(b, path)
	mustCreate(b, c, keySet("web"))
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c, err := Open(b.Context(), Config{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenFresh(b *testing.B) {
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		c, err := Open(b.Context(), Config{Path: filepath.Join(dir, time.Now().Format("150405.000000000"))})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkView reads six key sets of twelve versions each.
func BenchmarkView(b *testing.B) {
	c := fresh(b)
	for _, name := range []string{"web", "legacy", "edge", "devices", "audit", "probe"} {
		ks := keySet(name)
		for n := range 12 {
			ks.Versions = append(ks.Versions, pending(n+1))
		}
		mustCreate(b, c, ks)
	}
	for b.Loop() {
		if _, err := c.View(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	c := fresh(b)
	mustCreate(b, c, keySet("web"))
	for b.Loop() {
		_, err := c.Update(b.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			ks.RotateBy = &keystore.Fact{At: epoch.Add(time.Duration(ks.Revision) * time.Second), By: "op"}
			return []keystore.Record{record(keystore.ActRotate)}, nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRaiseHorizon(b *testing.B) {
	c := activated(b)
	view, err := c.View(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	ks, _ := view.KeySet("web")
	for to := epoch; b.Loop(); to = to.Add(time.Second) {
		if err := c.RaiseHorizon(b.Context(), ks.Versions[0].KID, to); err != nil {
			b.Fatal(err)
		}
	}
}

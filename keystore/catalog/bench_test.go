package catalog

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"chancery/keystore"
)

// eachBench runs a benchmark on every database.
func eachBench(b *testing.B, f func(b *testing.B, at *place)) {
	b.Run("sqlite", func(b *testing.B) { f(b, inFile(b)) })
	b.Run("postgres", func(b *testing.B) { f(b, inPostgres(b)) })
}

func BenchmarkOpen(b *testing.B) {
	eachBench(b, func(b *testing.B, at *place) {
		mustCreate(b, at.open(b), keySet("web"))
		for b.Loop() {
			c, err := Open(b.Context(), at.config())
			if err != nil {
				b.Fatal(err)
			}
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
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
	eachBench(b, func(b *testing.B, at *place) {
		c := at.open(b)
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
	})
}

// BenchmarkViewOfMany reads a thousand key sets of three versions each, of which
// nothing has changed since, as a node that shares them does each second.
func BenchmarkViewOfMany(b *testing.B) {
	eachBench(b, func(b *testing.B, at *place) {
		c := at.open(b)
		for i := range 1000 {
			ks := keySet(fmt.Sprint("set-", i))
			for n := range 3 {
				ks.Versions = append(ks.Versions, pending(n+1))
			}
			mustCreate(b, c, ks)
		}
		for b.Loop() {
			if _, err := c.View(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkUpdate is by a node that has enrolled, so that it is fenced.
func BenchmarkUpdate(b *testing.B) {
	eachBench(b, func(b *testing.B, at *place) {
		c := at.open(b)
		mustCreate(b, c, keySet("web"))
		enrol(b, c, enrolment("a"))
		for b.Loop() {
			_, err := c.Update(b.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
				ks.RotateBy = &keystore.Fact{At: epoch.Add(time.Duration(ks.Revision) * time.Second), By: "op"}
				return []keystore.Record{record(keystore.ActRotate)}, nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRaiseHorizon(b *testing.B) {
	eachBench(b, func(b *testing.B, at *place) {
		c := at.activated(b)
		kid := set(b, c, "web").Versions[0].KID
		for to := epoch; b.Loop(); to = to.Add(time.Second) {
			if err := c.RaiseHorizon(b.Context(), kid, to); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRenew(b *testing.B) {
	eachBench(b, func(b *testing.B, at *place) {
		c := at.open(b)
		enrol(b, c, enrolment("a"))
		for i := int64(0); b.Loop(); i++ {
			if _, err := c.Renew(b.Context(), i); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package server

import (
	"testing"
	"time"

	"chancery/signer/policy"
)

// BenchmarkIdentify tells what it costs to know who makes the next request on a
// connection: anew, as it is for the first one, and as it is for all others.
func BenchmarkIdentify(b *testing.B) {
	root := newAuthority(b, "root", nil, noon.Add(48*time.Hour))
	g := newGate(b, root.localhost(b), policy.Revoked{}, at(noon), root)
	cs, err, _ := shakeHands(b, g.TLS(), clientConfig(root, root.named(b, "issuer")))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := g.Identify(&cs, noon); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("next", func(b *testing.B) {
		b.ReportAllocs()
		v := new(Visitor)
		for b.Loop() {
			if _, err := v.Identify(g, &cs, noon); err != nil {
				b.Fatal(err)
			}
		}
	})
}

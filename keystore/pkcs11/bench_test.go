package pkcs11_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/pkcs11"
	"chancery/softhsm/softhsmtest"
)

var benchAlgorithms = []keystore.Algorithm{keystore.ES256, keystore.RS256, keystore.EdDSA}

// benchKeys makes one key of each algorithm and returns a provider that holds them.
func benchKeys(b *testing.B) (pkcs11.Config, *pkcs11.Provider, map[keystore.Algorithm]keystore.KeyRef) {
	cfg := config(b, softhsmtest.New(b))
	p := open(b, cfg)
	refs := make(map[keystore.Algorithm]keystore.KeyRef)
	for _, alg := range benchAlgorithms {
		id := keystore.NewKeyID()
		// Not jwt, so that nothing but the token object can sign.
		spki, err := p.Generate(b.Context(), id, keystore.PurposeProbe, alg)
		if err != nil {
			b.Fatal(err)
		}
		refs[alg] = keystore.KeyRef{ID: id, Algorithm: alg, SPKI: spki}
	}
	return cfg, p, refs
}

// share runs n signatures on callers goroutines.
func share(b *testing.B, callers int, sign func(caller int) error) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	b.ResetTimer()
	for i := range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := sign(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sig/s")
}

// BenchmarkSignRaw is the module alone, in this process, nothing verified.
func BenchmarkSignRaw(b *testing.B) {
	cfg, p, refs := benchKeys(b)
	p.Close()
	raw, err := pkcs11.NewInProcess(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	for _, alg := range benchAlgorithms {
		message := keystoretest.Message(keystore.PurposeProbe, alg)
		for _, n := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("%s/%d", alg, n), func(b *testing.B) {
				signers := make([]func([]byte) ([]byte, error), n)
				for i := range signers {
					if signers[i], err = raw.Signer(refs[alg], keystore.PurposeProbe); err != nil {
						b.Fatal(err)
					}
				}
				share(b, n, func(i int) error {
					_, err := signers[i](message)
					return err
				})
			})
		}
	}
}

// BenchmarkSignWorker is a signature through the worker, verified as always.
func BenchmarkSignWorker(b *testing.B) {
	_, p, refs := benchKeys(b)
	for _, alg := range benchAlgorithms {
		k, err := p.Open(b.Context(), refs[alg], keystore.PurposeProbe)
		if err != nil {
			b.Fatal(err)
		}
		message := keystoretest.Message(keystore.PurposeProbe, alg)
		for _, n := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/%d", alg, n), func(b *testing.B) {
				share(b, n, func(int) error {
					_, err := k.Sign(b.Context(), message)
					return err
				})
			})
		}
	}
}

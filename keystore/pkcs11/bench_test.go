package pkcs11_test

import (
	"context"
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

// benchKeys makes one key of each algorithm. They are of a purpose whose keys
// are signed with by session copies, in this process and in workers alike.
func benchKeys(b *testing.B) (pkcs11.Config, map[keystore.Algorithm]keystore.KeyRef) {
	cfg := config(b, softhsmtest.New(b))
	p := open(b, cfg)
	refs := make(map[keystore.Algorithm]keystore.KeyRef)
	for _, alg := range benchAlgorithms {
		id := keystore.NewKeyID()
		spki, err := p.Generate(b.Context(), id, keystore.PurposeJWT, alg)
		if err != nil {
			b.Fatal(err)
		}
		refs[alg] = keystore.KeyRef{ID: id, Algorithm: alg, SPKI: spki}
	}
	p.Close()
	return cfg, refs
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

var benchCallers = []int{1, 16, 64}

// BenchmarkPipe is what the way to a worker and back costs: the module in this
// process on two sessions that the callers share, against one worker and two.
// Nothing is verified here, so that nothing but the pipe differs.
func BenchmarkPipe(b *testing.B) {
	cfg, refs := benchKeys(b)
	message := keystoretest.Message(keystore.PurposeJWT, keystore.ES256)
	raw, err := pkcs11.NewInProcess(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	for _, alg := range benchAlgorithms {
		sessions := make(chan func([]byte) ([]byte, error), 2)
		for range cap(sessions) {
			s, err := raw.Signer(refs[alg], keystore.PurposeJWT)
			if err != nil {
				b.Fatal(err)
			}
			sessions <- s
		}
		for _, n := range benchCallers {
			b.Run(fmt.Sprintf("%s/in-process/%d", alg, n), func(b *testing.B) {
				share(b, n, func(int) error {
					s := <-sessions
					_, err := s(message)
					sessions <- s
					return err
				})
			})
		}
		for _, workers := range []int{1, 2} {
			cfg.Workers = workers
			cfg.StateDir = b.TempDir()
			p := open(b, cfg)
			k, err := p.Open(b.Context(), refs[alg], keystore.PurposeJWT)
			if err != nil {
				b.Fatal(err)
			}
			for len(p.WorkerPIDs()) < workers {
			}
			sign := pkcs11.SignUnverified(k)
			for _, n := range benchCallers {
				b.Run(fmt.Sprintf("%s/workers=%d/%d", alg, workers, n), func(b *testing.B) {
					share(b, n, func(int) error {
						_, err := sign(b.Context(), message)
						return err
					})
				})
			}
			p.Close()
		}
	}
}

// BenchmarkSign is a signature as callers have it: through two workers, verified.
func BenchmarkSign(b *testing.B) {
	cfg, refs := benchKeys(b)
	cfg.Workers = 2
	p := open(b, cfg)
	for _, alg := range benchAlgorithms {
		k, err := p.Open(b.Context(), refs[alg], keystore.PurposeJWT)
		if err != nil {
			b.Fatal(err)
		}
		message := keystoretest.Message(keystore.PurposeJWT, alg)
		for _, n := range benchCallers {
			b.Run(fmt.Sprintf("%s/%d", alg, n), func(b *testing.B) {
				share(b, n, func(int) error {
					_, err := k.Sign(b.Context(), message)
					return err
				})
			})
		}
	}
}

// BenchmarkManyKeys is a signature in a token that holds many keys: the cost
// does not depend on how many.
func BenchmarkManyKeys(b *testing.B) {
	cfg, refs := benchKeys(b)
	cfg.Workers = 2
	p := open(b, cfg)
	ref, have := refs[keystore.ES256], len(benchAlgorithms)+1
	for _, keys := range []int{10, 100, 1000} {
		for ; have < keys; have++ {
			if _, err := p.Generate(context.Background(), keystore.NewKeyID(), keystore.PurposeJWT, keystore.ES256); err != nil {
				b.Fatal(err)
			}
		}
		k, err := p.Open(b.Context(), ref, keystore.PurposeJWT)
		if err != nil {
			b.Fatal(err)
		}
		message := keystoretest.Message(keystore.PurposeJWT, keystore.ES256)
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			share(b, 16, func(int) error {
				_, err := k.Sign(b.Context(), message)
				return err
			})
		})
	}
}

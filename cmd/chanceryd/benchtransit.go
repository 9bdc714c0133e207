package main

import (
	"context"
	"fmt"

	"chancery/keystore"
	"chancery/keystore/transit"
)

// transit measures a mount of a Vault: raw, by direct calls that nobody verifies,
// and through the provider. It makes a key for each algorithm, and destroys it.
func (b *tokenBench) transit(ctx context.Context) (results []tokenRate, err error) {
	vault, err := b.vault.checked()
	if err != nil {
		return nil, err
	}
	p, err := transit.Open(transit.Config{
		Name: "bench", Addresses: []string{vault.Address}, Mount: vault.Mount, TLS: transit.TLS{CA: vault.CA},
		Auth: transit.Auth{Method: transit.MethodToken, File: vault.TokenFile}, Log: newLogger(false),
	})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	for _, name := range b.algorithms {
		alg, err := keystore.ParseAlgorithm(name)
		if err != nil {
			return nil, usageError{err}
		}
		rates, err := b.mount(ctx, p, keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: alg})
		if err != nil {
			return nil, err
		}
		results = append(results, rates...)
	}
	return results, nil
}

func (b *tokenBench) mount(ctx context.Context, p *transit.Provider, ref keystore.KeyRef) (rates []tokenRate, err error) {
	if ref.SPKI, err = p.Generate(ctx, ref.ID, keystore.PurposeJWT, ref.Algorithm); err != nil {
		return nil, fmt.Errorf("making a key for %s: %w", ref.Algorithm, err)
	}
	defer func() {
		if gone := p.Destroy(context.WithoutCancel(ctx), ref); err == nil && gone != nil {
			err = fmt.Errorf("destroying the key of the benchmark: %w", gone)
		}
	}()
	direct, err := p.Direct(ref, keystore.PurposeJWT)
	if err != nil {
		return nil, err
	}
	for _, n := range b.callers {
		r, err := b.measure(n, func(int) error { return direct(ctx, message) })
		if err != nil {
			return nil, err
		}
		r.Layer, r.Algorithm = "raw", string(ref.Algorithm)
		rates = append(rates, r)
	}
	through, err := b.worker(ctx, p, ref)
	for i := range through {
		through[i].Layer = "provider"
	}
	return append(rates, through...), err
}

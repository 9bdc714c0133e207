package pkcs11

import (
	"cmp"
	"fmt"
	"os"

	"chancery/keystore"
)

// An InProcess is a token whose module is loaded into this very process, to
// measure what a worker costs. It has no deadlines, verifies nothing, and a
// crash of the module is a crash of the process: never serve with it.
type InProcess struct{ m *module }

// NewInProcess loads the module and logs in, by the same PIN ledger as Open. It
// sets cfg.Env in this process's own environment.
func NewInProcess(cfg Config) (*InProcess, error) {
	uri, err := check(&cfg)
	if err != nil {
		return nil, fmt.Errorf("keystore %q: %w", cfg.Name, err)
	}
	for name, value := range cfg.Env {
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	m, err := loadModule(cfg.Module)
	if err != nil {
		return nil, err
	}
	tokens, err := m.begin()
	if err != nil {
		return nil, err
	}
	token, err := choose(tokens, uri, identity{}, cfg.Name)
	if err != nil {
		return nil, err
	}
	l, err := openLedger(cfg, cmp.Or(token.Serial, token.Label))
	if err != nil {
		return nil, err
	}
	file, memory, err := pinFile(uri, cfg.Credentials)
	if err != nil {
		return nil, err
	}
	if memory != nil {
		defer memory.Close()
	}
	secret, err := readPIN(file)
	if err != nil {
		return nil, err
	}
	defer clear(secret.value)
	if err := l.attempt(secret, func(value []byte) error { return m.login(loginRequest{Token: token}, value) }); err != nil {
		return nil, err
	}
	return &InProcess{m}, nil
}

// Signer finds a key and returns a function that signs with it on a session of
// its own, for one goroutine at a time. Signer itself must not be called
// concurrently.
func (p *InProcess) Signer(ref keystore.KeyRef, purpose keystore.Purpose) (func(message []byte) ([]byte, error), error) {
	k, err := p.m.find(keyRequest{ref.ID, purpose, ref.Algorithm})
	if err != nil {
		return nil, err
	}
	if nameOf(k.id, k.spki) != nameOf(ref.ID, ref.SPKI) {
		return nil, fmt.Errorf("key %s: %w: the token has another public key under that name", ref.ID, keystore.ErrNotFound)
	}
	s, err := p.m.signer()
	if err != nil {
		return nil, err
	}
	return func(message []byte) ([]byte, error) { return s.sign(k, message) }, nil
}

// Close finalises the module.
func (p *InProcess) Close() error { return p.m.close() }

package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
	"chancery/signer"
	"chancery/signer/api"
	"chancery/signer/ca"
)

// issued is the catalog as the CSR path of signer sees it.
type issued struct {
	config  func() *config.Config
	catalog *catalog.Catalog
	cas     *authorities
	now     func() time.Time
}

func (i *issued) Issuer(_ context.Context, keyset string, version int) (*x509.Certificate, error) {
	cert, ok := i.cas.certificate(keyset, version)
	if !ok {
		return nil, fmt.Errorf("the certificate of %s version %d: %w", keyset, version, keystore.ErrNotFound)
	}
	return cert, nil
}

func (i *issued) Intend(ctx context.Context, c signer.Issuance) error {
	return i.catalog.AddCertificate(ctx, catalog.Certificate{
		Serial: c.Serial, Authority: c.Authority, Profile: c.Profile, Principal: c.Principal, Version: c.Version,
		SPKIHash: c.SPKIHash, Names: c.Names, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Status: "intent",
	})
}

func (i *issued) Finish(ctx context.Context, serial string, outcome keystore.Outcome, der []byte, entry string) error {
	status := string(outcome)
	if outcome == keystore.OutcomeDone {
		status = "issued"
	}
	return i.catalog.FinishCertificate(ctx, serial, status, der, entry)
}

func (i *issued) IsOurs(ctx context.Context, h keystore.SPKIHash) (bool, error) {
	for _, anchor := range i.config().Anchors() {
		if keystore.HashSPKI(anchor.CA.RawSubjectPublicKeyInfo) == h {
			return true, nil
		}
	}
	return i.catalog.IsOurKey(ctx, h)
}

func (i *issued) Begin(ctx context.Context, k signer.IdempotencyKey, body [32]byte) ([]byte, error) {
	reply, err := i.catalog.BeginIdempotent(ctx, catalog.IdempotencyKey(k), body, i.now())
	switch {
	case errors.Is(err, catalog.ErrIdempotencyMismatch):
		return nil, api.Errorf(api.CodeIdempotencyMismatch, "this Idempotency-Key was used with another body").Because(err)
	case errors.Is(err, catalog.ErrIdempotencyInProgress):
		return nil, api.Errorf(api.CodeIdempotencyInProgress, "a request with this Idempotency-Key is in progress").Because(err)
	}
	return reply, err
}

func (i *issued) Conclude(ctx context.Context, k signer.IdempotencyKey, reply []byte) error {
	if reply == nil {
		return i.catalog.ReleaseIdempotent(ctx, catalog.IdempotencyKey(k))
	}
	return i.catalog.FinishIdempotent(ctx, catalog.IdempotencyKey(k), reply)
}

// authorities holds the certificate of each CA key version and makes those that
// are missing.
type authorities struct {
	config  func() *config.Config
	catalog *catalog.Catalog
	keys    *keyring
	log     *audit.Log
	now     func() time.Time
	changed func()

	mu    sync.Mutex // guards certs
	certs map[caVersion]*x509.Certificate
}

type caVersion struct {
	keyset string
	number int
}

func (a *authorities) certificate(keyset string, number int) (*x509.Certificate, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.certs[caVersion{keyset, number}]
	return c, ok
}

func (a *authorities) has(keyset string, number int) bool {
	_, ok := a.certificate(keyset, number)
	return ok
}

// Load reads the certificates there are.
func (a *authorities) Load(ctx context.Context, keysets []string) error {
	for _, name := range keysets {
		ders, err := a.catalog.AuthorityCertificates(ctx, name)
		if err != nil {
			return fmt.Errorf("reading the certificates of %q: %w", name, err)
		}
		for number, der := range ders {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return fmt.Errorf("the certificate of %s version %d: %w", name, number, err)
			}
			a.mu.Lock()
			a.certs[caVersion{name, number}] = cert
			a.mu.Unlock()
		}
	}
	return nil
}

// Make issues the self-signed certificate of each proven CA key version that
// has none.
func (a *authorities) Make(ctx context.Context, view *keystore.View) error {
	var errs []error
	for _, authority := range a.config().Authorities {
		set, ok := view.KeySet(authority.KeySet)
		if !ok {
			continue
		}
		for _, v := range set.Known() {
			if a.has(set.Name, v.Number) || !a.keys.Proven(v.KID) {
				continue
			}
			if err := a.make(ctx, authority, set, v); err != nil {
				errs = append(errs, fmt.Errorf("the certificate of %s version %d: %w", set.Name, v.Number, err))
				continue
			}
			a.changed()
		}
	}
	return errors.Join(errs...)
}

func (a *authorities) make(ctx context.Context, authority config.Authority, set *keystore.KeySet, v *keystore.Version) error {
	ctx, cancel := context.WithTimeout(ctx, proofDeadline)
	defer cancel()
	key, err := a.keys.Open(ctx, set, v)
	if err != nil {
		return err
	}
	var id [16]byte
	rand.Read(id[:])
	rec := keystore.Record{
		ID: hex.EncodeToString(id[:]), Principal: "chancery", Action: keystore.ActIssueAuthority,
		Outcome: keystore.OutcomeIntent, KeySet: set.Name, KID: v.KID, Version: v.Number, State: v.State.String(),
		Authority: authority.Name,
	}
	if _, err := a.log.Lifecycle(ctx, rec); err != nil {
		return err
	}
	der, err := ca.SelfSigned(ctx, key, authority.CommonName, authority.Lifetime, a.now())
	var cert *x509.Certificate
	if err == nil {
		cert, err = x509.ParseCertificate(der)
	}
	if err == nil && !hasKey(cert, v) {
		err = errors.New("it does not hold the version's key")
	}
	if err != nil {
		rec.Outcome, rec.Reason = keystore.OutcomeFailed, err.Error()
	} else {
		rec.Outcome, rec.Serial, rec.NotAfter = keystore.OutcomeDone, hex.EncodeToString(cert.SerialNumber.Bytes()), cert.NotAfter.Unix()
	}
	if _, lerr := a.log.Lifecycle(ctx, rec); lerr != nil || err != nil {
		return errors.Join(err, lerr)
	}
	if err := a.catalog.SetAuthorityCertificate(ctx, set.Name, v.Number, der); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.certs[caVersion{set.Name, v.Number}] = cert
	return nil
}

package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
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
	gates   *gates
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
	if i.gates.ours(h) {
		return true, nil
	}
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
	slog    *slog.Logger
	changed func()

	mu      sync.Mutex // guards what follows
	certs   map[caVersion]*x509.Certificate
	busy    bool                       // certificates are being made
	again   bool                       // someone has asked meanwhile
	retries map[caVersion]*certRetries // of those that could not be made
	wg      sync.WaitGroup
}

// certRetries is when a certificate that could not be made is tried again.
type certRetries struct {
	failures int
	next     time.Time
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

// Make has the self-signed certificate issued of each proven CA key version
// that has none, or takes the one that another node has issued. It does not wait: a token that hangs keeps nothing else from
// being published. A certificate that could not be made is tried again after a
// second, two, four, … up to a minute, since each try is in the log.
func (a *authorities) Make(ctx context.Context, view *keystore.View) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy {
		a.again = true
		return
	}
	a.busy, a.again = true, false
	a.wg.Go(func() {
		made := a.makeAll(ctx, view)
		a.mu.Lock()
		a.busy = false
		made = made || a.again
		a.mu.Unlock()
		if made {
			a.changed()
		}
	})
}

func (a *authorities) makeAll(ctx context.Context, view *keystore.View) (made bool) {
	for _, authority := range a.config().Authorities {
		set, ok := view.KeySet(authority.KeySet)
		if !ok {
			continue
		}
		for _, v := range set.Known() {
			if a.has(set.Name, v.Number) || !a.keys.Proven(v.KID) || a.early(set.Name, v.Number) {
				continue
			}
			err := a.Load(ctx, []string{set.Name}) // another node may have made it
			if err == nil && !a.has(set.Name, v.Number) {
				err = a.make(ctx, authority, set, v)
			}
			a.tried(set.Name, v.Number, err)
			made = made || err == nil
			if err != nil && ctx.Err() == nil {
				a.slog.Warn("the certificate of a CA key could not be made", "keyset", set.Name, "version", v.Number, "err", err)
			}
		}
	}
	return made
}

// early reports whether a certificate is not to be tried again yet.
func (a *authorities) early(keyset string, number int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.retries[caVersion{keyset, number}]
	return ok && time.Now().Before(r.next)
}

// tried notes how a try went, and has someone look again when the next is due.
func (a *authorities) tried(keyset string, number int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := caVersion{keyset, number}
	if err == nil {
		delete(a.retries, id)
		return
	}
	r := a.retries[id]
	if r == nil {
		r = new(certRetries)
		a.retries[id] = r
	}
	pause := min(time.Second<<min(r.failures, 6), time.Minute)
	r.failures, r.next = r.failures+1, time.Now().Add(pause)
	time.AfterFunc(pause+time.Millisecond, a.changed)
}

// Wait waits for what Make began.
func (a *authorities) Wait() { a.wg.Wait() }

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
	if rec.Use, err = a.log.Take(v.KID); err != nil {
		return err
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
	err = a.catalog.SetAuthorityCertificate(ctx, set.Name, v.Number, der)
	switch {
	case errors.Is(err, keystore.ErrExists): // another node's, which is the one for ever
		return a.Load(ctx, []string{set.Name})
	case err != nil:
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.certs[caVersion{set.Name, v.Number}] = cert
	return nil
}

// signed reports whether cert is, or was issued by, an authority of ours.
func (a *authorities) signed(cert *x509.Certificate) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ours := range a.certs {
		if ours.Equal(cert) || cert.CheckSignatureFrom(ours) == nil {
			return true
		}
	}
	return false
}

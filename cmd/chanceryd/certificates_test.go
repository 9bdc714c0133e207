package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/keystore/catalog"
)

// An authority's next version had a certificate on the node that made it alone: the
// others made one of their own again and again, which the catalog refused, and never
// served the version.
func TestACertificateThatAnotherNodeMadeIsTaken(t *testing.T) {
	c, err := catalog.Open(t.Context(), catalog.Config{Path: filepath.Join(t.TempDir(), "catalog.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	kid := publishedCA(t, c, key)
	ring := &keyring{
		await:  func(context.Context, string) error { return nil },
		proven: map[keystore.KID]bool{kid: true}, open: make(map[keystore.KID]keystore.Key), opening: make(map[keystore.KID]*opening),
		lost: func(keystore.KID, error) {},
	}
	a := &authorities{
		config: func() *config.Config {
			return &config.Config{Authorities: map[string]config.Authority{"devices": {Name: "devices", KeySet: "devices"}}}
		},
		catalog: c, keys: ring, now: time.Now, slog: slog.New(slog.DiscardHandler), changed: func() {},
		certs: make(map[caVersion]*x509.Certificate), retries: make(map[caVersion]*certRetries),
	}
	if err := a.Load(t.Context(), []string{"devices"}); err != nil || a.has("devices", 1) {
		t.Fatalf("at the start: %v", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "devices"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetAuthorityCertificate(t.Context(), "devices", 1, der); err != nil { // as another node does
		t.Fatal(err)
	}
	view, err := c.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	made := a.makeAll(t.Context(), view) // it has no keystore to sign one with
	if cert, ok := a.certificate("devices", 1); !made || !ok || cert.SerialNumber.Int64() != 7 {
		t.Errorf("the certificate: %v, made: %v", cert, made)
	}
}

// publishedCA makes a key set of one published version, with that key.
func publishedCA(t *testing.T, c *catalog.Catalog, key *ecdsa.PrivateKey) keystore.KID {
	t.Helper()
	now := time.Now()
	_, err := c.Create(t.Context(), &keystore.KeySet{
		Name: "devices", Purpose: keystore.PurposeCA, Algorithm: keystore.ES256, Keystore: "hsm", CreatedAt: now, Promises: []keystore.Promise{{At: now}},
		Versions: []keystore.Version{{Number: 1, Algorithm: keystore.ES256, Keystore: "hsm", KeyID: keystore.NewKeyID(), State: keystore.Pending, CreatedAt: now}},
	})
	if err != nil {
		t.Fatal(err)
	}
	spki, err := keystore.MarshalPublic(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	kid, err := keystore.Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Update(t.Context(), "devices", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		v := &ks.Versions[0]
		v.State, v.KID, v.SPKI, v.PublishedAt = keystore.Published, kid, spki, at.Now
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return kid
}

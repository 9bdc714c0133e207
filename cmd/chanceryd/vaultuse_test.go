package main

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/transit/transittest"
	"chancery/signer/api"
	"chancery/signer/client"
)

// A key set moves from the HSM into a Vault and back by editing the configuration
// and SIGHUP. Nobody who signs or verifies meanwhile notices.
func TestAKeySetMovesToAVaultAndBack(t *testing.T) {
	t.Parallel()
	s := transittest.Fake(t).Server
	if _, ok := transittest.FindVault(); ok {
		s = transittest.Vault(t).Server
	}
	t.Logf("into %s", s.Kind())
	v := newVaulted(t, s, "--fast")
	v.movesThereAndBack(t, "vault")
	v.end()
}

// vaultedFromTheStart is a daemon whose log key and certificate authority are in
// the Vault, and always were.
func vaultedFromTheStart(t *testing.T, s *transittest.Server) *vaulted {
	t.Helper()
	v := newVaulted(t, s)
	v.end()
	for _, path := range []string{"catalog.db", "catalog.db-wal", "catalog.db-shm", "audit", "audit.vkey", "brake", "tokens"} {
		if err := os.RemoveAll(filepath.Join(v.dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	edit(t, v.configFile(),
		"node: dev #", "node: anew #", // the token remembers the log of the other
		"purpose: ca\n    algorithm: ES256\n    keystore: hsm", "purpose: ca\n    algorithm: ES256\n    keystore: vault",
		"purpose: audit\n    algorithm: EdDSA\n    keystore: hsm", "purpose: audit\n    algorithm: EdDSA\n    keystore: vault")
	v.chanceryd = startDev(t, v.dir)
	v.begin()
	return v
}

// Certificates and the log's checkpoints are signed in a Vault as JWTs are; while
// it is away nothing is certified, and the log goes on without checkpoints until
// it is back.
func TestAuthorityAndLogKeyInAVault(t *testing.T) {
	t.Parallel()
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		v := vaultedFromTheStart(t, s)
		body := func() string {
			return csrBody(t, requestFor(t, newKey(t), func(*x509.CertificateRequest) {}))
		}
		v.wantCertificate(post(t, v.http("ca"), "/v1/sign/csr", body()))
		for _, name := range []string{"devices", "audit"} {
			if set := v.keySet(v.client("operator"), name); activeOf(set).Keystore != "vault" {
				t.Errorf("%s signs in %s", name, activeOf(set).Keystore)
			}
		}
		v.end()
		report, err := audit.Verify(t.Context(), filepath.Join(v.dir, "audit"), audit.Options{Keys: strings.Fields(readOrEmpty(filepath.Join(v.dir, "audit.vkey")))})
		if err != nil || report == nil || len(report.Problems) > 0 {
			t.Errorf("the log under a key in the Vault: %+v, %v", report, err)
		}
	})
}

// While the Vault with the log's key is away, what keys elsewhere sign is recorded
// and released, and gets its checkpoint when the Vault is back.
func TestTheLogGoesOnWithoutItsKey(t *testing.T) {
	t.Parallel()
	f := transittest.Fake(t)
	v := vaultedFromTheStart(t, f.Server)
	f.Seal()
	v.awaitState(keystore.TokenSealed)
	v.others.atLeast(len(v.others.replies()) + 50)
	post(t, v.http("ca"), "/v1/sign/csr", csrBody(t, requestFor(t, newKey(t), func(*x509.CertificateRequest) {}))).
		want(t, "a certificate while it is sealed", api.CodeBackendUnavailable)
	f.Unseal()
	v.within(10*time.Second, "certificates are issued again", func() error {
		r := post(t, v.http("ca"), "/v1/sign/csr", csrBody(t, requestFor(t, newKey(t), func(*x509.CertificateRequest) {})))
		if r.code != "" {
			return &api.Problem{Code: r.code}
		}
		return nil
	})
	v.end()
}

// A batch is one request to the Vault for each version that signs.
func TestABatchIsOneRequestToTheVault(t *testing.T) {
	t.Parallel()
	f := transittest.Fake(t)
	v := newVaulted(t, f.Server)
	requests := make([]api.SignJWTRequest, 256)
	for i := range requests {
		requests[i] = api.SignJWTRequest{KeySet: "vaulted", Claims: []byte(`{"sub":"batch"}`)}
		if i%8 == 0 {
			requests[i].KeySet = "web" // elsewhere
		}
	}
	before := f.Count("", "/sign/chancery-jwt-")
	results, err := v.issuer.SignJWTBatch(t.Context(), requests)
	if err != nil {
		t.Fatal(err)
	}
	if n := f.Count("", "/sign/chancery-jwt-") - before; n != 1 {
		t.Errorf("%d requests to sign, want 1", n)
	}
	party := map[string]*client.Verifier{"vaulted": v.verifier("vaulted"), "web": v.verifier("web")}
	for i, r := range results {
		if r.Reply == nil {
			t.Fatalf("request %d: %+v", i, r.Problem)
		}
		if _, err := party[requests[i].KeySet].Verify(t.Context(), r.Reply.Token); err != nil {
			t.Errorf("request %d: %v", i, err)
		}
	}
	v.end()
}

package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/signer/api"
)

// A digestDaemon is a daemon with one digest key set, on a file key.
type digestDaemon struct {
	key       crypto.Signer
	algorithm string
	opts      crypto.SignerOpts // by which its key signs
	signs     string            // the kid that signs
	asked     []api.SignDigestRequest
	change    func(*api.KeySet)
}

func (d *digestDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		der, err := x509.MarshalPKIXPublicKey(d.key.Public())
		if err != nil {
			panic(err)
		}
		set := api.KeySet{Name: "release", Purpose: "digest", Versions: []api.Version{
			{Version: 1, KID: "first", State: "retiring", Algorithm: "ES256", PublicKey: "of another"},
			{Version: 2, KID: "second", State: "active", Algorithm: d.algorithm, PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))},
		}}
		if d.change != nil {
			d.change(&set)
		}
		json.NewEncoder(w).Encode(set)
		return
	}
	var req api.SignDigestRequest
	body, _ := io.ReadAll(r.Body)
	if err := api.Decode(body, &req, api.DefaultLimits); err != nil {
		panic(err)
	}
	d.asked = append(d.asked, req)
	digest, err := base64.StdEncoding.DecodeString(req.Digest)
	if err != nil {
		panic(err)
	}
	sig, err := d.key.Sign(rand.Reader, digest, d.opts)
	if err != nil {
		panic(err)
	}
	json.NewEncoder(w).Encode(api.SignDigestReply{Signature: base64.StdEncoding.EncodeToString(sig), KID: d.signs, Algorithm: d.algorithm})
}

func digestSigner(t *testing.T, d *digestDaemon) *DigestSigner {
	t.Helper()
	if d.signs == "" {
		d.signs = "second"
	}
	s, err := serve(t, d.ServeHTTP, nil).client(t).DigestSigner(t.Context(), "release")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ecKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKeyOf(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// crypto/x509 makes certificates and requests with it, by every kind of key.
func TestDigestSignerSignsForX509(t *testing.T) {
	rsaKey := rsaKeyOf(t)
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA384}
	for _, c := range []struct {
		d   *digestDaemon
		alg x509.SignatureAlgorithm
	}{
		{&digestDaemon{key: ecKey(t, elliptic.P256()), algorithm: "ES256", opts: crypto.SHA256}, x509.ECDSAWithSHA256},
		{&digestDaemon{key: ecKey(t, elliptic.P521()), algorithm: "ES512", opts: crypto.SHA512}, x509.ECDSAWithSHA512},
		{&digestDaemon{key: rsaKey, algorithm: "RS256", opts: crypto.SHA256}, x509.SHA256WithRSA},
		{&digestDaemon{key: rsaKey, algorithm: "PS384", opts: pss}, x509.SHA384WithRSAPSS},
	} {
		t.Run(c.d.algorithm, func(t *testing.T) {
			s := digestSigner(t, c.d)
			template := &x509.Certificate{
				SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "code"}, NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: c.alg,
				IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			}
			der, err := x509.CreateCertificate(rand.Reader, template, template, s.Public(), s)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if err := cert.CheckSignatureFrom(cert); err != nil {
				t.Error(err)
			}
			if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: c.alg}, s); err != nil {
				t.Error(err)
			}
			if len(c.d.asked) != 2 || c.d.asked[0].KeySet != "release" || c.d.asked[0].Format != api.FormatDER || s.KID() != "second" {
				t.Errorf("asked %+v, kid %s", c.d.asked, s.KID())
			}
		})
	}
}

// What the key would not do is refused before the daemon is asked.
func TestDigestSignerChecksItsOptions(t *testing.T) {
	rsaKey := rsaKeyOf(t)
	es := &digestDaemon{key: ecKey(t, elliptic.P256()), algorithm: "ES256", opts: crypto.SHA256}
	rs := &digestDaemon{key: rsaKey, algorithm: "RS256", opts: crypto.SHA256}
	ps := &digestDaemon{key: rsaKey, algorithm: "PS256", opts: &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}}
	salt := func(n int) *rsa.PSSOptions { return &rsa.PSSOptions{SaltLength: n, Hash: crypto.SHA256} }
	for _, c := range []struct {
		what string
		d    *digestDaemon
		opts crypto.SignerOpts
		size int
		ok   bool
	}{
		{"its hash", es, crypto.SHA256, 32, true},
		{"another hash", es, crypto.SHA384, 48, false},
		{"another hash of its length", es, crypto.SHA512_256, 32, false},
		{"no hash", es, crypto.Hash(0), 32, false},
		{"no options", es, nil, 32, false},
		{"a digest too short", es, crypto.SHA256, 31, false},
		{"PSS of an ECDSA key", es, salt(32), 32, false},
		{"PKCS #1 v1.5", rs, crypto.SHA256, 32, true},
		{"PSS of a PKCS #1 key", rs, salt(rsa.PSSSaltLengthEqualsHash), 32, false},
		{"PSS", ps, salt(rsa.PSSSaltLengthEqualsHash), 32, true},
		{"PSS with the salt's length", ps, salt(32), 32, true},
		{"PSS with any salt", ps, salt(rsa.PSSSaltLengthAuto), 32, true},
		{"PSS with another salt", ps, salt(20), 32, false},
		{"PSS with another hash", ps, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA512}, 64, false},
		{"PKCS #1 v1.5 of a PSS key", ps, crypto.SHA256, 32, false},
	} {
		before := len(c.d.asked)
		_, err := digestSigner(t, c.d).Sign(nil, make([]byte, c.size), c.opts)
		if (err == nil) != c.ok || (len(c.d.asked) > before) != c.ok {
			t.Errorf("%s: %v, asked %d times", c.what, err, len(c.d.asked)-before)
		}
	}
}

// A daemon that answers with the signature of another key, or of another digest, is
// not believed.
func TestDigestSignerVerifies(t *testing.T) {
	d := &digestDaemon{key: ecKey(t, elliptic.P256()), algorithm: "ES256", opts: crypto.SHA256}
	s := digestSigner(t, d)
	d.signs = "third"
	if _, err := s.Sign(nil, make([]byte, 32), crypto.SHA256); !errors.Is(err, ErrRotated) {
		t.Errorf("after a rotation: %v", err)
	}
	d.signs, d.key = "second", ecKey(t, elliptic.P256())
	if _, err := s.Sign(nil, make([]byte, 32), crypto.SHA256); err == nil || !strings.Contains(err.Error(), "does not verify") {
		t.Errorf("another key: %v", err)
	}
}

func TestNoDigestSigner(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	for what, change := range map[string]func(*api.KeySet){
		"nothing signs": func(s *api.KeySet) { s.Versions = s.Versions[:1] },
		"no public key": func(s *api.KeySet) { s.Versions[1].PublicKey = "" },
		"no PEM":        func(s *api.KeySet) { s.Versions[1].PublicKey = "x" },
		"two keys":      func(s *api.KeySet) { s.Versions[1].PublicKey += s.Versions[1].PublicKey },
		"no key": func(s *api.KeySet) {
			s.Versions[1].PublicKey = "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n"
		},
		"an unknown algorithm":   func(s *api.KeySet) { s.Versions[1].Algorithm = "ES257" },
		"an algorithm of others": func(s *api.KeySet) { s.Versions[1].Algorithm = "RS256" },
		"EdDSA":                  func(s *api.KeySet) { s.Versions[1].Algorithm = "EdDSA" },
	} {
		d := &digestDaemon{key: key, algorithm: "ES256", change: change}
		if s, err := serve(t, d.ServeHTTP, nil).client(t).DigestSigner(t.Context(), "release"); err == nil {
			t.Errorf("%s: %+v", what, s)
		}
	}
}

package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

var today = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// softKey is a key in memory that signs as a token does: in JOSE form.
type softKey struct {
	alg    keystore.Algorithm
	signer crypto.Signer
	spoil  func(sig []byte) ([]byte, error)
}

func (k *softKey) Public() crypto.PublicKey      { return k.signer.Public() }
func (k *softKey) Algorithm() keystore.Algorithm { return k.alg }
func (k *softKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	if err := keystore.CheckMessage(keystore.PurposeCA, k.alg, message); err != nil {
		return nil, err
	}
	digest := keystore.Digest(k.alg, message)
	var sig []byte
	var err error
	switch key := k.signer.(type) {
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		r, s, err = ecdsa.Sign(rand.Reader, key, digest)
		half := k.alg.SignatureSize(&key.PublicKey) / 2
		sig = append(r.FillBytes(make([]byte, half)), s.FillBytes(make([]byte, half))...)
	case *rsa.PrivateKey:
		if k.alg.IsPSS() {
			sig, err = rsa.SignPSS(rand.Reader, key, k.alg.Hash(), digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			sig, err = rsa.SignPKCS1v15(nil, key, k.alg.Hash(), digest)
		}
	case ed25519.PrivateKey:
		sig = ed25519.Sign(key, digest)
	}
	if err != nil || k.spoil == nil {
		return sig, err
	}
	return k.spoil(sig)
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func newKey(t testing.TB, alg keystore.Algorithm) *softKey {
	t.Helper()
	if alg.IsRSA() {
		return &softKey{alg: alg, signer: rsaKey()}
	}
	if alg == keystore.EdDSA {
		_, k, _ := ed25519.GenerateKey(rand.Reader)
		return &softKey{alg: alg, signer: k}
	}
	k, err := ecdsa.GenerateKey(alg.Curve(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &softKey{alg: alg, signer: k}
}

// bench is what an authority works with.
type bench struct {
	key     *softKey
	issuer  *x509.Certificate
	profile *Profile
	grant   policy.Grant
	env     Env
}

func newBench(t testing.TB, alg keystore.Algorithm) *bench {
	t.Helper()
	b := &bench{key: newKey(t, alg), grant: newGrant(t, time.Hour)}
	der, err := SelfSigned(t.Context(), b.key, "Devices", 0, today)
	if err != nil {
		t.Fatal(err)
	}
	b.issuer = parse(t, der)
	b.profile, err = NewProfile(ProfileConfig{
		Name: "tls", NamesUnder: []string{"devices.test"}, DefaultTTL: 30 * time.Minute, Usages: []Usage{UsageServer, UsageClient},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.env = Env{Now: today, Ours: func(keystore.SPKIHash) (bool, error) { return false, nil }}
	return b
}

// newGrant returns leave to sign for devices.test, but not under secret.devices.test.
func newGrant(t testing.TB, ttl time.Duration) policy.Grant {
	t.Helper()
	p, err := policy.New(policy.Config{
		Anchors: []policy.Anchor{{Name: "dev", SPIFFE: []string{"chancery.dev"}}},
		Rules: []policy.Rule{{
			Name: "ca", Principals: []string{"dev:spiffe:spiffe://chancery.dev/ca"}, Actions: []policy.Action{policy.SignCSR},
			Authorities: []string{"devices"}, Profiles: []string{"*"}, MaxTTL: ttl,
			Names: []string{"a.devices.test", "b.devices.test", ".lab.devices.test", "elsewhere.test", "devices.test"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	who, err := policy.ParsePrincipal("dev:spiffe:spiffe://chancery.dev/ca")
	if err != nil {
		t.Fatal(err)
	}
	grant, err := p.Authorize(policy.Caller{Principal: who}, policy.SignCSR, policy.Target{Authority: "devices", Profile: "tls"})
	if err != nil {
		t.Fatal(err)
	}
	return grant
}

func (b *bench) prepare(csr []byte, ttl *int64) (*Prepared, error) {
	return Prepare(b.grant, b.profile, b.issuer, Request{CSR: csr, TTL: ttl}, b.env)
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// request returns the PEM of a well-made request.
func request(t testing.TB, key crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return armour(der)
}

func armour(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func named(names ...string) x509.CertificateRequest { return x509.CertificateRequest{DNSNames: names} }

func codeOf(err error) api.Code {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e.Code
	}
	return ""
}

func ttl(seconds int64) *int64 { return &seconds }

// Every kind of issuer key signs for every kind of device key, and the
// certificate is what the package promises.
func TestIssue(t *testing.T) {
	devices := map[string]crypto.Signer{"rsa": rsaKey(), "ed25519": newKey(t, keystore.EdDSA).signer}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		devices[c.Params().Name] = k
	}
	for _, alg := range keystore.Algorithms() {
		b := newBench(t, alg)
		for kind, device := range devices {
			if alg != keystore.ES256 && kind != "P-256" && kind != "rsa" || alg.IsRSA() && kind == "rsa" {
				continue // the issuer's algorithm and the device's do not meet; and there is one RSA key
			}
			t.Run(string(alg)+"/"+kind, func(t *testing.T) {
				template := named("a.devices.test", "x.lab.devices.test")
				template.Subject = pkix.Name{CommonName: "root", Organization: []string{"Somebody Else"}}
				template.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}}} // keyCertSign|cRLSign
				p, err := b.prepare(request(t, device, template), ttl(600))
				if err != nil {
					t.Fatal(err)
				}
				der, err := p.Redeem(t.Context(), b.key)
				if err != nil {
					t.Fatal(err)
				}
				checkIssued(t, b, p, parse(t, der), kind == "rsa")
			})
		}
	}
}

func checkIssued(t *testing.T, b *bench, p *Prepared, c *x509.Certificate, isRSA bool) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(b.issuer)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		opts := x509.VerifyOptions{Roots: roots, CurrentTime: today, DNSName: "x.lab.devices.test", KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := c.Verify(opts); err != nil {
			t.Error(err)
		}
	}
	if got := hex.EncodeToString(c.SerialNumber.Bytes()); got != p.Serial() || len(got) != 32 {
		t.Errorf("serial %s, promised %s", got, p.Serial())
	}
	if !c.NotBefore.Equal(today.Add(-DefaultSkew)) || !c.NotAfter.Equal(today.Add(10*time.Minute)) || !c.NotAfter.Equal(p.NotAfter()) {
		t.Errorf("valid %v to %v", c.NotBefore, c.NotAfter)
	}
	wantUsage := x509.KeyUsageDigitalSignature
	if isRSA {
		wantUsage |= x509.KeyUsageKeyEncipherment
	}
	if c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != wantUsage || len(c.Subject.Names) != 0 {
		t.Errorf("CA %v, usage %b, subject %v", c.IsCA, c.KeyUsage, c.Subject)
	}
	if !bytes.Equal(c.AuthorityKeyId, b.issuer.SubjectKeyId) || len(c.SubjectKeyId) != 20 {
		t.Error("key identifiers do not join certificate and issuer")
	}
	critical := map[string]bool{}
	for _, e := range c.Extensions {
		critical[e.Id.String()] = e.Critical
	}
	for oid, want := range map[string]bool{"2.5.29.15": true, "2.5.29.17": true, "2.5.29.19": true, "2.5.29.37": false, "2.5.29.35": false, "2.5.29.14": false} {
		if got, ok := critical[oid]; !ok || got != want {
			t.Errorf("extension %s: there %v, critical %v", oid, ok, got)
		}
	}
	if len(critical) != 6 {
		t.Errorf("extensions %v", critical)
	}
	if keystore.HashSPKI(c.RawSubjectPublicKeyInfo) != p.SPKIHash() {
		t.Error("the hash of the key is not the one that was promised")
	}
}

func TestAuthorityCertificate(t *testing.T) {
	c := newBench(t, keystore.ES256).issuer
	if !c.IsCA || !c.MaxPathLenZero || c.MaxPathLen != 0 || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("CA %v, path length %d, usage %b", c.IsCA, c.MaxPathLen, c.KeyUsage)
	}
	if !c.NotAfter.Equal(today.Add(DefaultAuthorityLifetime)) || c.Subject.CommonName != "Devices" {
		t.Errorf("%v until %v", c.Subject, c.NotAfter)
	}
	if _, err := SelfSigned(t.Context(), newKey(t, keystore.ES256), "", 0, today); err == nil {
		t.Error("an authority without a name was made")
	}
}

// openssl is a relying party that shares no code with us.
func TestOpenSSLAccepts(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("no openssl")
	}
	for _, alg := range keystore.Algorithms() {
		t.Run(string(alg), func(t *testing.T) {
			b := newBench(t, alg)
			p, err := b.prepare(request(t, newKey(t, keystore.ES256).signer, named("a.devices.test")), nil)
			if err != nil {
				t.Fatal(err)
			}
			der, err := p.Redeem(t.Context(), b.key)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			ca, leaf := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "leaf.pem")
			for path, raw := range map[string][]byte{ca: b.issuer.Raw, leaf: der} {
				if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			at := time.Unix(today.Unix(), 0)
			out, err := exec.Command(openssl, "verify", "-x509_strict", "-CAfile", ca, "-purpose", "sslserver",
				"-attime", itoa(at.Unix()), "-verify_hostname", "a.devices.test", leaf).CombinedOutput()
			if err != nil || !strings.Contains(string(out), ": OK") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func itoa(n int64) string { return big.NewInt(n).String() }

func TestLifetimes(t *testing.T) {
	b := newBench(t, keystore.ES256)
	csr := request(t, newKey(t, keystore.ES256).signer, named("a.devices.test"))
	for _, c := range []struct {
		name string
		ttl  *int64
		at   time.Time
		code api.Code
		want time.Duration
	}{
		{"the default", nil, today, "", 30 * time.Minute},
		{"a second", ttl(1), today, "", time.Second},
		{"the limit of the grant", ttl(3600), today, "", time.Hour},
		{"a second more", ttl(3601), today, api.CodeTTLTooLong, 0},
		{"nothing", ttl(0), today, api.CodeMalformed, 0},
		{"less than nothing", ttl(-1), today, api.CodeMalformed, 0},
		{"more than a duration holds", ttl(1 << 62), today, api.CodeTTLTooLong, 0},
		{"up to the issuer's last second", ttl(60), today.Add(DefaultAuthorityLifetime - time.Minute), "", time.Minute},
		{"past its issuer", ttl(61), today.Add(DefaultAuthorityLifetime - time.Minute), api.CodeTTLTooLong, 0},
		{"before its issuer", ttl(60), today.Add(-DefaultSkew - time.Second), api.CodeInternal, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.env.Now = c.at
			p, err := b.prepare(csr, c.ttl)
			if codeOf(err) != c.code || (err != nil) != (c.code != "") {
				t.Fatalf("error %v, want code %q", err, c.code)
			}
			if err == nil && p.NotAfter().Sub(c.at) != c.want {
				t.Errorf("lives %v, want %v", p.NotAfter().Sub(c.at), c.want)
			}
		})
	}
	b.env.Now = today.Add(-DefaultSkew + time.Second)
	if p, err := b.prepare(csr, nil); err != nil || p.NotBefore().Before(b.issuer.NotBefore) {
		t.Errorf("error %v, or it begins before its issuer", err)
	}
}

func TestDefaultOverTheGrantIsRefused(t *testing.T) {
	b := newBench(t, keystore.ES256)
	b.grant = newGrant(t, time.Minute)
	if _, err := b.prepare(request(t, newKey(t, keystore.ES256).signer, named("a.devices.test")), nil); codeOf(err) != api.CodeTTLTooLong {
		t.Errorf("error %v: a lifetime is refused, never cut short", err)
	}
}

func TestGrantIsForThisProfile(t *testing.T) {
	b := newBench(t, keystore.ES256)
	csr := request(t, newKey(t, keystore.ES256).signer, named("a.devices.test"))
	other, err := NewProfile(ProfileConfig{Name: "other", NamesUnder: []string{"devices.test"}, Usages: []Usage{UsageServer}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(b.grant, other, b.issuer, Request{CSR: csr}, b.env); !errors.Is(err, policy.ErrForbidden) {
		t.Errorf("another profile: %v", err)
	}
	if _, err := Prepare(policy.Grant{}, b.profile, b.issuer, Request{CSR: csr}, b.env); codeOf(err) != api.CodeForbidden {
		t.Errorf("no grant: %v", err)
	}
}

func TestRedeemedOnce(t *testing.T) {
	b := newBench(t, keystore.ES256)
	p, err := b.prepare(request(t, newKey(t, keystore.ES256).signer, named("a.devices.test")), nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	issued := 0
	for range 8 {
		wg.Go(func() {
			if _, err := p.Redeem(t.Context(), b.key); err == nil {
				mu.Lock()
				issued++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if issued != 1 {
		t.Errorf("redeemed %d times", issued)
	}
}

// What a key returns is not believed.
func TestRedeemChecksTheKey(t *testing.T) {
	unavailable := errors.Join(errors.New("no token"), keystore.ErrUnavailable)
	for _, c := range []struct {
		name  string
		spoil func([]byte) ([]byte, error)
		key   bool // another key signs
		want  error
	}{
		{"unavailable", func([]byte) ([]byte, error) { return nil, unavailable }, false, keystore.ErrUnavailable},
		{"a wrong bit", func(s []byte) ([]byte, error) { s[9] ^= 1; return s, nil }, false, nil},
		{"another key", nil, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, keystore.ES256)
			p, err := b.prepare(request(t, newKey(t, keystore.ES256).signer, named("a.devices.test")), nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.key {
				b.key = newKey(t, keystore.ES256)
			}
			b.key.spoil = c.spoil
			der, err := p.Redeem(t.Context(), b.key)
			if err == nil || der != nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%d bytes, error %v", len(der), err)
			}
		})
	}
}

// Nothing Chancery signs may authenticate to Chancery.
func TestAuthorityIsApartFromClientAnchors(t *testing.T) {
	b := newBench(t, keystore.ES256)
	csr := request(t, newKey(t, keystore.ES256).signer, named("a.devices.test"))
	under, err := create(t.Context(), &x509.Certificate{
		SerialNumber: newSerial().number(), NotBefore: today.Add(-time.Hour), NotAfter: today.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}, b.issuer, newKey(t, keystore.ES256).Public(), b.key)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newBench(t, keystore.ES256).issuer
	for _, c := range []struct {
		name   string
		issuer *x509.Certificate
		anchor *x509.Certificate
		ok     bool
	}{
		{"a stranger of the same name", b.issuer, stranger, true},
		{"the same key", b.issuer, b.issuer, false},
		{"an authority under the anchor", parse(t, under), b.issuer, false},
	} {
		env := b.env
		env.ClientAnchors = []*x509.Certificate{c.anchor}
		_, err := Prepare(b.grant, b.profile, c.issuer, Request{CSR: csr, TTL: ttl(60)}, env)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestProfileFaults(t *testing.T) {
	_, err := NewProfile(ProfileConfig{
		MaxTTL: 25 * time.Hour, DefaultTTL: 26*time.Hour + time.Millisecond,
		NamesUnder: []string{"devices.test", ".test", "UP.test", "test"}, Usages: []Usage{"server", "server", "code"},
	})
	var paths []string
	for _, line := range strings.Split(err.Error(), "\n") {
		path, _, _ := strings.Cut(line, ":")
		paths = append(paths, path)
	}
	want := "name max_ttl default_ttl default_ttl names_under[1] names_under[2] names_under[3] usages[1] usages[2]"
	if got := strings.Join(paths, " "); got != want {
		t.Errorf("faults at %s\nwant      %s\n%v", got, want, err)
	}
}

package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

var (
	oidNames            = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidNameConstraints  = asn1.ObjectIdentifier{2, 5, 29, 30}
)

// armour is a certification request as PEM.
func armour(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// requestFor is an honest request by key, but for what change does to it.
func requestFor(t *testing.T, key crypto.Signer, change func(*x509.CertificateRequest)) string {
	t.Helper()
	template := &x509.CertificateRequest{DNSNames: []string{"a.devices.test"}}
	change(template)
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return armour(der)
}

// forged is a request for any public key and names, signed with rubbish: what
// must be refused before the mathematics.
func forged(t *testing.T, spki []byte, names int) string {
	t.Helper()
	marshal := func(v any) asn1.RawValue {
		b, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return asn1.RawValue{FullBytes: b}
	}
	var general []asn1.RawValue
	for i := range names {
		general = append(general, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: fmt.Appendf(nil, "n%d.devices.test", i)})
	}
	type attribute struct {
		ID    asn1.ObjectIdentifier
		Value [][]pkix.Extension `asn1:"set"`
	}
	san := pkix.Extension{Id: oidNames, Value: marshal(general).FullBytes}
	info := struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes []attribute `asn1:"tag:0,set"`
	}{0, marshal(pkix.RDNSequence{}), asn1.RawValue{FullBytes: spki},
		[]attribute{{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}, [][]pkix.Extension{{san}}}}}
	return armour(marshal(struct {
		Info asn1.RawValue
		Alg  pkix.AlgorithmIdentifier
		Sig  asn1.BitString
	}{marshal(info), pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
		asn1.BitString{Bytes: make([]byte, 70), BitLength: 560}}).FullBytes)
}

// rsaOf is a public key of a size and exponent that nobody generated.
func rsaOf(t *testing.T, bits, e int) []byte {
	t.Helper()
	n := make([]byte, bits/8)
	rand.Read(n)
	n[0] |= 0x80
	n[len(n)-1] |= 1
	return spkiOf(t, &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: e})
}

func spkiOf(t *testing.T, pub crypto.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func csrBody(t *testing.T, csr string) string {
	t.Helper()
	return `{"authority":"devices","profile":"tls","csr":` + quoted(t, csr) + `}`
}

// A corpus of requests for what the requester must not have, or that cost more
// to look at than to send: each is refused by its own code, at once.
func TestA08A09HostileRequests(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.http("ca")
	key := newKey(t)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	names := func(names ...string) string {
		return requestFor(t, key, func(r *x509.CertificateRequest) { r.DNSNames = names })
	}
	extension := func(id asn1.ObjectIdentifier, value []byte) string {
		return requestFor(t, key, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: id, Critical: true, Value: value}}
		})
	}
	honest := names("a.devices.test")
	hundredAndOne := make([]string, 101)
	for i := range hundredAndOne {
		hundredAndOne[i] = fmt.Sprintf("n%d.devices.test", i)
	}
	block, _ := pem.Decode([]byte(honest))
	flipped := bytes.Clone(block.Bytes)
	flipped[len(flipped)-1] ^= 1
	for _, r := range []struct {
		name, csr string
		code      api.Code
	}{
		{"another's name", names("www.example.com"), api.CodeNameNotAllowed},
		{"one of ours and another's", names("a.devices.test", "www.example.com"), api.CodeNameNotAllowed},
		{"a suffix that is none", names("evildevices.test"), api.CodeNameNotAllowed},
		{"the suffix itself", names("devices.test"), api.CodeNameNotAllowed},
		{"a wildcard", names("*.devices.test"), api.CodeNameNotAllowed},
		{"upper case", names("A.devices.test"), api.CodeNameNotAllowed},
		{"a dot at the end", names("a.devices.test."), api.CodeNameNotAllowed},
		{"a NUL", names("a\x00.devices.test"), api.CodeNameNotAllowed},
		{"no name but the common one", requestFor(t, key, func(r *x509.CertificateRequest) {
			r.DNSNames, r.Subject = nil, pkix.Name{CommonName: "a.devices.test"}
		}), api.CodeNameNotAllowed},
		{"an address", requestFor(t, key, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }), api.CodeNameNotAllowed},
		{"a SPIFFE ID", requestFor(t, key, func(r *x509.CertificateRequest) { r.URIs = []*url.URL{spiffe("operator")} }), api.CodeNameNotAllowed},
		{"a mailbox", requestFor(t, key, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@devices.test"} }), api.CodeNameNotAllowed},
		{"CA:TRUE", extension(oidBasicConstraints, []byte{0x30, 3, 1, 1, 0xff}), api.CodeMalformed},
		{"a name twice", names("a.devices.test", "a.devices.test"), api.CodeMalformed},
		{"101 names", names(hundredAndOne...), api.CodeMalformed},
		{"1000 names", forged(t, spkiOf(t, &key.PublicKey), 1000), api.CodeMalformed},
		{"100000 names", forged(t, spkiOf(t, &key.PublicKey), 100_000), api.CodeTooLarge},
		{"RSA 16384, e = 2^31-1", forged(t, rsaOf(t, 16384, 1<<31-1), 1), api.CodeKeyRejected},
		{"RSA 65536", forged(t, rsaOf(t, 65536, 65537), 1), api.CodeKeyRejected},
		{"RSA 1024", forged(t, rsaOf(t, 1024, 65537), 1), api.CodeKeyRejected},
		{"RSA 2048, e = 3", forged(t, rsaOf(t, 2048, 3), 1), api.CodeKeyRejected},
		{"RSA 2049", forged(t, rsaOf(t, 2056, 65537), 1), api.CodeKeyRejected},
		{"P-224", forged(t, spkiOf(t, &p224.PublicKey), 1), api.CodeKeyRejected},
		{"the authority's own key", forged(t, authorityKey(t, d), 1), api.CodeKeyRejected},
		{"a signature that does not verify", armour(flipped), api.CodeMalformed},
		{"two requests", honest + honest, api.CodeMalformed},
		{"something behind it", honest + "x", api.CodeMalformed},
		{"a certificate", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})), api.CodeMalformed},
		{"no PEM", "x", api.CodeMalformed},
		{"nothing", "", api.CodeMalformed},
	} {
		body, fastest := csrBody(t, r.csr), time.Hour
		for range 3 { // the machine may be busy with something else
			start := time.Now()
			post(t, c, "/v1/sign/csr", body).want(t, r.name, r.code)
			fastest = min(fastest, time.Since(start))
		}
		if fastest > time.Second {
			t.Errorf("%s took %v", r.name, fastest)
		}
	}
	for ttl, code := range map[string]api.Code{"86401": api.CodeTTLTooLong, "0": api.CodeMalformed, "-1": api.CodeMalformed} {
		body := `{"authority":"devices","profile":"tls","csr":` + quoted(t, honest) + `,"ttl":` + ttl + `}`
		post(t, c, "/v1/sign/csr", body).want(t, "ttl "+ttl, code)
	}
	// Other extensions are ignored: the profile says what a certificate holds.
	for name, csr := range map[string]string{
		"certSign":         extension(oidKeyUsage, []byte{3, 2, 2, 4}),
		"name constraints": extension(oidNameConstraints, []byte{0x30, 0}),
		"CA:FALSE":         extension(oidBasicConstraints, []byte{0x30, 0}),
	} {
		r := post(t, c, "/v1/sign/csr", csrBody(t, csr))
		r.want(t, name, "")
		cert := d.wantCertificate(r)
		if cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign != 0 || len(cert.PermittedDNSDomains) != 0 || cert.Subject.CommonName != "" {
			t.Errorf("%s: the certificate holds what was asked for: %+v", name, cert)
		}
	}
	if done := d.logged(audit.Filter{Action: keystore.ActSignCSR, Outcome: keystore.OutcomeDone}); len(done) != 3 {
		t.Errorf("%d certificates in the log, want 3", len(done))
	}
}

// authorityKey is the public key of the authority, as published.
func authorityKey(t *testing.T, d *chanceryd) []byte {
	t.Helper()
	status, body := d.get(d.endpoints.Public + "/authorities/devices/ca.pem")
	block, _ := pem.Decode([]byte(body))
	if block == nil {
		t.Fatalf("ca.pem: %d %s", status, body)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert.RawSubjectPublicKeyInfo
}

// wantCertificate checks a reply as `openssl verify` does, and returns the
// certificate.
func (d *chanceryd) wantCertificate(r result) *x509.Certificate {
	d.t.Helper()
	var reply api.SignCSRReply
	if err := json.Unmarshal(r.body, &reply); err != nil || len(reply.Chain) == 0 {
		d.t.Fatalf("no certificate: %s", r.body)
	}
	dir := d.t.TempDir()
	leaf, ca := filepath.Join(dir, "leaf.crt"), filepath.Join(dir, "ca.crt")
	for path, text := range map[string]string{leaf: reply.Certificate, ca: reply.Chain[0]} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	if out, err := exec.Command("openssl", "verify", "-x509_strict", "-CAfile", ca, leaf).CombinedOutput(); err != nil {
		d.t.Errorf("openssl verify: %v: %s", err, out)
	}
	return readCertificate(d.t, leaf)
}

// An Idempotency-Key gives one certificate, however often it is asked for, to
// those only who may have it.
func TestIdempotentRequests(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.http("ca")
	one := csrBody(t, requestFor(t, newKey(t), func(*x509.CertificateRequest) {}))
	other := csrBody(t, requestFor(t, newKey(t), func(*x509.CertificateRequest) {}))
	first := post(t, c, "/v1/sign/csr", one, "Idempotency-Key", "k1")
	first.want(t, "first", "")
	again := post(t, c, "/v1/sign/csr", one, "Idempotency-Key", "k1")
	again.want(t, "again", "")
	if !bytes.Equal(first.body, again.body) {
		t.Errorf("another certificate under one key:\n%s\n%s", first.body, again.body)
	}
	post(t, c, "/v1/sign/csr", other, "Idempotency-Key", "k1").want(t, "another body", api.CodeIdempotencyMismatch)
	post(t, d.http("issuer"), "/v1/sign/csr", one, "Idempotency-Key", "k1").want(t, "someone else with a known key", api.CodeForbidden)
	post(t, c, "/v1/sign/csr", one, "Idempotency-Key", strings.Repeat("k", 256)).want(t, "a long key", api.CodeMalformed)
	post(t, c, "/v1/sign/csr", one, "Idempotency-Key", "k4").want(t, "another key", "")
	post(t, c, "/v1/sign/csr", csrBody(t, "x"), "Idempotency-Key", "k2").want(t, "refused", api.CodeMalformed)
	post(t, c, "/v1/sign/csr", one, "Idempotency-Key", "k2").want(t, "a key given back after a refusal", "")

	// While one request waits for the token, the others are told so.
	const callers = 8
	clients := make([]*http.Client, callers)
	for i := range clients { // their connections are open when the token stops
		clients[i] = d.http("ca")
		if _, err := send(t, clients[i], http.MethodGet, "/v1/keysets", nil); err != nil {
			t.Fatal(err)
		}
	}
	d.keySets() // no worker is about to take the place of another
	d.calmWorkers()
	d.signalWorkers(syscall.SIGSTOP)
	results := make(chan result, callers)
	var wg sync.WaitGroup
	for _, client := range clients {
		wg.Go(func() {
			r, err := send(t, client, http.MethodPost, "/v1/sign/csr", strings.NewReader(one), "Idempotency-Key", "k3")
			if err != nil {
				t.Error(err)
			}
			results <- r
		})
	}
	busy := 0
	for range callers - 1 { // all but the one that waits
		r := <-results
		r.want(t, "while it is in progress", api.CodeIdempotencyInProgress)
		if r.code == api.CodeIdempotencyInProgress {
			busy++
		}
	}
	d.signalWorkers(syscall.SIGCONT) // unless its deadline has passed
	last := <-results
	wg.Wait()
	last.want(t, "the one that waited", "")
	t.Logf("%d of %d concurrent requests were told that one is in progress", busy, callers)
	serials := make(map[string]int)
	for _, e := range d.logged(audit.Filter{Action: keystore.ActSignCSR, Outcome: keystore.OutcomeDone}) {
		serials[e.Serial]++
	}
	if len(serials) != 4 {
		t.Errorf("%d certificates in the log, want 4: %v", len(serials), serials)
	}
	post(t, c, "/v1/sign/csr", one, "Idempotency-Key", "k3").want(t, "afterwards", "")
	d.kill() // what was answered is remembered, what was in progress is not
	d2 := startDev(t, d.dir)
	kept := post(t, d2.http("ca"), "/v1/sign/csr", one, "Idempotency-Key", "k1")
	if !bytes.Equal(kept.body, first.body) {
		t.Errorf("another certificate after a crash: %s", kept.body)
	}
}

// The key of the daemon's own TLS certificate used to be certified like anyone's.
func TestOurOwnTLSKeyIsNotCertified(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	pair, err := tls.LoadX509KeyPair(filepath.Join(d.dir, "pki", "server.crt"), filepath.Join(d.dir, "pki", "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	csr := requestFor(t, pair.PrivateKey.(crypto.Signer), func(*x509.CertificateRequest) {})
	body, err := json.Marshal(api.SignCSRRequest{Authority: "devices", Profile: "tls", CSR: csr})
	if err != nil {
		t.Fatal(err)
	}
	post(t, d.http("ca"), "/v1/sign/csr", string(body)).want(t, "the server's key", api.CodeKeyRejected)
}

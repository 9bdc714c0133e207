package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
)

// forge returns the PEM of a request with any public key and any names, signed
// with rubbish: what must be refused before the signature is looked at.
func forge(t testing.TB, spki []byte, names int) []byte {
	t.Helper()
	return armour(forgeDER(t, spki, names))
}

func forgeDER(t testing.TB, spki []byte, names int) []byte {
	t.Helper()
	marshal := func(v any, params string) asn1.RawValue {
		b, err := asn1.MarshalWithParams(v, params)
		if err != nil {
			t.Fatal(err)
		}
		return asn1.RawValue{FullBytes: b}
	}
	var general []asn1.RawValue
	for i := range names {
		general = append(general, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: fmt.Appendf(nil, "n%d.lab.devices.test", i)})
	}
	san := pkix.Extension{Id: oidSAN, Value: marshal(general, "").FullBytes}
	type attribute struct {
		ID    asn1.ObjectIdentifier
		Value [][]pkix.Extension `asn1:"set"`
	}
	request := attribute{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}, [][]pkix.Extension{{san}}}
	info := struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes []attribute `asn1:"tag:0,set"`
	}{0, marshal(pkix.RDNSequence{}, ""), asn1.RawValue{FullBytes: spki}, []attribute{request}}
	return marshal(struct {
		Info asn1.RawValue
		Alg  pkix.AlgorithmIdentifier
		Sig  asn1.BitString
	}{marshal(info, ""), pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}, asn1.BitString{Bytes: make([]byte, 70), BitLength: 560}}, "").FullBytes
}

func spkiOf(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// modulus returns a number of the given size that is no product of two known
// primes, for keys that are refused by their shape.
func modulus(bits int) *big.Int {
	n := make([]byte, bits/8)
	rand.Read(n)
	n[0] |= 0x80
	n[len(n)-1] |= 1
	return new(big.Int).SetBytes(n)
}

func rsaSPKI(t testing.TB, n *big.Int, e int64) []byte {
	t.Helper()
	key, err := asn1.Marshal(struct {
		N *big.Int
		E int64
	}{n, e})
	if err != nil {
		t.Fatal(err)
	}
	return anySPKI(t, oidRSA, asn1.NullRawValue, key)
}

func anySPKI(t testing.TB, oid asn1.ObjectIdentifier, params asn1.RawValue, key []byte) []byte {
	t.Helper()
	spki, err := asn1.Marshal(struct {
		Alg pkix.AlgorithmIdentifier
		Key asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: params}, asn1.BitString{Bytes: key, BitLength: 8 * len(key)}})
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

func TestA08NamesAreNotTheRequestersToChoose(t *testing.T) {
	b := newBench(t, keystore.ES256)
	key := newKey(t, keystore.ES256).signer
	uri := func(s string) []*url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	san := func(tag int, value string) x509.CertificateRequest {
		v, err := asn1.Marshal([]asn1.RawValue{
			{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("a.devices.test")},
			{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(value)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidSAN, Value: v}}}
	}
	basic := func(value ...byte) x509.CertificateRequest {
		r := named("a.devices.test")
		r.ExtraExtensions = []pkix.Extension{{Id: oidBasicConstraints, Critical: true, Value: value}}
		return r
	}
	cn := func(name string, r x509.CertificateRequest) x509.CertificateRequest {
		r.Subject = pkix.Name{CommonName: name}
		return r
	}
	for _, c := range []struct {
		name    string
		request x509.CertificateRequest
		code    api.Code // empty: issued
	}{
		{"its own name", named("a.devices.test"), ""},
		{"two of its names", named("a.devices.test", "deep.er.lab.devices.test"), ""},
		{"a foreign common name is ignored", cn("www.google.com", named("a.devices.test")), ""},
		{"CA:FALSE", basic(0x30, 0), ""},
		{"CA:FALSE, said", basic(0x30, 3, 1, 1, 0), ""},

		{"CA:TRUE", basic(0x30, 3, 1, 1, 0xff), api.CodeMalformed},
		{"CA:TRUE with a path length", basic(0x30, 6, 1, 1, 0xff, 2, 1, 0), api.CodeMalformed},
		{"CA:TRUE in BER", basic(0x30, 3, 1, 1, 1), api.CodeMalformed},
		{"no name at all", named(), api.CodeNameNotAllowed},
		{"a common name alone", cn("a.devices.test", named()), api.CodeNameNotAllowed},
		{"someone else's, which only the profile allows", named("c.devices.test"), api.CodeNameNotAllowed},
		{"someone else's, which only the grant allows", named("elsewhere.test"), api.CodeNameNotAllowed},
		{"one allowed, one not", named("a.devices.test", "c.devices.test"), api.CodeNameNotAllowed},
		{"the suffix itself", named("devices.test"), api.CodeNameNotAllowed},
		{"a longer label", named("adevices.test"), api.CodeNameNotAllowed},
		{"wildcard", named("*.lab.devices.test"), api.CodeNameNotAllowed},
		{"wildcard of all", named("*"), api.CodeNameNotAllowed},
		{"upper case", named("A.devices.test"), api.CodeNameNotAllowed},
		{"trailing dot", named("a.devices.test."), api.CodeNameNotAllowed},
		{"leading dot", named(".lab.devices.test"), api.CodeNameNotAllowed},
		{"NUL", named("a.devices.test\x00.evil.test"), api.CodeNameNotAllowed},
		{"newline", named("x\n.lab.devices.test"), api.CodeNameNotAllowed},
		{"underscore", named("x_y.lab.devices.test"), api.CodeNameNotAllowed},
		{"reserved label", named("ab--c.lab.devices.test"), api.CodeNameNotAllowed},
		{"label of 64", named(strings.Repeat("x", 64) + ".lab.devices.test"), api.CodeNameNotAllowed},
		{"name of 254", named(strings.Repeat("abcd.", 48) + "lab.devices.test"), api.CodeNameNotAllowed},
		{"empty name", named(""), api.CodeNameNotAllowed},
		{"the same twice", named("a.devices.test", "a.devices.test"), api.CodeMalformed},
		{"U-label", san(2, "\xc3\xa4.lab.devices.test"), api.CodeMalformed}, // not an IA5String
		{"A-label", named("xn--4ca.lab.devices.test"), ""},
		{"IP", x509.CertificateRequest{DNSNames: []string{"a.devices.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, api.CodeNameNotAllowed},
		{"IP as a name", named("127.0.0.1"), api.CodeNameNotAllowed},
		{"e-mail", x509.CertificateRequest{DNSNames: []string{"a.devices.test"}, EmailAddresses: []string{"a@devices.test"}}, api.CodeNameNotAllowed},
		{"URI", x509.CertificateRequest{DNSNames: []string{"a.devices.test"}, URIs: uri("https://a.devices.test/")}, api.CodeNameNotAllowed},
		{"SPIFFE id", x509.CertificateRequest{URIs: uri("spiffe://chancery.dev/operator")}, api.CodeNameNotAllowed},
		{"otherName, which crypto/x509 passes over", san(0, "\x06\x01\x2a"), api.CodeNameNotAllowed},
		{"directoryName", san(4, "0\x00"), api.CodeNameNotAllowed},
		{"registeredID", san(8, "\x2a"), api.CodeNameNotAllowed},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := b.prepare(request(t, key, c.request), nil)
			if codeOf(err) != c.code || (err != nil) != (c.code != "") {
				t.Fatalf("error %v, want code %q", err, c.code)
			}
			if err != nil {
				return
			}
			der, err := p.Redeem(t.Context(), b.key)
			if err != nil {
				t.Fatal(err)
			}
			if cert := parse(t, der); cert.IsCA || cert.Subject.CommonName != "" {
				t.Errorf("CA %v, common name %q", cert.IsCA, cert.Subject.CommonName)
			}
		})
	}
}

// Each bomb is refused by what it looks like, in about no time, and with the
// code that tells why.
func TestA09RequestBombs(t *testing.T) {
	b := newBench(t, keystore.ES256)
	key := newKey(t, keystore.ES256)
	good := request(t, key.signer, named("a.devices.test"))
	block := func(name string) string {
		return strings.ReplaceAll(string(good), "CERTIFICATE REQUEST", name)
	}
	spki := spkiOf(t, key.Public())
	longBits := rsaSPKI(t, modulus(16384), 65537)
	bombs := []struct {
		name string
		csr  []byte
		code api.Code
	}{
		{"100,000 names", forge(t, spki, 100_000), api.CodeTooLarge},
		{"101 names", forge(t, spki, 101), api.CodeMalformed},
		{"64 KiB and one byte", append(bytes.Clone(good), bytes.Repeat([]byte("\n"), MaxRequest)...), api.CodeTooLarge},
		{"RSA-16384", forge(t, longBits, 1), api.CodeKeyRejected},
		{"RSA-16384 with e = 2^31-1", forge(t, rsaSPKI(t, modulus(16384), 1<<31-1), 1), api.CodeKeyRejected},
		{"RSA-65536", forge(t, rsaSPKI(t, modulus(65536), 65537), 1), api.CodeKeyRejected},
		{"RSA-2048 with e = 2^62", forge(t, rsaSPKI(t, modulus(2048), 1<<62), 1), api.CodeKeyRejected},
		{"RSA-2048 with e = 3", forge(t, rsaSPKI(t, modulus(2048), 3), 1), api.CodeKeyRejected},
		{"RSA-2048 with e = -65537", forge(t, rsaSPKI(t, modulus(2048), -65537), 1), api.CodeKeyRejected},
		{"RSA-2048 with a negative modulus", forge(t, rsaSPKI(t, new(big.Int).Neg(modulus(2048)), 65537), 1), api.CodeKeyRejected},
		{"RSA-1024", forge(t, rsaSPKI(t, modulus(1024), 65537), 1), api.CodeKeyRejected},
		{"RSA-2056", forge(t, rsaSPKI(t, modulus(2056), 65537), 1), api.CodeKeyRejected},
		{"RSA-2047", forge(t, rsaSPKI(t, new(big.Int).Rsh(modulus(2048), 1), 65537), 1), api.CodeKeyRejected},
		{"RSA modulus of zero", forge(t, rsaSPKI(t, new(big.Int), 65537), 1), api.CodeKeyRejected},
		{"an even modulus", forge(t, rsaSPKI(t, new(big.Int).Lsh(modulus(2040), 8), 65537), 1), api.CodeKeyRejected},
		{"wrong signature", forge(t, spki, 1), api.CodeMalformed},
		{"100 names and a wrong signature", forge(t, spki, 100), api.CodeMalformed},
		{"no name", forge(t, spki, 0), api.CodeNameNotAllowed},
		{"two PEM blocks", append(bytes.Clone(good), good...), api.CodeMalformed},
		{"text before", append([]byte("Certificate Request:\n"), good...), api.CodeMalformed},
		{"text behind", append(bytes.Clone(good), "trailing garbage"...), api.CodeMalformed},
		{"a first block that cannot be read", append([]byte("-----BEGIN CERTIFICATE REQUEST-----\n!\n"), good...), api.CodeMalformed},
		{"headers", []byte(strings.Replace(string(good), "-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1)), api.CodeMalformed},
		{"another type", []byte(block("CERTIFICATE")), api.CodeMalformed},
		{"the old type", []byte(block("NEW CERTIFICATE REQUEST")), api.CodeMalformed},
		{"nothing", nil, api.CodeMalformed},
		{"an empty block", armour(nil), api.CodeMalformed},
		{"bytes behind the DER", armour(append(forgeDER(t, spki, 1), 0)), api.CodeMalformed},
		{"nested without end", armour(bytes.Repeat([]byte{0x30, 0x80}, 20_000)), api.CodeMalformed},
		{"SHA-224", sha224Request(t), api.CodeMalformed},
	}
	for _, c := range bombs {
		t.Run(c.name, func(t *testing.T) {
			fastest := time.Hour
			for range 5 { // the machine may be busy with something else
				start := time.Now()
				_, err := b.prepare(c.csr, nil)
				fastest = min(fastest, time.Since(start))
				if codeOf(err) != c.code {
					t.Errorf("error %v, want code %q", err, c.code)
				}
			}
			// The worst of these signatures takes hundreds of milliseconds to verify.
			if fastest > 100*time.Millisecond {
				t.Errorf("refused after %v", fastest)
			}
		})
	}
	if _, err := b.prepare(good, nil); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	crlf := []byte("\r\n" + strings.ReplaceAll(string(good), "\n", "\r\n"))
	if _, err := b.prepare(crlf, nil); err != nil {
		t.Errorf("with CR LF: %v", err)
	}
}

func TestA09SignatureMustVerify(t *testing.T) {
	b := newBench(t, keystore.ES256)
	key := newKey(t, keystore.ES256).signer
	good, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a.devices.test"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	// Another name in the signed part: the same length, so that the DER stays whole.
	changed := bytes.Replace(good, []byte("a.devices.test"), []byte("b.devices.test"), 1)
	if _, err := b.prepare(armour(changed), nil); codeOf(err) != api.CodeMalformed {
		t.Errorf("a name changed after signing: %v", err)
	}
}

// sha224Request says that it is signed with ecdsa-with-SHA224 (RFC 5758 Section 3.2).
func sha224Request(t *testing.T) []byte {
	der := forgeDER(t, spkiOf(t, newKey(t, keystore.ES256).Public()), 1)
	sha256 := []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}
	if !bytes.Contains(der, sha256) {
		t.Fatal("no algorithm to change")
	}
	return armour(bytes.Replace(der, sha256, append(bytes.Clone(sha256[:9]), 1), 1))
}

func TestA10WeakKeys(t *testing.T) {
	b := newBench(t, keystore.ES256)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256 := newKey(t, keystore.ES256).Public().(*ecdsa.PublicKey)
	point, err := p256.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	compressed := append([]byte{2 + point[64]&1}, point[1:33]...)
	off := bytes.Clone(point)
	off[64] ^= 1
	named256 := asn1.RawValue{FullBytes: []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}}
	small := new(big.Int).Mul(modulus(2048-16), big.NewInt(719*61)) // has small factors
	for small.BitLen() != 2048 || small.Bit(0) == 0 {
		small.Mul(modulus(2048-16), big.NewInt(719*61))
	}
	for _, c := range []struct {
		name string
		spki []byte
		code api.Code
	}{
		{"P-224", spkiOf(t, &p224.PublicKey), api.CodeKeyRejected},
		{"a compressed point", anySPKI(t, oidEC, named256, compressed), api.CodeKeyRejected},
		{"a point off the curve", anySPKI(t, oidEC, named256, off), api.CodeMalformed},
		{"explicit curve parameters", anySPKI(t, oidEC, asn1.RawValue{FullBytes: []byte{0x30, 0}}, point), api.CodeKeyRejected},
		{"DSA", anySPKI(t, asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, asn1.RawValue{FullBytes: []byte{0x30, 0}}, []byte{2, 1, 5}), api.CodeKeyRejected},
		{"id-RSASSA-PSS", anySPKI(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, asn1.NullRawValue, []byte{0x30, 0}), api.CodeKeyRejected},
		{"X25519", anySPKI(t, asn1.ObjectIdentifier{1, 3, 101, 110}, asn1.RawValue{}, make([]byte, 32)), api.CodeKeyRejected},
		{"Ed448", anySPKI(t, asn1.ObjectIdentifier{1, 3, 101, 113}, asn1.RawValue{}, make([]byte, 57)), api.CodeKeyRejected},
		{"Ed25519 of small order", anySPKI(t, oidEd25519, asn1.RawValue{}, smallOrder[2][:]), api.CodeKeyRejected},
		{"RSA with small factors", rsaSPKI(t, small, 65537), api.CodeKeyRejected},
		{"RSA with close primes", rsaSPKI(t, closeModulus(t), 65537), api.CodeKeyRejected},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := b.prepare(forge(t, c.spki, 1), nil); codeOf(err) != c.code {
				t.Errorf("error %v, want code %q", err, c.code)
			}
			if err := weakness(c.spki); err == nil {
				t.Error("the key passes")
			}
		})
	}
}

// weakness is what the gate says of a key alone.
func weakness(spki []byte) error {
	if err := checkShape(spki); err != nil {
		return err
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return err
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return checkModulus(k.N)
	case ed25519.PublicKey:
		return checkPoint(k)
	}
	return nil
}

// closeModulus is the product of a prime and the next one.
func closeModulus(t *testing.T) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	q := new(big.Int).Add(p, big.NewInt(2))
	for !q.ProbablyPrime(10) {
		q.Add(q, big.NewInt(2))
	}
	return q.Mul(q, p)
}

// The shape of CVE-2017-15361: p = k·M + (65537^a mod M).
func TestA10ROCA(t *testing.T) {
	m := big.NewInt(2)
	for _, p := range append([]int64{3, 5, 7}, rocaPrimes...) {
		m.Mul(m, big.NewInt(p))
	}
	prime := func(a int64) *big.Int {
		base := new(big.Int).Exp(big.NewInt(65537), big.NewInt(a), m)
		k, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 900))
		if err != nil {
			t.Fatal(err)
		}
		for {
			if p := new(big.Int).Add(new(big.Int).Mul(k, m), base); p.ProbablyPrime(1) {
				return p
			}
			k.Add(k, big.NewInt(1))
		}
	}
	if n := new(big.Int).Mul(prime(12345), prime(67890)); !isROCA(n) {
		t.Error("a modulus of that library is not recognised")
	}
	if isROCA(rsaKey().N) || checkModulus(rsaKey().N) != nil {
		t.Error("a good modulus is taken for a weak one")
	}
}

// Under a point of small order the same signature verifies for many messages.
func TestA10SmallOrder(t *testing.T) {
	sig := make([]byte, ed25519.SignatureSize) // R is the neutral element, S = 0
	sig[0] = 1
	for _, y := range smallOrder {
		forged := false
		for i := range 500 {
			forged = forged || ed25519.Verify(y[:], fmt.Appendf(nil, "message %d", i), sig)
		}
		if !forged {
			t.Errorf("%x is not of small order", y)
		}
		negative := y
		negative[31] |= 0x80
		if checkPoint(y[:]) == nil || checkPoint(negative[:]) == nil {
			t.Errorf("%x passes", y)
		}
	}
	pub := newKey(t, keystore.EdDSA).Public().(ed25519.PublicKey)
	if err := checkPoint(pub); err != nil {
		t.Error(err)
	}
}

func TestA10KeysOfOurs(t *testing.T) {
	b := newBench(t, keystore.ES256)
	csr := request(t, newKey(t, keystore.ES256).signer, named("a.devices.test"))
	b.env.Ours = func(keystore.SPKIHash) (bool, error) { return true, nil }
	if _, err := b.prepare(csr, nil); codeOf(err) != api.CodeKeyRejected {
		t.Errorf("a key of ours: %v", err)
	}
	broken := errors.New("disk on fire")
	b.env.Ours = func(keystore.SPKIHash) (bool, error) { return false, broken }
	_, err := b.prepare(csr, nil)
	if codeOf(err) != api.CodeBackendUnavailable || !errors.Is(err, broken) {
		t.Errorf("a catalog that cannot be read: %v", err)
	}
	b.env.Ours = func(keystore.SPKIHash) (bool, error) { return false, nil }
	if _, err := b.prepare(request(t, b.key.signer, named("a.devices.test")), nil); codeOf(err) != api.CodeKeyRejected {
		t.Errorf("the issuer's own key: %v", err)
	}
}

// What crosses the wire says what is wrong, and nothing from inside the request.
func TestA22RequestsAreNotEchoed(t *testing.T) {
	b := newBench(t, keystore.ES256)
	canary := "canary\x1b[31m\n.lab.devices.test"
	_, err := b.prepare(request(t, newKey(t, keystore.ES256).signer, named(canary)), nil)
	e, ok := errors.AsType[*api.Error](err)
	if !ok || strings.Contains(e.Detail, "canary") {
		t.Errorf("detail %q", e.Detail)
	}
	if strings.ContainsAny(err.Error(), "\x1b\n") {
		t.Errorf("control characters in %q", err)
	}
}

// FuzzCSR: whatever is issued has only names that are allowed, and what is
// refused is refused with a code.
func FuzzCSR(f *testing.F) {
	b := newBench(f, keystore.ES256)
	key := newKey(f, keystore.ES256)
	for _, names := range [][]string{{"a.devices.test"}, {"a.devices.test", "x.lab.devices.test"}, {"*.devices.test"}, {"c.devices.test"}} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key.signer)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Add(forgeDER(f, rsaSPKI(f, modulus(4096), 3), 2))
	f.Add(forgeDER(f, spkiOf(f, newKey(f, keystore.EdDSA).Public()), 2))
	for _, s := range []string{"MAA=", "MIIB"} {
		der, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, text := range [][]byte{armour(der), der} {
			p, err := b.prepare(text, nil)
			if err != nil {
				if codeOf(err) == "" {
					t.Fatalf("an error without a code: %v", err)
				}
				continue
			}
			for _, name := range p.Names() {
				if b.profile.allows(name) != nil || !b.grant.AllowsName(name) {
					t.Fatalf("the name %q is not allowed", name)
				}
			}
		}
	})
}

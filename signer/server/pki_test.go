package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"chancery/signer/policy"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// An authority signs certificates for a test.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	above [][]byte // DER of the certificates between it and the root, its own first
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newAuthority returns a root, or with a parent an authority below it.
func newAuthority(t testing.TB, name string, parent *authority, until time.Time) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, NotBefore: noon.Add(-time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	by, key := template, a.key
	if parent != nil {
		by, key = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, a.key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if parent != nil {
		a.above = append([][]byte{der}, parent.above...)
	}
	return a
}

func serial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// issue makes a certificate for an end entity; change makes it what it is.
func (a *authority) issue(t testing.TB, change func(c *x509.Certificate)) tls.Certificate {
	t.Helper()
	key := newKey(t)
	c := &x509.Certificate{
		SerialNumber: serial(t), NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{der}, a.above...), PrivateKey: key, Leaf: leaf}
}

// named returns a client's certificate with a SPIFFE ID.
func (a *authority) named(t testing.TB, name string) tls.Certificate {
	t.Helper()
	return a.issue(t, func(c *x509.Certificate) { c.URIs = []*url.URL{spiffe(name)} })
}

func spiffe(name string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: "chancery.dev", Path: "/" + name}
}

// localhost returns a server's certificate.
func (a *authority) localhost(t testing.TB) tls.Certificate {
	t.Helper()
	return a.issue(t, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
}

func principal(name string) string { return "dev:spiffe:" + spiffe(name).String() }

func testPolicy(t testing.TB, revoked policy.Revoked) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Config{
		Anchors: []policy.Anchor{{Name: "dev", SPIFFE: []string{"chancery.dev"}}},
		Rules: []policy.Rule{
			{Name: "issuer", Principals: []string{principal("issuer")}, Actions: []policy.Action{policy.SignJWT}, KeySets: []string{"web"}, MaxTTL: time.Hour},
			{Name: "operator", Principals: []string{principal("operator")}, Actions: []policy.Action{policy.ReadKeySets, policy.ReadRotation, policy.Rotate, policy.Suspend, policy.Resume, policy.Compromise, policy.Destroy, policy.Reconcile, policy.ManageTokens, policy.ConfirmClock, policy.ManageNodes}, KeySets: []string{"web"}},
			{Name: "auditor", Principals: []string{principal("auditor")}, Actions: []policy.Action{policy.ReadAudit}},
		},
		Revoked: revoked,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newGate returns a Gate of the given anchors, all called "dev".
func newGate(t testing.TB, server tls.Certificate, revoked policy.Revoked, now func() time.Time, roots ...*authority) *Gate {
	t.Helper()
	var anchors []Anchor
	for _, r := range roots {
		anchors = append(anchors, Anchor{Name: "dev", CA: r.cert})
	}
	g, err := NewGate(server, anchors, testPolicy(t, revoked), []string{"http/1.1"}, now)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func revoking(certs ...*x509.Certificate) (r policy.Revoked) {
	for _, c := range certs {
		r.SPKI = append(r.SPKI, policy.PinOf(c))
	}
	return r
}

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

// clientConfig is how a client with cert comes to a server under root.
func clientConfig(root *authority, certs ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	return &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: certs, NextProtos: []string{"http/1.1"}, Time: at(noon)}
}

// shakeHands has a client come to a server and returns what the server knows
// of the connection, or why it failed, and what the client saw.
func shakeHands(t testing.TB, server, client *tls.Config) (cs tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() {
		conn := tls.Client(theirs, client)
		err := conn.HandshakeContext(t.Context())
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // the alert of TLS 1.3 comes here
		}
		done <- err
		theirs.Close()
	}()
	conn := tls.Server(ours, server)
	serverErr = conn.HandshakeContext(t.Context())
	cs = conn.ConnectionState()
	ours.Close()
	return cs, serverErr, <-done
}

func serialHex(c *x509.Certificate) string { return hex.EncodeToString(c.SerialNumber.Bytes()) }

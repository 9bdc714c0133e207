package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"chancery/signer/api"
	"chancery/signer/policy"
)

func TestIdentify(t *testing.T) {
	root := newAuthority(t, "root", nil, noon.Add(48*time.Hour))
	short := newAuthority(t, "short root", nil, noon.Add(time.Minute))
	mid := newAuthority(t, "mid", root, noon.Add(2*time.Minute))
	other := newAuthority(t, "other", nil, noon.Add(48*time.Hour))
	server := root.localhost(t)
	open := newGate(t, server, policy.Revoked{}, at(noon), root, short)

	good, below, brief := root.named(t, "issuer"), mid.named(t, "issuer"), short.named(t, "issuer")
	two := root.issue(t, func(c *x509.Certificate) { c.URIs = []*url.URL{spiffe("issuer"), spiffe("operator")} })
	uriAndDNS := root.issue(t, func(c *x509.Certificate) {
		c.URIs, c.DNSNames = []*url.URL{spiffe("issuer")}, []string{"issuer.test"}
	})
	commonName := root.issue(t, func(c *x509.Certificate) { c.Subject.CommonName = "spiffe://chancery.dev/issuer" })
	foreign := root.issue(t, func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/issuer"}}
	})

	for _, c := range []struct {
		what string
		cert tls.Certificate
		gate *Gate
		now  time.Time
		code api.Code // empty: identified
	}{
		{"an issuer", good, open, noon, ""},
		{"by way of an intermediate", below, open, noon, ""},
		{"in its last second", good, open, good.Leaf.NotAfter, ""},
		{"expired meanwhile", good, open, good.Leaf.NotAfter.Add(1), api.CodeCertificateExpired},
		{"its key revoked", good, newGate(t, server, revoking(good.Leaf), at(noon), root), noon, api.CodeCertificateRevoked},
		{"its serial revoked", good, newGate(t, server, policy.Revoked{Serials: []string{serialHex(good.Leaf)}}, at(noon), root), noon, api.CodeCertificateRevoked},
		{"expired and revoked", good, newGate(t, server, revoking(good.Leaf), at(noon), root), noon.Add(2 * time.Hour), api.CodeCertificateExpired},
		{"another's key revoked", good, newGate(t, server, revoking(below.Leaf), at(noon), root), noon, ""},
		{"its intermediate revoked", below, newGate(t, server, revoking(mid.cert), at(noon), root), noon, api.CodeForbidden},
		{"its intermediate expired", below, open, noon.Add(3 * time.Minute), api.CodeForbidden},
		{"its anchor revoked", good, newGate(t, server, revoking(root.cert), at(noon), root), noon, api.CodeForbidden},
		{"its anchor expired", brief, open, noon.Add(2 * time.Minute), api.CodeForbidden},
		{"its anchor gone", good, newGate(t, server, policy.Revoked{}, at(noon), other), noon, api.CodeForbidden},
		{"two names", two, open, noon, api.CodeForbidden},
		{"two names of two kinds", uriAndDNS, open, noon, api.CodeForbidden},
		{"a common name alone", commonName, open, noon, api.CodeForbidden},
		{"a name the anchor does not speak for", foreign, open, noon, api.CodeForbidden},
	} {
		cs, err, _ := shakeHands(t, open.TLS(), clientConfig(root, c.cert))
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		who, err := c.gate.Identify(&cs, c.now)
		if c.code == "" {
			if err != nil || who.String() != principal("issuer") {
				t.Errorf("%s: %v, %v", c.what, who, err)
			}
			continue
		}
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != c.code || who != (policy.Caller{}) {
			t.Errorf("%s: %v, %v; want %s", c.what, who, err, c.code)
		}
		if c.code == api.CodeForbidden && e.Detail != "not allowed" {
			t.Errorf("A24 %s: the caller sees %q", c.what, e.Detail)
		}
	}
	for _, cs := range []*tls.ConnectionState{nil, {}, {PeerCertificates: []*x509.Certificate{good.Leaf}}} {
		if who, err := open.Identify(cs, noon); err == nil {
			t.Errorf("without a verified certificate: %v", who)
		}
	}
}

// A16: a connection whose certificate expired or was revoked is told so at its
// next request, and cut when it has none.
func TestA16Condemned(t *testing.T) {
	root := newAuthority(t, "root", nil, noon.Add(48*time.Hour))
	cert := root.named(t, "issuer")
	leaf, expiry := cert.Leaf, cert.Leaf.NotAfter
	open := newGate(t, root.localhost(t), policy.Revoked{}, at(noon), root)
	closing := newGate(t, root.localhost(t), revoking(leaf), at(noon), root)
	nobody, err, _ := shakeHands(t, open.TLS(), clientConfig(root, root.issue(t, func(*x509.Certificate) {})))
	if err != nil {
		t.Fatal(err)
	}
	cs, err, _ := shakeHands(t, open.TLS(), clientConfig(root, cert))
	if err != nil {
		t.Fatal(err)
	}
	v := new(Visitor)
	for _, c := range []struct {
		what string
		gate *Gate
		cs   *tls.ConnectionState
		now  time.Time
		want bool
	}{
		{"good", open, &cs, noon, false},
		{"at its last moment", open, &cs, expiry, false},
		{"expired", open, &cs, expiry.Add(1), true},
		{"revoked", closing, &cs, noon, true},
		{"another is revoked", newGate(t, root.localhost(t), revoking(root.named(t, "issuer").Leaf), at(noon), root), &cs, noon.Add(time.Minute), false},
		{"its anchor revoked", newGate(t, root.localhost(t), revoking(root.cert), at(noon), root), &cs, noon, true},
		{"nobody, who never had anything to lose", open, &nobody, noon, false},
		{"no certificate", open, &tls.ConnectionState{}, noon, true},
		{"good again", open, &cs, noon, false},
	} {
		if got := c.gate.Condemned(v, c.cs, c.now); got != c.want {
			t.Errorf("%s: condemned is %v", c.what, got)
		}
	}
}

// The client gets the alert that fits; the reason is for the log.
func TestFailedHandshakes(t *testing.T) {
	root, other := newAuthority(t, "root", nil, noon.Add(48*time.Hour)), newAuthority(t, "other", nil, noon.Add(48*time.Hour))
	gate := newGate(t, root.localhost(t), policy.Revoked{}, at(noon), root)
	expired := root.issue(t, func(c *x509.Certificate) {
		c.URIs, c.NotAfter = []*url.URL{spiffe("issuer")}, noon.Add(-time.Minute)
	})
	early := root.issue(t, func(c *x509.Certificate) {
		c.URIs, c.NotBefore = []*url.URL{spiffe("issuer")}, noon.Add(time.Minute)
	})
	forServers := root.issue(t, func(c *x509.Certificate) {
		c.URIs, c.ExtKeyUsage = []*url.URL{spiffe("issuer")}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	// force sends a certificate whatever authorities the server named.
	force := func(c tls.Certificate) *tls.Config {
		cfg := clientConfig(root)
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
		return cfg
	}
	old := clientConfig(root, root.named(t, "issuer"))
	old.MaxVersion = tls.VersionTLS12
	foreign := clientConfig(root, root.named(t, "issuer"))
	foreign.NextProtos = []string{"acme-tls/1"}
	for _, c := range []struct {
		what, reason, alert string
		client              *tls.Config
	}{
		{"no certificate", "no client certificate", "certificate required", clientConfig(root)},
		{"another authority's", "client certificate of an unknown authority", "unknown certificate authority", force(other.named(t, "issuer"))},
		{"an expired one", "client certificate expired or not yet valid", "expired certificate", force(expired)},
		{"one that is not valid yet", "client certificate expired or not yet valid", "expired certificate", force(early)},
		{"A19: a server's", "client certificate not acceptable", "bad certificate", force(forServers)},
		{"A35: TLS 1.2", "unsupported versions", "protocol version", old},
		{"another protocol", "unsupported application protocols", "no application protocol", foreign},
	} {
		_, serverErr, clientErr := shakeHands(t, gate.TLS(), c.client)
		if serverErr == nil || !strings.Contains(HandshakeReason(serverErr), c.reason) {
			t.Errorf("%s: the log has %v", c.what, serverErr)
		}
		if clientErr == nil || !strings.Contains(clientErr.Error(), c.alert) {
			t.Errorf("%s: the client has %v, want %q", c.what, clientErr, c.alert)
		}
	}
	if _, serverErr, _ := shakeHands(t, gate.TLS(), clientConfig(root, root.named(t, "issuer"))); serverErr != nil {
		t.Errorf("a good one: %v", serverErr)
	}
}

func TestGateNeedsAnchors(t *testing.T) {
	root := newAuthority(t, "root", nil, noon.Add(48*time.Hour))
	if _, err := NewGate(root.localhost(t), nil, testPolicy(t, policy.Revoked{}), nil, at(noon)); err == nil {
		t.Error("a door without anchors opened")
	}
}

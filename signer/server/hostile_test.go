package server

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"strings"
	"testing"
	"time"

	"chancery/signer/policy"
)

// below returns an authority below a; change makes it what it is.
func (a *authority) below(t *testing.T, change func(*x509.Certificate)) *authority {
	t.Helper()
	c := a.issue(t, func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.BasicConstraintsValid = "below", true, true
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageCertSign, nil
		change(c)
	})
	return &authority{cert: c.Leaf, key: c.PrivateKey.(*ecdsa.PrivateKey), above: c.Certificate}
}

// tbs is what is signed of a certificate (RFC 5280 Section 4.1).
type tbs struct {
	Version    int `asn1:"optional,explicit,default:0,tag:0"`
	Serial     asn1.RawValue
	Algorithm  asn1.RawValue
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Extensions []pkix.Extension `asn1:"omitempty,optional,explicit,tag:3"`
}

// rewritten returns a certificate that crypto/x509 would not make: changed, and
// signed again.
func (a *authority) rewritten(t *testing.T, cert tls.Certificate, change func(*tbs)) tls.Certificate {
	t.Helper()
	var in tbs
	if _, err := asn1.Unmarshal(cert.Leaf.RawTBSCertificate, &in); err != nil {
		t.Fatal(err)
	}
	change(&in)
	signed, err := asn1.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(signed)
	signature, err := ecdsa.SignASN1(rand.Reader, a.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}{asn1.RawValue{FullBytes: signed}, in.Algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{der}, a.above...), PrivateKey: cert.PrivateKey}
}

// weak returns a client's certificate for a small RSA key.
func (a *authority) weak(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	template := a.named(t, "issuer").Leaf
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{der}, a.above...), PrivateKey: key}
}

// TestA19HostileCertificates: what a client certificate must not be, by the
// list of x509-limbo, and where and why each is refused.
func TestA19HostileCertificates(t *testing.T) {
	root := newAuthority(t, "root", nil, noon.Add(48*time.Hour))
	gate := newGate(t, root.localhost(t), policy.Revoked{}, at(noon), root)
	issuer := func(change func(*x509.Certificate)) tls.Certificate {
		return root.issue(t, func(c *x509.Certificate) {
			c.URIs = []*url.URL{spiffe("issuer")}
			change(c)
		})
	}
	usages := func(u ...x509.ExtKeyUsage) tls.Certificate {
		return issuer(func(c *x509.Certificate) { c.ExtKeyUsage = u })
	}
	good := root.named(t, "issuer")
	short := root.below(t, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	constrained := func(change func(*x509.Certificate)) tls.Certificate { return root.below(t, change).named(t, "issuer") }
	notCA := issuer(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })
	byLeaf := &authority{cert: notCA.Leaf, key: notCA.PrivateKey.(*ecdsa.PrivateKey), above: notCA.Certificate}

	for _, c := range []struct {
		what      string
		cert      tls.Certificate
		handshake string // the reason in the log; empty: the handshake is done
		identify  string // why it is nobody
	}{
		{"good", good, "", ""},
		{"good, by way of an intermediate", constrained(func(*x509.Certificate) {}), "", ""},
		{"good, and its names are permitted", constrained(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"chancery.dev"} }), "", ""},
		{"good, and for servers too", usages(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth), "", ""},

		{"for servers", usages(x509.ExtKeyUsageServerAuth), "incompatible key usage", ""},
		{"for code", usages(x509.ExtKeyUsageCodeSigning), "incompatible key usage", ""},
		{"for nothing said", usages(), "", "not for client authentication"},
		{"for anything", usages(x509.ExtKeyUsageAny), "", "not for client authentication"},
		{"below who may issue for servers only", constrained(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "incompatible key usage", ""},
		{"a CA's", issuer(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "", "a CA's"},
		{"whose key is for encryption", issuer(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), "", "not for signatures"},
		{"issued by who is no CA", byLeaf.named(t, "issuer"), "issued by one who is no authority", ""},
		{"below a path that is too long", short.below(t, func(*x509.Certificate) {}).named(t, "issuer"), "too many intermediates", ""},
		{"a name that is not permitted", constrained(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"example.org"} }), "not permitted", ""},
		{"a name that is excluded", constrained(func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"chancery.dev"} }), "excluded", ""},
		{"below an intermediate that has expired", newAuthority(t, "old", root, noon.Add(-time.Minute)).named(t, "issuer"), "expired or not yet valid", ""},
		{"signed by SHA-1", issuer(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }), "algorithm that is not secure", ""},
		{"a critical extension nobody knows", issuer(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: asn1.NullBytes}}
		}), "unhandled critical extension", ""},
		{"two subject alternative names", root.rewritten(t, good, func(c *tbs) {
			for _, e := range c.Extensions {
				if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
					c.Extensions = append(c.Extensions, e)
					return
				}
			}
		}), "duplicate extension", ""},
		{"of version 1", root.rewritten(t, good, func(c *tbs) { c.Version, c.Extensions = 0, nil }), "", "not for client authentication"},
		{"of version 1 with extensions", root.rewritten(t, good, func(c *tbs) { c.Version = 0 }), "", "not for client authentication"},
		{"a weak RSA key", root.weak(t), "", "1024 bits, and 2048 are the least"},
		{"a signature of somebody else's key", (&authority{cert: root.cert, key: newKey(t)}).rewritten(t, good, func(*tbs) {}), "unknown authority", ""},
	} {
		client := clientConfig(root)
		client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.cert, nil }
		cs, err, _ := shakeHands(t, gate.TLS(), client)
		if (err != nil) != (c.handshake != "") || err != nil && !strings.Contains(HandshakeReason(err), c.handshake) {
			t.Errorf("%s: the handshake: %v, want %q", c.what, err, c.handshake)
		}
		if err != nil {
			continue
		}
		who, err := gate.Identify(&cs, noon)
		if c.identify == "" {
			if err != nil || who.String() != principal("issuer") {
				t.Errorf("%s: %v, %v", c.what, who, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.identify) {
			t.Errorf("%s: %v, %v; want %q", c.what, who, err, c.identify)
		}
	}
}

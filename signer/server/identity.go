package server

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/signer/api"
	"chancery/signer/crl"
	"chancery/signer/policy"
)

// An identity is what a Gate says of a connection, as far as only time and new
// revocation lists can change it. It is immutable.
type identity struct {
	gate    *Gate
	leaf    *x509.Certificate // nil: none was shown
	refused *api.Error        // whatever the time; nil: see ways
	ways    []way
}

// A way is one verified chain, from the client's certificate to an anchor.
type way struct {
	caller  policy.Caller
	nobody  error     // why the certificate is nobody's; nil: caller
	until   time.Time // when the first certificate above the client's expires
	lists   *crl.Source
	set     *crl.Set // of lists, by which verdict was found
	verdict crl.Verdict
}

// study works out who came, without looking at the time.
func (g *Gate) study(cs *tls.ConnectionState, unix *policy.Unix) *identity {
	id := &identity{gate: g}
	if cs == nil || len(cs.PeerCertificates) == 0 {
		id.refused = forbidden(errors.New("no client certificate"))
		return id
	}
	id.leaf = cs.PeerCertificates[0]
	if g.policy.Revoked(id.leaf) {
		id.refused = errRevoked
		return id
	}
	if err := g.Admits(unix); err != nil {
		id.refused = forbidden(err)
		return id
	}
	for _, chain := range cs.VerifiedChains {
		above := chain[1:]
		for _, a := range g.anchors {
			if a.CA.Equal(chain[len(chain)-1]) && !slices.ContainsFunc(above, g.policy.Revoked) {
				id.ways = append(id.ways, g.way(a, chain, unix))
				break
			}
		}
	}
	return id
}

func (g *Gate) way(a Anchor, chain []*x509.Certificate, unix *policy.Unix) way {
	leaf := chain[0]
	w := way{until: leaf.NotAfter, lists: a.Lists}
	for _, c := range chain[1:] {
		if c.NotAfter.Before(w.until) {
			w.until = c.NotAfter
		}
	}
	if w.lists != nil {
		w.set = w.lists.Current()
		w.verdict = w.set.Judge(chain)
	}
	if w.nobody = sound(chain); w.nobody != nil {
		return w
	}
	who, err := g.policy.Identify(a.Name, leaf)
	if err != nil {
		w.nobody = err
		return w
	}
	w.caller = policy.Caller{Principal: who, Certificate: leaf, Unix: unix}
	return w
}

// minRSA is the smallest RSA key of a certificate, in bits (NIST SP 800-131A
// Rev. 2, Section 3).
const minRSA = 2048

// sound returns nil if crypto/x509, which verified the chain, has looked at
// enough: not at the size of keys, nor at what the client's key is for (RFC 5280
// Section 4.2.1.3: it signs the handshake).
func sound(chain []*x509.Certificate) error {
	for _, c := range chain {
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < minRSA {
			return fmt.Errorf("the RSA key of %s has %d bits, and %d are the least", c.Subject, key.N.BitLen(), minRSA)
		}
	}
	if usage := chain[0].KeyUsage; usage != 0 && usage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("the key of the client certificate is not for signatures")
	}
	return nil
}

func forbidden(cause error) *api.Error {
	return api.Errorf(api.CodeForbidden, "not allowed").Because(cause)
}

var (
	errExpired = api.Errorf(api.CodeCertificateExpired, "the client certificate has expired")
	errRevoked = api.Errorf(api.CodeCertificateRevoked, "the client certificate is revoked")
	errNoWay   = forbidden(errors.New("no trust anchor of now vouches for the client certificate"))
)

// unknownFor is when a client whose revocation cannot be told may ask again, in
// seconds.
const unknownFor = 10

// isOf reports whether id is what g says of the connection now, but for the time.
func (id *identity) isOf(g *Gate, cs *tls.ConnectionState) bool {
	if id.gate != g || cs == nil || len(cs.PeerCertificates) == 0 || id.leaf != cs.PeerCertificates[0] {
		return false
	}
	for i := range id.ways {
		if w := &id.ways[i]; w.lists != nil && w.lists.Current() != w.set {
			return false
		}
	}
	return true
}

// at returns who it is at now, or an *api.Error, and whether whoever it was is
// not to come in by this connection any more.
func (id *identity) at(now time.Time) (who policy.Caller, condemned bool, err error) {
	switch {
	case id.leaf != nil && now.After(id.leaf.NotAfter):
		return policy.Caller{}, true, errExpired
	case id.refused != nil:
		return policy.Caller{}, true, id.refused
	}
	e := errNoWay
	for i := range id.ways {
		w := &id.ways[i]
		if now.After(w.until) {
			continue
		}
		if w.lists == nil {
			return w.caller, false, w.why()
		}
		switch err := w.verdict.At(now); {
		case err == nil:
			return w.caller, false, w.why()
		case errors.Is(err, crl.ErrRevoked):
			e = errRevoked.Because(err)
		case e.Code != api.CodeCertificateRevoked:
			e = api.Errorf(api.CodeRevocationUnknown, "it cannot be told whether the client certificate is revoked").Because(err)
			e.RetryAfter = unknownFor
		}
	}
	return policy.Caller{}, e.Code != api.CodeRevocationUnknown, e
}

func (w *way) why() error {
	if w.nobody == nil {
		return nil
	}
	return forbidden(w.nobody)
}

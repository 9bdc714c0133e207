package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"time"

	"chancery/signer/api"
	"chancery/signer/policy"
)

// An Anchor is a trust anchor of client certificates.
type Anchor struct {
	Name string
	CA   *x509.Certificate
}

// A Gate is what one door's configuration says of who may come in. It is
// immutable; a reload makes a new one.
type Gate struct {
	anchors []Anchor
	policy  *policy.Policy
	tls     *tls.Config
}

// NewGate returns a Gate for a server certificate and the anchors of client
// certificates. protocols are the ALPN names served, the preferred one first.
// now is the clock certificates are judged by.
func NewGate(cert tls.Certificate, anchors []Anchor, p *policy.Policy, protocols []string, now func() time.Time) (*Gate, error) {
	if len(anchors) == 0 {
		return nil, errors.New("a door without trust anchors lets nobody in")
	}
	pool := x509.NewCertPool()
	for _, a := range anchors {
		pool.AddCert(a.CA)
	}
	return &Gate{anchors: anchors, policy: p, tls: &tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS13,
		NextProtos:   protocols,
		Time:         now,
	}}, nil
}

// TLS returns the configuration of the handshake: TLS 1.3 only, a client
// certificate required and verified in it.
func (g *Gate) TLS() *tls.Config { return g.tls }

// Identify returns who makes a request on a connection with state cs,
// or an *api.Error: certificate_expired, certificate_revoked or forbidden. It
// is asked for every request, since a connection may outlive a certificate, a
// revocation or an anchor, and a resumed one verifies nothing anew.
func (g *Gate) Identify(cs *tls.ConnectionState, now time.Time) (policy.Caller, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return policy.Caller{}, api.Errorf(api.CodeForbidden, "not allowed").Because(errors.New("no client certificate"))
	}
	leaf := cs.PeerCertificates[0]
	if now.After(leaf.NotAfter) {
		return policy.Caller{}, api.Errorf(api.CodeCertificateExpired, "the client certificate has expired")
	}
	if g.policy.Revoked(leaf) {
		return policy.Caller{}, api.Errorf(api.CodeCertificateRevoked, "the client certificate is revoked")
	}
	anchor, ok := g.anchorOf(cs.VerifiedChains, now)
	if !ok {
		return policy.Caller{}, api.Errorf(api.CodeForbidden, "not allowed").Because(errors.New("no trust anchor of now vouches for the client certificate"))
	}
	who, err := g.policy.Identify(anchor, leaf)
	if err != nil {
		return policy.Caller{}, api.Errorf(api.CodeForbidden, "not allowed").Because(err)
	}
	return policy.Caller{Principal: who, Certificate: leaf}, nil
}

// Condemned reports whether a client certificate is no good any more: it has
// expired or is revoked. Its connections are to be cut, soon after their next
// request could have been told so.
func (g *Gate) Condemned(leaf *x509.Certificate, now time.Time) bool {
	return now.After(leaf.NotAfter) || g.policy.Revoked(leaf)
}

func (g *Gate) anchorOf(chains [][]*x509.Certificate, now time.Time) (string, bool) {
	for _, chain := range chains {
		root := chain[len(chain)-1]
		for _, a := range g.anchors {
			if a.CA.Equal(root) && !g.revokedOrExpired(chain, now) {
				return a.Name, true
			}
		}
	}
	return "", false
}

func (g *Gate) revokedOrExpired(chain []*x509.Certificate, now time.Time) bool {
	for _, c := range chain[1:] {
		if now.After(c.NotAfter) || g.policy.Revoked(c) {
			return true
		}
	}
	return false
}

// HandshakeReason says in few words why a handshake failed, for the log.
func HandshakeReason(err error) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return "client certificate of an unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "client certificate expired or not yet valid"
	case errors.As(err, &invalid):
		return "client certificate not acceptable: " + invalid.Error()
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		return "no client certificate"
	}
	return err.Error()
}

// HandshakeCertificate returns the pin of the client certificate that a
// handshake failed by (policy.PinOf), or "none".
func HandshakeCertificate(err error) string {
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(e.UnverifiedCertificates) > 0 {
		return policy.PinOf(e.UnverifiedCertificates[0])
	}
	return "none"
}

// closeAfter has the connection closed once the answer is out.
func closeAfter(w http.ResponseWriter) { w.Header().Set("Connection", "close") }

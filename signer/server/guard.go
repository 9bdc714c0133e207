package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"chancery/signer/crl"
	"chancery/signer/policy"
)

// An Anchor is a trust anchor of client certificates.
type Anchor struct {
	Name string
	CA   *x509.Certificate
	// Lists holds the revocation lists of the anchor and of who is below it. Nil:
	// none are asked for. Otherwise a certificate of which they do not tell that it
	// is not revoked is refused.
	Lists *crl.Source
}

// A Gate is what one door's configuration says of who may come in. It is
// immutable; a reload makes a new one.
type Gate struct {
	anchors []Anchor
	policy  *policy.Policy
	tls     *tls.Config

	uids, gids []uint32 // see Only
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

// Only returns a gate that lets in, by a Unix socket, none but processes of these
// users and of these groups, where either is enough. A group is the one a
// process had in force as it connected, not those it belongs to besides. Both
// empty: everyone whom the socket's mode lets in. It says nothing of TCP.
func (g *Gate) Only(uids, gids []uint32) *Gate {
	only := *g
	only.uids, only.gids = uids, gids
	return &only
}

// Admits returns nil if who connected may, or why not. It is asked before the
// handshake, and again for each request. nil is who came by TCP.
func (g *Gate) Admits(who *policy.Unix) error {
	if who == nil || len(g.uids)+len(g.gids) == 0 || slices.Contains(g.uids, who.UID) || slices.Contains(g.gids, who.GID) {
		return nil
	}
	return &notAdmitted{*who}
}

// Identify returns who makes a request on a connection with state cs, or an
// *api.Error: certificate_expired, certificate_revoked, revocation_unknown or
// forbidden. It is asked for every request, since a connection may outlive a
// certificate, a revocation or an anchor, and a resumed one verifies nothing
// anew. A Visitor remembers between requests what does not change.
func (g *Gate) Identify(cs *tls.ConnectionState, now time.Time) (policy.Caller, error) {
	return new(Visitor).Identify(g, cs, now)
}

// Condemned reports whether a connection is no good any more: its certificate has
// expired or is revoked, or nothing vouches for it. It is to be cut, soon after
// its next request could have been told so. One of which it cannot be told
// whether it is revoked is not: that may pass.
func (g *Gate) Condemned(v *Visitor, cs *tls.ConnectionState, now time.Time) bool {
	_, condemned, _ := v.identity(g, cs).at(now)
	return condemned
}

// HandshakeReason says in few words why a handshake failed, for the log.
func HandshakeReason(err error) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown) && strings.Contains(unknown.Error(), "insecure algorithm"): // crypto/x509 has these as hints
		return "client certificate signed by an algorithm that is not secure"
	case errors.As(err, &unknown) && strings.Contains(unknown.Error(), "parent certificate cannot sign"):
		return "client certificate issued by one who is no authority"
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

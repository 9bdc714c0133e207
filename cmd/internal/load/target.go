package load

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// dialTimeout bounds connecting and the handshake.
const dialTimeout = 10 * time.Second

// A Target is a server and who asks it.
type Target struct {
	Network, Address string // as of net.Dial: unix or tcp
	ServerName       string // in the server's certificate, and what requests call it
	Certificate      tls.Certificate
	Roots            *x509.CertPool // who vouches for the server
}

// NewTarget reads an endpoint: "unix:PATH" or "https://HOST[:PORT]". An empty
// serverName is "localhost" at a socket and otherwise HOST.
func NewTarget(endpoint, serverName string, cert tls.Certificate, roots *x509.CertPool) (Target, error) {
	t := Target{Network: "unix", ServerName: cmp.Or(serverName, "localhost"), Certificate: cert, Roots: roots}
	var isSocket bool
	if t.Address, isSocket = strings.CutPrefix(endpoint, "unix:"); isSocket {
		return t, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return Target{}, fmt.Errorf("endpoint %q is neither unix:PATH nor https://HOST[:PORT]", endpoint)
	}
	t.Network, t.ServerName = "tcp", cmp.Or(serverName, u.Hostname())
	t.Address = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))
	return t, nil
}

// dial connects and shakes hands for a protocol of ALPN's.
func (t Target) dial(ctx context.Context, protocol string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, t.Network, t.Address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{t.Certificate},
		RootCAs: t.Roots, ServerName: t.ServerName, NextProtos: []string{protocol},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != protocol && (got != "" || protocol != "http/1.1") {
		conn.Close()
		return nil, fmt.Errorf("the server does not speak %s on this listener", protocol)
	}
	return conn, nil
}

// patience is how long an answer may take. A connection's deadline is moved on
// only now and then, so that it costs nothing.
type patience struct{ moved time.Time }

func (p *patience) extend(conn net.Conn) error {
	now := time.Now()
	if now.Sub(p.moved) < time.Second {
		return nil
	}
	p.moved = now
	return conn.SetDeadline(now.Add(slowest))
}

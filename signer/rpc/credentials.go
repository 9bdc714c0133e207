package rpc

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/credentials"

	"chancery/signer/server"
)

// A connection is what is known of one. It is gRPC's AuthInfo: whoever makes a call
// on it is asked for anew, by its TLS state.
type connection struct {
	credentials.CommonAuthInfo
	tls     tls.ConnectionState
	visitor *server.Visitor
	client  *tally
}

// AuthType implements credentials.AuthInfo.
func (*connection) AuthType() string { return "tls" }

// A tally counts the calls that are open by one client certificate, over all its
// connections.
type tally struct {
	open        atomic.Int64
	connections int // guarded by Server.mu
}

// watched is a listener whose connections are watched from their first byte on.
type watched struct {
	net.Listener
	*Server
}

// Accept returns the next connection, whose handshake is done.
func (l watched) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		conn, ok := c.(*tls.Conn)
		if !ok {
			c.Close()
			continue // no Door hands one over
		}
		state := conn.ConnectionState()
		if !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
			c.Close()
			continue
		}
		return l.watch(conn, &connection{tls: state, visitor: server.VisitorOf(conn)}), nil
	}
}

// watch counts a connection in until it is closed.
func (s *Server) watch(conn net.Conn, info *connection) *watch {
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	w := newWatch(conn, s.limits, s.Now)
	w.info, w.flooded = info, func(err error) { s.flooded(info, err) }
	id := sha256.Sum256(info.tls.PeerCertificates[0].Raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.clients[id]
	if !ok {
		t = new(tally)
		s.clients[id] = t
	}
	t.connections++
	info.client = t
	s.watches[w] = struct{}{}
	w.closed = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.watches[w]; !ok {
			return // closed before
		}
		delete(s.watches, w)
		if t.connections--; t.connections == 0 {
			delete(s.clients, id)
		}
	}
	return w
}

// handshaken are credentials for connections that are watched.
type handshaken struct{}

// ServerHandshake returns what is known of the connection.
func (handshaken) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	w, ok := c.(*watch)
	if !ok {
		return nil, nil, errors.New("a connection that nobody has shaken hands on")
	}
	return w, w.info, nil
}

// ClientHandshake implements credentials.TransportCredentials; there are no clients
// here.
func (handshaken) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are a server's credentials")
}

// Info implements credentials.TransportCredentials.
func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (h handshaken) Clone() credentials.TransportCredentials { return h }

// OverrideServerName implements credentials.TransportCredentials.
func (handshaken) OverrideServerName(string) error {
	return errors.New("these are a server's credentials")
}

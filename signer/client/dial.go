package client

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// dialTLS returns a function for http.Transport that connects, shakes hands, and
// tells the truth about how a connection ended.
func dialTLS(network, address string, cfg *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: connectTimeout}, Config: cfg}
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &alertConn{Conn: conn, ended: make(chan error, 1)}, nil
	}
}

// An alertConn prefers what the daemon said to what became of our words. In TLS
// 1.3 a client certificate is refused after the client's handshake is done: it
// writes into a closed connection while the alert, which says why, waits to be
// read.
type alertConn struct {
	net.Conn
	ended chan error // the error of the last Read
}

// Read reads, and keeps how it ends.
func (c *alertConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		select {
		case c.ended <- err:
		default:
		}
	}
	return n, err
}

// alertPause is how long a failed Write waits for what Read finds.
const alertPause = 100 * time.Millisecond

// Write writes. When it fails, the error is that of the reading side, if that
// ends as well.
func (c *alertConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		select {
		case ended := <-c.ended:
			return n, ended
		case <-time.After(alertPause):
		}
	}
	return n, err
}

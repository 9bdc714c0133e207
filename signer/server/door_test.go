package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery/signer/policy"
)

// patience is longer than anything here takes on a busy machine.
const patience = 10 * time.Second

// A street is a Door on loopback, and who comes to it.
type street struct {
	*Door
	root   *authority
	addr   string
	failed chan error
}

func newStreet(t *testing.T, lim Limits, listeners ...net.Listener) *street {
	t.Helper()
	s := &street{root: newAuthority(t, "root", nil, noon.Add(48*time.Hour)), failed: make(chan error, 1000)}
	gate, err := NewGate(s.root.localhost(t), []Anchor{{Name: "dev", CA: s.root.cert}}, testPolicy(t, policy.Revoked{}), []string{"http/1.1", "h2"}, at(noon))
	if err != nil {
		t.Fatal(err)
	}
	s.Door = &Door{TLS: gate.TLS, Limits: lim, Log: slog.New(slog.DiscardHandler), Failed: func(_ string, err error) { s.failed <- err }}
	if len(listeners) == 0 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.addr, listeners = l.Addr().String(), []net.Listener{l}
	}
	s.Protocol("http/1.1")
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			if err := s.Serve(l); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return s
}

// comes returns a client's connection, its handshake done.
func (s *street) comes(t *testing.T, protos ...string) *tls.Conn {
	t.Helper()
	cfg := clientConfig(s.root, s.root.named(t, "issuer"))
	cfg.NextProtos = protos
	c, err := tls.Dial("tcp", s.addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ended waits until a connection is closed by the other side.
func ended(t *testing.T, what string, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the connection is still open", what)
	}
}

func accept(t *testing.T, q net.Listener) net.Conn {
	t.Helper()
	c, err := q.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestProtocolsHaveTheirOwnListeners(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newStreet(t, Limits{}, l)
	s.addr = l.Addr().String()
	http1 := s.protocols["http/1.1"]
	for _, c := range []struct {
		offers []string
		want   string
	}{{nil, ""}, {[]string{"http/1.1"}, "http/1.1"}, {[]string{"h2", "http/1.1"}, "http/1.1"}} {
		s.comes(t, c.offers...)
		if got := accept(t, http1).(*tls.Conn).ConnectionState().NegotiatedProtocol; got != c.want {
			t.Errorf("a client that offers %q speaks %q", c.offers, got)
		}
	}
	ended(t, "h2, which nobody serves", s.comes(t, "h2"))
	if http1.Addr() == nil {
		t.Error("a protocol's listener has no address")
	}
}

func TestEachProtocolGetsItsOwn(t *testing.T) {
	s := &Door{Log: slog.New(slog.DiscardHandler), Failed: func(string, error) {}}
	root := newAuthority(t, "root", nil, noon.Add(48*time.Hour))
	gate, err := NewGate(root.localhost(t), []Anchor{{Name: "dev", CA: root.cert}}, testPolicy(t, policy.Revoked{}), []string{"http/1.1", "h2"}, at(noon))
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = gate.TLS
	queues := map[string]net.Listener{"http/1.1": s.Protocol("http/1.1"), "h2": s.Protocol("h2")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	for proto, q := range queues {
		cfg := clientConfig(root, root.named(t, "issuer"))
		cfg.NextProtos = []string{proto}
		c, err := tls.Dial("tcp", l.Addr().String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := accept(t, q).(*tls.Conn).ConnectionState().NegotiatedProtocol; got != proto {
			t.Errorf("%q came to %q", got, proto)
		}
	}
	s.Close()
	wg.Wait()
	for proto, q := range queues {
		if _, err := q.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", proto, err)
		}
	}
	if err := s.Serve(l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serving after Close: %v", err)
	}
}

// A13: who connects and says nothing is sent away, and keeps nobody out.
func TestA13HandshakeDeadline(t *testing.T) {
	s := newStreet(t, Limits{Handshake: 3 * time.Second}) // the one who speaks has it, too
	var silent []net.Conn
	for range 100 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	s.comes(t)
	accept(t, s.protocols["http/1.1"])
	for _, c := range silent {
		ended(t, "silent", c)
		if err := <-s.failed; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the log has %v", err)
		}
	}
}

func TestA13Limits(t *testing.T) {
	for what, lim := range map[string]Limits{"in all": {Connections: 2}, "of one peer": {PerPeer: 2}} {
		s := newStreet(t, lim)
		first := s.comes(t)
		accept(t, s.protocols["http/1.1"])
		s.comes(t)
		second := accept(t, s.protocols["http/1.1"])
		third, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		ended(t, "the third "+what, third)
		third.Close()

		second.Close() // by the server: there is room again
		s.comes(t)
		accept(t, s.protocols["http/1.1"])
		if first.SetDeadline(time.Now().Add(patience)) != nil {
			t.Error("the first is gone")
		}
		s.Close()
		s.mu.Lock()
		if n := len(s.open); n != 2 {
			t.Errorf("%s: %d connections are counted", what, n)
		}
		s.mu.Unlock()
	}
}

// Limits of one peer are not another's.
func TestA13PeersAreCountedApart(t *testing.T) {
	d := &Door{Limits: Limits{PerPeer: 1, Connections: 10}.withDefaults(), open: map[net.Conn]*tls.Conn{}, peers: map[string]int{}}
	a, b := &net.TCPConn{}, &net.TCPConn{}
	if d.admit(a, "one") != "" || d.admit(b, "one") != BoundPerPeer || d.admit(b, "two") != "" {
		t.Error("a peer is counted as another")
	}
	d.forget(a, "one")
	d.forget(a, "one") // once is enough
	if len(d.peers) != 1 || d.admit(a, "one") != "" {
		t.Errorf("peers %v", d.peers)
	}
}

func TestCloseEndsOpenHandshakes(t *testing.T) {
	s := newStreet(t, Limits{Handshake: time.Hour})
	silent, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for {
		s.mu.Lock()
		n := len(s.open)
		s.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	s.Close()
	ended(t, "shaking hands", silent)
	select {
	case <-s.failed: // before Close returned
	default:
		t.Error("Close did not wait for the handshake it ended")
	}
	if _, err := net.Dial("tcp", s.addr); err == nil {
		t.Error("a closed door takes connections")
	}
}

// Close does not wait for a protocol that takes nobody any more.
func TestCloseWithAConnectionNobodyTakes(t *testing.T) {
	s := newStreet(t, Limits{})
	c := s.comes(t)
	for {
		s.mu.Lock()
		waiting := 0
		for _, conn := range s.open {
			if conn != nil {
				waiting++
			}
		}
		s.mu.Unlock()
		if waiting == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	done := make(chan struct{})
	go func() {
		s.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Close hangs")
	}
	ended(t, "waiting to be taken", c)
}

// I10: a condemned client's open connections are cut; others stay.
func TestI10CloseIf(t *testing.T) {
	s := newStreet(t, Limits{})
	doomed := s.comes(t)
	condemned := accept(t, s.protocols["http/1.1"])
	saved := s.comes(t)
	server := accept(t, s.protocols["http/1.1"])
	leaf, err := x509.ParseCertificate(server.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("tcp", s.addr) // has no certificate yet: not asked about
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s.CloseIf(func(v *Visitor, cs *tls.ConnectionState) bool {
		if v != VisitorOf(server) && v != VisitorOf(condemned) {
			t.Error("a connection has another visitor than its own")
		}
		return !cs.PeerCertificates[0].Equal(leaf)
	})
	ended(t, "condemned", doomed)
	if _, err := server.Write([]byte("x")); err != nil {
		t.Errorf("the other's: %v", err)
	}
	saved.SetReadDeadline(time.Now().Add(patience))
	if _, err := saved.Read(make([]byte, 1)); err != nil {
		t.Errorf("the other: %v", err)
	}
}

// scriptedListener returns what it is told to, and then nothing until Close.
type scriptedListener struct {
	net.Listener
	errs []error
}

func (l *scriptedListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	return l.Listener.Accept()
}

func TestS23OutOfDescriptors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newStreet(t, Limits{}, &scriptedListener{l, []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.EIO, syscall.EMFILE}})
	s.addr = l.Addr().String()
	s.comes(t)
	accept(t, s.protocols["http/1.1"])
}

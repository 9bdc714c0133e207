package server

import (
	"net"
	"testing"
	"time"
)

// Of both bounds the one of all connections is named first: there is no room for
// anybody then.
func TestA13WhichBoundKeepsOut(t *testing.T) {
	lim := Limits{Connections: 3, PerPeer: 2}
	for _, c := range []struct {
		open, ofPeer int
		want         Bound
	}{
		{0, 0, ""}, {2, 1, ""}, {2, 2, BoundPerPeer}, {3, 0, BoundConnections}, {3, 2, BoundConnections},
	} {
		if b := lim.bound(c.open, c.ofPeer); b != c.want {
			t.Errorf("%d open, %d of its peer: %q, want %q", c.open, c.ofPeer, b, c.want)
		}
	}
}

// The doors that are open to everyone used to take any number of connections.
func TestA13LimitedClosesOneTooMany(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan Bound, 8)
	l := Limited(inner, Limits{PerPeer: 2}, func(peer string, b Bound) {
		if peer != "127.0.0.1" {
			t.Errorf("peer %q", peer)
		}
		refused <- b
	})
	t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 8)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	dial()
	first, second := <-accepted, <-accepted
	third := dial()
	third.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection was not closed")
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Error("a third connection was left waiting")
	}
	if b := <-refused; b != BoundPerPeer { // it left no trace
		t.Errorf("told of %q", b)
	}
	first.Close()
	first.Close() // twice counts once
	dial()
	<-accepted
	second.Close()
}

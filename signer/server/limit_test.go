package server

import (
	"net"
	"testing"
	"time"
)

// The doors that are open to everyone used to take any number of connections.
func TestA13LimitedClosesOneTooMany(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Limited(inner, Limits{PerPeer: 2})
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
	first.Close()
	first.Close() // twice counts once
	dial()
	<-accepted
	second.Close()
}

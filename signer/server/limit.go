package server

import (
	"net"
	"sync"
)

// A Bound is the member of Limits for which a connection was closed at once, as the
// configuration calls it.
type Bound string

// The bounds.
const (
	BoundConnections Bound = "connections" // too many in all
	BoundPerPeer     Bound = "per_peer"    // too many of one address or uid

	boundClosed Bound = "closed" // nobody is told of it
)

// bound returns what keeps one more connection out, or "": so many are open, and so
// many of its peer.
func (l *Limits) bound(open, ofPeer int) Bound {
	switch {
	case open >= l.Connections:
		return BoundConnections
	case ofPeer >= l.PerPeer:
		return BoundPerPeer
	}
	return ""
}

// Limited returns l with at most lim.Connections connections open at a time, and
// at most lim.PerPeer from one address or uid; one more is closed at once, and full is
// told, which must answer at once and may be nil. It is for doors that are open to
// everyone.
func Limited(l net.Listener, lim Limits, full func(peer string, b Bound)) net.Listener {
	if full == nil {
		full = func(string, Bound) {}
	}
	return &limited{Listener: l, lim: lim.withDefaults(), full: full, peers: make(map[string]int)}
}

type limited struct {
	net.Listener
	lim  Limits
	full func(peer string, b Bound)

	mu    sync.Mutex // guards what follows
	open  int
	peers map[string]int
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer := peerOf(c)
		b := l.enter(peer)
		if b == "" {
			return &countedConn{Conn: c, gone: func() { l.leave(peer) }}, nil
		}
		c.Close()
		l.full(peer, b)
	}
}

// enter counts a connection in, or returns what keeps it out.
func (l *limited) enter(peer string) Bound {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.lim.bound(l.open, l.peers[peer])
	if b == "" {
		l.open++
		l.peers[peer]++
	}
	return b
}

func (l *limited) leave(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.peers[peer]--; l.peers[peer] <= 0 {
		delete(l.peers, peer)
	}
}

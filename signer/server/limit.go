package server

import (
	"net"
	"sync"
)

// Limited returns l with at most lim.Connections connections open at a time, and
// at most lim.PerPeer from one address or uid; one more is closed at once. It is
// for doors that are open to everyone.
func Limited(l net.Listener, lim Limits) net.Listener {
	return &limited{Listener: l, lim: lim.withDefaults(), peers: make(map[string]int)}
}

type limited struct {
	net.Listener
	lim Limits

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
		if l.enter(peer) {
			return &countedConn{Conn: c, gone: func() { l.leave(peer) }}, nil
		}
		c.Close()
	}
}

func (l *limited) enter(peer string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.lim.Connections || l.peers[peer] >= l.lim.PerPeer {
		return false
	}
	l.open++
	l.peers[peer]++
	return true
}

func (l *limited) leave(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.peers[peer]--; l.peers[peer] <= 0 {
		delete(l.peers, peer)
	}
}

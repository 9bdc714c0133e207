package postgrestest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// A Proxy is on the way to a server. It understands where a client's statements
// end, and can cut there.
type Proxy struct {
	listener net.Listener
	server   string

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]bool
	closed bool
	before func(statement string) // called before a statement goes on
	cut    bool                   // after the next COMMIT
	hole   chan struct{}          // not nil: nothing goes through until it is closed

	running sync.WaitGroup
}

// Proxy starts a proxy to the server, and ends it when the test ends.
func (s *Server) Proxy(t testing.TB) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, server: fmt.Sprintf("127.0.0.1:%d", s.port), conns: make(map[net.Conn]bool)}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		_ = l.Close()
		p.BlackHole(false)
		p.Cut()
		p.running.Wait()
	})
	return p
}

// URL names a database by way of the proxy.
func (p *Proxy) URL(database string) string { return urlOf(database, p.listener.Addr().String()) }

// Cut ends every connection there is.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// BlackHole lets nothing through, in either direction and on new connections too,
// until it is called with false. Nobody is told.
func (p *Proxy) BlackHole(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case on && p.hole == nil:
		p.hole = make(chan struct{})
	case !on && p.hole != nil:
		close(p.hole)
		p.hole = nil
	}
}

// CutAfterCommit lets the next COMMIT through, waits for the server's answer to
// it, and ends that connection in place of passing the answer on.
func (p *Proxy) CutAfterCommit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
}

// Before has f called with each statement that is about to go to the server: its
// text, or "" if it was prepared. The statement waits for f.
func (p *Proxy) Before(f func(statement string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = f
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.leave(client)
	if !p.enter(client) {
		return
	}
	p.pass()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer p.leave(server)
	if !p.enter(server) {
		return
	}
	link := &link{Proxy: p, client: client, server: server, answered: make(chan struct{}, 1)}
	back := make(chan struct{})
	go func() {
		defer close(back)
		link.answers()
		_ = client.Close()
	}()
	link.statements()
	_ = server.Close()
	<-back
}

func (p *Proxy) enter(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = true
	return !p.closed
}

func (p *Proxy) leave(conn net.Conn) {
	_ = conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// pass waits while there is a black hole.
func (p *Proxy) pass() {
	p.mu.Lock()
	hole := p.hole
	p.mu.Unlock()
	if hole != nil {
		<-hole
	}
}

// A link is one connection through the proxy.
type link struct {
	*Proxy
	client, server net.Conn

	mu       sync.Mutex // guards swallow
	swallow  bool       // what the server answers from now on
	answered chan struct{}
}

// answers passes on what the server says.
func (l *link) answers() {
	defer close(l.answered)
	b := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(b)
		if n > 0 {
			l.pass()
			l.mu.Lock()
			swallow := l.swallow
			l.mu.Unlock()
			if swallow {
				select {
				case l.answered <- struct{}{}:
				default:
				}
				continue
			}
			if _, err := l.client.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// What a connection begins with instead of a start-up message.
const (
	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104
)

// statements passes on what the client says: first messages that have a length
// and no type, then messages that have both.
func (l *link) statements() {
	for {
		body, err := readBody(l.client)
		if err != nil || l.forward(sized(body)) != nil || len(body) < 4 {
			return
		}
		switch binary.BigEndian.Uint32(body) {
		case sslRequest, gssRequest:
			continue
		case cancelRequest:
			return
		}
		break
	}
	text := ""
	for {
		var kind [1]byte
		if _, err := io.ReadFull(l.client, kind[:]); err != nil {
			return
		}
		body, err := readBody(l.client)
		if err != nil {
			return
		}
		commit := false
		switch kind[0] {
		case 'P': // Parse: a name, the statement
			_, rest, _ := bytes.Cut(body, []byte{0})
			text, _ = cString(rest)
		case 'Q': // Query
			text, _ = cString(body)
			commit = text == "COMMIT" && l.takeCut()
			fallthrough
		case 'S': // Sync: what was said since the last one
			l.tell(text)
			text = ""
		}
		if commit {
			l.mu.Lock()
			l.swallow = true
			l.mu.Unlock()
		}
		if l.forward(append(kind[:], sized(body)...)) != nil {
			return
		}
		if commit {
			<-l.answered
			return
		}
	}
}

func (l *link) forward(message []byte) error {
	l.pass()
	_, err := l.server.Write(message)
	return err
}

func (l *link) takeCut() bool {
	l.Proxy.mu.Lock()
	defer l.Proxy.mu.Unlock()
	cut := l.cut
	l.cut = false
	return cut
}

func (l *link) tell(statement string) {
	l.Proxy.mu.Lock()
	before := l.before
	l.Proxy.mu.Unlock()
	if before != nil {
		before(statement)
	}
}

// readBody reads a length, which counts itself, and what it counts.
func readBody(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > 1<<24 {
		return nil, errors.New("no message of a PostgreSQL client")
	}
	body := make([]byte, n-4)
	_, err := io.ReadFull(r, body)
	return body, err
}

func sized(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)
}

func cString(b []byte) (string, bool) {
	text, _, ok := bytes.Cut(b, []byte{0})
	return string(text), ok
}

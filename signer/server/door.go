package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"chancery/signer/policy"
)

// Limits bound what connections may cost. The zero value of a member means its
// default.
type Limits struct {
	Handshake      time.Duration // 5 s: from accept to the end of the TLS handshake
	ReadHeader     time.Duration // 5 s
	Read           time.Duration // 10 s: header and body
	Write          time.Duration // 30 s
	Idle           time.Duration // 2 min
	Connections    int           // 1024 in all
	PerPeer        int           // 256 per address, or per uid on a Unix socket
	HeaderBytes    int           // 16 KiB
	MaxBody        int64         // 64 KiB
	MaxBatchBody   int64         // 1 MiB
	RequestTimeout time.Duration // 10 s: the deadline of the work for one request
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&l.Handshake, 5*time.Second)
	set(&l.ReadHeader, 5*time.Second)
	set(&l.Read, 10*time.Second)
	set(&l.Write, 30*time.Second)
	set(&l.Idle, 2*time.Minute)
	set(&l.RequestTimeout, 10*time.Second)
	if l.Connections == 0 {
		l.Connections = 1024
	}
	if l.PerPeer == 0 {
		l.PerPeer = 256
	}
	if l.HeaderBytes == 0 {
		l.HeaderBytes = 16 << 10
	}
	if l.MaxBody == 0 {
		l.MaxBody = 64 << 10
	}
	if l.MaxBatchBody == 0 {
		l.MaxBatchBody = 1 << 20
	}
	return l
}

// OrDefaults returns l with its defaults filled in.
func (l Limits) OrDefaults() Limits { return l.withDefaults() }

// MostConnections returns how many connections l lets be open at a time.
func (l Limits) MostConnections() int { return l.withDefaults().Connections }

// A Door accepts connections on its listeners, shakes hands, and hands each
// connection to the handler of the protocol ALPN chose.
type Door struct {
	// TLS returns the configuration for the next handshake.
	TLS func() *tls.Config
	// Admit returns an error for a process that may not connect by a Unix socket.
	// It is asked before the handshake. Nil lets everyone in.
	Admit func(*policy.Unix) error
	// Failed is told of each connection that was not admitted and each handshake
	// that failed, and why.
	Failed func(peer string, err error)
	// Full is told of each connection that was closed at once because too many are
	// open. It must answer at once, and may be nil.
	Full   func(peer string, b Bound)
	Limits Limits
	Log    *slog.Logger

	mu        sync.Mutex // guards what follows
	listeners []net.Listener
	open      map[net.Conn]*tls.Conn // nil while shaking hands
	peers     map[string]int
	closed    bool
	wg        sync.WaitGroup
	protocols map[string]*queue
}

// Protocol returns a listener whose Accept yields the connections for which
// ALPN chose proto. A client that offers no ALPN gets "http/1.1". It must be
// called before Serve.
func (d *Door) Protocol(proto string) net.Listener {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.protocols == nil {
		d.protocols = make(map[string]*queue)
	}
	q := &queue{conns: make(chan net.Conn), done: make(chan struct{})}
	d.protocols[proto] = q
	return q
}

// Serve accepts on l until Close. It may be called for several listeners.
func (d *Door) Serve(l net.Listener) error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return net.ErrClosed
	}
	if d.open == nil { // the first of them; from here on Limits is only read
		d.Limits = d.Limits.withDefaults()
		d.open, d.peers = make(map[net.Conn]*tls.Conn), make(map[string]int)
	}
	d.listeners = append(d.listeners, l)
	d.mu.Unlock()

	pause := 5 * time.Millisecond
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of descriptors, most likely: connections that are open go on.
			if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) && !errors.Is(err, syscall.ECONNABORTED) {
				d.Log.Error("accepting a connection failed", "err", err)
			}
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		v := newVisitor(c)
		if d.Admit != nil && v.unix != nil {
			if err := d.Admit(v.unix); err != nil {
				c.Close()
				d.Failed(v.peer, err)
				continue
			}
		}
		if b := d.admit(c, v.peer); b != "" {
			c.Close()
			if b != boundClosed && d.Full != nil {
				d.Full(v.peer, b)
			}
			continue
		}
		go func() {
			defer d.wg.Done() // admit added it
			d.shake(c, v)
		}()
	}
}

// admit counts c in, or returns what keeps it out. Close waits for whoever was counted
// in before it.
func (d *Door) admit(c net.Conn, peer string) Bound {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return boundClosed
	}
	if b := d.Limits.bound(len(d.open), d.peers[peer]); b != "" {
		return b
	}
	d.open[c] = nil
	d.peers[peer]++
	d.wg.Add(1)
	return ""
}

func (d *Door) forget(c net.Conn, peer string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.open[c]; !ok {
		return
	}
	delete(d.open, c)
	if d.peers[peer]--; d.peers[peer] <= 0 {
		delete(d.peers, peer)
	}
}

func (d *Door) shake(raw net.Conn, v *Visitor) {
	counted := &countedConn{Conn: raw, visitor: v, gone: func() { d.forget(raw, v.peer) }}
	conn := tls.Server(counted, d.TLS())
	ctx, cancel := context.WithTimeout(context.Background(), d.Limits.Handshake)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		linger(raw)
		conn.Close()
		d.Failed(v.peer, err)
		return
	}
	d.mu.Lock()
	if _, ok := d.open[raw]; ok {
		d.open[raw] = conn
	}
	proto := conn.ConnectionState().NegotiatedProtocol
	if proto == "" {
		proto = "http/1.1"
	}
	q := d.protocols[proto]
	d.mu.Unlock()
	if q == nil || !q.put(conn) {
		conn.Close()
	}
}

// How long, and for how many bytes, a refused client is listened to.
const (
	lingerWithin = time.Second
	lingerBytes  = 64 << 10
)

// linger lets a refused client read its alert. In TLS 1.3 it may be writing its
// request by now; a connection closed at once would give it a broken pipe before
// it looks for an answer.
func linger(raw net.Conn) {
	half, ok := raw.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || raw.SetReadDeadline(time.Now().Add(lingerWithin)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, raw, lingerBytes) // whatever ends it, the connection is closed next
}

// CloseIf closes every connection that is condemned.
func (d *Door) CloseIf(condemned func(*Visitor, *tls.ConnectionState) bool) {
	d.mu.Lock()
	open := make([]*tls.Conn, 0, len(d.open))
	for _, conn := range d.open {
		if conn != nil {
			open = append(open, conn)
		}
	}
	d.mu.Unlock()
	for _, conn := range open {
		if cs := conn.ConnectionState(); condemned(VisitorOf(conn), &cs) {
			conn.NetConn().Close() // at once: a close alert could wait for a stalled peer
		}
	}
}

// Close stops accepting. Connections already handed over are their protocols'.
func (d *Door) Close() {
	d.mu.Lock()
	d.closed = true
	for _, l := range d.listeners {
		l.Close()
	}
	for raw, conn := range d.open {
		if conn == nil {
			raw.Close() // still shaking hands
		}
	}
	for _, q := range d.protocols {
		q.Close() // before the wait: a connection may be waiting to be taken there
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// countedConn tells the Door once when the connection ends.
type countedConn struct {
	net.Conn
	visitor *Visitor // nil at a door that asks nobody who they are
	once    sync.Once
	gone    func()
}

func (c *countedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.gone)
	return err
}

// queue is the listener of one protocol.
type queue struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (q *queue) put(c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.done:
		return false
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return &net.UnixAddr{Name: "tls", Net: "unix"} }

package rpc

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// What ends a connection.
var (
	errResets       = errors.New("too many frames that reset or adjust, and ask for nothing")
	errContinuation = errors.New("headers in too many CONTINUATION frames")
)

// The lengths and types of HTTP/2 that a watch looks at (RFC 9113 Sections 3.4, 4.1
// and 6).
const (
	prefaceLength = 24
	headerLength  = 9

	frameHeaders      = 1
	framePriority     = 2
	frameRSTStream    = 3
	frameSettings     = 4
	frameContinuation = 9
)

// maxContinuations is how many CONTINUATION frames one block of headers may have.
// A frame holds 16 KiB, as much as all headers may have.
const maxContinuations = 4

// A watch is a connection that looks at the headers of the frames it reads, and ends
// when there are too many of those that cost much and ask for nothing. gRPC bounds
// how many calls are open, not how many are opened and reset.
type watch struct {
	net.Conn
	info    *connection
	clock   func() time.Time
	flooded func(error) // told once why the connection ended
	bucket  bucket
	greeted atomic.Bool // the client's preface has come
	closed  func()

	// What follows belongs to the goroutine that reads.
	skip          int // bytes of the preface or of a payload that are still to come
	header        [headerLength]byte
	have          int // bytes of header
	continuations int
	ended         error
}

func newWatch(c net.Conn, l Limits, clock func() time.Time) *watch {
	return &watch{Conn: c, clock: clock, skip: prefaceLength, bucket: bucket{
		most: float64(l.Resets), level: float64(l.Resets), rate: float64(l.Resets) / l.ResetsWithin.Seconds(),
	}}
}

// Read reads, and returns an error in place of what holds a frame too many.
func (w *watch) Read(p []byte) (int, error) {
	if w.ended != nil {
		return 0, w.ended
	}
	n, err := w.Conn.Read(p)
	if w.ended = w.look(p[:n]); w.ended != nil {
		w.flooded(w.ended)
		return 0, w.ended
	}
	return n, err
}

// look goes through what was read.
func (w *watch) look(b []byte) error {
	for {
		if w.skip > 0 {
			n := min(w.skip, len(b))
			w.skip, b = w.skip-n, b[n:]
		}
		if len(b) == 0 {
			return nil
		}
		w.greeted.Store(true)
		n := copy(w.header[w.have:], b)
		w.have, b = w.have+n, b[n:]
		if w.have < headerLength {
			return nil
		}
		w.have, w.skip = 0, int(binary.BigEndian.Uint32(w.header[:4])>>8)
		if err := w.frame(w.header[3]); err != nil {
			return err
		}
	}
}

func (w *watch) frame(kind byte) error {
	switch kind {
	case frameRSTStream, frameSettings, framePriority:
		if !w.bucket.take(w.clock()) {
			return errResets
		}
	case frameHeaders:
		w.continuations = 0
	case frameContinuation:
		if w.continuations++; w.continuations > maxContinuations {
			return errContinuation
		}
	}
	return nil
}

// abort closes the connection at once: a close alert could wait for a stalled peer.
// Whoever reads closes the rest.
func (w *watch) abort() {
	if conn, ok := w.Conn.(*tls.Conn); ok {
		conn.NetConn().Close()
	}
}

// Close closes the connection, and says so.
func (w *watch) Close() error {
	err := w.Conn.Close()
	w.closed()
	return err
}

// A bucket holds at most so many, is full at first, and fills at a rate by second.
type bucket struct {
	most, level, rate float64
	at                time.Time // of the last take
}

func (b *bucket) take(now time.Time) bool {
	if !b.at.IsZero() {
		b.level = min(b.most, b.level+b.rate*max(0, now.Sub(b.at).Seconds()))
	}
	b.at = now
	if b.level < 1 {
		return false
	}
	b.level--
	return true
}

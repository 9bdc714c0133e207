package rpc

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// What ends a connection.
var (
	errResets       = errors.New("too many frames that reset or adjust, and ask for nothing")
	errContinuation = errors.New("headers in too many CONTINUATION frames")
	errFrames       = errors.New("too many frames")
	errRefused      = errors.New("too many calls that had to be reset")
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

// A watch is a connection that looks at the headers of the frames it reads and writes,
// and ends when there are too many of those that cost much and ask for nothing. gRPC
// bounds how many calls are open, not how many are opened and reset, by the client or,
// because of what the client sends, by us (CVE-2025-8671).
type watch struct {
	net.Conn
	info    *connection
	clock   func() time.Time
	flooded func(error) // told once why the connection ended
	told    sync.Once
	greeted atomic.Bool // the client's preface has come
	closed  func()

	in    framing // belongs to the goroutine that reads, as the next three do
	reset bucket
	any   bucket
	ended error

	out     framing // belongs to the goroutine that writes, as the next does
	refused bucket
}

// What a client may have us do beyond what it resets itself: so many times as many
// frames may come, and be resets of ours. A client that signs sends four frames for a
// token; one whose calls are refused before they are read is sent a reset for each.
const (
	framesPerReset  = 1000
	refusedPerReset = 10
)

func newWatch(c net.Conn, l Limits, clock func() time.Time) *watch {
	limited := func(times int) bucket {
		most := float64(l.Resets * times)
		return bucket{most: most, level: most, rate: most / l.ResetsWithin.Seconds()}
	}
	return &watch{
		Conn: c, clock: clock, in: framing{skip: prefaceLength},
		reset: limited(1), any: limited(framesPerReset), refused: limited(refusedPerReset),
	}
}

// Read reads, and returns an error in place of what holds a frame too many.
func (w *watch) Read(p []byte) (int, error) {
	if w.ended != nil {
		return 0, w.ended
	}
	n, err := w.Conn.Read(p)
	if w.ended = w.look(p[:n]); w.ended != nil {
		w.tell(w.ended)
		return 0, w.ended
	}
	return n, err
}

// Write writes, unless there is a reset too many in it.
func (w *watch) Write(p []byte) (int, error) {
	if err := w.out.each(p, w.wrote); err != nil {
		w.tell(err)
		w.abort()
		return 0, err
	}
	return w.Conn.Write(p)
}

// tell says once why the connection ended: both directions may have a reason.
func (w *watch) tell(why error) { w.told.Do(func() { w.flooded(why) }) }

// look goes through what was read.
func (w *watch) look(b []byte) error {
	if len(b) > w.in.skip {
		w.greeted.Store(true)
	}
	return w.in.each(b, w.read)
}

func (w *watch) read(kind byte) error {
	if !w.any.take(w.clock()) {
		return errFrames
	}
	switch kind {
	case frameRSTStream, frameSettings, framePriority:
		if !w.reset.take(w.clock()) {
			return errResets
		}
	case frameHeaders:
		w.in.continuations = 0
	case frameContinuation:
		if w.in.continuations++; w.in.continuations > maxContinuations {
			return errContinuation
		}
	}
	return nil
}

func (w *watch) wrote(kind byte) error {
	if kind == frameRSTStream && !w.refused.take(w.clock()) {
		return errRefused
	}
	return nil
}

// A framing finds the headers of frames in a stream of bytes.
type framing struct {
	skip          int // bytes of the preface or of a payload that are still to come
	header        [headerLength]byte
	have          int // bytes of header
	continuations int
}

// each calls f with the type of every frame whose header ends in b, which goes on
// where the last one ended, until f returns an error.
func (s *framing) each(b []byte, f func(kind byte) error) error {
	for {
		n := min(s.skip, len(b))
		s.skip, b = s.skip-n, b[n:]
		if len(b) == 0 {
			return nil
		}
		n = copy(s.header[s.have:], b)
		s.have, b = s.have+n, b[n:]
		if s.have < headerLength {
			return nil
		}
		s.have, s.skip = 0, int(binary.BigEndian.Uint32(s.header[:4])>>8)
		if err := f(s.header[3]); err != nil {
			return err
		}
	}
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

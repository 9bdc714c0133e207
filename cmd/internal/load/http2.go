package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A wire is an HTTP/2 connection that many callers share: a client of gRPC that
// does only what measuring needs. The header of every request is the same, and is
// compressed once; of a response only the trailer is read. Requests that are
// written at the same moment go out in one piece.
type wire struct {
	conn     net.Conn
	patience patience // of the reader
	frames   *http2.Framer
	header   []byte       // HPACK
	writers  atomic.Int32 // are about to write

	mu       sync.Mutex // guards what follows
	w        *bufio.Writer
	next     uint32 // stream
	streams  map[uint32]*exchange
	window   int64 // what the server takes now, of all streams
	initial  int64 // and of a new one
	room     *sync.Cond
	err      error
	consumed uint32 // bytes that were read since the server was last told so
}

// An exchange is one stream. The reader of the wire owns body, status and text
// until it is done.
type exchange struct {
	window  int64 // what the server takes now; guarded by the wire's mu
	body    []byte
	status  int    // grpc-status; -1: none came
	text    []byte // grpc-message
	reason  string // "grpc-status" says too little: an error of the stream itself
	message func(body []byte) (rest []byte, err error)
	done    chan struct{} // has an element when the stream has ended
	read    uint32        // bytes of a stream that goes on
}

func newExchange() *exchange { return &exchange{done: make(chan struct{}, 1)} }

const (
	ownWindow   = 1 << 30 // what this side takes before it says more
	defaultRoom = 65535   // RFC 9113 Section 6.9.2
	frameSize   = 16384   // what every peer takes, Section 4.2
	writeBuffer = 32 << 10
	readBuffer  = 32 << 10
)

// dialGRPC connects for calls of one method of chancery.v1.Signer.
func dialGRPC(ctx context.Context, t Target, method string) (*wire, error) {
	conn, err := t.dial(ctx, "h2")
	if err != nil {
		return nil, err
	}
	w := newWire(conn, headerBlock(t.ServerName, "/chancery.v1.Signer/"+method))
	if err := w.greet(); err != nil {
		conn.Close()
		return nil, err
	}
	go w.readAll()
	return w, nil
}

func newWire(conn net.Conn, header []byte) *wire {
	w := &wire{conn: conn, header: header, w: bufio.NewWriterSize(conn, writeBuffer), next: 1, streams: map[uint32]*exchange{}, window: defaultRoom, initial: defaultRoom}
	w.frames = http2.NewFramer(w.w, bufio.NewReaderSize(conn, readBuffer))
	w.frames.SetReuseFrames()
	w.room = sync.NewCond(&w.mu)
	return w
}

// headerBlock compresses the header of a gRPC request, without the dynamic table,
// so that the same bytes do on every stream.
func headerBlock(host, path string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	for range 2 { // the first one begins with the size of the table
		b.Reset()
		for _, f := range [][2]string{
			{":method", "POST"}, {":scheme", "https"}, {":path", path}, {":authority", host},
			{"content-type", "application/grpc"}, {"user-agent", "chancery-bench"}, {"te", "trailers"},
		} {
			_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // into memory
		}
	}
	return b.Bytes()
}

// greet sends the preface: no dynamic table, so that header blocks of the server
// may be skipped, and windows that need no care.
func (w *wire) greet() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.w.WriteString(http2.ClientPreface); err != nil {
		return err
	}
	return errors.Join(
		w.frames.WriteSettings(
			http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0},
			http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: ownWindow},
		),
		w.frames.WriteWindowUpdate(0, ownWindow-defaultRoom),
		w.w.Flush(),
	)
}

// begin opens a stream with a first message and returns its number; last: the only one.
func (w *wire) begin(x *exchange, message []byte, last bool) (uint32, error) {
	w.enter()
	defer w.leave()
	if w.err != nil {
		return 0, w.err
	}
	id := w.next
	w.next += 2
	x.window, x.status, x.body, x.text, x.reason = w.initial, -1, x.body[:0], x.text[:0], ""
	w.streams[id] = x
	if err := w.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.header, EndHeaders: true}); err != nil {
		return 0, w.fail(err)
	}
	return id, w.data(id, x, message, last)
}

// more sends one more message on a stream.
func (w *wire) more(id uint32, x *exchange, message []byte) error {
	w.enter()
	defer w.leave()
	return w.data(id, x, message, false)
}

// enter and leave hold the wire for writing. Whoever leaves last sends what all
// have written.
func (w *wire) enter() {
	w.writers.Add(1)
	w.mu.Lock()
	w.writers.Add(-1)
}

func (w *wire) leave() {
	defer w.mu.Unlock()
	if w.writers.Load() == 0 && w.err == nil {
		if err := w.w.Flush(); err != nil {
			w.fail(err)
		}
	}
}

// data writes a message, when the server takes it. A message that fits into a frame
// goes in one piece, so that those of one stream do not get mixed up.
func (w *wire) data(id uint32, x *exchange, message []byte, last bool) error {
	for {
		piece := min(int64(len(message)), frameSize, max(1, w.initial))
		for w.err == nil && min(w.window, x.window) < piece {
			if err := w.w.Flush(); err != nil {
				return w.fail(err)
			}
			w.room.Wait()
		}
		if w.err != nil {
			return w.err
		}
		n := int(piece)
		w.window -= int64(n)
		x.window -= int64(n)
		whole := n == len(message)
		if err := w.frames.WriteData(id, last && whole, message[:n]); err != nil {
			return w.fail(err)
		}
		if whole {
			return nil
		}
		message = message[n:]
	}
}

// fail ends the wire, with its mutex held, and returns why it ended first.
func (w *wire) fail(err error) error {
	if w.err != nil {
		return w.err
	}
	w.err = err
	for id, x := range w.streams {
		delete(w.streams, id)
		x.reason = err.Error()
		x.end()
	}
	w.room.Broadcast()
	return err
}

func (x *exchange) end() {
	select {
	case x.done <- struct{}{}:
	default: // it has been said
	}
}

// Close ends the connection.
func (w *wire) Close() error { return w.conn.(interface{ NetConn() net.Conn }).NetConn().Close() }

// readAll reads frames until the connection ends.
func (w *wire) readAll() {
	for {
		err := w.patience.extend(w.conn)
		var f http2.Frame
		if err == nil {
			f, err = w.frames.ReadFrame()
		}
		if err == nil {
			err = w.take(f)
		}
		if err != nil {
			w.mu.Lock()
			w.fail(err)
			w.mu.Unlock()
			w.conn.Close()
			return
		}
	}
}

func (w *wire) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return w.takeData(f)
	case *http2.HeadersFrame:
		return w.takeHeaders(f)
	case *http2.SettingsFrame:
		return w.takeSettings(f)
	case *http2.WindowUpdateFrame:
		w.mu.Lock()
		defer w.mu.Unlock()
		if f.StreamID == 0 {
			w.window += int64(f.Increment)
		} else if x := w.streams[f.StreamID]; x != nil {
			x.window += int64(f.Increment)
		}
		w.room.Broadcast()
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return w.write(func() error { return w.frames.WritePing(true, f.Data) })
	case *http2.RSTStreamFrame:
		w.finish(f.StreamID, func(x *exchange) { x.reason = "the server reset the stream: " + f.ErrCode.String() })
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server ends the connection: %v %.80q", f.ErrCode, f.DebugData())
	}
	return nil
}

// write writes what the protocol asks for, and sends it.
func (w *wire) write(f func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(f(), w.w.Flush())
}

func (w *wire) takeData(f *http2.DataFrame) error {
	w.mu.Lock()
	x := w.streams[f.StreamID]
	w.consumed += f.Length
	told := uint32(0)
	if w.consumed > ownWindow/2 {
		told, w.consumed = w.consumed, 0
	}
	w.mu.Unlock()
	if told > 0 {
		if err := w.write(func() error { return w.frames.WriteWindowUpdate(0, told) }); err != nil {
			return err
		}
	}
	if x == nil {
		return nil
	}
	if len(x.body)+len(f.Data()) > maxReply {
		return errors.New("the answer does not end")
	}
	x.body = append(x.body, f.Data()...)
	if x.message == nil {
		return nil
	}
	if x.read += f.Length; x.read > ownWindow/2 {
		told, x.read = x.read, 0
		if err := w.write(func() error { return w.frames.WriteWindowUpdate(f.StreamID, told) }); err != nil {
			return err
		}
	}
	rest, err := x.message(x.body)
	x.body = x.body[:copy(x.body, rest)]
	return err
}

// takeHeaders reads the trailer of a stream; the header before it says nothing
// that the trailer does not.
func (w *wire) takeHeaders(f *http2.HeadersFrame) error {
	if !f.HeadersEnded() {
		return errors.New("the server's header goes on in another frame")
	}
	if !f.StreamEnded() {
		return nil
	}
	fields, err := hpack.NewDecoder(0, nil).DecodeFull(f.HeaderBlockFragment())
	if err != nil {
		return fmt.Errorf("reading a trailer: %w", err)
	}
	w.finish(f.StreamID, func(x *exchange) {
		for _, h := range fields {
			switch h.Name {
			case "grpc-status":
				if x.status, err = strconv.Atoi(h.Value); err != nil {
					x.status = -1
				}
			case "grpc-message":
				x.text = append(x.text[:0], h.Value...)
			case ":status":
				if h.Value != "200" {
					x.reason = "HTTP status " + h.Value
				}
			}
		}
	})
	return nil
}

func (w *wire) finish(id uint32, how func(*exchange)) {
	w.mu.Lock()
	x := w.streams[id]
	delete(w.streams, id)
	w.mu.Unlock()
	if x != nil {
		how(x)
		x.end()
	}
}

func (w *wire) takeSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	w.mu.Lock()
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		for _, x := range w.streams {
			x.window += int64(v) - w.initial
		}
		w.initial = int64(v)
		w.room.Broadcast()
	}
	w.mu.Unlock()
	return w.write(w.frames.WriteSettingsAck)
}

// framed puts gRPC's prefix before a message: not compressed, its length.
func framed(message []byte) []byte {
	b := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(b[1:], uint32(len(message)))
	return append(b, message...)
}

// unframed returns the first message of b and what is behind it; not ok: there is
// not a whole one yet.
func unframed(b []byte) (message, rest []byte, ok bool, err error) {
	if len(b) < 5 {
		return nil, b, false, nil
	}
	if b[0] != 0 {
		return nil, b, false, errors.New("a compressed message, which was not asked for")
	}
	n := binary.BigEndian.Uint32(b[1:])
	if n > maxReply {
		return nil, b, false, fmt.Errorf("a message of %d bytes", n)
	}
	if len(b) < 5+int(n) {
		return nil, b, false, nil
	}
	return b[5 : 5+n], b[5+n:], true, nil
}

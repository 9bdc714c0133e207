package rpc

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// frames is a client that says in HTTP/2 what it likes.
type frames struct {
	*http2.Framer
	t    testing.TB
	conn *tls.Conn
	text bytes.Buffer
	hp   *hpack.Encoder
}

func dialFrames(t testing.TB, h *house, cert tls.Certificate) *frames {
	t.Helper()
	f := &frames{t: t, conn: h.come(t, cert)}
	f.conn.SetDeadline(time.Now().Add(time.Minute))
	f.Framer, f.hp = http2.NewFramer(f.conn, f.conn), hpack.NewEncoder(&f.text)
	f.Framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(f.conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// block returns the headers of a call, and more.
func (f *frames) block(path string, more ...string) []byte {
	f.text.Reset()
	all := append([]string{":method", "POST", ":scheme", "https", ":path", path, ":authority", "localhost", "content-type", "application/grpc", "te", "trailers"}, more...)
	for i := 0; i < len(all); i += 2 {
		if err := f.hp.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}); err != nil {
			f.t.Fatal(err)
		}
	}
	return bytes.Clone(f.text.Bytes())
}

// headers begins a call, and reports whether the connection took it.
func (f *frames) headers(id uint32, path string, last bool) bool {
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(path), EndHeaders: true, EndStream: last}) == nil
}

// message ends a call with its message.
func (f *frames) message(id uint32, m proto.Message) bool { return f.data(id, true, m) }

// more sends a message of a stream.
func (f *frames) more(id uint32, m proto.Message) bool { return f.data(id, false, m) }

func (f *frames) data(id uint32, last bool, m proto.Message) bool {
	b, err := proto.Marshal(m)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.WriteData(id, last, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)) == nil
}

// trailer reads until a call has ended, and returns a field of its trailers.
func (f *frames) trailer(id uint32, name string) string {
	f.t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			f.t.Fatal(err)
		}
		m, ok := frame.(*http2.MetaHeadersFrame)
		if !ok || m.StreamID != id || !m.StreamEnded() {
			continue
		}
		for _, field := range m.Fields {
			if field.Name == name {
				return field.Value
			}
		}
		return ""
	}
}

// ended reads until the server has ended the connection, and counts the calls that it
// refused.
func (f *frames) ended() (refused int) {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return refused
		}
		if r, ok := frame.(*http2.RSTStreamFrame); ok && r.ErrCode == http2.ErrCodeRefusedStream {
			refused++
		}
	}
}

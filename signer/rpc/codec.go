package rpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"chancery/signer/api"
)

// A frame is a message as it came. It is parsed when it is known who sent it, and
// that it is no larger than such a message may be.
type frame struct{ data mem.BufferSlice }

// free gives the buffers back. It may be called more than once.
func (f *frame) free() {
	f.data.Free()
	f.data = nil
}

// decode parses the frame into m, and frees it. It returns an *api.Error:
// too_large for more than most bytes; malformed for what is no such message, or has
// fields that this server does not know.
func (f *frame) decode(m proto.Message, most int64) error {
	defer f.free()
	if n := f.data.Len(); int64(n) > most {
		return api.Errorf(api.CodeTooLarge, "the message is over %d bytes", most)
	}
	buf := f.data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	if err := proto.Unmarshal(buf.ReadOnlyData(), m); err != nil {
		return api.Errorf(api.CodeMalformed, "the message is not a %s", m.ProtoReflect().Descriptor().Name()).Because(err)
	}
	return known(m)
}

// known refuses fields of m itself that this server does not know: who sends them
// expects something that would not be done.
func known(m proto.Message) error {
	if unknown := m.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		return api.Errorf(api.CodeMalformed, "a %s has a field that is not known here", m.ProtoReflect().Descriptor().Name()).
			Because(fmt.Errorf("%d bytes of unknown fields", len(unknown)))
	}
	return nil
}

// codec takes messages as they come, and writes ours as gRPC's own does. It is called
// "proto" as that one: on the wire there is no difference.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(encodingproto.Name)} }

// Unmarshal keeps the message in a frame, which is to be freed.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("a message is read into a %T", v)
	}
	f.free()
	data.Ref()
	f.data = data
	return nil
}

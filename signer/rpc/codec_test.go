package rpc

import (
	"errors"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
)

func framed(parts ...[]byte) *frame {
	f := new(frame)
	for _, p := range parts {
		f.data = append(f.data, mem.SliceBuffer(p))
	}
	return f
}

// FuzzDecode: what is decoded is what was said, whole, with nothing left out, and
// becomes a request with the same claims.
func FuzzDecode(f *testing.F) {
	ttl := int64(60)
	for _, m := range []proto.Message{
		&pb.SignJWTRequest{Keyset: "web", Claims: []byte(`{"sub":"alice"}`), Ttl: &ttl, Typ: "at+jwt"},
		&pb.SignJWTRequest{Profile: "at+jwt", CnfCertificate: "x"}, &pb.SignJWTRequest{},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint8(3))
	}
	f.Add([]byte{0xf8, 0x01, 1}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint8) {
		cut := min(int(at), len(b))
		var m pb.SignJWTRequest
		err := framed(b[:cut], b[cut:]).decode(&m, 1000)
		if len(b) > 1000 {
			if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeTooLarge {
				t.Fatalf("%d bytes: %v", len(b), err)
			}
			return
		}
		if err != nil {
			if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeMalformed {
				t.Fatalf("%v", err)
			}
			return
		}
		var again pb.SignJWTRequest
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &again); err != nil || !proto.Equal(&m, &again) {
			t.Fatalf("%v, want %v: %v", &m, &again, err)
		}
		if req, err := jwtRequest(&m); err == nil && (string(req.Claims) != string(m.GetClaims()) || req.KeySet != m.GetKeyset() || (req.TTL == nil) != (m.Ttl == nil)) {
			t.Fatalf("%v is not %v", req, &m)
		}
	})
}

package rpc

import (
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
	"chancery/signer/server"
)

// TestA15TooMuchIsRefused: a call, and each message of a stream, counts towards what
// its principal may ask for. A stream goes on when one of its messages is too much.
func TestA15TooMuchIsRefused(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	c := h.issuer(t)
	stream, err := c.SignJWTStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(id uint64) api.Code {
		if err := stream.Send(&pb.SignJWTStreamRequest{Id: id, Request: web(`{}`)}); err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if err != nil || m.GetId() != id {
			t.Fatalf("%v, %v", m, err)
		}
		return codeOf(m.GetResult())
	}
	for id, full := range []bool{false, true, false} {
		h.full.Store(full)
		want := api.Code("")
		if full {
			want = api.CodeOverloaded
		}
		if code := ask(uint64(id)); code != want {
			t.Errorf("full %v: message %d: %q", full, id, code)
		}
		if _, err := c.SignJWT(t.Context(), web(`{}`)); (err != nil) != full || full && reasonOf(err) != api.CodeOverloaded {
			t.Errorf("full %v: a call: %v", full, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.inside.Load(); n != 0 || len(h.refused) != 2 {
		t.Errorf("%d inside when all were answered, %d refusals", n, len(h.refused))
	}
	for _, r := range h.refused {
		if r.Action != keystore.ActRequest || r.Principal == "" || r.Code != string(api.CodeOverloaded) {
			t.Errorf("the log has %+v", r)
		}
	}
}

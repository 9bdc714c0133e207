package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
	"chancery/signer/server"
)

// A refused request is an answer, and the stream goes on. It ends in order once the
// client has said its last and everything is answered.
func TestStreamAnswersEach(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	stream, err := h.issuer(t).SignJWTStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const requests = 300
	sent := make(chan error, 1)
	go func() {
		for i := range uint64(requests) {
			m := web(fmt.Sprintf(`{"n":%d}`, i))
			if i%3 == 0 {
				m.Keyset = "none"
			}
			if err := stream.Send(&pb.SignJWTStreamRequest{Id: i, Request: m}); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	answers := make(map[uint64]api.Code)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := answers[m.GetId()]; twice {
			t.Errorf("two answers to %d", m.GetId())
		}
		if answers[m.GetId()] = codeOf(m.GetResult()); (answers[m.GetId()] == "") != (m.GetResult().GetReply().GetToken() != "") {
			t.Errorf("%d: %v", m.GetId(), m)
		}
	}
	if err := <-sent; err != nil || len(answers) != requests {
		t.Fatalf("%d answers: %v", len(answers), err)
	}
	for id, code := range answers {
		if (id%3 == 0) != (code == api.CodeForbidden) {
			t.Errorf("%d: %q", id, code)
		}
	}
}

// An answer does not wait for those before it.
func TestStreamAnswersInAnyOrder(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	h.hold = make(chan struct{})
	stream, err := h.issuer(t).SignJWTStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.SignJWTStreamRequest{Id: 1, Request: web(`{}`)}); err != nil {
		t.Fatal(err)
	}
	<-h.held
	if err := stream.Send(&pb.SignJWTStreamRequest{Id: 2, Request: &pb.SignJWTRequest{Keyset: "none"}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetId() != 2 || codeOf(m.GetResult()) != api.CodeForbidden {
		t.Fatalf("%v, %v", m, err)
	}
	h.hold <- struct{}{}
	if m, err := stream.Recv(); err != nil || m.GetId() != 1 {
		t.Errorf("%v, %v", m, err)
	}
}

// What is no request ends the stream, since nobody knows which it would be.
func TestStreamEndsAtNonsense(t *testing.T) {
	future := &pb.SignJWTStreamRequest{Id: 1, Request: web(`{}`)}
	future.ProtoReflect().SetUnknown([]byte{0xf8, 0x01, 1})
	for name, c := range map[string]struct {
		send   *pb.SignJWTStreamRequest
		status codes.Code
		reason api.Code
	}{
		"an unknown field": {future, codes.InvalidArgument, api.CodeMalformed},
		"too large":        {&pb.SignJWTStreamRequest{Request: &pb.SignJWTRequest{Claims: make([]byte, 64<<10)}}, codes.ResourceExhausted, api.CodeTooLarge},
	} {
		h := newHouse(t, Limits{}, server.Limits{})
		stream, err := h.issuer(t).SignJWTStream(t.Context())
		if err == nil {
			err = stream.Send(c.send)
		}
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != c.status || reasonOf(err) != c.reason {
			t.Errorf("%s: %v", name, err)
		}
		if got := h.refusals(); !slices.Equal(got, []string{string(c.reason)}) {
			t.Errorf("%s: the log has %v", name, got)
		}
	}
}

// When the server stops, or the stream is old, what was begun is answered, and the
// stream ends in order.
func TestStreamEndsInOrder(t *testing.T) {
	for name, end := range map[string]func(*house, context.Context){
		"the server stops": func(h *house, ctx context.Context) { go h.server.Shutdown(ctx) },
		"it is old":        func(*house, context.Context) {},
	} {
		t.Run(name, func(t *testing.T) {
			lim := Limits{}
			if name == "it is old" {
				lim.StreamAge = time.Second
			}
			h := newHouse(t, lim, server.Limits{})
			h.hold = make(chan struct{})
			stream, err := h.issuer(t).SignJWTStream(t.Context())
			if err == nil {
				err = stream.Send(&pb.SignJWTStreamRequest{Id: 1, Request: web(`{}`)})
			}
			if err != nil {
				t.Fatal(err)
			}
			<-h.held
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			end(h, ctx)
			got := make(chan error, 2)
			go func() {
				for range 2 {
					_, err := stream.Recv()
					got <- err
				}
			}()
			h.hold <- struct{}{}
			if err := <-got; err != nil {
				t.Errorf("what was begun: %v", err)
			}
			if err := <-got; !errors.Is(err, io.EOF) {
				t.Errorf("the end: %v, want EOF", err)
			}
		})
	}
}

// What does not end while there is time is cut, and Shutdown returns.
func TestShutdownCutsWhatIsLeft(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{RequestTimeout: time.Minute})
	h.hold = make(chan struct{})
	issuer := h.issuer(t)
	done := make(chan error, 1)
	go func() {
		_, err := issuer.SignJWT(t.Context(), web(`{}`))
		done <- err
	}()
	<-h.held
	h.come(t, h.root.named(t, "other")) // and says nothing
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.server.Shutdown(ctx)
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want UNAVAILABLE", err)
	}
}

package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
	"chancery/signer/policy"
	"chancery/signer/server"
)

// reasonOf returns the api.Code that a status says, or nothing.
func reasonOf(err error) api.Code {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return api.Code(info.GetReason())
		}
	}
	return ""
}

// What was asked for is signed, and a refusal says why.
func TestSignJWT(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	issuer := h.issuer(t)
	reply, err := issuer.SignJWT(t.Context(), web(`{"sub":"alice"}`))
	if err != nil || strings.Count(reply.GetToken(), ".") != 2 || reply.GetKid() == "" || reply.GetEntry() != "log#1" || !reply.GetExpiresAt().AsTime().After(time.Now()) {
		t.Fatalf("%v, %v", reply, err)
	}
	unknown := web(`{}`)
	unknown.ProtoReflect().SetUnknown([]byte{0xf8, 0x01, 1})
	ttl := int64(7200)
	for name, c := range map[string]struct {
		ask    *pb.SignJWTRequest
		status codes.Code
		reason api.Code
	}{
		"another key set":       {&pb.SignJWTRequest{Keyset: "other", Claims: []byte(`{}`)}, codes.PermissionDenied, api.CodeForbidden},
		"no key set":            {&pb.SignJWTRequest{Claims: []byte(`{}`)}, codes.PermissionDenied, api.CodeForbidden},
		"no claims":             {&pb.SignJWTRequest{Keyset: "web"}, codes.InvalidArgument, api.CodeMalformed},
		"claims that are none":  {web(`[]`), codes.InvalidArgument, api.CodeMalformed},
		"a reserved claim":      {web(`{"iss":"me"}`), codes.InvalidArgument, api.CodeClaimReserved},
		"too long":              {&pb.SignJWTRequest{Keyset: "web", Claims: []byte(`{}`), Ttl: &ttl}, codes.InvalidArgument, api.CodeTTLTooLong},
		"another typ":           {&pb.SignJWTRequest{Keyset: "web", Claims: []byte(`{}`), Typ: "x"}, codes.InvalidArgument, api.CodeTypNotAllowed},
		"a field of the future": {unknown, codes.InvalidArgument, api.CodeMalformed},
		"over 64 KiB":           {&pb.SignJWTRequest{Keyset: "web", Claims: make([]byte, 64<<10)}, codes.ResourceExhausted, api.CodeTooLarge},
	} {
		_, err := issuer.SignJWT(t.Context(), c.ask)
		if status.Code(err) != c.status || reasonOf(err) != c.reason {
			t.Errorf("%s: %v (%s), want %v (%s)", name, err, reasonOf(err), c.status, c.reason)
		}
		if got := h.refusals(); len(got) == 0 || got[len(got)-1] != string(c.reason) {
			t.Errorf("%s: the log has %v", name, got)
		}
	}
	if n := h.asked.Load(); n != 1 {
		t.Errorf("the key signed %d times, want once", n)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if route := "/chancery.v1.Signer/SignJWT "; h.observed[route+"ok"] != 1 || h.observed[route+"malformed"] != 3 {
		t.Errorf("observed %v", h.observed)
	}
}

// A message over what any may have is not read.
func TestMessageOverEveryLimit(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	_, err := h.issuer(t).SignJWTBatch(t.Context(), &pb.SignJWTBatchRequest{Requests: slices.Repeat([]*pb.SignJWTRequest{web(strings.Repeat("x", 32<<10))}, 40)})
	settledCalls(t, h) // gRPC answers before we know
	if status.Code(err) != codes.ResourceExhausted || !slices.Contains(h.refusals(), string(api.CodeTooLarge)) {
		t.Errorf("%v, refused %v", err, h.refusals())
	}
}

// Each request of a batch has its own result, in order.
func TestBatch(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	issuer := h.issuer(t)
	future := web(`{}`)
	future.ProtoReflect().SetUnknown([]byte{0xf8, 0x01, 1})
	reply, err := issuer.SignJWTBatch(t.Context(), &pb.SignJWTBatchRequest{Requests: []*pb.SignJWTRequest{
		web(`{"n":0}`), web(`{"iss":"x"}`), {Keyset: "none", Claims: []byte(`{}`)}, future, web(`{"n":4}`),
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []api.Code
	for _, r := range reply.GetResults() {
		got = append(got, codeOf(r))
	}
	want := []api.Code{"", api.CodeClaimReserved, api.CodeForbidden, api.CodeMalformed, ""}
	if !slices.Equal(got, want) || reply.GetResults()[4].GetReply().GetToken() == "" {
		t.Errorf("%q, want %q", got, want)
	}
	for name, n := range map[string]int{"none": 0, "257": 257} {
		_, err := issuer.SignJWTBatch(t.Context(), &pb.SignJWTBatchRequest{Requests: slices.Repeat([]*pb.SignJWTRequest{web(`{}`)}, n)})
		if status.Code(err) != codes.InvalidArgument || reasonOf(err) != api.CodeMalformed {
			t.Errorf("%s requests: %v", name, err)
		}
	}
}

// Who somebody is is asked for each call and each message, on connections that are
// open as on new ones.
func TestIdentityIsLookedAtPerCallAndMessage(t *testing.T) {
	for name, c := range map[string]struct {
		then   func(*house, *testing.T, tls.Certificate)
		status codes.Code
		reason api.Code
	}{
		"expired": {func(h *house, _ *testing.T, _ tls.Certificate) {
			later := time.Now().Add(2 * time.Hour)
			h.now.Store(&later)
		}, codes.Unauthenticated, api.CodeCertificateExpired},
		"revoked": {func(h *house, t *testing.T, c tls.Certificate) {
			h.admit(t, policy.Revoked{SPKI: []string{policy.PinOf(c.Leaf)}})
		}, codes.Unauthenticated, api.CodeCertificateRevoked},
		"another anchor": {func(h *house, t *testing.T, _ tls.Certificate) {
			h.root = newAuthority(t)
			h.admit(t, policy.Revoked{})
		}, codes.PermissionDenied, api.CodeForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, Limits{}, server.Limits{})
			cert := h.root.named(t, "issuer")
			issuer := h.client(t, cert)
			stream, err := issuer.SignJWTStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&pb.SignJWTStreamRequest{Id: 1, Request: web(`{}`)}); err != nil {
				t.Fatal(err)
			}
			if m, err := stream.Recv(); err != nil || m.GetResult().GetReply() == nil {
				t.Fatalf("%v, %v", m, err)
			}
			c.then(h, t, cert)
			if err := stream.Send(&pb.SignJWTStreamRequest{Id: 2, Request: web(`{}`)}); err != nil {
				t.Fatal(err)
			}
			m, err := stream.Recv()
			if status.Code(err) != c.status || reasonOf(err) != c.reason {
				t.Errorf("the stream: %v, %v, want %v %s", m, err, c.status, c.reason)
			}
			_, err = issuer.SignJWT(t.Context(), web(`{}`))
			if status.Code(err) != c.status || reasonOf(err) != c.reason {
				t.Errorf("a call: %v, want %v %s", err, c.status, c.reason)
			}
			if n := h.asked.Load(); n != 1 {
				t.Errorf("the key signed %d times, want once", n)
			}
		})
	}
}

// A client that never sends its message is not waited for.
func TestSlowMessageEndsWithTheCallsTime(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{RequestTimeout: 50 * time.Millisecond})
	f := dialFrames(t, h, h.root.named(t, "issuer"))
	f.headers(1, "/chancery.v1.Signer/SignJWT", false)
	if got := f.trailer(1, "grpc-status"); got != "4" { // DEADLINE_EXCEEDED
		t.Errorf("grpc-status %q, want 4", got)
	}
}

// The calls that one client and all clients may have open are bounded.
func TestOpenCallsAreBounded(t *testing.T) {
	h := newHouse(t, Limits{PerClient: 2 * streamWeight, Calls: 3 * streamWeight}, server.Limits{})
	open := func(c pb.SignerClient) error {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		s, err := c.SignJWTStream(ctx)
		if err != nil {
			return err
		}
		if err := s.Send(&pb.SignJWTStreamRequest{Request: web(`{}`)}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err = s.Recv()
		return err
	}
	cert := h.root.named(t, "issuer")
	for i, c := range []struct {
		who pb.SignerClient
		ok  bool
	}{{h.client(t, cert), true}, {h.client(t, cert), true}, {h.client(t, cert), false}, {h.client(t, h.root.named(t, "other")), true}, {h.client(t, h.root.named(t, "other")), false}} {
		err := open(c.who)
		if c.ok != (err == nil) || !c.ok && (reasonOf(err) != api.CodeOverloaded || status.Code(err) != codes.ResourceExhausted) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

// A panic is one call's.
func TestPanicIsInternal(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	h.SoftKey = nil
	issuer := h.issuer(t)
	_, err := issuer.SignJWT(t.Context(), web(`{}`))
	if status.Code(err) != codes.Internal || reasonOf(err) != api.CodeInternal || strings.Contains(err.Error(), "nil") {
		t.Errorf("%v", err)
	}
	stream, err := issuer.SignJWTStream(t.Context())
	if err == nil {
		err = stream.Send(&pb.SignJWTStreamRequest{Request: web(`{}`)})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Internal {
		t.Errorf("the stream: %v", err)
	}
}

// What is served is what the schema says.
func TestMethodsAreThoseOfTheSchema(t *testing.T) {
	served, schema := new(Server).service(), pb.Signer_ServiceDesc
	if served.ServiceName != schema.ServiceName {
		t.Errorf("%q, want %q", served.ServiceName, schema.ServiceName)
	}
	var have, want []string
	for _, s := range served.Streams {
		have = append(have, s.StreamName)
	}
	for _, m := range schema.Methods {
		want = append(want, m.MethodName)
	}
	for _, s := range schema.Streams {
		want = append(want, s.StreamName)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("served %v, want %v", have, want)
	}
}

// Every code has a status, and what the JSON side says crosses the wire.
func TestStatuses(t *testing.T) {
	for code := range api.Codes() {
		if _, ok := statuses[code]; !ok {
			t.Errorf("%s has no gRPC status", code)
		}
	}
	if len(statuses) != len(api.Codes()) {
		t.Errorf("%d statuses for %d codes", len(statuses), len(api.Codes()))
	}
	e := api.Errorf(api.CodeTooEarly, "not yet").Because(errors.New("secret"))
	e.Rule, e.RetryAfter = 1, 90
	s := Status(e)
	info := &errdetails.ErrorInfo{Reason: "too_early", Domain: "chancery", Metadata: map[string]string{"rule": "1"}}
	if s.Code() != codes.FailedPrecondition || s.Message() != "not yet" || len(s.Details()) != 2 || !proto.Equal(s.Details()[0].(proto.Message), info) {
		t.Errorf("%v", s)
	}
	if retry, ok := s.Details()[1].(*errdetails.RetryInfo); !ok || retry.GetRetryDelay().GetSeconds() != 90 {
		t.Errorf("%v", s.Details()[1])
	}
	if s := Status(api.Errorf(api.CodeForbidden, "not allowed")); len(s.Details()) != 1 {
		t.Errorf("forbidden says when to ask again: %v", s)
	}
}

// A call whose client hung up counted as a keystore that is down, or not at all.
func TestCallsThatNobodyWaitsFor(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	h.hold = make(chan struct{})
	ctx, hangUp := context.WithCancel(t.Context())
	done := make(chan error, 1)
	issuer := h.issuer(t)
	go func() {
		_, err := issuer.SignJWT(ctx, web(`{}`))
		done <- err
	}()
	<-h.held // the key is asked
	hangUp()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	const route = "/chancery.v1.Signer/SignJWT "
	counted := func() (n int, others []string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for what := range h.observed {
			if what != route+string(api.CodeCanceled) {
				others = append(others, what)
			}
		}
		return h.observed[route+string(api.CodeCanceled)], others
	}
	for n, others := counted(); n == 0; n, others = counted() {
		if len(others) > 0 || t.Context().Err() != nil {
			t.Fatalf("counted as %q", others)
		}
		time.Sleep(time.Millisecond)
	}
	if got := h.refusals(); !slices.Equal(got, []string{string(api.CodeCanceled)}) {
		t.Errorf("entered as %q", got)
	}
}

// A call that takes as long as any may is overload, and none of its caller's making.
func TestCallsThatTakeTooLong(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{RequestTimeout: 20 * time.Millisecond})
	h.hold = make(chan struct{})
	_, err := h.issuer(t).SignJWT(t.Context(), web(`{}`))
	if reasonOf(err) != api.CodeOverloaded || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
	s := Status(api.Errorf(api.CodeDeadlineExceeded, "x"))
	if s.Code() != codes.DeadlineExceeded || len(s.Details()) != 1 {
		t.Errorf("a deadline of the caller's: %v", s)
	}
}

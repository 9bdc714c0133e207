package load

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "chancery/signer/api/chanceryv1"
)

var tlsNone tls.Certificate

// newCertificate makes one for localhost that vouches for itself, both ways.
func newCertificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// listen returns a listener on loopback and the Target it is.
func listen(t testing.TB) (net.Listener, Target, *tls.Config) {
	t.Helper()
	cert, pool := newCertificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := Target{Network: "tcp", Address: l.Addr().String(), ServerName: "localhost", Certificate: cert, Roots: pool}
	return l, target, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
}

// A fakeSigner is chancery.v1 without keys.
type fakeSigner struct {
	pb.UnimplementedSignerServer
	mu     sync.Mutex
	answer func(*pb.SignJWTRequest) (*pb.SignJWTResponse, error)
	seen   []*pb.SignJWTRequest
}

func (f *fakeSigner) one(r *pb.SignJWTRequest) (*pb.SignJWTResponse, error) {
	f.mu.Lock()
	f.seen = append(f.seen, r)
	answer := f.answer
	f.mu.Unlock()
	if answer != nil {
		return answer(r)
	}
	return &pb.SignJWTResponse{Token: "a.b.c", Kid: "k", Entry: "log#1"}, nil
}

func (f *fakeSigner) SignJWT(_ context.Context, r *pb.SignJWTRequest) (*pb.SignJWTResponse, error) {
	return f.one(r)
}

func (f *fakeSigner) result(r *pb.SignJWTRequest) *pb.SignJWTResult {
	reply, err := f.one(r)
	if err != nil {
		return &pb.SignJWTResult{Outcome: &pb.SignJWTResult_Problem{Problem: &pb.Problem{Code: err.Error()}}}
	}
	return &pb.SignJWTResult{Outcome: &pb.SignJWTResult_Reply{Reply: reply}}
}

func (f *fakeSigner) SignJWTBatch(_ context.Context, r *pb.SignJWTBatchRequest) (*pb.SignJWTBatchResponse, error) {
	reply := &pb.SignJWTBatchResponse{}
	for _, one := range r.Requests {
		reply.Results = append(reply.Results, f.result(one))
	}
	return reply, nil
}

func (f *fakeSigner) SignJWTStream(s pb.Signer_SignJWTStreamServer) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&pb.SignJWTStreamResponse{Id: r.Id, Result: f.result(r.Request)}); err != nil {
			return err
		}
	}
}

// serveGRPC serves a fake by gRPC's own server.
func serveGRPC(t testing.TB, options ...grpc.ServerOption) (*fakeSigner, Target) {
	t.Helper()
	l, target, cfg := listen(t)
	f := &fakeSigner{}
	server := grpc.NewServer(append(options, grpc.Creds(credentials.NewTLS(cfg)))...)
	pb.RegisterSignerServer(server, f)
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		wg.Wait()
	})
	return f, target
}

func TestEveryLayerOfGRPCBringsItsTokens(t *testing.T) {
	_, target := serveGRPC(t)
	for _, part := range []Part{
		{Layer: GRPC, KeySet: "web", Weight: 1}, {Layer: GRPCStream, KeySet: "web", Weight: 1},
		{Layer: GRPCBatch, KeySet: "web", Batch: 1, Weight: 1}, {Layer: GRPCBatch, KeySet: "web", Batch: 256, Weight: 1},
	} {
		t.Run(fmt.Sprintf("%s of %d", part.Layer, part.Batch), func(t *testing.T) {
			ways, err := Open(t.Context(), target, Mix{part}, 5, 2)
			if err != nil {
				t.Fatal(err)
			}
			defer Close(ways)
			o, err := Run(t.Context(), Plan{Callers: ways, Weights: []int{1}, Duration: 50 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if total := o.Total(); total.Tokens != total.Requests*int64(part.Tokens()) || total.Latency.TotalCount() == 0 {
				t.Errorf("%d requests brought %d tokens", total.Requests, total.Tokens)
			}
		})
	}
}

// A batch of 256 is longer than what a server takes at first, and than a frame.
func TestWhatAServerDoesNotTakeYetWaits(t *testing.T) {
	f, target := serveGRPC(t, grpc.InitialWindowSize(65535), grpc.InitialConnWindowSize(65535))
	long := []byte(`{"sub":"` + strings.Repeat("a", 1000) + `"}`)
	callers, err := NewGRPC(t.Context(), target, "web", long, 256, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer callers[0].Close()
	var wg sync.WaitGroup
	for _, c := range callers {
		wg.Go(func() {
			for range 3 {
				if n, err := c.Ask(); n != 256 || err != nil {
					t.Errorf("%d tokens, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	if len(f.seen) != 8*3*256 || string(f.seen[0].Claims) != string(long) {
		t.Errorf("the server saw %d requests", len(f.seen))
	}
}

func TestAStreamSendsMoreThanAServerTakesAtFirst(t *testing.T) {
	f, target := serveGRPC(t)
	callers, err := NewGRPCStream(t.Context(), target, "web", []byte(`{"sub":"`+strings.Repeat("a", 9000)+`"}`), 16)
	if err != nil {
		t.Fatal(err)
	}
	defer callers[0].Close()
	var wg sync.WaitGroup
	for _, c := range callers {
		wg.Go(func() {
			for range 20 {
				if _, err := c.Ask(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if len(f.seen) != 320 {
		t.Errorf("the server saw %d requests, want 320", len(f.seen))
	}
}

func TestARefusalByGRPC(t *testing.T) {
	f, target := serveGRPC(t)
	for _, c := range []struct {
		name, layer string
		err         error
		refused     bool
	}{
		{"overloaded", GRPC, status.Error(codes.ResourceExhausted, "too many"), true},
		{"away", GRPC, status.Error(codes.Unavailable, "the keystore cannot do it now"), true},
		{"not allowed", GRPC, status.Error(codes.PermissionDenied, "not allowed"), false},
		{"no token", GRPC, nil, false},
		{"overloaded on a stream", GRPCStream, errors.New("overloaded"), true},
		{"not allowed on a stream", GRPCStream, errors.New("forbidden"), false},
		{"one of a batch", GRPCBatch, errors.New("audit_unavailable"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.mu.Lock()
			f.answer = func(*pb.SignJWTRequest) (*pb.SignJWTResponse, error) { return &pb.SignJWTResponse{}, c.err }
			f.mu.Unlock()
			part := Part{Layer: c.layer, KeySet: "web", Weight: 1}
			if c.layer == GRPCBatch {
				part.Batch = 2
			}
			ways, err := Open(t.Context(), target, Mix{part}, 1, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer Close(ways)
			_, err = ways[0][0].Ask()
			if _, refused := errors.AsType[*Refused](err); err == nil || refused != c.refused {
				t.Errorf("%v, want that to come back later helps: %v", err, c.refused)
			}
		})
	}
}

func TestACallerThatWaitsIsCalledOff(t *testing.T) {
	f, target := serveGRPC(t)
	asked, let := make(chan struct{}), make(chan struct{})
	defer close(let)
	f.answer = func(*pb.SignJWTRequest) (*pb.SignJWTResponse, error) {
		close(asked)
		<-let
		return nil, status.Error(codes.Aborted, "")
	}
	callers, err := NewGRPC(t.Context(), target, "web", claims, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		callers[0].Close()
	}()
	if _, err := callers[0].Ask(); err == nil {
		t.Error("it was answered")
	}
}

func TestAServerThatDoesNotSpeakGRPCIsToldApart(t *testing.T) {
	l, target, cfg := listen(t)
	defer l.Close()
	cfg.NextProtos = []string{"http/1.1"}
	go http.Serve(tls.NewListener(l, cfg), http.NotFoundHandler())
	if _, err := NewGRPC(t.Context(), target, "web", claims, 0, 1); err == nil {
		t.Error("it was connected")
	}
}

// What this package writes and reads by hand is what the generated code does.
func TestMessagesAreThoseOfTheSchema(t *testing.T) {
	one := &pb.SignJWTRequest{Keyset: "web", Claims: claims}
	same := func(name string, got []byte, want proto.Message) {
		t.Helper()
		into := want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(got, into); err != nil || !proto.Equal(into, want) {
			t.Errorf("%s: %v, %v; want %v", name, into, err, want)
		}
	}
	same("a request", jwtMessage("web", claims), one)
	same("a batch", batchMessage("web", claims, 2), &pb.SignJWTBatchRequest{Requests: []*pb.SignJWTRequest{one, one}})
	same("on a stream", streamMessage(7, jwtMessage("web", claims)), &pb.SignJWTStreamRequest{Id: 7, Request: one})

	b, err := proto.Marshal(&pb.SignJWTBatchResponse{Results: []*pb.SignJWTResult{
		{Outcome: &pb.SignJWTResult_Reply{Reply: &pb.SignJWTResponse{Token: "a.b.c"}}},
		{Outcome: &pb.SignJWTResult_Problem{Problem: &pb.Problem{Code: "forbidden", Detail: "not allowed", RetryAfter: 3}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := batchTokens(b); err == nil || err.Error() != "forbidden: not allowed" {
		t.Errorf("a batch with a problem: %v", err)
	}
}

func FuzzBatchTokens(f *testing.F) {
	f.Add(appendBytes(nil, fieldBatch, appendBytes(nil, fieldReply, appendBytes(nil, fieldToken, []byte("a.b.c")))))
	f.Add(appendBytes(nil, fieldBatch, appendBytes(nil, fieldProblem, appendBytes(nil, fieldCode, []byte("overloaded")))))
	f.Add([]byte{0x0a, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := batchTokens(b)
		var response pb.SignJWTBatchResponse
		if err != nil || proto.Unmarshal(b, &response) != nil {
			return
		}
		if n != len(response.Results) {
			t.Errorf("%d tokens, of %d results", n, len(response.Results))
		}
	})
}

// serveHTTP serves a handler by net/http's own server.
func serveHTTP(t testing.TB, h http.HandlerFunc) Target {
	t.Helper()
	l, target, cfg := listen(t)
	server := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(tls.NewListener(l, cfg)) })
	t.Cleanup(func() {
		server.Close()
		wg.Wait()
	})
	return target
}

func TestRepliesByHTTP(t *testing.T) {
	long := strings.Repeat(`{"token":"a.b.c"},`, 1000)
	for _, c := range []struct {
		name    string
		answer  http.HandlerFunc
		tokens  int
		says    string // of the error; empty: none
		refused bool
	}{
		{"one token", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"token":"a.b.c"}`) }, 1, "", false},
		{"in chunks", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, long) }, 1000, "", false},
		{"none", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{}`) }, 1, "the answer has 0 tokens, want 1", false},
		{"refused", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"code":"forbidden","detail":"not allowed"}`)
		}, 1, "forbidden: not allowed", false},
		{"later", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
			io.WriteString(w, `{"code":"overloaded"}`)
		}, 1, "come back later", true},
		{"later, of a batch", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"results":[{"token":"a.b.c"},{"code":"overloaded"}]}`)
		}, 2, "come back later", true},
		{"a Vault's", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"errors":["no such key"]}`)
		}, 1, "the server answered 400: no such key", false},
		{"somebody else", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, 1, `answered 404: "404 page`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			caller, err := NewHTTP(t.Context(), serveHTTP(t, c.answer), Request{Method: "POST", Path: "/v1/sign/jwt", Mark: `"token":"`, Tokens: c.tokens})
			if err != nil {
				t.Fatal(err)
			}
			defer caller.Close()
			for range 2 { // on one connection
				n, err := caller.Ask()
				_, refused := errors.AsType[*Refused](err)
				if c.says == "" && (err != nil || n != c.tokens) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) || refused != c.refused {
					t.Errorf("%d tokens, %v", n, err)
				}
			}
		})
	}
}

func TestARequestIsAskedForAsWritten(t *testing.T) {
	var got []string
	target := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.Host+r.URL.Path+" "+r.Header.Get("Content-Type")+" "+r.Header.Get("X-Vault-Token")+" "+string(body))
		io.WriteString(w, `{"token":"","token":""}{"signature":"a","signature":"b"}`)
	})
	vault := Vault{Token: "s.secret", Mount: "transit", Key: "es"}
	for _, r := range []Request{jwtRequest(Part{KeySet: "web", Batch: 2}), vault.Sign("ES256", 2), vault.Sign("RS256", 2)} {
		c, err := NewHTTP(t.Context(), target, r)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := c.Ask(); n != 2 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		c.Close()
	}
	if len(got) != 3 {
		t.Fatal(got)
	}
	if want := `POST localhost/v1/sign/jwt/batch application/json  {"requests":[{"keyset":"web","claims":{"sub":"bench","aud":"chancery bench"}},{"keyset":"web",`; !strings.HasPrefix(got[0], want) {
		t.Errorf("%s\nwant %s…", got[0], want)
	}
	if want := `POST localhost/v1/transit/sign/es application/json s.secret {"marshaling_algorithm":"jws","hash_algorithm":"sha2-256","batch_input":[{"input":"`; !strings.HasPrefix(got[1], want) {
		t.Errorf("%s\nwant %s…", got[1], want)
	}
	if !strings.Contains(got[2], `"signature_algorithm":"pkcs1v15"`) {
		t.Errorf("RSA without its padding: %s", got[2])
	}
}

// Slow clients come back when they are cut, and go when they are told.
func TestSlowClientsComeAgainAndGo(t *testing.T) {
	l, target, cfg := listen(t)
	came := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(came)
				return
			}
			came <- c
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Slow(ctx, target, 3, nil)
	}()
	for i := range 6 { // three, and each once more
		c := <-came
		if i < 3 {
			if i == 0 { // whichever it is: the silent one shakes no hands
				c.SetDeadline(time.Now().Add(time.Second))
				_ = tls.Server(c, cfg).Handshake()
			}
			c.Close()
		} else {
			defer c.Close()
		}
	}
	cancel()
	<-done
	l.Close()
}

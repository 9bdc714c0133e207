package rpc

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"chancery/signer/api"
	"chancery/signer/client"
	"chancery/signer/server"
)

func (h *house) rpc(t testing.TB) *client.RPC {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(h.root.cert)
	c, err := client.NewRPC(client.Config{
		Endpoint: "https://" + h.listener.Addr().String(), Certificate: h.root.named(t, "issuer"), Roots: roots, ServerName: "localhost",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func jwt(claims string) api.SignJWTRequest {
	return api.SignJWTRequest{KeySet: "web", Claims: []byte(claims)}
}

// The Go client says what the JSON client says.
func TestClient(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	c := h.rpc(t)
	reply, err := c.SignJWT(t.Context(), jwt(`{}`))
	if err != nil || reply.Token == "" || reply.Entry != "log#1" {
		t.Fatalf("%v, %v", reply, err)
	}
	_, err = c.SignJWT(t.Context(), jwt(`{"iss":"x"}`))
	want := api.Errorf(api.CodeClaimReserved, "").Problem()
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != want.Code || p.Status != want.Status || p.Title != want.Title || p.Detail == "" {
		t.Errorf("%v", err)
	}
	results, err := c.SignJWTBatch(t.Context(), []api.SignJWTRequest{jwt(`{}`), jwt(`[]`)})
	if err != nil || results[0].Reply == nil || results[1].Problem == nil || results[1].Problem.Status != 400 {
		t.Errorf("%v, %v", results, err)
	}
	if _, err := c.SignCSR(t.Context(), api.SignCSRRequest{Authority: "a", Profile: "p"}, ""); !refusedAs(err, api.CodeForbidden) {
		t.Errorf("%v", err)
	}
	h.hold = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// The daemon keeps to the same deadline, so that its answer may come before the end.
	if _, err := c.SignJWT(ctx, jwt(`{}`)); !errors.Is(err, context.DeadlineExceeded) && !refusedAs(err, api.CodeDeadlineExceeded) {
		t.Errorf("%v, want that the time was over", err)
	}
}

func refusedAs(err error, code api.Code) bool {
	p, ok := errors.AsType[*api.Problem](err)
	return ok && p.Code == code
}

// A Stream pipelines for many, and outlives the streams that the daemon ends: no
// request is lost by that, or signed twice.
func TestClientStream(t *testing.T) {
	h := newHouse(t, Limits{StreamAge: 20 * time.Millisecond}, server.Limits{})
	s := h.rpc(t).Stream()
	var wg sync.WaitGroup
	const callers, each = 100, 30
	for i := range callers {
		wg.Go(func() {
			for j := range each {
				if _, err := s.Sign(t.Context(), jwt(fmt.Sprintf(`{"n":%d}`, i*each+j))); err != nil {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := h.asked.Load(); n != callers*each {
		t.Errorf("%d signatures for %d requests", n, callers*each)
	}
	if _, err := s.Sign(t.Context(), jwt(`[]`)); !refusedAs(err, api.CodeMalformed) {
		t.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Sign(t.Context(), jwt(`{}`)); !errors.Is(err, client.ErrStreamClosed) {
		t.Errorf("%v", err)
	}
}

// Whoever waits on a Stream learns why it was ended, and one whose time is over
// leaves.
func TestClientStreamRefusals(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	h.hold = make(chan struct{})
	s := h.rpc(t).Stream()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	ask := func(ctx context.Context) {
		_, err := s.Sign(ctx, jwt(`{}`))
		done <- err
	}
	go ask(ctx)
	<-h.held
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	go ask(t.Context())
	<-h.held
	later := time.Now().Add(2 * time.Hour)
	h.now.Store(&later)
	go ask(t.Context())
	close(h.hold) // what was begun is answered first
	for _, err := range []error{<-done, <-done} {
		if err != nil && !refusedAs(err, api.CodeCertificateExpired) {
			t.Errorf("%v", err)
		}
	}
	if _, err := s.Sign(t.Context(), jwt(`{}`)); !refusedAs(err, api.CodeCertificateExpired) {
		t.Errorf("%v", err)
	}
}

package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// A04: who asks for too much is told so before a byte of the body is read, and may
// come back; what was admitted is counted out when it has been answered.
func TestA04LimitsComeBeforeTheBody(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	inside, full := 0, true
	h.Admit = func(who policy.Caller) (func(), error) {
		if who.Value != "spiffe://chancery.dev/issuer" {
			t.Errorf("%s was counted", who)
		}
		if full {
			e := api.Errorf(api.CodeOverloaded, "too much")
			e.RetryAfter = 7
			return nil, e
		}
		inside++
		return func() { inside-- }, nil
	}
	signing, issuer := Signing(h.Config), v.as(t, "issuer")
	for _, route := range []string{"POST /v1/sign/jwt", "POST /v1/sign/jwt/batch", "POST /v1/sign/csr", "GET /v1/keysets", "GET /nowhere"} {
		method, path, _ := strings.Cut(route, " ")
		w := ask(signing, issuer, method, path, unread{t})
		if p := problem(t, route, w, api.CodeOverloaded); w.Header().Get("Retry-After") != "7" || p.RetryAfter != 7 || w.Header().Get("Connection") != "" {
			t.Errorf("%s: %v", route, w.Header())
		}
	}
	if r := h.refused; len(r) != 5 || r[0].Action != keystore.ActRequest || r[0].Code != "overloaded" || r[0].Principal == "" {
		t.Errorf("the log has %+v", r)
	}
	full = false
	if w := ask(signing, issuer, "POST", "/v1/sign/jwt", strings.NewReader(`{"keyset":"web","claims":{}}`)); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	problem(t, "a bad body", ask(signing, issuer, "POST", "/v1/sign/jwt", strings.NewReader(`{`)), api.CodeMalformed)
	problem(t, "a body that ends early", ask(signing, issuer, "POST", "/v1/sign/jwt", failing{}), api.CodeMalformed)
	if inside != 0 {
		t.Errorf("%d are inside, and all were answered", inside)
	}
}

// slowKey signs when its context has ended, or never.
type slowKey struct{ keystore.Key }

func (slowKey) Sign(ctx context.Context, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// TestI6CallersDeadlines: a request has the time its caller gives it, and no more
// than the listener does. Which of them was over, the answer says.
func TestI6CallersDeadlines(t *testing.T) {
	for header, want := range map[string]struct {
		after time.Duration
		code  api.Code
	}{
		"":     {10 * time.Second, api.CodeOverloaded},
		"3600": {10 * time.Second, api.CodeOverloaded},
		"10":   {10 * time.Second, api.CodeDeadlineExceeded},
		"3":    {3 * time.Second, api.CodeDeadlineExceeded},
		"0.25": {250 * time.Millisecond, api.CodeDeadlineExceeded}, "0.001": {time.Millisecond, api.CodeDeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t)
			v := newVisitors(t, h)
			h.wrap = func(k keystore.Key) keystore.Key { return slowKey{k} }
			signing, issuer := Signing(h.Config), v.as(t, "issuer")
			began := time.Now()
			w := askWith(signing, issuer, map[string][]string{api.RequestTimeout: {header}}, `{"keyset":"web","claims":{}}`)
			problem(t, header, w, want.code)
			if took := time.Since(began); took != want.after {
				t.Errorf("%q: answered after %v, want %v", header, took, want.after)
			}
		})
	}
	h := newHouse(t)
	v := newVisitors(t, h)
	signing, issuer := Signing(h.Config), v.as(t, "issuer")
	for _, values := range [][]string{{"soon"}, {"-1"}, {"0"}, {"1s"}, {"1", "2"}} {
		problem(t, strings.Join(values, ","), askWith(signing, issuer, map[string][]string{api.RequestTimeout: values}, `{"keyset":"web","claims":{}}`), api.CodeMalformed)
	}
}

// The time that a caller gives a request began when its body had come: a stalled one was
// waited for as long as any, and then was malformed. A caller who gives it longer than the
// listener gives a body does not get more.
func TestTheCallersTimeCountsFromTheHeadersOn(t *testing.T) {
	for _, c := range []struct {
		header string
		body   time.Duration // the listener's time for it
		status int
		code   api.Code
	}{
		{"0.05", 10 * time.Second, http.StatusGatewayTimeout, api.CodeDeadlineExceeded},
		{"9", 100 * time.Millisecond, http.StatusBadRequest, api.CodeMalformed},
		{"99999", 100 * time.Millisecond, http.StatusBadRequest, api.CodeMalformed},
	} {
		h := newHouse(t)
		issuer := newVisitors(t, h).as(t, "issuer")
		signing := Signing(h.Config)
		listener := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.TLS = issuer
			signing.ServeHTTP(w, r)
		}))
		listener.Config.ReadTimeout = c.body
		listener.Start()
		conn, err := net.Dial("tcp", listener.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/sign/jwt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n%s: %s\r\n\r\n{", api.RequestTimeout, c.header)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		var p api.Problem
		if err := json.NewDecoder(answer.Body).Decode(&p); err != nil || answer.StatusCode != c.status || p.Code != c.code {
			t.Errorf("%s: %d %+v, %v", c.header, answer.StatusCode, p, err)
		}
		answer.Body.Close()
		conn.Close()
		listener.Close()
	}
}

// A batch counted as done whatever became of its members, so that a caller of batches
// alone never raised the alarm for a key set that does not sign.
func TestABatchCountsAsTheGravestOfItsMembers(t *testing.T) {
	for _, c := range []struct {
		sets []string
		open error
		want string
	}{
		{[]string{"web", "web"}, nil, "ok"},
		{[]string{"web", "no"}, nil, string(api.CodeForbidden)},
		{[]string{"no", "web"}, keystore.ErrUnavailable, string(api.CodeBackendUnavailable)},
	} {
		h := newHouse(t)
		h.openErr = c.open
		var body strings.Builder
		for i, set := range c.sets {
			fmt.Fprintf(&body, `%s{"keyset":%q,"claims":{}}`, strings.Repeat(",", min(i, 1)), set)
		}
		r := httptest.NewRequest("POST", "/v1/sign/jwt/batch", strings.NewReader(`{"requests":[`+body.String()+`]}`))
		r.TLS = newVisitors(t, h).as(t, "issuer")
		w := httptest.NewRecorder()
		Signing(h.Config).ServeHTTP(w, r)
		if want := []string{"POST /v1/sign/jwt/batch " + c.want}; w.Code != http.StatusOK || !slices.Equal(h.observed, want) {
			t.Errorf("%v: %d, observed %q, want %q", c.sets, w.Code, h.observed, want)
		}
	}
}

// A request whose time ended when its body had come had the next one on its connection
// begin cancelled: net/http reads on behind a body, and took the end of that reading for
// the client's.
func TestARequestThatIsOverEndsNoOther(t *testing.T) {
	ended := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/over" {
			ctx, cancel := context.WithDeadline(r.Context(), time.Now())
			defer cancel()
			_, _ = readBody(ctx, w, r, 100)
			time.Sleep(time.Millisecond) // for who reads on
			return
		}
		time.Sleep(time.Millisecond)
		ended <- r.Context().Err()
	}))
	defer server.Close()
	for range 20 {
		for _, path := range []string{"/over", "/next"} {
			resp, err := server.Client().Post(server.URL+path, "", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		if err := <-ended; err != nil {
			t.Fatalf("the next request: %v", err)
		}
	}
}

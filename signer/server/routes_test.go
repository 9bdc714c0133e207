package server

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

var routesOf = map[string][]string{
	"signing": {
		"POST /v1/sign/jwt", "POST /v1/sign/jwt/batch", "POST /v1/sign/csr", "GET /v1/keysets", "GET /v1/keysets/web",
		"GET /v1/openapi.json",
	},
	"ops": {
		"GET /v1/keysets", "GET /v1/keysets/web", "GET /v1/keysets/web/plan", "GET /v1/keysets/web/history",
		"POST /v1/keysets/web/rotate", "POST /v1/keysets/web/suspend", "POST /v1/keysets/web/resume",
		"POST /v1/keysets/web/destroy", "POST /v1/ops/reconcile", "GET /v1/ops/reconcile/last",
		"GET /v1/ops/tokens", "POST /v1/ops/tokens/retry", "POST /v1/ops/clock/confirm", "GET /v1/ops/nodes", "POST /v1/ops/nodes/b/forget", "GET /v1/audit/dev/lifecycle/entries", "GET /v1/audit/dev/acts/2026-03/entries", "GET /v1/openapi.json",
	},
}

func (h *house) handlers() map[string]http.Handler {
	return map[string]http.Handler{"signing": Signing(h.Config), "ops": Ops(h.Config)}
}

// A04: nothing is read of who has no identity, at any path and by any method.
func TestA04IdentityComesFirst(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	stranger := v.as(t, "stranger") // has a name, and no rule
	for door, handler := range h.handlers() {
		paths := append([]string{"GET /", "POST /nowhere", "DELETE /v1/sign/jwt", "POST //v1/sign/jwt", "GET /v1/../v1/keysets", "PUT /v1/keysets/web"}, routesOf[door]...)
		for _, route := range paths {
			method, path, _ := strings.Cut(route, " ")
			h.refused = nil
			w := ask(handler, nil, method, path, unread{t})
			if p := problem(t, door+" "+route, w, api.CodeForbidden); p.Detail != "not allowed" {
				t.Errorf("%s: %q", route, p.Detail)
			}
			if len(h.refused) != 1 || h.refused[0].Principal != "" || h.refused[0].Detail["certificate"] != "none" || h.refused[0].Detail["route"] == "" {
				t.Errorf("%s %s: the log has %+v", door, route, h.refused)
			}
		}
		for _, route := range routesOf[door] {
			method, path, _ := strings.Cut(route, " ")
			body := map[bool]string{true: `{"reason":"r"}`}[strings.Contains(path, "keysets/web/")]
			if body == "" {
				body = map[string]string{
					"/v1/sign/jwt": `{"keyset":"web","claims":{}}`, "/v1/sign/csr": `{"authority":"a","profile":"p","csr":"c"}`, "/v1/ops/tokens/retry": `{"token":"x"}`, "/v1/ops/reconcile": `{}`, "/v1/ops/clock/confirm": `{"reason":"r"}`, "/v1/ops/nodes/b/forget": `{"reason":"r"}`,
				}[path]
			}
			if path == "/v1/sign/jwt/batch" || path == "/v1/openapi.json" {
				continue // answers each of its requests; is for everyone who has a name
			}
			problem(t, door+" "+route, ask(handler, stranger, method, path, strings.NewReader(body)), api.CodeForbidden)
		}
	}
	if len(h.entered) != 0 {
		t.Errorf("entered %+v", h.entered)
	}
}

// A29: each door has its own routes; the other's do not exist there.
func TestA29DoorsHaveTheirOwnRoutes(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	who := v.as(t, "operator")
	handlers := h.handlers()
	for _, c := range []struct{ door, route string }{
		{"signing", "POST /v1/keysets/web/suspend"}, {"signing", "GET /v1/ops/tokens"}, {"signing", "GET /v1/audit/dev/lifecycle/entries"},
		{"ops", "POST /v1/sign/jwt"}, {"ops", "POST /v1/sign/csr"}, {"ops", "GET /livez"}, {"signing", "GET /metrics"},
		{"signing", "GET /"}, {"ops", "GET /v1"}, {"ops", "GET /v1/keysets/"}, {"ops", "GET //v1/keysets"}, {"ops", "GET /v1/./keysets"}, {"ops", "GET /v1/x/../keysets"},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		problem(t, c.door+" "+c.route, ask(handlers[c.door], who, method, path, nil), api.CodeNotFound)
	}
	for door, routes := range routesOf {
		for _, route := range routes {
			allowed, path, _ := strings.Cut(route, " ")
			for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", map[string]string{"GET": "POST", "POST": "GET"}[allowed]} {
				w := ask(handlers[door], who, method, path, nil)
				problem(t, door+" "+method+" "+path, w, api.CodeMethodNotAllowed)
				if w.Header().Get("Allow") != allowed {
					t.Errorf("%s %s: Allow %q", method, path, w.Header().Get("Allow"))
				}
			}
		}
	}
	// No label of the metrics has a value that a caller chose.
	for _, o := range h.observed {
		if route, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(o, "GET "), "POST "), " "); !strings.HasPrefix(route, "/v1/") && route != "/" {
			t.Errorf("observed %q", o)
		}
	}
}

func TestSignOverHTTP(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	w := ask(Signing(h.Config), v.as(t, "issuer"), "POST", "/v1/sign/jwt", strings.NewReader(`{"keyset":"web","claims":{"sub":"alice"}}`))
	var reply api.SignJWTReply
	if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || w.Code != 200 || strings.Count(reply.Token, ".") != 2 || reply.Entry != "log#1" {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%v", w.Header())
	}
	w = ask(Signing(h.Config), v.as(t, "issuer"), "POST", "/v1/sign/jwt/batch", strings.NewReader(`{"requests":[{"keyset":"web","claims":{}},{"keyset":"no","claims":{}}]}`))
	var batch api.BatchReply
	if err := json.Unmarshal(w.Body.Bytes(), &batch); err != nil || w.Code != 200 || len(batch.Results) != 2 || batch.Results[0].Reply == nil || batch.Results[1].Problem.Code != api.CodeForbidden {
		t.Errorf("%d %s: %v", w.Code, w.Body, err)
	}
}

func TestProblems(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	issuer, operator := v.as(t, "issuer"), v.as(t, "operator")
	signing, ops := Signing(h.Config), Ops(h.Config)
	big := strings.Repeat(" ", 64<<10) + `{"keyset":"web","claims":{}}`
	for _, c := range []struct {
		what string
		do   func() *httptest.ResponseRecorder
		code api.Code
		wait string // Retry-After
	}{
		{"no JSON", func() *httptest.ResponseRecorder {
			return ask(signing, issuer, "POST", "/v1/sign/jwt", strings.NewReader("hello"))
		}, api.CodeMalformed, ""},
		{"A01: an unknown member", func() *httptest.ResponseRecorder {
			return ask(signing, issuer, "POST", "/v1/sign/jwt", strings.NewReader(`{"keyset":"web","claims":{},"alg":"none"}`))
		}, api.CodeMalformed, ""},
		{"no body", func() *httptest.ResponseRecorder {
			return ask(signing, issuer, "POST", "/v1/sign/jwt", nil)
		}, api.CodeMalformed, ""},
		{"a body that ends early", func() *httptest.ResponseRecorder {
			return ask(signing, issuer, "POST", "/v1/sign/jwt", io.MultiReader(strings.NewReader("{"), failing{}))
		}, api.CodeMalformed, ""},
		{"a body over the limit", func() *httptest.ResponseRecorder {
			return ask(signing, issuer, "POST", "/v1/sign/jwt", strings.NewReader(big))
		}, api.CodeTooLarge, ""},
		{"a body over the limit, its length not said", func() *httptest.ResponseRecorder {
			return ask(signing, issuer, "POST", "/v1/sign/jwt", io.MultiReader(strings.NewReader(big)))
		}, api.CodeTooLarge, ""},
		{"two idempotency keys", func() *httptest.ResponseRecorder {
			r := httptest.NewRequest("POST", "/v1/sign/csr", strings.NewReader(`{"authority":"a","profile":"p","csr":"c"}`))
			r.TLS, r.Header = issuer, http.Header{"Idempotency-Key": {"a", "b"}}
			w := httptest.NewRecorder()
			signing.ServeHTTP(w, r)
			return w
		}, api.CodeMalformed, ""},
		{"a keystore that is down", func() *httptest.ResponseRecorder {
			h.openErr = fmt.Errorf("CKR_DEVICE_REMOVED: %w", keystore.ErrUnavailable)
			return ask(signing, issuer, "POST", "/v1/sign/jwt", strings.NewReader(`{"keyset":"web","claims":{}}`))
		}, api.CodeBackendUnavailable, "1"},
		{"suspended", func() *httptest.ResponseRecorder {
			h.set.Versions[0].Suspended = &keystore.Fact{}
			return ask(signing, issuer, "POST", "/v1/sign/jwt", strings.NewReader(`{"keyset":"web","claims":{}}`))
		}, api.CodeKeySetSuspended, "60"},
		{"too early", func() *httptest.ResponseRecorder {
			h.rotate = &api.Error{Code: api.CodeTooEarly, Rule: 1, RetryAfter: 7}
			return ask(ops, operator, "POST", "/v1/keysets/web/rotate", strings.NewReader(`{"reason":"r","when":"now"}`))
		}, api.CodeTooEarly, "7"},
		{"a failure inside", func() *httptest.ResponseRecorder {
			h.rotate = errors.New("CKR_GENERAL_ERROR")
			return ask(ops, operator, "POST", "/v1/keysets/web/rotate", strings.NewReader(`{"reason":"r"}`))
		}, api.CodeInternal, ""},
	} {
		w := c.do()
		p := problem(t, c.what, w, c.code)
		if w.Header().Get("Retry-After") != c.wait || p.RetryAfter > 0 != (c.wait != "") {
			t.Errorf("%s: Retry-After %q, %d", c.what, w.Header().Get("Retry-After"), p.RetryAfter)
		}
		if strings.Contains(w.Body.String(), "CKR") {
			t.Errorf("A24 %s: %s", c.what, w.Body)
		}
		if closes := w.Header().Get("Connection") == "close"; closes != (c.code == api.CodeTooLarge) {
			t.Errorf("%s: the connection is closed: %v", c.what, closes)
		}
	}
	if len(h.refused) != 11 {
		t.Errorf("%d refusals in the log: each is entered once", len(h.refused))
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestEntriesForAuditors(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	ops, auditor := Ops(h.Config), v.as(t, "auditor")
	for query, want := range map[string]string{
		"": "dev lifecycle 0 1000", "?from=7&limit=2": "dev lifecycle 7 2", "?limit=1000000": "dev lifecycle 0 1000",
	} {
		h.asked = nil
		w := ask(ops, auditor, "GET", "/v1/audit/dev/lifecycle/entries"+query, nil)
		if w.Code != 200 || w.Body.String() != "{}\n" || w.Header().Get("Content-Type") != "application/jsonl" || len(h.asked) != 1 || h.asked[0] != want {
			t.Errorf("%s: %d %q, asked %q", query, w.Code, w.Body, h.asked)
		}
	}
	ask(ops, auditor, "GET", "/v1/audit/dev/acts/2026-03/entries", nil)
	if last := h.asked[len(h.asked)-1]; last != "dev acts/2026-03 0 1000" || len(h.entered) != 4 || h.entered[3].Detail["what"] != "acts/2026-03" {
		t.Errorf("asked %q, entered %+v", last, h.entered)
	}
	for _, query := range []string{"?from=-1", "?limit=x", "?from=1.5", "?from=99999999999999999999"} {
		problem(t, query, ask(ops, auditor, "GET", "/v1/audit/dev/lifecycle/entries"+query, nil), api.CodeMalformed)
	}
	problem(t, "an operator", ask(ops, v.as(t, "operator"), "GET", "/v1/audit/dev/lifecycle/entries", nil), api.CodeForbidden)
	h.entries = fmt.Errorf("acts/1999-01: %w", keystore.ErrNotFound)
	problem(t, "a month there is not", ask(ops, auditor, "GET", "/v1/audit/dev/acts/1999-01/entries", nil), api.CodeNotFound)
}

func TestOperatorsReplies(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	ops, operator := Ops(h.Config), v.as(t, "operator")
	for route, status := range map[string]int{
		"GET /v1/keysets": 200, "GET /v1/keysets/web": 200, "GET /v1/keysets/web/plan": 200, "GET /v1/keysets/web/history": 200,
		"POST /v1/keysets/web/rotate": 202, "POST /v1/keysets/web/suspend": 200, "POST /v1/keysets/web/resume": 200,
		"GET /v1/ops/tokens": 200, "POST /v1/ops/tokens/retry": 200, "POST /v1/ops/clock/confirm": 200,
		"GET /v1/ops/nodes": 200, "POST /v1/ops/nodes/b/forget": 200,
	} {
		method, path, _ := strings.Cut(route, " ")
		body := `{"reason":"r"}`
		if strings.HasSuffix(path, "retry") {
			body = `{"token":"x"}`
		}
		if w := ask(ops, operator, method, path, strings.NewReader(body)); w.Code != status || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %d %s", route, w.Code, w.Body)
		}
	}
}

// I10, A16: revocation counts at the next request, on a connection kept alive
// and on a resumed one.
func TestA16RevokedOnAnOpenConnection(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	door := &Door{TLS: v.gate.TLS, Failed: func(_ string, err error) { t.Error(err) }, Log: h.Log}
	conns := door.Protocol("http/1.1")
	var gate atomic.Pointer[Gate]
	gate.Store(v.gate)
	h.Gate = gate.Load
	web := HTTPServer(Signing(h.Config), Limits{}, h.Log)
	var wg sync.WaitGroup
	wg.Go(func() { door.Serve(l) })
	wg.Go(func() { web.Serve(conns) })
	defer wg.Wait()
	defer web.Close()
	defer door.Close()

	cert := v.root.named(t, "issuer")
	cfg := clientConfig(v.root, cert)
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}, Timeout: patience}
	defer client.CloseIdleConnections()
	sign := func() (*http.Response, string) {
		resp, err := client.Post("https://"+l.Addr().String()+"/v1/sign/jwt", "application/json", bytes.NewReader([]byte(`{"keyset":"web","claims":{}}`)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	if resp, body := sign(); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	gate.Store(newGate(t, v.root.localhost(t), revoking(cert.Leaf), at(noon), v.root))
	resp, body := sign()
	if resp.StatusCode != 401 || !strings.Contains(body, "certificate_revoked") || !resp.Close {
		t.Errorf("kept alive: %d %s, closed %v", resp.StatusCode, body, resp.Close)
	}
	resp, body = sign() // a new connection, of the session before
	if resp.StatusCode != 401 || !resp.TLS.DidResume {
		t.Errorf("resumed (%v): %d %s", resp.TLS.DidResume, resp.StatusCode, body)
	}
	if r := h.refused; len(r) != 2 || r[0].Principal != "" || r[0].Detail["certificate"] != policy.PinOf(cert.Leaf) || r[0].Code != "certificate_revoked" {
		t.Errorf("the log has %+v", r)
	}
	door.CloseIf(func(*Visitor, *tls.ConnectionState) bool { return true })
}

// What is to be destroyed or compared is read strictly, and as it was meant.
func TestKeysOverHTTP(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	who, ops := v.as(t, "operator"), Ops(h.Config)
	for _, c := range []struct {
		route, body string
		code        api.Code // empty: done
	}{
		{"POST /v1/keysets/web/destroy", `{"reason":"r","version":1}`, ""},
		{"POST /v1/keysets/web/destroy", `{"reason":"r","kid":"x"}`, ""},
		{"POST /v1/keysets/web/destroy", `{"reason":"r"}`, api.CodeMalformed},
		{"POST /v1/keysets/web/destroy", `{"reason":"r","version":"1"}`, api.CodeMalformed},
		{"POST /v1/keysets/web/destroy", `{"reason":"r","version":1,"when":"now"}`, api.CodeMalformed},
		{"POST /v1/ops/reconcile", `{}`, ""},
		{"POST /v1/ops/reconcile", `{"keystore":"hsm"}`, ""},
		{"POST /v1/ops/reconcile", `{"keystores":["hsm"]}`, api.CodeMalformed},
		{"POST /v1/ops/reconcile", ``, api.CodeMalformed},
		{"GET /v1/ops/reconcile/last", ``, ""},
		{"GET /v1/keysets/web/history?since=2026-03-01T12:00:00Z", ``, ""},
		{"GET /v1/keysets/web/history?since=2026-03-01T12:00:00.5%2B01:00", ``, ""},
		{"GET /v1/keysets/web/history?since=yesterday", ``, api.CodeMalformed},
		{"POST /v1/ops/nodes/b/forget", `{"reason":"r"}`, ""},
		{"POST /v1/ops/nodes/b/forget", `{"reason":"r","force":true}`, ""},
		{"POST /v1/ops/nodes/b/forget", `{"reason":"r","force":"yes"}`, api.CodeMalformed},
		{"POST /v1/ops/nodes/b/forget", `{"reason":"r","node":"c"}`, api.CodeMalformed},
		{"POST /v1/ops/nodes/b/forget", `{}`, api.CodeMalformed},
		{"POST /v1/ops/nodes/a/forget", `{"reason":"r","force":true}`, api.CodeConflict},
		{"POST /v1/ops/nodes/c/forget", `{"reason":"r"}`, api.CodeNotFound},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		w := ask(ops, who, method, path, strings.NewReader(c.body))
		if c.code == "" && w.Code != http.StatusOK {
			t.Errorf("%s %s: %d %s", c.route, c.body, w.Code, w.Body)
		} else if c.code != "" {
			problem(t, c.route+" "+c.body, w, c.code)
		}
	}
}

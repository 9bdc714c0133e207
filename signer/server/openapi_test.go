package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer"
	"chancery/signer/api"
	"chancery/signer/api/apitest"
)

func openAPIDocument(t *testing.T) *apitest.Document {
	t.Helper()
	d, err := apitest.Load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The document has the routes of each door and no others, with the sizes of
// their bodies.
func TestTheDocumentHasEveryRoute(t *testing.T) {
	d := openAPIDocument(t)
	g := newGuarded(newHouse(t).Config)
	for door, routes := range map[string][]route{"signing": g.signing(), "ops": g.ops()} {
		left := d.Operations(door)
		for _, rt := range routes {
			op, ok := left[rt.pattern]
			if !ok {
				t.Errorf("%s is a route of the %s door, and no operation there (hint: paths in signer/api/openapi.json, with x-chancery-doors)", rt.pattern, door)
			} else if op.MaxBody != rt.maxBody {
				t.Errorf("%s: x-chancery-max-body is %d, want %d", rt.pattern, op.MaxBody, rt.maxBody)
			}
			delete(left, rt.pattern)
		}
		for pattern := range left {
			t.Errorf("%s is an operation at the %s door, and no route of it (hint: signer/api/openapi.json, signer/server/routes.go)", pattern, door)
		}
	}
}

// The document is for everyone who has an identity, at both doors, as it is.
func TestOpenAPIIsServed(t *testing.T) {
	h := newHouse(t)
	v := newVisitors(t, h)
	for door, handler := range h.handlers() {
		w := ask(handler, v.as(t, "stranger"), "GET", "/v1/openapi.json", nil)
		var have, want any
		if err := json.Unmarshal(w.Body.Bytes(), &have); err != nil || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
			t.Fatalf("%s: %d %v: %v", door, w.Code, w.Header(), err)
		}
		if err := json.Unmarshal(api.OpenAPI(), &want); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("%s serves another document", door)
		}
		problem(t, door+" without a certificate", ask(handler, nil, "GET", "/v1/openapi.json", nil), api.CodeForbidden)
	}
	if len(h.entered) != 0 {
		t.Errorf("entered %+v", h.entered)
	}
}

// furnished is a house whose operators' replies have every member.
type furnished struct{ *house }

func furnish(h *house) {
	f := furnished{h}
	h.Service.Rotations, h.Service.Nodes, h.Service.Tokens = f, f, f
}

var someEntry = "log#3"

func (furnished) KeySet(_ context.Context, set *keystore.KeySet) (api.KeySet, error) {
	full := api.Version{
		Version: 1, KID: "k", State: "active", NIST: "active", Keystore: "softhsm", PublishedAt: &noon, SignsFrom: &noon,
		SignsUntil: &noon, RetiresAt: &noon, ExpHorizon: &noon, Alarms: []string{"x"},
	}
	return api.KeySet{
		Name: set.Name, Purpose: "jwt", Algorithm: "ES256", Keystore: "softhsm", Revision: 1, Versions: []api.Version{full, {Version: 2, State: "pending"}},
	}, nil
}

func (furnished) Plan(context.Context, string) (api.Plan, error) {
	return api.Plan{
		Steps: []api.PlanStep{{At: noon, Version: 2, Step: "activate", Rule: 1, HeldBy: "x"}}, Held: "x", Asked: &api.Asked{At: noon, By: "x", Reason: "y"},
		Waits: []api.Wait{{Step: "activate", Version: 2, At: &noon, RetryAfter: 5, Rule: 1, Text: "x", Since: &noon, Nodes: []string{"b"}}, {Step: "retire", Version: 1}},
	}, nil
}

func (furnished) History(context.Context, string) (api.History, error) {
	return api.History{Events: []api.Event{{At: noon, Version: 1, Event: "activate", By: "chancery", Entry: someEntry}}}, nil
}

func (f furnished) Rotate(context.Context, string, string, string, bool) (api.RotateReply, error) {
	return api.RotateReply{From: api.VersionRef{Version: 1, KID: "k"}, To: api.VersionRef{Version: 2, KID: "l"}, SignsFrom: noon, Entry: someEntry}, f.rotate
}

func (furnished) Compromise(context.Context, string, signer.Scope, string) (api.CompromiseReply, error) {
	live := int64(3)
	return api.CompromiseReply{Next: []string{"x"}, Node: &api.Forgotten{Name: "b", Error: "x"}, Compromised: []api.Compromised{
		{At: noon, LiveTokens: &live, LiveUntil: &noon, ExpHorizon: &noon, Exposure: api.Exposure{Caches: &noon, CutOff: &noon, Signing: &noon},
			Successor: &api.Successor{VersionRef: api.VersionRef{Version: 2, KID: "l"}, SignsSince: noon, RejectedUntil: &noon}},
		{At: noon, Gap: &api.Gap{From: noon, Until: &noon, Held: "x"}},
	}}, nil
}

func (furnished) Destroy(context.Context, string, string, keystore.KID, int, string) (api.DestroyReply, error) {
	return api.DestroyReply{Version: 1, KID: "k", State: "destroyed", Entry: someEntry}, nil
}

func (furnished) Reconcile(context.Context, string) (api.Reconciliation, error) {
	return api.Reconciliation{At: noon, Keystores: []api.Compared{{Keystore: "softhsm", Keys: 2, Error: "x"}}, Findings: []api.Mismatch{
		{Kind: "unknown", Keystore: "softhsm", KeySet: "web", Version: 1, KID: "k", State: "active", Token: "t", KeyID: "0f", Label: "l", Type: "EC", Lacks: []string{"x"}, What: "x", Todo: "y", Entry: someEntry},
	}}, nil
}

func (f furnished) Reconciled() (api.Reconciliation, bool) {
	r, _ := f.Reconcile(context.Background(), "")
	return r, true
}

func (furnished) Status() []keystore.TokenStatus {
	return []keystore.TokenStatus{{Keystore: "softhsm", Label: "l", Serial: "0f", State: keystore.TokenPINRejected, Since: noon, Module: "m", Err: "x", Workers: 2, Restarts: 1, Unconfined: "x"}}
}

func (furnished) List(context.Context) (signer.Fleet, error) {
	return signer.Fleet{Self: "a", Clock: noon, Nodes: []keystore.Node{
		{Name: "a", Epoch: 2, EnrolledAt: noon, SeenAt: noon, SignsUntil: noon.Add(time.Minute), PublishesUntil: noon.Add(time.Hour)},
		{Name: "b", EnrolledAt: noon, SeenAt: noon, StoppedAt: noon}, {Name: "c", EnrolledAt: noon, SeenAt: noon, Forgotten: &keystore.Fact{At: noon, By: "x", Reason: "y"}},
	}}, nil
}

// Every operation of the guarded doors is asked for, and what goes both ways is
// what the document says; so is what is refused.
func TestExchangesAreAsTheDocumentSays(t *testing.T) {
	d, h := openAPIDocument(t), newHouse(t)
	furnish(h)
	v := newVisitors(t, h)
	handlers, missing := h.handlers(), map[string]bool{}
	for door := range handlers {
		for pattern := range d.Operations(door) {
			missing[door+" "+pattern] = true
		}
	}
	exchange := func(door, role, route, body string, status int) {
		t.Helper()
		method, path, _ := strings.Cut(route, " ")
		var content io.Reader
		if body != "" {
			content = strings.NewReader(body)
		}
		w := ask(handlers[door], v.as(t, role), method, path, content)
		if err := d.CheckReply(method, path, w.Code, w.Header(), w.Body.Bytes()); err != nil {
			t.Errorf("%s %s: %v", door, route, err)
		}
		if status == 0 {
			return
		}
		if w.Code != status {
			t.Errorf("%s %s: %d %s, want %d", door, route, w.Code, w.Body, status)
		}
		if method == http.MethodPost && status < 300 {
			if err := d.CheckRequest(method, path, []byte(body)); err != nil {
				t.Errorf("%s %s: %v", door, route, err)
			}
		}
		for pattern := range missing {
			at, template, _ := strings.Cut(pattern, " "+method+" ")
			if at == door && samePath(template, path) && status < 300 {
				delete(missing, pattern)
			}
		}
	}
	why := `{"reason":"r"}`
	for _, c := range []struct {
		door, role, route, body string
		status                  int
	}{
		{"signing", "issuer", "POST /v1/sign/jwt", `{"keyset":"web","claims":{"sub":"alice"},"ttl":60,"typ":"JWT"}`, 200},
		{"signing", "issuer", "POST /v1/sign/jwt", `{"keyset":"web","claims":{"iss":"me"}}`, 400},
		{"signing", "issuer", "POST /v1/sign/jwt", `{"keyset":"web","claims":{},"ttl":86400}`, 400},
		{"signing", "issuer", "POST /v1/sign/jwt", `{"keyset":"no","claims":{}}`, 403},
		{"signing", "issuer", "POST /v1/sign/jwt", strings.Repeat(" ", 64<<10) + `{"keyset":"web","claims":{}}`, 413},
		{"signing", "issuer", "POST /v1/sign/jwt/batch", `{"requests":[{"keyset":"web","claims":{}},{"keyset":"no","claims":{}}]}`, 200},
		{"signing", "issuer", "POST /v1/sign/csr", `{"authority":"a","profile":"p","csr":"c"}`, 403},
		{"signing", "issuer", "POST /v1/sign/digest", `{"keyset":"release","digest":"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=","format":"raw"}`, 403},
		{"signing", "issuer", "GET /v1/openapi.json", "", 200},
		{"signing", "issuer", "GET /v1/nowhere", "", 404},
		{"signing", "issuer", "DELETE /v1/keysets", "", 405},
		{"signing", "stranger", "GET /v1/keysets", "", 403},
		{"signing", "operator", "GET /v1/keysets", "", 200}, {"ops", "operator", "GET /v1/keysets", "", 200},
		{"signing", "operator", "GET /v1/keysets/web", "", 200}, {"ops", "operator", "GET /v1/keysets/web", "", 200},
		{"ops", "operator", "GET /v1/keysets/web/plan", "", 200},
		{"ops", "operator", "GET /v1/keysets/web/history?since=2026-02-01T00:00:00Z", "", 200},
		{"ops", "operator", "GET /v1/keysets/web/history?since=yesterday", "", 400},
		{"ops", "operator", "POST /v1/keysets/web/rotate", `{"reason":"r","when":"now"}`, 202},
		{"ops", "operator", "POST /v1/keysets/web/suspend", `{"reason":"r","kid":"k"}`, 200},
		{"ops", "operator", "POST /v1/keysets/web/resume", why, 200},
		{"ops", "operator", "POST /v1/keysets/web/compromise", why, 200},
		{"ops", "operator", "POST /v1/keysets/web/destroy", `{"reason":"r","version":1}`, 200},
		{"ops", "operator", "POST /v1/keysets/web/destroy", why, 400},
		{"ops", "operator", "POST /v1/ops/reconcile", `{"keystore":"softhsm"}`, 200}, {"ops", "operator", "GET /v1/ops/reconcile/last", "", 200},
		{"ops", "operator", "POST /v1/ops/compromise", `{"reason":"r","node":"b"}`, 403}, // of this house a rule names key sets only
		{"ops", "operator", "GET /v1/ops/tokens", "", 200}, {"ops", "operator", "POST /v1/ops/tokens/retry", `{"token":"softhsm"}`, 200},
		{"ops", "operator", "GET /v1/ops/nodes", "", 200}, {"ops", "operator", "POST /v1/ops/nodes/b/forget", `{"reason":"r","force":true}`, 200},
		{"ops", "operator", "POST /v1/ops/nodes/a/forget", why, 409}, {"ops", "operator", "POST /v1/ops/nodes/x/forget", why, 404},
		{"ops", "operator", "POST /v1/ops/clock/confirm", why, 200},
		{"ops", "auditor", "GET /v1/audit/dev/lifecycle/entries?from=1&limit=2", "", 200}, {"ops", "auditor", "GET /v1/audit/dev/acts/2026-03/entries", "", 200},
		{"ops", "operator", "GET /v1/openapi.json", "", 200},
	} {
		exchange(c.door, c.role, c.route, c.body, c.status)
	}
	h.openErr = keystore.ErrUnavailable
	exchange("signing", "issuer", "POST /v1/sign/jwt", `{"keyset":"web","claims":{}}`, 503)
	h.rotate = &api.Error{Code: api.CodeTooEarly, Rule: 1, RetryAfter: 7}
	exchange("ops", "operator", "POST /v1/keysets/web/rotate", why, 409)
	h.rotate = io.ErrUnexpectedEOF
	exchange("ops", "operator", "POST /v1/keysets/web/rotate", why, 500)
	h.rotate = api.Errorf(api.CodeOverloaded, "x")
	exchange("ops", "operator", "POST /v1/keysets/web/rotate", why, 429)
	delete(missing, "signing POST /v1/sign/csr")    // this house has no authority: the daemon's scenarios have
	delete(missing, "signing POST /v1/sign/digest") // nor a key set for digests
	delete(missing, "ops POST /v1/ops/compromise")  // its reply is that of a key set's
	if len(missing) > 0 {
		t.Errorf("never asked for and answered here: %q", slices.Sorted(maps.Keys(missing)))
	}
}

func samePath(template, path string) bool {
	path, _, _ = strings.Cut(path, "?")
	want, have := strings.Split(template, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, have, func(w, h string) bool { return w == h || strings.HasPrefix(w, "{") })
}

// What the server takes and the document refuses would be told wrong: the other
// way about is the server's to be stricter.
func TestTheDocumentRefusesWhatTheServerDoes(t *testing.T) {
	d := openAPIDocument(t)
	for route, bodies := range map[string][]string{
		"POST /v1/sign/jwt":           {`{}`, `{"keyset":"web"}`, `{"keyset":"web","claims":[]}`, `{"keyset":"web","claims":{},"alg":"none"}`, `{"keyset":1,"claims":{}}`, `{"keyset":"web","claims":{},"ttl":null}`},
		"POST /v1/sign/jwt/batch":     {`{"requests":[]}`, `{"requests":[` + strings.Repeat(`{"keyset":"web","claims":{}},`, api.MaxBatch) + `{"keyset":"web","claims":{}}]}`},
		"POST /v1/keysets/web/rotate": {`{"reason":""}`, `{"reason":"r","when":"later"}`},
	} {
		h := newHouse(t)
		v := newVisitors(t, h)
		method, path, _ := strings.Cut(route, " ")
		for _, body := range bodies {
			if err := d.CheckRequest(method, path, []byte(body)); err == nil {
				t.Errorf("%s: the document allows %.80s", route, body)
			}
			handler, role := Signing(h.Config), "issuer"
			if strings.Contains(path, "keysets") {
				handler, role = Ops(h.Config), "operator"
			}
			if w := ask(handler, v.as(t, role), method, path, strings.NewReader(body)); w.Code != http.StatusBadRequest {
				t.Errorf("%s: the server answers %.80s with %d %.200s", route, body, w.Code, w.Body)
			}
		}
	}
}

// What the public door answers beside what is published is in the document.
func TestThePublicDoorIsAsTheDocumentSays(t *testing.T) {
	d, p := openAPIDocument(t), newPublic()
	const path = "/issuers/web/jwks.json"
	pub := NewPublication()
	pub.Add(path, Document{Body: []byte(`{"keys":[]}`), ContentType: "application/jwk-set+json", ETag: `"one"`})
	check := func(what string, w *httptest.ResponseRecorder, method string, status int) {
		t.Helper()
		if err := d.CheckReply(method, path, w.Code, w.Header(), w.Body.Bytes()); err != nil || w.Code != status {
			t.Errorf("%s: %d: %v", what, w.Code, err)
		}
	}
	check("nothing yet", get(p, "GET", path), "GET", 404)
	p.Publish(pub)
	check("published", get(p, "GET", path), "GET", 200)
	check("not modified", get(p, "GET", path, "If-None-Match", `"one"`), "GET", 304)
	check("another method", get(p, "POST", path), "POST", 405)
	p.Lease = func() error { return io.EOF }
	check("cut off", get(p, "GET", path), "GET", 503)
	pub.Add(path, Document{Withheld: "x"})
	check("withheld", get(p, "GET", path), "GET", 503)
}

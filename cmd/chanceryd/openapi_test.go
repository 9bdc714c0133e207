package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/signer/api/apitest"
)

// openAPIDocument is read once: every answer of every scenario that send reads is
// held against it.
var openAPIDocument = sync.OnceValues(apitest.Load)

// fitsDocument fails the test unless an answer is what the OpenAPI document says.
func fitsDocument(t *testing.T, method, path string, r result) {
	t.Helper()
	plain := strings.HasPrefix(r.header.Get("Content-Type"), "text/plain")
	if plain && (r.status == http.StatusBadRequest || r.status == http.StatusRequestHeaderFieldsTooLarge) {
		return // it came to no handler, as the document says in its introduction
	}
	d, err := openAPIDocument()
	if err == nil {
		err = d.CheckReply(method, path, r.status, r.header, r.body)
	}
	if err != nil {
		t.Errorf("%v", err)
	}
}

// What a daemon answers, from key to key set, is what the document that it serves
// says of it.
func TestADaemonAnswersAsItsDocumentSays(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	doc, err := openAPIDocument()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := json.Marshal(map[string]any{
		"authority": "devices", "profile": "tls", "csr": requestFor(t, key, func(*x509.CertificateRequest) {}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ops := func(role string) *http.Client {
		pair, err := tls.LoadX509KeyPair(d.cert(role), d.key(role))
		if err != nil {
			t.Fatal(err)
		}
		return d.httpWith(d.endpoints.Ops, pair)
	}
	issuer, ca, operator, auditor := d.http("issuer"), d.http("ca"), ops("operator"), ops("auditor")
	for _, c := range []struct {
		who         *http.Client
		route, body string
		status      int
	}{
		{issuer, "POST /v1/sign/jwt", `{"keyset":"web","claims":{"sub":"alice"}}`, 200},
		{issuer, "POST /v1/sign/jwt/batch", `{"requests":[{"keyset":"legacy","claims":{}},{"keyset":"none","claims":{}}]}`, 200},
		{ca, "POST /v1/sign/csr", string(request), 200},
		{issuer, "GET /v1/openapi.json", "", 200},
		{operator, "GET /v1/keysets", "", 200},
		{operator, "GET /v1/keysets/web", "", 200},
		{operator, "GET /v1/keysets/web/plan", "", 200},
		{operator, "GET /v1/keysets/web/history", "", 200},
		{operator, "POST /v1/keysets/web/suspend", `{"reason":"r"}`, 200},
		{operator, "POST /v1/keysets/web/resume", `{"reason":"r"}`, 200},
		{operator, "POST /v1/keysets/web/rotate", `{"reason":"r"}`, 202},
		{operator, "POST /v1/keysets/web/rotate", `{"reason":"r","when":"now"}`, 409},
		{operator, "POST /v1/keysets/edge/compromise", `{"reason":"r"}`, 403}, // not what a dev operator may
		{operator, "POST /v1/keysets/web/destroy", `{"reason":"r","version":1}`, 409},
		{operator, "POST /v1/ops/reconcile", `{}`, 200},
		{operator, "GET /v1/ops/reconcile/last", "", 200},
		{operator, "GET /v1/ops/tokens", "", 200},
		{operator, "POST /v1/ops/tokens/retry", `{"token":"none"}`, 404},
		{operator, "GET /v1/ops/nodes", "", 200},
		{operator, "POST /v1/ops/nodes/dev/forget", `{"reason":"r"}`, 409},
		{operator, "POST /v1/ops/clock/confirm", `{"reason":"r"}`, 409},
		{auditor, "GET /v1/audit/dev/lifecycle/entries?limit=3", "", 200},
		{operator, "POST /v1/ops/compromise", `{"reason":"r","token":"none"}`, 403},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		var body io.Reader
		if c.body != "" {
			body = strings.NewReader(c.body)
			if err := doc.CheckRequest(method, path, []byte(c.body)); err != nil {
				t.Errorf("%s: %v", c.route, err)
			}
		}
		r, err := send(t, c.who, method, path, body)
		if err != nil || r.status != c.status {
			t.Errorf("%s: %d %.300s: %v, want %d", c.route, r.status, r.body, err, c.status)
		}
	}
	for _, path := range []string{"/issuers/web/jwks.json", "/issuers/legacy/jwks.json", "/issuers/edge/jwks.json", "/issuers/web/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/issuers/web", "/issuers/none/jwks.json"} {
		resp, err := http.Get(d.endpoints.Public + path)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
		if err := doc.CheckReply("GET", path, resp.StatusCode, resp.Header, b.Bytes()); err != nil {
			t.Error(err)
		}
	}
}

// What is published of a key set that signs JWTs is in the document, and the
// reverse.
func TestTheDocumentHasWhatIsPublished(t *testing.T) {
	doc, err := openAPIDocument()
	if err != nil {
		t.Fatal(err)
	}
	set := &keystore.KeySet{Name: "{keyset}", Purpose: keystore.PurposeJWT}
	var want, have []string
	for _, path := range append(paths(new(config.Config), set), historyPath(set)) {
		want = append(want, "GET "+path)
	}
	for pattern := range doc.Operations("public") {
		have = append(have, pattern)
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		t.Errorf("the document has %q, published are %q (hint: signer/api/openapi.json)", have, want)
	}
}

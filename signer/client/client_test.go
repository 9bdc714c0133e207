package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/signer/api"
)

// A pki is a root and what it issued, on file keys.
type pki struct {
	root  *x509.Certificate
	key   *ecdsa.PrivateKey
	roots *x509.CertPool
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{roots: x509.NewCertPool()}
	p.root, p.key = p.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	p.roots.AddCert(p.root)
	return p
}

func (p *pki) issue(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := p.root, p.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (p *pki) leaf(t *testing.T, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	cert, key := p.issue(t, &x509.Certificate{DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{usage}})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// A daemon is what the client talks to in a test.
type daemon struct {
	Config // to reach it
	*pki
	connections atomic.Int64
}

func serve(t *testing.T, handler http.HandlerFunc, change func(*tls.Config)) *daemon {
	t.Helper()
	d := &daemon{pki: newPKI(t)}
	socket := filepath.Join(t.TempDir(), "sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{d.leaf(t, x509.ExtKeyUsageServerAuth)},
		ClientCAs: d.roots, ClientAuth: tls.RequireAndVerifyClientCert,
	}
	if change != nil {
		change(cfg)
	}
	server := &http.Server{Handler: handler, ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			d.connections.Add(1)
		}
	}}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(tls.NewListener(ln, cfg)) }()
	t.Cleanup(func() { server.Close(); <-done })
	d.Config = Config{Endpoint: "unix:" + socket, Certificate: d.leaf(t, x509.ExtKeyUsageClientAuth), Roots: d.roots}
	return d
}

func (d *daemon) client(t *testing.T) *Client {
	t.Helper()
	c, err := New(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func refuse(w http.ResponseWriter, e *api.Error) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.Code.Status())
	json.NewEncoder(w).Encode(e.Problem())
}

// What the daemon signs is what the caller wrote, to the byte.
func TestClaimsAreSentVerbatim(t *testing.T) {
	claims := "{ \"b\":1.50,\n\t\"a\" : \"<\\u0061>\", \"n\":12345678901234567890 }"
	ttl := int64(60)
	var bodies []string
	d := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(body))
		if strings.HasSuffix(r.URL.Path, "/batch") {
			io.WriteString(w, `{"results":[{"token":"a.b.c"},{"code":"forbidden","status":403}]}`)
			return
		}
		io.WriteString(w, `{"token":"a.b.c"}`)
	}, nil)
	c := d.client(t)
	req := api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(claims), TTL: &ttl, Typ: "at+jwt"}
	if _, err := c.SignJWT(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	results, err := c.SignJWTBatch(t.Context(), []api.SignJWTRequest{req, req})
	if err != nil {
		t.Fatal(err)
	}
	one := `{"keyset":"web","ttl":60,"typ":"at+jwt","claims":` + claims + `}`
	if want := []string{one, `{"requests":[` + one + `,` + one + `]}`}; bodies[0] != want[0] || bodies[1] != want[1] {
		t.Errorf("sent %q", bodies)
	}
	if results[0].Reply.Token != "a.b.c" || results[1].Problem.Code != api.CodeForbidden {
		t.Errorf("results are %+v", results)
	}
	var decoded api.SignJWTRequest
	if err := api.Decode([]byte(bodies[0]), &decoded, api.Limits{}); err != nil {
		t.Errorf("the daemon's decoder refuses it: %v", err)
	}
	req.Claims = json.RawMessage(`{},"ttl":5`)
	if _, err := c.SignJWT(t.Context(), req); err == nil {
		t.Error("claims that are not one JSON value were sent")
	}
}

func TestARefusalIsAProblem(t *testing.T) {
	d := serve(t, func(w http.ResponseWriter, r *http.Request) {
		e := api.Errorf(api.CodeTooEarly, "caches may not know the successor yet")
		e.Rule, e.RetryAfter = 1, 17
		refuse(w, e)
	}, nil)
	_, err := d.client(t).Rotate(t.Context(), "web", api.OperateRequest{Reason: "test", When: "now"})
	p, ok := errors.AsType[*api.Problem](err)
	if !ok || p.Code != api.CodeTooEarly || p.Status != 409 || p.Rule != 1 || p.RetryAfter != 17 {
		t.Errorf("got %#v", err)
	}
	if _, later := RetryAfter(err); later {
		t.Error("a 409 is not told to be repeated")
	}
}

func TestAnswersThatAreNoChancerys(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"a web page for an error": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"a web page":              func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") },
		"a redirect":              func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/v1/elsewhere", http.StatusFound) },
		"a problem without code": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(500)
			io.WriteString(w, `{"status":500}`)
		},
	} {
		_, err := serve(t, answer, nil).client(t).KeySets(t.Context())
		if _, ok := errors.AsType[*api.Problem](err); err == nil || ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A request that may be repeated is, but only by a patient client.
func TestOnlyThePatientComeBack(t *testing.T) {
	var asked atomic.Int64
	d := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1)%2 == 1 {
			refuse(w, api.Errorf(api.CodeBackendUnavailable, "the token does not answer"))
			return
		}
		io.WriteString(w, `{}`)
	}, nil)
	c := d.client(t)
	jwt := api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)}
	for _, s := range []struct {
		name  string
		sign  func() error
		asked int64
		ok    bool
	}{
		{"a client asks once", func() error { _, err := c.SignJWT(t.Context(), jwt); return err }, 1, false},
		{"a patient one comes back", func() error { _, err := c.Patient(5*time.Second).SignJWT(t.Context(), jwt); return err }, 2, true},
		{"but not when it would take too long", func() error { _, err := c.Patient(time.Millisecond).SignJWT(t.Context(), jwt); return err }, 1, false},
		{"nor with a CSR that may have been signed", func() error {
			_, err := c.Patient(5*time.Second).SignCSR(t.Context(), api.SignCSRRequest{}, "")
			return err
		}, 1, false},
		{"unless it has an idempotency key", func() error {
			_, err := c.Patient(5*time.Second).SignCSR(t.Context(), api.SignCSRRequest{}, "k")
			return err
		}, 2, true},
	} {
		asked.Store(0)
		err := s.sign()
		if asked.Load() != s.asked || (err == nil) != s.ok {
			t.Errorf("%s: asked %d times, %v", s.name, asked.Load(), err)
		}
		if wait, later := RetryAfter(err); err != nil && (!later || wait != time.Second) {
			t.Errorf("%s: %v does not say when to come back", s.name, err)
		}
	}
}

func TestConnectionsAreKept(t *testing.T) {
	d := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Proto != "HTTP/1.1" || r.TLS.Version != tls.VersionTLS13 || r.TLS.ServerName != "localhost" || r.Host != "localhost" {
			t.Errorf("came as %s, TLS %x, for %s at %s", r.Proto, r.TLS.Version, r.TLS.ServerName, r.Host)
		}
		io.WriteString(w, `{"keysets":[]}`)
	}, nil)
	c := d.client(t)
	for range 20 {
		if _, err := c.KeySets(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.connections.Load(); n != 1 {
		t.Errorf("%d connections for 20 requests", n)
	}
}

func TestTheDaemonMustProveItself(t *testing.T) {
	other := newPKI(t)
	answer := func(w http.ResponseWriter, r *http.Request) { t.Error("it was asked") }
	for name, change := range map[string]func(*tls.Config){
		"another root": func(c *tls.Config) { c.Certificates = []tls.Certificate{other.leaf(t, x509.ExtKeyUsageServerAuth)} },
		"TLS 1.2":      func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
	} {
		if _, err := serve(t, answer, change).client(t).KeySets(t.Context()); err == nil {
			t.Errorf("%s: it was believed", name)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for endpoint, want := range map[string]place{
		"unix:/run/x.sock":        {"https://localhost", "unix", "/run/x.sock", "localhost"},
		"https://localhost:8443":  {"https://localhost:8443", "tcp", "localhost:8443", "localhost"},
		"https://localhost:8443/": {"https://localhost:8443", "tcp", "localhost:8443", "localhost"},
		"https://keys.example":    {"https://keys.example", "tcp", "keys.example:443", "keys.example"},
		"https://[::1]:8443":      {"https://[::1]:8443", "tcp", "[::1]:8443", "::1"},
		"unix:":                   {},
		"http://localhost:8443":   {},
		"https://:8443":           {},
		"https://u:p@localhost":   {},
		"https://localhost/path":  {},
		"localhost:8443":          {},
		"":                        {},
	} {
		got, err := parseEndpoint(endpoint)
		if got != want || (err != nil) != (want == place{}) {
			t.Errorf("%q: %+v, %v", endpoint, got, err)
		}
	}
}

func TestARequestEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	d := serve(t, func(w http.ResponseWriter, r *http.Request) { <-release }, nil)
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.client(t).KeySets(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func ExampleRetryAfter() {
	var err error = &api.Problem{Status: 503, Code: api.CodeKeySetSuspended, RetryAfter: 5}
	wait, later := RetryAfter(fmt.Errorf("signing: %w", err))
	fmt.Println(wait, later)
	// Output: 5s true
}

// The daemon learns how long its caller waits.
func TestADeadlineGoesAlong(t *testing.T) {
	var said []string
	d := serve(t, func(w http.ResponseWriter, r *http.Request) {
		said = append(said, r.Header.Get(api.RequestTimeout))
		io.WriteString(w, "{}")
	}, nil)
	c := d.client(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, ctx := range []context.Context{t.Context(), ctx} {
		if _, err := c.KeySets(ctx); err != nil {
			t.Fatal(err)
		}
	}
	within, err := api.ParseTimeout(said[1])
	if said[0] != "" || err != nil || within > time.Hour || within < 30*time.Minute {
		t.Errorf("without a deadline %q, with an hour %q", said[0], said[1])
	}
}

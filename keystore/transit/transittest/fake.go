package transittest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A FakeServer is a server of this package. It behaves as Vault does but where
// its script says otherwise. All methods may be called at any time.
type FakeServer struct {
	*Server
	ca   *CA
	conf *tls.Config
	addr string

	script script

	mu       sync.Mutex // guards what follows
	http     *http.Server
	served   chan struct{} // closed when http serves no more
	sealed   bool
	standby  int           // the status of sys/health, if it cannot serve
	leader   string        // where it redirects then; "": nobody leads
	shift    time.Duration // by which its clock is ahead
	mounts   map[string]*mount
	policies map[string]*policy
	tokens   map[string]*token // by token
	spaces   map[string]bool   // the namespaces; nil: it knows of none and looks at no header
	rsaUsed  map[int]int       // by size: how many keys of the pool it has
}

// A mount is an engine at a path.
type mount struct {
	path     string // with its closing slash; auth mounts begin with auth/
	kind     string
	accessor string
	uuid     string
	keys     map[string]*transitKey
	roles    map[string]*role
}

// Fake starts a test server, and stops it when the test ends.
func Fake(t testing.TB) *FakeServer {
	t.Helper()
	ca := NewCA(t, t.TempDir())
	certFile, keyFile := ca.ServerCert()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	f := &FakeServer{
		ca:       ca,
		conf:     &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert},
		mounts:   make(map[string]*mount),
		policies: make(map[string]*policy),
		tokens:   make(map[string]*token),
		rsaUsed:  make(map[int]int),
	}
	for _, m := range []struct{ path, kind string }{{"sys/", "system"}, {"auth/token/", "token"}} {
		f.mounts[m.path] = newMount(m.path, m.kind)
	}
	f.policies["default"], _ = parsePolicy(defaultPolicy)
	root := f.rootToken()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	if f.Server, err = newServer("https://"+f.addr, ca.File(), root, "the test server"); err != nil {
		t.Fatal(err)
	}
	f.serve(ln)
	t.Cleanup(f.Close)
	return f
}

func newMount(path, kind string) *mount {
	return &mount{
		path: path, kind: kind, accessor: kind + "_" + randomHex(4), uuid: randomUUID(),
		keys: make(map[string]*transitKey), roles: make(map[string]*role),
	}
}

// CA is the one that made the server's certificate. It makes certificates for
// clients as well.
func (f *FakeServer) CA() *CA { return f.ca }

type connKey struct{}

func (f *FakeServer) serve(ln net.Listener) {
	srv := &http.Server{
		Handler:     http.HandlerFunc(f.handle),
		TLSConfig:   f.conf.Clone(),
		ErrorLog:    log.New(io.Discard, "", 0), // clients that go away are what tests are about
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	served := make(chan struct{})
	f.mu.Lock()
	f.http, f.served = srv, served
	f.mu.Unlock()
	go func() {
		defer close(served)
		srv.ServeTLS(ln, "", "")
	}()
}

// Close stops the server as a crash would: connections are cut, and its port
// refuses new ones. Keys, tokens and policies stay.
func (f *FakeServer) Close() {
	f.mu.Lock()
	srv, served := f.http, f.served
	f.http = nil
	f.mu.Unlock()
	if srv == nil {
		return
	}
	srv.Close()
	<-served
}

// Restart listens again on the same port.
func (f *FakeServer) Restart(t testing.TB) {
	t.Helper()
	f.Close()
	var ln net.Listener
	var err error
	for range 50 { // somebody may have the port for a moment
		if ln, err = net.Listen("tcp", f.addr); err == nil {
			f.serve(ln)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("listening again: %v", err)
}

// cut closes the connection of r, at once and without a word.
func cut(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn() // no close-notify: it looks like a crash
		}
		c.Close()
	}
	panic(http.ErrAbortHandler)
}

func (f *FakeServer) handle(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/v1/") {
		http.NotFound(w, r)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	// Only when the body has been read does net/http notice that a client goes.
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	rule := f.script.match(r.Method, path, f.accessor(r.Header.Get("X-Vault-Token")))
	if rule == nil {
		write(w, r, f.answer(r))
		return
	}
	if rule.wait(r) {
		return // nobody listens any more
	}
	if rule.Refuse {
		cut(r)
	}
	if rule.Status != 0 {
		write(w, r, rule.scripted(rule.Status))
		return
	}
	a := f.answer(r)
	if rule.Mangle != nil {
		a.body = mangled(a.body, rule.Mangle)
	}
	switch {
	case rule.Drop:
		cut(r)
	case rule.StatusAfter != 0:
		a = rule.scripted(rule.StatusAfter)
	}
	write(w, r, a)
}

// RoundTrip implements http.RoundTripper: the server answers without a network, as
// it has to in a synctest bubble.
func (f *FakeServer) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if p := recover(); p == http.ErrAbortHandler {
			resp, err = nil, io.ErrUnexpectedEOF
		} else if p != nil {
			panic(p)
		}
	}()
	in, out := r.Clone(r.Context()), httptest.NewRecorder()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	defer in.Body.Close()
	in.RequestURI = r.URL.RequestURI()
	f.handle(out, in)
	if r.Context().Err() != nil {
		return nil, r.Context().Err()
	}
	resp = out.Result()
	resp.Request = r
	return resp, nil
}

func write(w http.ResponseWriter, r *http.Request, a answer) {
	w.Header().Set("Cache-Control", "no-store")
	if a.body != nil {
		w.Header().Set("Content-Type", "application/json")
	}
	for k, v := range a.header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.status)
	switch body := a.body.(type) {
	case nil:
	case string:
		io.WriteString(w, body)
	default:
		if r.Method != http.MethodHead {
			json.NewEncoder(w).Encode(body)
		}
	}
}

// answer does the request.
func (f *FakeServer) answer(r *http.Request) answer {
	if r.Header.Get("X-Vault-Wrap-TTL") != "" { // Vault would answer with a token for the answer
		return errorAnswer(refuse(http.StatusBadRequest, "nobody here wants an answer wrapped"))
	}
	switch strings.TrimPrefix(r.URL.Path, "/v1/") {
	case "sys/health":
		return f.health(r)
	case "sys/seal-status":
		return f.sealStatus(r)
	}
	if a, ok := f.unable(r); ok {
		return a
	}
	c, err := parse(r)
	if err == nil {
		var e *endpoint
		var m *mount
		if e, m, err = f.admit(c); err == nil {
			return f.perform(c, e, m)
		}
	}
	if silent, ok := errors.AsType[*failure](err); ok && len(silent.texts) == 0 {
		return emptyError(silent.status)
	}
	return errorAnswer(err)
}

// unable answers for a server that is sealed or no leader, or has no such
// namespace.
func (f *FakeServer) unable(r *http.Request) (answer, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	namespace := strings.Trim(r.Header.Get("X-Vault-Namespace"), "/")
	switch {
	case f.sealed:
		return errorAnswer(refuse(http.StatusServiceUnavailable, "Vault is sealed")), true
	case f.standby != 0 && f.leader != "":
		return answer{status: http.StatusTemporaryRedirect, header: map[string]string{"Location": f.leader + r.URL.RequestURI()}}, true
	case f.standby != 0:
		return errorAnswer(refuse(http.StatusInternalServerError, "local node not active but active cluster node not found")), true
	case f.spaces != nil && namespace != "" && namespace != "root" && !f.spaces[namespace]:
		return errorAnswer(refuse(http.StatusNotFound, "no handler for route %q. route entry not found.", strings.TrimPrefix(r.URL.Path, "/v1/"))), true
	}
	return answer{}, false
}

// mountOf returns the engine a path belongs to. Its caller holds mu.
func (f *FakeServer) mountOf(path string) *mount {
	var found *mount
	for prefix, m := range f.mounts {
		if strings.HasPrefix(path, prefix) && (found == nil || len(found.path) < len(prefix)) {
			found = m
		}
	}
	return found
}

// admit finds what a request asks for, and whether its token may.
func (f *FakeServer) admit(c *call) (*endpoint, *mount, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.mountOf(c.path)
	var e *endpoint
	if m != nil {
		e, c.args = find(m.kind, strings.TrimPrefix(c.path, m.path))
	}
	if e == nil || !e.open {
		if err := f.authorize(c, e); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case m == nil:
		return nil, nil, refuse(http.StatusNotFound, "no handler for route %q. route entry not found.", c.path)
	case e == nil:
		return nil, nil, fail(http.StatusNotFound, "unsupported path")
	case e.do[c.op] == nil:
		return nil, nil, fail(http.StatusMethodNotAllowed, "unsupported operation")
	}
	return e, m, nil
}

func (f *FakeServer) perform(c *call, e *endpoint, m *mount) answer {
	unknown, err := c.convert(e.fields)
	var r *reply
	if err == nil {
		r, err = e.do[c.op](f, m, c)
	}
	if err != nil {
		return errorAnswer(err)
	}
	if len(unknown) > 0 && r != nil && c.op == opUpdate {
		slices.Sort(unknown)
		r.warnings = append(r.warnings, "Endpoint ignored these unrecognized parameters: ["+strings.Join(unknown, " ")+"]")
	}
	if e.open {
		return c.envelope(r, "")
	}
	return c.envelope(r, m.kind)
}

// Seal makes the server refuse everything until Unseal.
func (f *FakeServer) Seal() { f.set(func() { f.sealed = true }) }

// Unseal undoes Seal.
func (f *FakeServer) Unseal() { f.set(func() { f.sealed = false }) }

// Standby makes the server a standby that reaches no active node: sys/health
// answers with status (429, 472, 473, 474, 501 or 530; 0 ends it) and
// everything else with 500.
func (f *FakeServer) Standby(status int) { f.set(func() { f.standby, f.leader = status, "" }) }

// Redirect makes the server a standby that sends its clients to the active node
// at address.
func (f *FakeServer) Redirect(address string) {
	f.set(func() { f.standby, f.leader = http.StatusTooManyRequests, address })
}

// Namespaces makes the server one of the enterprise edition, with these
// namespaces and the root. Before, it takes no notice of X-Vault-Namespace, as
// the community edition does. All namespaces show the same mounts.
func (f *FakeServer) Namespaces(paths ...string) {
	f.set(func() {
		f.spaces = make(map[string]bool)
		for _, p := range paths {
			f.spaces[strings.Trim(p, "/")] = true
		}
	})
}

// AdvanceTokens moves the server's clock on, for tokens to run out.
func (f *FakeServer) AdvanceTokens(d time.Duration) { f.set(func() { f.shift += d }) }

func (f *FakeServer) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// now is the server's time. Its caller holds mu.
func (f *FakeServer) now() time.Time { return time.Now().Add(f.shift) }

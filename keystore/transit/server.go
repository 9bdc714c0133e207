package transit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// mostAnswer is the largest answer that is read, in bytes: a list of keys.
const mostAnswer = 8 << 20

// A server is one address of the cluster.
type server struct {
	address string
	client  *api.Client // with namespace; its token is set at each login
	entry   *api.Client // with namespace; its token is whichever the login looks at
	bare    *api.Client // without either, for what belongs to the server itself
	state   breaker

	transport *http.Transport
}

// newServer makes the clients of an address. Of the environment, which the
// library looks into, nothing is left in them.
func newServer(cfg *Config, address string) (*server, error) {
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	client := func() (*api.Client, error) {
		c, err := api.NewClient(&api.Config{
			Address: address, HttpClient: &http.Client{Transport: capped{transport}, CheckRedirect: keepRedirect},
			CheckRetry:       func(context.Context, *http.Response, error) (bool, error) { return false, nil },
			DisableRedirects: true,
		})
		if err != nil { // the library reads VAULT_* even if all is said, and refuses what it cannot read
			return nil, fmt.Errorf("%w (hint: unset the VAULT_ variables of the environment, which count for nothing)", err)
		}
		c.SetMaxRetries(0)
		c.SetClientTimeout(0)
		c.ClearToken()
		c.ClearNamespace()
		c.SetWrappingLookupFunc(func(string, string) string { return "" }) // VAULT_WRAP_TTL
		c.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
		return c, c.SetAddress(address)
	}
	s := &server{address: address, transport: transport}
	for _, c := range []**api.Client{&s.client, &s.entry, &s.bare} {
		if *c, err = client(); err != nil {
			return nil, err
		}
	}
	if cfg.Namespace != "" {
		s.client.SetNamespace(cfg.Namespace)
		s.entry.SetNamespace(cfg.Namespace)
	}
	s.state.init()
	return s, nil
}

// close drops its connections.
func (s *server) close() { s.transport.CloseIdleConnections() }

func keepRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// How long connections may take and live.
const (
	dialWithin      = time.Second
	handshakeWithin = 2 * time.Second
	idleFor         = 30 * time.Second
	idleMost        = 64
)

// newTransport speaks HTTP/1.1, of which one connection that fails is one request
// that fails, directly and to the address that was configured: no proxy.
func newTransport(cfg *Config) (*http.Transport, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.TLS.ServerName}
	if cfg.TLS.CA != "" {
		roots, err := readRoots(cfg.TLS.CA)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = roots
	}
	if cfg.TLS.Certificate != "" {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { // it may be replaced
			pair, err := tls.LoadX509KeyPair(cfg.TLS.Certificate, cfg.TLS.Key)
			return &pair, err
		}
	}
	dialer := net.Dialer{Timeout: dialWithin, KeepAlive: 5 * time.Second}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, &dialError{err}
		}
		return conn, nil
	}
	return &http.Transport{
		DialContext: dial,
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return handshake(ctx, conn, addr, conf, cfg.TLS.CA)
		},
		MaxIdleConns: idleMost, MaxIdleConnsPerHost: idleMost, IdleConnTimeout: idleFor,
	}, nil
}

func readRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return roots, nil
}

// handshake reads the CA anew, which may have been replaced; while it cannot be
// read, what was read at first counts.
func handshake(ctx context.Context, conn net.Conn, addr string, conf *tls.Config, ca string) (net.Conn, error) {
	conf = conf.Clone()
	if conf.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		conf.ServerName = host
	}
	if ca != "" {
		if roots, err := readRoots(ca); err == nil {
			conf.RootCAs = roots
		}
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeWithin)
	defer cancel()
	c := tls.Client(conn, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// A dialError is of a connection that was never made.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// capped limits how much of an answer is read.
type capped struct{ http.RoundTripper }

func (c capped) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, mostAnswer), resp.Body}
	return resp, nil
}

// A request is one to Vault.
type request struct {
	method string // GET, LIST, POST or DELETE
	path   string // without /v1/
	body   any    // nil: none
	within time.Duration
	via    via
}

// A via is whose request it is.
type via uint8

const (
	viaToken  via = iota // with the token in use
	viaLogin             // the login's own
	viaServer            // about the server itself: without token and namespace
)

// An answer is what Vault said to a request that it carried out.
type answer struct {
	Data     json.RawMessage `json:"data"`
	Warnings []string        `json:"warnings"`
	Auth     *struct {
		Token     string `json:"client_token"`
		Lease     int64  `json:"lease_duration"` // seconds
		Renewable bool   `json:"renewable"`
		Type      string `json:"token_type"`
	} `json:"auth"`
}

// read decodes the data of an answer.
func (a *answer) read(v any) error {
	if err := json.Unmarshal(a.Data, v); err != nil {
		return &trouble{kind: broken, text: "its answer cannot be read: " + clean(err.Error())}
	}
	return nil
}

// send makes one attempt. Its errors are *trouble, or say that ctx is over.
func (s *server) send(ctx context.Context, r *request) (*answer, error) {
	within, cancel := context.WithTimeout(ctx, r.within)
	defer cancel()
	began := time.Now()
	resp, err := s.exchange(within, r)
	if resp != nil {
		defer resp.Body.Close()
	}
	if answered := resp != nil && resp.StatusCode != 0; !answered {
		return nil, s.lose(ctx, r, began, err)
	}
	body, read := io.ReadAll(resp.Body)
	if read != nil {
		return nil, s.lose(ctx, r, began, read)
	}
	if resp.StatusCode >= 300 {
		t := readTrouble(resp.StatusCode, resp.Header, body)
		s.state.answered(t)
		return nil, t
	}
	s.state.answered(nil)
	a := new(answer)
	if len(body) > 0 {
		if err := json.Unmarshal(body, a); err != nil {
			return nil, &trouble{kind: broken, status: resp.StatusCode, text: "its answer is no JSON"}
		}
	}
	return a, nil
}

// lose returns why there is no answer to r. If its caller's time is over, that says
// something of the server only if it was half of what r may take.
func (s *server) lose(ctx context.Context, r *request, began time.Time, err error) error {
	t := lostTrouble(err)
	if over := ctx.Err(); over == nil || errors.Is(over, context.DeadlineExceeded) && time.Since(began) >= r.within/2 {
		s.state.lost(began, t)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return t
}

// exchange sends r with the library. An answer with an error status comes back
// with an error of the library's, which says less than the answer.
func (s *server) exchange(ctx context.Context, r *request) (*http.Response, error) {
	client := s.client
	switch r.via {
	case viaLogin:
		client = s.entry
	case viaServer:
		client = s.bare
	}
	var resp *api.Response
	var err error
	switch r.method {
	case "GET":
		resp, err = client.Logical().ReadRawWithContext(ctx, r.path)
	case "LIST":
		resp, err = client.Logical().ReadRawWithDataWithContext(ctx, r.path, url.Values{"list": {"true"}})
	case "DELETE":
		resp, err = client.Logical().DeleteRawWithContext(ctx, r.path)
	default:
		body, marshal := json.Marshal(r.body)
		if marshal != nil {
			return nil, marshal
		}
		resp, err = client.Logical().WriteRawWithContext(ctx, r.path, body)
	}
	if resp == nil {
		return nil, err
	}
	return resp.Response, err
}

func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return errors.Is(err, context.DeadlineExceeded) || ok && e.Timeout()
}

func lostTrouble(err error) *trouble {
	t := &trouble{kind: unreachable, cause: err}
	var dial *dialError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dial):
		t.unsent, t.text = true, clean(dial.Error())
	case errors.As(err, &cert):
		t.unsent, t.text = true, "its certificate: "+clean(cert.Err.Error())
	case timedOut(err):
		t.text = "no answer in time"
	default:
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		t.cut, t.text = true, clean(err.Error())
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.cause = nil // of our own attempt, not of the caller's time
	}
	return t
}

// A breaker is what is known of a server: whether it is asked. It is up until a
// request shows that it serves nobody, and then only looked at, once a second,
// until it serves again.
type breaker struct {
	mu      sync.Mutex    // guards what follows
	why     *trouble      // why it is down; nil: it is up
	strikes int           // failures one after the other
	good    time.Time     // of the last answer
	changed chan struct{} // capacity 1: it went down, or is in doubt
}

// strikesMost is how many failures in a row have a server tried.
const strikesMost = 3

func (b *breaker) init() { b.changed = make(chan struct{}, 1) }

// lost notes that a request which began then got no answer. Others that were
// answered since show that it was the connection's fault, or that one request's.
func (b *breaker) lost(began time.Time, t *trouble) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case t.cut:
		b.strike()
	case t.unsent || b.good.Before(began):
		b.take(t)
	}
}

// answered notes an answer; nil: a good one.
func (b *breaker) answered(t *trouble) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case t != nil && t.down():
		b.take(t)
	case t != nil && t.kind == broken:
		b.strike()
	default:
		b.strikes, b.good = 0, time.Now()
	}
}

// strike notes a failure, of which a few may be about one key or connection. Its
// caller holds mu.
func (b *breaker) strike() {
	if b.strikes++; b.strikes >= strikesMost {
		b.tell()
	}
}

func (b *breaker) tell() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// take takes the server down. What it is down for later is for looks to say. Its
// caller holds mu.
func (b *breaker) take(t *trouble) {
	if b.why == nil {
		b.why = t
		b.tell()
	}
}

// judge notes what a look has shown: the server is asked again, or it is down for
// this trouble. It reports whether that is another state than before.
func (b *breaker) judge(t *trouble) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.why
	switch {
	case t.serves():
		b.why, b.strikes = nil, 0
		return was != nil
	case was == nil, was.kind != t.kind: // the same thing in other words is no news
		b.why = t
	}
	return was == nil || (was.kind == sealed) != (t.kind == sealed)
}

// down returns why the server is not asked, or nil.
func (b *breaker) down() *trouble {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why
}

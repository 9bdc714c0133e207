package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"chancery/signer/api"
)

// maxReply is the longest reply that is read: a full batch of the longest tokens.
const maxReply = 32 << 20

// connectTimeout bounds connecting and the handshake.
const connectTimeout = 10 * time.Second

// defaultTimeout bounds a request that says nothing else.
const defaultTimeout = 30 * time.Second

// Config says where the daemon is and who asks. Endpoint, Certificate and Roots
// are required.
type Config struct {
	Endpoint    string          // "unix:PATH", or "https://HOST[:PORT]"
	Certificate tls.Certificate // the caller's, with its key
	Roots       *x509.CertPool  // who vouches for the daemon
	ServerName  string          // in the daemon's certificate; empty: "localhost" at a socket, otherwise HOST
	Timeout     time.Duration   // of one request; 0: 30 s
	Connections int             // kept open while idle; 0: 2
	// OnReply is given the body of each successful reply as it came, before the
	// method that asked returns. It may be nil, and must not keep the slice.
	OnReply func(body []byte)
}

// LoadConfig returns a Config for the endpoint with a client certificate, its
// key, and the daemon's roots read from PEM files.
func LoadConfig(endpoint, certFile, keyFile, rootsFile string) (Config, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return Config{}, fmt.Errorf("reading the client certificate: %w", err)
	}
	pem, err := os.ReadFile(rootsFile)
	if err != nil {
		return Config{}, fmt.Errorf("reading the daemon's roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return Config{}, fmt.Errorf("reading the daemon's roots: no certificate in %s", rootsFile)
	}
	return Config{Endpoint: endpoint, Certificate: cert, Roots: roots}, nil
}

// A Client asks one daemon as one principal. It may be used concurrently.
//
// A context's deadline goes along with the request: what the daemon has not done by
// then it does not do, as far as no key has been asked.
//
// Its methods return an error wrapping *api.Problem when the daemon refused.
// Any other error of a request that was sent leaves open what became of it.
type Client struct {
	http    *http.Client
	base    string
	patient time.Duration
	onReply func([]byte)
}

// New returns a Client. It does not connect.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Connections == 0 {
		cfg.Connections = 2
	}
	at, tlsConfig, err := cfg.connect("http/1.1")
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialTLSContext:      dialTLS(at.network, at.address, tlsConfig),
		Protocols:           new(http.Protocols),
		MaxIdleConns:        cfg.Connections,
		MaxIdleConnsPerHost: cfg.Connections,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	transport.Protocols.SetHTTP1(true)
	return &Client{
		base: at.base, onReply: cfg.OnReply,
		http: &http.Client{
			Transport: transport, Timeout: cfg.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// A place is where an endpoint is.
type place struct{ base, network, address, name string }

func parseEndpoint(endpoint string) (place, error) {
	if path, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		if path == "" {
			return place{}, errors.New("endpoint unix: has no path")
		}
		return place{"https://localhost", "unix", path, "localhost"}, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return place{}, fmt.Errorf("endpoint %q is neither unix:PATH nor https://HOST[:PORT]", endpoint)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return place{"https://" + u.Host, "tcp", net.JoinHostPort(u.Hostname(), port), u.Hostname()}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Patient returns a Client on the same connections that, told to come back
// later (429 or 503 with Retry-After), does so for at most the given time
// altogether, as long as the request may be repeated: a CSR only with an
// idempotency key, since its first certificate may exist.
func (c *Client) Patient(most time.Duration) *Client {
	p := *c
	p.patient = most
	return &p
}

// encode returns v in JSON. What is in JSON already stays as it is, byte for
// byte: json.Marshal would rewrite it.
func encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case json.RawMessage:
		return v, nil
	}
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	return body, nil
}

// A call is one request, which may be sent several times.
type call struct {
	method, path string
	in, out      any
	header       http.Header
	once         bool // never to be repeated
}

func (c *Client) do(ctx context.Context, call call) error {
	body, err := encode(call.in)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(c.patient)
	for {
		reply, err := c.send(ctx, call, body)
		wait, later := RetryAfter(err)
		if !later || call.once || c.patient == 0 || time.Now().Add(wait).After(deadline) {
			if err != nil {
				return err
			}
			return c.accept(reply, call.out)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

func (c *Client) accept(reply []byte, out any) error {
	if err := json.Unmarshal(reply, out); err != nil {
		return fmt.Errorf("reading the daemon's reply: %w", err)
	}
	if c.onReply != nil {
		c.onReply(reply)
	}
	return nil
}

func (c *Client) send(ctx context.Context, call call, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, call.method, c.base+call.path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range call.header {
		req.Header[name] = values
	}
	if end, ok := ctx.Deadline(); ok {
		req.Header.Set(api.RequestTimeout, api.FormatTimeout(time.Until(end)))
	}
	if call.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the URL of a socket says nothing
		}
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, fmt.Errorf("reading the daemon's reply: %w", err)
	}
	if len(reply) > maxReply {
		return nil, fmt.Errorf("the daemon's reply is over %d bytes", maxReply)
	}
	if resp.StatusCode/100 == 2 {
		return reply, nil
	}
	return nil, problem(resp, reply)
}

// problem makes an error of a reply that is not a success.
func problem(resp *http.Response, body []byte) error {
	var p api.Problem
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind != "application/problem+json" || json.Unmarshal(body, &p) != nil || p.Code == "" {
		return fmt.Errorf("the server answered %q, which is not the answer of a chancery", resp.Status)
	}
	return &p
}

// RetryAfter reports whether err is the daemon's word to come back later, and
// after what time.
func RetryAfter(err error) (time.Duration, bool) {
	p, ok := errors.AsType[*api.Problem](err)
	if !ok || p.RetryAfter <= 0 {
		return 0, false
	}
	later := p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests
	return time.Duration(p.RetryAfter) * time.Second, later
}

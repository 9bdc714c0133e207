package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/keystoretest"
	"chancery/signer"
	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
	"chancery/signer/policy"
	"chancery/signer/server"
)

// A house is a Service in memory behind a Door with TLS, on a loopback port.
type house struct {
	*keystoretest.SoftKey
	set      *keystore.KeySet
	root     *authority
	server   *Server
	door     *server.Door
	listener net.Listener
	gate     atomic.Pointer[server.Gate]
	now      atomic.Pointer[time.Time] // nil: as it is
	asked    atomic.Int64              // signatures
	still    []byte                    // nil: signatures are real
	hold     chan struct{}             // nil: signatures are not held up
	held     chan struct{}             // one for each that is
	full     atomic.Bool               // everybody asks for too much
	inside   atomic.Int64              // admitted and not answered

	mu       sync.Mutex // guards what follows
	refused  []keystore.Record
	observed map[string]int
}

// The parts of a Service that nothing here asks.
type (
	noRotations    struct{ signer.Rotations }
	noTokens       struct{ signer.Tokens }
	noClock        struct{ signer.Clock }
	noNodes        struct{ signer.Nodes }
	noCertificates struct{ signer.Certificates }
)

func newHouse(t testing.TB, lim Limits, sizes server.Limits) *house {
	t.Helper()
	h := &house{
		SoftKey: keystoretest.NewKey(t, keystore.PurposeJWT, keystore.ES256), root: newAuthority(t),
		held: make(chan struct{}, 1000), observed: make(map[string]int),
	}
	spki, kid := h.SPKI(t)
	h.set = &keystore.KeySet{Name: "web", Purpose: keystore.PurposeJWT, Versions: []keystore.Version{
		{Number: 1, Algorithm: keystore.ES256, KID: kid, SPKI: spki, State: keystore.Active},
	}}
	h.admit(t, policy.Revoked{})
	p := testPolicy(t, policy.Revoked{})
	service, err := signer.New(signer.Config{
		Policy: func() *policy.Policy { return p },
		View: func() (*keystore.View, error) {
			return keystore.NewView(1, time.Now(), []*keystore.KeySet{h.set}), nil
		},
		Settings: func(string) (signer.Settings, bool) {
			return signer.Settings{Issuer: "https://localhost", DefaultTTL: time.Minute, MaxTTL: time.Hour}, true
		},
		Digests:   func(string) bool { return false },
		Authority: func(string) (signer.Authority, bool) { return signer.Authority{}, false },
		Keys:      h, Log: h, Horizons: h, Rotations: noRotations{}, Tokens: noTokens{}, Clock: noClock{}, Nodes: noNodes{}, Certificates: noCertificates{},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.server = New(server.Config{
		Service: service, Gate: h.gate.Load, Admit: h.allow, Limits: sizes, Log: slog.New(slog.DiscardHandler), Now: h.clock,
		Observe: func(route, code string, _ time.Duration) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.observed[route+" "+code]++
		},
	}, lim)
	h.open(t, sizes)
	return h
}

// allow is the limits of a house.
func (h *house) allow(policy.Caller) (release func(), err error) {
	if h.full.Load() {
		return nil, api.Errorf(api.CodeOverloaded, "too much")
	}
	h.inside.Add(1)
	return func() { h.inside.Add(-1) }, nil
}

// open opens the door until the test ends.
func (h *house) open(t testing.TB, sizes server.Limits) {
	t.Helper()
	var err error
	if h.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	h.door = &server.Door{
		TLS: func() *tls.Config { return h.gate.Load().TLS() }, Failed: func(string, error) {},
		Limits: sizes, Log: slog.New(slog.DiscardHandler),
	}
	conns := h.door.Protocol("h2")
	var wg sync.WaitGroup
	wg.Go(func() { h.server.Serve(conns) })
	wg.Go(func() { h.door.Serve(h.listener) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		h.door.Close()
		h.server.Shutdown(ctx)
		wg.Wait()
	})
}

// admit puts a gate in force that refuses what is revoked.
func (h *house) admit(t testing.TB, revoked policy.Revoked) {
	t.Helper()
	cert := h.root.issue(t, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	g, err := server.NewGate(cert, []server.Anchor{{Name: "dev", CA: h.root.cert}}, testPolicy(t, revoked), []string{"http/1.1", "h2"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h.gate.Store(g)
}

func (h *house) clock() time.Time {
	if now := h.now.Load(); now != nil {
		return *now
	}
	return time.Now()
}

// come connects as a client with cert, and returns the connection.
func (h *house) come(t testing.TB, cert tls.Certificate) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", h.listener.Addr().String(), h.clientConfig(cert))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// client returns a gRPC client with cert.
func (h *house) client(t testing.TB, cert tls.Certificate) pb.SignerClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+h.listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(h.clientConfig(cert))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return pb.NewSignerClient(conn)
}

func (h *house) issuer(t testing.TB) pb.SignerClient { return h.client(t, h.root.named(t, "issuer")) }

func (h *house) clientConfig(cert tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(h.root.cert)
	return &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
}

// refusals returns the codes of the refusals that are on record.
func (h *house) refusals() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var codes []string
	for _, r := range h.refused {
		codes = append(codes, r.Code)
	}
	return codes
}

// Open implements signer.Keys.
func (h *house) Open(context.Context, *keystore.KeySet, *keystore.Version) (keystore.Key, error) {
	return h, nil
}

// Sign counts, and waits while signatures are held up.
func (h *house) Sign(ctx context.Context, message []byte) ([]byte, error) {
	h.asked.Add(1)
	if h.still != nil {
		return h.still, nil
	}
	if h.hold != nil {
		h.held <- struct{}{}
		select {
		case <-h.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return h.SoftKey.Sign(ctx, message)
}

func (h *house) Act(context.Context, keystore.Record) (audit.Receipt, error) {
	return audit.Receipt{Entry: "log#1"}, nil
}
func (h *house) Hurry() {}

func (h *house) Start(r keystore.Record) audit.Pending {
	receipt, err := h.Act(context.Background(), r)
	return entered{receipt, err}
}

// entered is an act that is in the log already, or is not going to be.
type entered struct {
	receipt audit.Receipt
	err     error
}

func (e entered) Wait(context.Context) (audit.Receipt, error) { return e.receipt, e.err }
func (e entered) Leave()                                      {}

func (h *house) Take(keystore.KID) (int64, error)  { return 1, nil }
func (h *house) GiveBack(keystore.KID, int64) bool { return true }
func (h *house) Health() error                     { return nil }
func (h *house) Refuse(r keystore.Record) {
	h.mu.Lock()
	h.refused = append(h.refused, r)
	h.mu.Unlock()
}
func (h *house) RaiseHorizon(context.Context, keystore.KID, time.Time) error { return nil }

func testPolicy(t testing.TB, revoked policy.Revoked) *policy.Policy {
	t.Helper()
	rule := func(name string) policy.Rule {
		return policy.Rule{
			Name: name, Principals: []string{"dev:spiffe:spiffe://chancery.dev/" + name},
			Actions: []policy.Action{policy.SignJWT}, KeySets: []string{"web"}, MaxTTL: time.Hour,
		}
	}
	p, err := policy.New(policy.Config{
		Anchors: []policy.Anchor{{Name: "dev", SPIFFE: []string{"chancery.dev"}}},
		Rules:   []policy.Rule{rule("issuer"), rule("other")}, Revoked: revoked,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// An authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	a.cert = create(t, template, template, a.key, a.key)
	return a
}

// issue makes a certificate for an end entity; change makes it what it is.
func (a *authority) issue(t testing.TB, change func(c *x509.Certificate)) tls.Certificate {
	t.Helper()
	key := newKey(t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(c)
	leaf := create(t, c, a.cert, key, a.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// named returns a client's certificate with a SPIFFE ID.
func (a *authority) named(t testing.TB, name string) tls.Certificate {
	t.Helper()
	return a.issue(t, func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "chancery.dev", Path: "/" + name}}
	})
}

func create(t testing.TB, c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func web(claims string) *pb.SignJWTRequest {
	return &pb.SignJWTRequest{Keyset: "web", Claims: []byte(claims)}
}

func codeOf(p *pb.SignJWTResult) api.Code { return api.Code(p.GetProblem().GetCode()) }

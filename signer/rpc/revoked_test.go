package rpc

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
	"chancery/signer/crl"
	"chancery/signer/policy"
	"chancery/signer/server"
)

// ask has revocation lists asked for of clients, and returns where they are put.
func (h *house) ask(t *testing.T) *crl.Source {
	t.Helper()
	lists := crl.NewSource(crl.NewSet(nil, 0))
	anchors := []server.Anchor{{Name: "dev", CA: h.root.cert, Lists: lists}}
	g, err := server.NewGate(h.gate.Load().TLS().Certificates[0], anchors, testPolicy(t, policy.Revoked{}), []string{"http/1.1", "h2"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h.gate.Store(g)
	return lists
}

// list returns the set of one list, with revoked on it.
func (h *house) list(t *testing.T, revoked ...*x509.Certificate) *crl.Set {
	t.Helper()
	now := time.Now()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour)}
	for _, c := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, h.root.cert, h.root.key)
	if err != nil {
		t.Fatal(err)
	}
	lists, err := crl.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	return crl.NewSet(lists, 0)
}

// A16, I10: a revocation list counts for the next call and the next message of
// connections that are open, and those that are idle are cut; A17: without a list
// nothing is cut, and everything refused until there is one.
func TestI10A16A17RevokedByAListOverHTTP2(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	lists := h.ask(t)
	lists.Put(h.list(t))
	cert := h.root.named(t, "issuer")
	issuer, other := h.client(t, cert), h.client(t, h.root.named(t, "other"))
	stream, err := issuer.SignJWTStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	says := func(what string, code codes.Code, reason api.Code, err error) {
		t.Helper()
		if status.Code(err) != code || reasonOf(err) != reason {
			t.Errorf("%s: %v, want %v %s", what, err, code, reason)
		}
	}
	message := func(id uint64) error {
		if err := stream.Send(&pb.SignJWTStreamRequest{Id: id, Request: web(`{}`)}); err != nil {
			t.Fatal(err)
		}
		_, err := stream.Recv()
		return err
	}
	call := func(c pb.SignerClient) error {
		_, err := c.SignJWT(t.Context(), web(`{}`))
		return err
	}
	says("a message", codes.OK, "", message(1))
	says("a call", codes.OK, "", call(issuer))

	lists.Put(crl.NewSet(nil, 0))
	says("without a list", codes.Unavailable, api.CodeRevocationUnknown, call(issuer))
	h.door.CloseIf(h.condemned)
	lists.Put(h.list(t))
	says("with one again, on the stream that was open", codes.OK, "", message(2))

	idle := h.come(t, cert)
	signed := h.asked.Load()
	lists.Put(h.list(t, cert.Leaf))
	says("a message of the revoked", codes.Unauthenticated, api.CodeCertificateRevoked, message(3))
	says("a call of the revoked", codes.Unauthenticated, api.CodeCertificateRevoked, call(issuer))
	if n := h.asked.Load(); n != signed {
		t.Errorf("the key signed %d times for the revoked", n-signed)
	}
	says("another's call", codes.OK, "", call(other))
	for deadline, err := time.Now().Add(5*time.Second), os.ErrDeadlineExceeded; os.IsTimeout(err); { // again and again, as in the daemon: it may be shaking hands
		h.door.CloseIf(h.condemned)
		idle.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err = io.Copy(io.Discard, idle); time.Now().After(deadline) {
			t.Fatal("an idle connection of the revoked is open")
		}
	}
	says("another's call, on its connection", codes.OK, "", call(other))
}

func (h *house) condemned(v *server.Visitor, cs *tls.ConnectionState) bool {
	return h.gate.Load().Condemned(v, cs, time.Now())
}

// A20, A21: calls by a Unix socket carry who connected.
func TestA20CallsCarryWhoConnected(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	dir, err := os.MkdirTemp("", "rpc") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go h.door.Serve(l) // until the door is closed
	conn, err := grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(credentials.NewTLS(h.clientConfig(h.root.named(t, "issuer")))),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	issuer, open, us := pb.NewSignerClient(conn), h.gate.Load(), uint32(os.Getuid())
	for _, c := range []struct {
		what string
		gate *server.Gate
		want codes.Code
	}{
		{"everyone", open, codes.OK},
		{"us", open.Only([]uint32{us}, nil), codes.OK},
		{"others", open.Only([]uint32{us + 1}, nil), codes.PermissionDenied},
	} {
		h.gate.Store(c.gate)
		if _, err := issuer.SignJWT(t.Context(), web(`{}`)); status.Code(err) != c.want {
			t.Errorf("for %s: %v, want %v", c.what, err, c.want)
		}
	}
}

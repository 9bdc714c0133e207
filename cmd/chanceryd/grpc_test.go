package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
	"chancery/signer/client"
)

// rpc returns a gRPC client at an endpoint of the signing listener.
func (d *chanceryd) rpc(endpoint, role string) *client.RPC {
	d.t.Helper()
	cfg, err := client.LoadConfig(endpoint, d.cert(role), d.key(role), filepath.Join(d.dir, "ca.crt"))
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := client.NewRPC(cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	return c
}

// generated is a client as protoc makes it, with nothing of ours.
func (d *chanceryd) generated(role string) pb.SignerClient {
	d.t.Helper()
	conn, err := grpc.NewClient("unix:"+d.endpoints.Socket, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: d.roots(), ServerName: "localhost", Certificates: []tls.Certificate{d.pair(role)},
	})))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	return pb.NewSignerClient(conn)
}

// Whoever offers h2 alone gets gRPC, over the socket and over TCP: the same tokens,
// certificates and refusals, in the same log.
func TestGRPC(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	for name, endpoint := range map[string]string{"socket": "unix:" + d.endpoints.Socket, "TCP": d.endpoints.API} {
		issuer := d.rpc(endpoint, "issuer")
		for _, keyset := range []string{"web", "legacy", "edge"} {
			reply, err := issuer.SignJWT(t.Context(), api.SignJWTRequest{KeySet: keyset, Claims: json.RawMessage(`{"sub":"alice"}`), Typ: "at+jwt"})
			if err != nil {
				t.Fatalf("%s, %s: %v", name, keyset, err)
			}
			if _, err := d.verifier(keyset).Verify(t.Context(), reply.Token); err != nil || reply.KID == "" || reply.Entry == "" {
				t.Errorf("%s, %s: %v", name, keyset, err)
			}
		}
		d.batchBy(issuer)
		d.streamBy(issuer)
		d.certificateBy(d.rpc(endpoint, "ca"), name)
	}
	d.refusalsByGRPC()
	for _, outcome := range []keystore.Outcome{keystore.OutcomeDone, keystore.OutcomeRefused} {
		if len(d.logged(audit.Filter{Log: "acts", Action: keystore.ActSignJWT, Outcome: outcome})) == 0 {
			t.Errorf("nothing %s in the log", outcome)
		}
	}
}

func (d *chanceryd) batchBy(c *client.RPC) {
	d.t.Helper()
	reqs := make([]api.SignJWTRequest, 64)
	for i := range reqs {
		reqs[i] = api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))}
	}
	reqs[7].KeySet = "none"
	results, err := c.SignJWTBatch(d.t.Context(), reqs)
	if err != nil {
		d.t.Fatal(err)
	}
	v := d.verifier("web")
	for i, r := range results {
		if i == 7 {
			if r.Problem == nil || r.Problem.Code != api.CodeForbidden {
				d.t.Errorf("request 7: %+v", r)
			}
			continue
		}
		token, err := v.Verify(d.t.Context(), r.Reply.Token)
		if err != nil || !strings.Contains(string(token.Claims), fmt.Sprintf(`"n":%d}`, i)) {
			d.t.Errorf("request %d: %v", i, err)
		}
	}
}

func (d *chanceryd) streamBy(c *client.RPC) {
	d.t.Helper()
	s := c.Stream()
	defer s.Close()
	v := d.verifier("web")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			reply, err := s.Sign(d.t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))})
			if err != nil {
				d.t.Error(err)
				return
			}
			token, err := v.Verify(d.t.Context(), reply.Token)
			if err != nil || !strings.Contains(string(token.Claims), fmt.Sprintf(`"n":%d}`, i)) {
				d.t.Errorf("request %d has the answer of another: %v", i, err)
			}
		})
	}
	wg.Wait()
	if _, err := s.Sign(d.t.Context(), api.SignJWTRequest{KeySet: "none", Claims: json.RawMessage(`{}`)}); !isProblem(err, api.CodeForbidden) {
		d.t.Errorf("%v", err)
	}
}

func (d *chanceryd) certificateBy(c *client.RPC, idempotency string) {
	d.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	req := api.SignCSRRequest{Authority: "devices", Profile: "tls", CSR: requestFor(d.t, key, func(*x509.CertificateRequest) {})}
	reply, err := c.SignCSR(d.t.Context(), req, idempotency)
	if err != nil || len(reply.Chain) == 0 || reply.Serial == "" {
		d.t.Fatalf("%+v, %v", reply, err)
	}
	again, err := c.SignCSR(d.t.Context(), req, idempotency)
	if err != nil || again.Certificate != reply.Certificate {
		d.t.Errorf("the same request again: %v", err)
	}
	req.CSR = requestFor(d.t, key, func(r *x509.CertificateRequest) { r.DNSNames = []string{"b.devices.test"} })
	if _, err := c.SignCSR(d.t.Context(), req, idempotency); !isProblem(err, api.CodeIdempotencyMismatch) {
		d.t.Errorf("another body: %v", err)
	}
}

func isProblem(err error, code api.Code) bool {
	p, ok := errors.AsType[*api.Problem](err)
	return ok && p.Code == code
}

// refusalsByGRPC checks statuses and their details with a generated client.
func (d *chanceryd) refusalsByGRPC() {
	d.t.Helper()
	issuer, ctx := d.generated("issuer"), d.t.Context()
	operator := d.client("operator")
	if _, err := operator.Suspend(ctx, "edge", api.OperateRequest{Reason: "to see"}); err != nil {
		d.t.Fatal(err)
	}
	sign := func(c pb.SignerClient, keyset, claims string) error {
		_, err := c.SignJWT(ctx, &pb.SignJWTRequest{Keyset: keyset, Claims: []byte(claims)})
		return err
	}
	_, digest := issuer.SignDigest(ctx, &pb.SignDigestRequest{Keyset: "web"})
	for name, c := range map[string]struct {
		err    error
		status codes.Code
		reason api.Code
		retry  bool
	}{
		"a reserved claim":    {sign(issuer, "web", `{"iss":"me"}`), codes.InvalidArgument, api.CodeClaimReserved, false},
		"a name there is not": {sign(issuer, "none", `{}`), codes.PermissionDenied, api.CodeForbidden, false},
		"another's grant":     {sign(d.generated("ca"), "web", `{}`), codes.PermissionDenied, api.CodeForbidden, false},
		"suspended":           {sign(issuer, "edge", `{}`), codes.Unavailable, api.CodeKeySetSuspended, true},
		"a digest by web":     {digest, codes.PermissionDenied, api.CodeForbidden, false},
	} {
		s := status.Convert(c.err)
		var reason string
		var retry bool
		for _, detail := range s.Details() {
			switch detail := detail.(type) {
			case *errdetails.ErrorInfo:
				reason = detail.GetDomain() + " " + detail.GetReason()
			case *errdetails.RetryInfo:
				retry = detail.GetRetryDelay().AsDuration() > 0
			}
		}
		if s.Code() != c.status || reason != "chancery "+string(c.reason) || retry != c.retry || s.Message() == "" {
			d.t.Errorf("%s: %v, %q, retry %v", name, c.err, reason, retry)
		}
	}
	if _, err := operator.Resume(ctx, "edge", api.OperateRequest{Reason: "seen"}); err != nil {
		d.t.Fatal(err)
	}
}

// Whoever can speak HTTP/1.1 gets JSON, whatever else they offer; the ops listener
// speaks no gRPC.
func TestALPN(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	both := d.httpWith(d.endpoints.Socket, d.pair("issuer"))
	both.Transport.(*http.Transport).ForceAttemptHTTP2 = true // offers h2 and http/1.1
	resp, err := both.Post("https://localhost/v1/sign/jwt", "application/json", strings.NewReader(`{"keyset":"web","claims":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 1 {
		t.Errorf("%s by %s", resp.Status, resp.Proto)
	}
	raw, err := net.Dial("unix", d.endpoints.Ops)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{RootCAs: d.roots(), ServerName: "localhost", Certificates: []tls.Certificate{d.pair("operator")}, NextProtos: []string{"h2"}})
	if err := conn.HandshakeContext(t.Context()); alertOf(err) != 120 {
		t.Errorf("h2 at the ops listener: %v, want alert 120", err)
	}
}

// A daemon that stops answers what it has begun, ends streams in order, and does not
// wait for who says nothing.
func TestGRPCWhileStopping(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	s := d.rpc("unix:"+d.endpoints.Socket, "issuer").Stream()
	ask := func(ctx context.Context) error {
		_, err := s.Sign(ctx, api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
		return err
	}
	if err := ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("unix", d.endpoints.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	conn := tls.Client(silent, &tls.Config{RootCAs: d.roots(), ServerName: "localhost", Certificates: []tls.Certificate{d.pair("issuer")}, NextProtos: []string{"h2"}})
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	d.stop()
	if took := time.Since(began); took >= grace {
		t.Errorf("it stopped after %v, which is all the grace there is", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := ask(ctx); err == nil {
		t.Error("a stopped daemon has signed")
	}
}

// A digest is signed as the JSON side does it, in either form.
func TestGRPCDigest(t *testing.T) {
	t.Parallel()
	d := startWithDigests(t)
	c := d.rpc("unix:"+d.endpoints.Socket, "issuer")
	digest := sha256.Sum256([]byte("a release"))
	for _, format := range []string{api.FormatDER, api.FormatRaw} {
		reply, err := c.SignDigest(t.Context(), api.SignDigestRequest{KeySet: "release", Digest: base64.StdEncoding.EncodeToString(digest[:]), Format: format})
		if err != nil {
			t.Fatal(err)
		}
		sig, err := base64.StdEncoding.DecodeString(reply.Signature)
		if err != nil {
			t.Fatal(err)
		}
		if format == api.FormatRaw {
			sig = derOf(t, sig)
		}
		public := d.publicKey("release", reply.KID)
		if !ecdsa.VerifyASN1(public, digest[:], sig) || reply.Algorithm != "ES256" {
			t.Errorf("%s: %+v does not verify", format, reply)
		}
	}
	if _, err := c.SignDigest(t.Context(), api.SignDigestRequest{KeySet: "release", Digest: "AAAA"}); !isProblem(err, api.CodeMalformed) {
		t.Errorf("a digest of three bytes: %v", err)
	}
	_, err := d.generated("issuer").SignDigest(t.Context(), &pb.SignDigestRequest{Keyset: "release", Digest: digest[:], Format: 99})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("another format: %v", err)
	}
}

// publicKey is the public key that a version has by GET /v1/keysets.
func (d *chanceryd) publicKey(keyset, kid string) *ecdsa.PublicKey {
	d.t.Helper()
	text, err := os.ReadFile(d.publicKeyOf(d.client("issuer"), keyset, kid))
	if err != nil {
		d.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		d.t.Fatal(err)
	}
	return key.(*ecdsa.PublicKey)
}

// derOf is a signature of r and s side by side as ASN.1 has it.
func derOf(t *testing.T, raw []byte) []byte {
	t.Helper()
	half := len(raw) / 2
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

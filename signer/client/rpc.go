package client

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "chancery/signer/api/chanceryv1"

	"chancery/signer/api"
)

// An RPC asks one daemon for signatures as one principal, over gRPC and one
// connection, on which any number of requests are at the daemon at a time. It is for
// issuers that ask for much; a Client does more. It may be used concurrently.
//
// Its errors are those of a Client: one wrapping *api.Problem when the daemon
// refused. Any other error of a request that was sent leaves open what became of it.
type RPC struct {
	conn    *grpc.ClientConn
	signer  pb.SignerClient
	timeout time.Duration
}

// NewRPC returns an RPC. It does not connect. Of cfg, Connections and OnReply are not
// used; Timeout is for requests whose context has no deadline.
func NewRPC(cfg Config) (*RPC, error) {
	at, tlsConfig, err := cfg.connect("h2")
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: connectTimeout}
	conn, err := grpc.NewClient("passthrough:///"+tlsConfig.ServerName,
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, at.network, at.address)
		}),
		// A daemon that is gone without a word is noticed in half a minute, not in the
		// quarter of an hour that TCP takes.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection: %w", err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	return &RPC{conn: conn, signer: pb.NewSignerClient(conn), timeout: cfg.Timeout}, nil
}

// Close ends the connection, and what is being asked on it.
func (r *RPC) Close() error { return r.conn.Close() }

// limited gives a request that has no deadline the one of the configuration.
func (r *RPC) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, r.timeout)
}

// SignJWT asks for a JWT. req.Claims goes to the daemon byte for byte.
func (r *RPC) SignJWT(ctx context.Context, req api.SignJWTRequest) (*api.SignJWTReply, error) {
	ctx, cancel := r.limited(ctx)
	defer cancel()
	m, err := r.signer.SignJWT(ctx, jwtMessage(req))
	if err != nil {
		return nil, refusal(ctx, err)
	}
	return jwtReply(m), nil
}

// SignJWTBatch asks for several JWTs, at most api.MaxBatch. Each result is a
// reply or a problem, in the order of reqs.
func (r *RPC) SignJWTBatch(ctx context.Context, reqs []api.SignJWTRequest) ([]api.BatchResult, error) {
	ctx, cancel := r.limited(ctx)
	defer cancel()
	batch := &pb.SignJWTBatchRequest{Requests: make([]*pb.SignJWTRequest, len(reqs))}
	for i, req := range reqs {
		batch.Requests[i] = jwtMessage(req)
	}
	m, err := r.signer.SignJWTBatch(ctx, batch)
	if err != nil {
		return nil, refusal(ctx, err)
	}
	if len(m.GetResults()) != len(reqs) {
		return nil, fmt.Errorf("the daemon answered %d of %d requests", len(m.GetResults()), len(reqs))
	}
	results := make([]api.BatchResult, len(reqs))
	for i, one := range m.GetResults() {
		if results[i], err = jwtResult(one); err != nil {
			return nil, fmt.Errorf("request %d: %w", i, err)
		}
	}
	return results, nil
}

// SignCSR asks for a certificate. With an idempotency key the same request may
// be sent again for 24 hours and is answered with the same certificate; without
// one (empty) an error that is no api.Problem may have cost a certificate.
func (r *RPC) SignCSR(ctx context.Context, req api.SignCSRRequest, idempotencyKey string) (*api.SignCSRReply, error) {
	ctx, cancel := r.limited(ctx)
	defer cancel()
	m, err := r.signer.SignCSR(ctx, &pb.SignCSRRequest{
		Authority: req.Authority, Profile: req.Profile, Csr: req.CSR, Ttl: req.TTL, IdempotencyKey: idempotencyKey,
	})
	if err != nil {
		return nil, refusal(ctx, err)
	}
	return &api.SignCSRReply{
		Certificate: m.GetCertificate(), Chain: m.GetChain(), Serial: m.GetSerial(), NotAfter: m.GetNotAfter().AsTime(), Entry: m.GetEntry(),
	}, nil
}

// SignDigest asks for the signature of a digest, by a key set of purpose digest.
func (r *RPC) SignDigest(ctx context.Context, req api.SignDigestRequest) (*api.SignDigestReply, error) {
	ctx, cancel := r.limited(ctx)
	defer cancel()
	digest, err := base64.StdEncoding.DecodeString(req.Digest)
	if err != nil {
		return nil, fmt.Errorf("the digest is not base64: %w", err)
	}
	format, ok := formats[req.Format]
	if !ok {
		return nil, fmt.Errorf("there is no signature format %q", req.Format)
	}
	m, err := r.signer.SignDigest(ctx, &pb.SignDigestRequest{Keyset: req.KeySet, Digest: digest, Format: format})
	if err != nil {
		return nil, refusal(ctx, err)
	}
	return &api.SignDigestReply{
		Signature: base64.StdEncoding.EncodeToString(m.GetSignature()), KID: m.GetKid(), Algorithm: m.GetAlgorithm(), Entry: m.GetEntry(),
	}, nil
}

var formats = map[string]pb.SignatureFormat{
	"": pb.SignatureFormat_SIGNATURE_FORMAT_UNSPECIFIED, api.FormatDER: pb.SignatureFormat_SIGNATURE_FORMAT_DER,
	api.FormatRaw: pb.SignatureFormat_SIGNATURE_FORMAT_RAW,
}

func jwtMessage(req api.SignJWTRequest) *pb.SignJWTRequest {
	return &pb.SignJWTRequest{
		Keyset: req.KeySet, Claims: req.Claims, Ttl: req.TTL, Typ: req.Typ, Profile: req.Profile, CnfCertificate: req.CNFCertificate,
	}
}

func jwtReply(m *pb.SignJWTResponse) *api.SignJWTReply {
	return &api.SignJWTReply{Token: m.GetToken(), KID: m.GetKid(), ExpiresAt: m.GetExpiresAt().AsTime(), Entry: m.GetEntry()}
}

// jwtResult reads what became of one request among several.
func jwtResult(m *pb.SignJWTResult) (api.BatchResult, error) {
	switch outcome := m.GetOutcome().(type) {
	case *pb.SignJWTResult_Reply:
		return api.BatchResult{Reply: jwtReply(outcome.Reply)}, nil
	case *pb.SignJWTResult_Problem:
		p := outcome.Problem
		return api.BatchResult{Problem: problemOf(api.Code(p.GetCode()), p.GetDetail(), int(p.GetRule()), p.GetRetryAfter())}, nil
	}
	return api.BatchResult{}, errors.New("the daemon's reply is neither a token nor a problem")
}

func problemOf(code api.Code, detail string, rule int, retryAfter int64) *api.Problem {
	s := code.Status()
	return &api.Problem{
		Type: "about:blank", Title: http.StatusText(s), Status: s,
		Code: code, Detail: detail, Rule: rule, RetryAfter: retryAfter,
	}
}

// refusal returns the error of a call: the *api.Problem that the daemon's status
// holds, if it is one of a chancery.
func refusal(ctx context.Context, err error) error {
	s := status.Convert(err)
	var info *errdetails.ErrorInfo
	var retry int64
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = int64(d.GetRetryDelay().AsDuration() / time.Second)
		}
	}
	switch {
	case info.GetDomain() == "chancery" && info.GetReason() != "":
		rule, err := strconv.Atoi(info.GetMetadata()["rule"])
		if err != nil {
			rule = 0 // it has none
		}
		return problemOf(api.Code(info.GetReason()), s.Message(), rule, retry)
	case ctx.Err() != nil:
		return fmt.Errorf("asking the daemon: %w", context.Cause(ctx))
	case s.Code() == codes.DeadlineExceeded:
		return fmt.Errorf("asking the daemon: %w", context.DeadlineExceeded)
	}
	return fmt.Errorf("asking the daemon: %w", err)
}

// connect returns where the endpoint is, and how to shake hands there.
func (cfg Config) connect(protocol string) (place, *tls.Config, error) {
	if cfg.Roots == nil {
		return place{}, nil, errors.New("no roots to know the daemon by")
	}
	if len(cfg.Certificate.Certificate) == 0 {
		return place{}, nil, errors.New("no client certificate")
	}
	at, err := parseEndpoint(cfg.Endpoint)
	if err != nil {
		return place{}, nil, err
	}
	name := cfg.ServerName
	if name == "" {
		name = at.name
	}
	return at, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cfg.Certificate},
		RootCAs: cfg.Roots, ServerName: name, NextProtos: []string{protocol},
		ClientSessionCache: tls.NewLRUClientSessionCache(max(1, cfg.Connections)),
	}, nil
}

package main

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"chancery/signer/api"
)

// A fake speaks the wire API of a daemon in its dev directory, with software
// keys, one key set, and no rules but those a test asks it for.
type fake struct {
	dir    string
	public string
	stop   func()

	mu         sync.Mutex
	mode       string // what it does differently
	versions   []fakeVersion
	keyHistory string // signed; empty: none
	caKey      *ecdsa.PrivateKey
	caCert     *x509.Certificate
	rootKey    *ecdsa.PrivateKey
	root       *x509.Certificate
}

// otherName is what the fake's certificates are for in the mode "renamed".
const otherName = "keys.example.test"

type fakeVersion struct {
	api.Version
	key *ecdsa.PrivateKey
}

func startFake(dir string) (*fake, error) {
	f := &fake{dir: dir}
	if err := f.makePKI(); err != nil {
		return nil, err
	}
	f.caKey, f.caCert = f.rootKey, f.root
	now := time.Now().UTC().Truncate(time.Second)
	f.versions = []fakeVersion{f.newVersion(1, "retiring"), f.newVersion(2, "active"), f.newVersion(3, "published")}
	for i, ago := range []time.Duration{60 * time.Minute, 40 * time.Minute, 20 * time.Minute} {
		f.versions[i].PublishedAt = ptr(now.Add(-ago))
		f.versions[i].SignsFrom = ptr(now.Add(20*time.Minute - ago))
	}
	f.versions[0].SignsUntil, f.versions[0].RetiresAt = f.versions[1].SignsFrom, ptr(now.Add(10*time.Minute))
	f.versions[2].SignsFrom = ptr(now.Add(5 * time.Minute))

	public := httptest.NewServer(http.HandlerFunc(f.servePublic))
	f.public = public.URL
	stops := []func(){public.Close}
	for _, door := range []string{"sign", "ops"} {
		stop, err := f.listen(filepath.Join(dir, door+".sock"), door)
		if err != nil {
			return nil, err
		}
		stops = append(stops, stop)
	}
	f.stop = sync.OnceFunc(func() {
		for _, s := range stops {
			s()
		}
	})
	ends, err := json.Marshal(api.Endpoints{Socket: filepath.Join(dir, "sign.sock"), Ops: filepath.Join(dir, "ops.sock"), Public: f.public})
	if err != nil {
		return nil, err
	}
	return f, os.WriteFile(filepath.Join(dir, "endpoints.json"), ends, 0o600)
}

func ptr[T any](v T) *T { return &v }

func (f *fake) newVersion(n int, state string) fakeVersion {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		panic(err)
	}
	v := fakeVersion{key: key}
	v.Version.Version, v.State, v.NIST, v.Keystore = n, state, "active", "hsm"
	v.KID = base64.RawURLEncoding.EncodeToString(sum)
	return v
}

// makePKI writes ca.crt and clients/*.{crt,key}.
func (f *fake) makePKI() error {
	var err error
	if f.rootKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	if f.root, err = f.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "fake root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, f.rootKey.Public()); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(f.dir, "ca.crt"), pemOf("CERTIFICATE", f.root.Raw), 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(f.dir, "clients"), 0o700); err != nil {
		return err
	}
	for _, role := range append(slices.Clone(roles), "localhost", otherName) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		cert, err := f.issue(&x509.Certificate{
			DNSNames: []string{role}, URIs: []*url.URL{{Scheme: "spiffe", Host: "chancery.dev", Path: "/" + role}},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}, key.Public())
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		stem := filepath.Join(f.dir, "clients", role)
		if err := errors.Join(
			os.WriteFile(stem+".crt", pemOf("CERTIFICATE", cert.Raw), 0o600),
			os.WriteFile(stem+".key", pemOf("PRIVATE KEY", der), 0o600),
		); err != nil {
			return err
		}
	}
	return nil
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func (f *fake) issue(t *x509.Certificate, pub crypto.PublicKey) (*x509.Certificate, error) {
	t.SerialNumber = big.NewInt(time.Now().UnixNano())
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent := f.root
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, f.rootKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (f *fake) listen(socket, door string) (stop func(), err error) {
	certs := make(map[string]*tls.Certificate)
	for _, name := range []string{"localhost", otherName} {
		stem := filepath.Join(f.dir, "clients", name)
		cert, err := tls.LoadX509KeyPair(stem+".crt", stem+".key")
		if err != nil {
			return nil, err
		}
		certs[name] = &cert
	}
	pool := x509.NewCertPool()
	pool.AddCert(f.root)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: f.handler(door)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(tls.NewListener(turnstile{ln, f}, &tls.Config{
			MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				if f.mode == "renamed" {
					return certs[otherName], nil
				}
				return certs["localhost"], nil
			},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		}))
	}()
	return func() { server.Close(); <-done }, nil
}

// A turnstile closes connections unanswered in the mode "full", as a daemon does
// that has as many as it takes.
type turnstile struct {
	net.Listener
	*fake
}

func (t turnstile) Accept() (net.Conn, error) {
	for {
		conn, err := t.Listener.Accept()
		if err != nil {
			return nil, err
		}
		t.mu.Lock()
		full := t.mode == "full"
		t.mu.Unlock()
		if !full {
			return conn, nil
		}
		conn.Close()
	}
}

// fakeModes are the refusals a test may ask for, whatever is requested.
var fakeModes = map[string]*api.Error{
	"early":     {Code: api.CodeTooEarly, Detail: "caches may not know the successor yet", Rule: 1, RetryAfter: 17},
	"suspended": {Code: api.CodeKeySetSuspended, Detail: "the key set is suspended", RetryAfter: 5},
	"nocatalog": {Code: api.CodeLeaseExpired, Detail: "the key catalog cannot be read, so nothing is signed", RetryAfter: 1},
	"busy":      {Code: api.CodeOverloaded, Detail: "more than the keystore can take", RetryAfter: 2},
	"nolog":     {Code: api.CodeAuditUnavailable, Detail: "the log cannot be written", RetryAfter: 1},
	"hostile":   {Code: api.CodeInternal, Detail: "\x1b[2J\x1b]0;owned\x07 line\nerror: forged \u202egnp.exe"},
}

func (f *fake) handler(door string) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, role string, do func(r *http.Request) (int, any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			defer f.mu.Unlock()
			status, v, err := f.refuse(r, role)
			if err == nil {
				status, v, err = do(r)
			}
			if e, ok := errors.AsType[*api.Error](err); ok {
				w.Header().Set("Content-Type", "application/problem+json")
				status, v = e.Code.Status(), e.Problem()
			}
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(v)
		})
	}
	handle("GET /v1/keysets", "", func(*http.Request) (int, any, error) {
		return 200, api.KeySetList{KeySets: []api.KeySet{f.keySet()}}, nil
	})
	handle("GET /v1/keysets/{name}", "", func(r *http.Request) (int, any, error) { return 200, f.keySet(), f.known(r) })
	handle("/", "", func(*http.Request) (int, any, error) {
		return 0, nil, api.Errorf(api.CodeNotFound, "no such endpoint at this door")
	})
	if door == "sign" {
		handle("POST /v1/sign/jwt", roleIssuer, f.signJWT)
		handle("POST /v1/sign/jwt/batch", roleIssuer, f.signBatch)
		handle("POST /v1/sign/csr", roleCA, f.signCSR)
		handle("POST /v1/sign/digest", roleIssuer, f.signDigest)
		f.handleDigestKeys(handle)
		return mux
	}
	handle("POST /v1/keysets/{name}/rotate", roleOperator, f.rotate)
	handle("POST /v1/keysets/{name}/suspend", roleOperator, f.suspend(true))
	handle("POST /v1/keysets/{name}/resume", roleOperator, f.suspend(false))
	f.handleKeys(handle)
	f.handleNodes(handle)
	handle("GET /v1/ops/tokens", "", f.tokens)
	handle("POST /v1/ops/tokens/retry", roleOperator, f.tokens)
	return mux
}

// refuse is the fake's policy: reading is free, the rest is for one role.
func (f *fake) refuse(r *http.Request, role string) (int, any, error) {
	if e, ok := fakeModes[f.mode]; ok {
		if f.mode == "nolog" {
			f.mode = "" // the disk has room again
		}
		return 0, nil, e
	}
	if role != "" && r.TLS.PeerCertificates[0].URIs[0].Path != "/"+role {
		return 0, nil, api.Errorf(api.CodeForbidden, "not permitted")
	}
	return 0, nil, nil
}

func (f *fake) known(r *http.Request) error {
	if r.PathValue("name") != "web" {
		return api.Errorf(api.CodeForbidden, "not permitted")
	}
	return nil
}

func (f *fake) keySet() api.KeySet {
	ks := api.KeySet{Name: "web", Purpose: "jwt", Algorithm: "ES256", Keystore: "hsm", Revision: 7}
	if f.mode == "hostile-names" {
		ks.Keystore = "h\x1b[31msm\u202e"
	}
	for _, v := range f.versions {
		ks.Versions = append(ks.Versions, v.Version)
	}
	ks.Versions[0].Compromised = f.mode == "after"
	return ks
}

func (f *fake) active() *fakeVersion {
	i := slices.IndexFunc(f.versions, func(v fakeVersion) bool { return v.State == "active" })
	return &f.versions[i]
}

func (f *fake) signJWT(r *http.Request) (int, any, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, err
	}
	reply, err := f.sign(body)
	return 200, reply, err
}

func (f *fake) signBatch(r *http.Request) (int, any, error) {
	var batch api.BatchRequest
	if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
		return 0, nil, err
	}
	var reply api.BatchReply
	for _, one := range batch.Requests {
		signed, err := f.sign(one)
		if e, ok := errors.AsType[*api.Error](err); ok {
			reply.Results = append(reply.Results, api.BatchResult{Problem: e.Problem()})
			continue
		}
		reply.Results = append(reply.Results, api.BatchResult{Reply: signed})
	}
	return 200, reply, nil
}

func (f *fake) sign(body []byte) (*api.SignJWTReply, error) {
	var req api.SignJWTRequest
	if err := api.Decode(body, &req, api.Limits{}); err != nil {
		return nil, err
	}
	if req.KeySet != "web" {
		return nil, api.Errorf(api.CodeForbidden, "not permitted")
	}
	if bytes.Contains(req.Claims, []byte(`"iss"`)) {
		return nil, api.Errorf(api.CodeClaimReserved, "iss is set by the daemon")
	}
	ttl := int64(300)
	if req.TTL != nil {
		ttl = *req.TTL
	}
	if ttl > 3600 {
		return nil, api.Errorf(api.CodeTTLTooLong, "at most 3600 s")
	}
	now := time.Now().Unix()
	typ := cmp.Or(req.Typ, req.Profile, "JWT")
	if req.Profile != "" && !bytes.Contains(req.Claims, []byte(`"client_id"`)) {
		return nil, api.Errorf(api.CodeClaimInvalid, `the claim "client_id" is missing`)
	}
	if req.CNFCertificate != "" {
		req.Claims = fmt.Appendf(nil, `{"bound":%q,%s`, req.CNFCertificate, req.Claims[1:])
	}
	v := f.active()
	_, claims, _ := strings.Cut(string(req.Claims), "{")
	payload := fmt.Sprintf(`{"iss":%q,"iat":%d,"nbf":%d,"exp":%d,"jti":"j1",%s`, f.public+"/issuers/web", now, now-60, now+ttl, claims)
	token, err := v.jws(typ, payload)
	if err != nil {
		return nil, err
	}
	return &api.SignJWTReply{Token: token, KID: v.KID, ExpiresAt: time.Unix(now+ttl, 0).UTC(), Entry: "localhost/audit/dev/acts/2026-11#4"}, nil
}

// jws signs a payload under a header that names the version's key.
func (v *fakeVersion) jws(typ, payload string) (string, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64(fmt.Appendf(nil, `{"alg":"ES256","kid":%q,"typ":%q}`, v.KID, typ)) + "." + b64([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	x, y, err := ecdsa.Sign(rand.Reader, v.key, digest[:])
	if err != nil {
		return "", err
	}
	return input + "." + b64(append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...)), nil
}

func (f *fake) signCSR(r *http.Request) (int, any, error) {
	var req api.SignCSRRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return 0, nil, err
	}
	block, _ := pem.Decode([]byte(req.CSR))
	if block == nil {
		return 0, nil, api.Errorf(api.CodeMalformed, "no PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return 0, nil, api.Errorf(api.CodeMalformed, "no request")
	}
	cert, err := f.issue(&x509.Certificate{DNSNames: csr.DNSNames}, csr.PublicKey)
	if err != nil {
		return 0, nil, err
	}
	return 200, api.SignCSRReply{
		Certificate: string(pemOf("CERTIFICATE", cert.Raw)), Chain: []string{string(pemOf("CERTIFICATE", f.caCert.Raw))},
		Serial: cert.SerialNumber.Text(16), NotAfter: cert.NotAfter, Entry: r.Header.Get("Idempotency-Key"),
	}, nil
}

// rotate makes version 3 sign a moment later.
func (f *fake) rotate(r *http.Request) (int, any, error) {
	from, to := &f.versions[1], &f.versions[2]
	time.AfterFunc(700*time.Millisecond, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		from.State, to.State = "retiring", "active"
	})
	return 202, api.RotateReply{
		From: api.VersionRef{Version: 2, KID: from.KID}, To: api.VersionRef{Version: 3, KID: to.KID},
		SignsFrom: time.Now().UTC().Add(time.Second), Entry: "localhost/audit/dev/lifecycle#9",
	}, f.known(r)
}

func (f *fake) suspend(on bool) func(*http.Request) (int, any, error) {
	return func(r *http.Request) (int, any, error) {
		v := f.active()
		v.Suspended = on
		reply := api.SuspendReply{Version: 2, KID: v.KID, Suspended: on, Durable: f.mode != "volatile"}
		if reply.Durable {
			reply.Entry = "localhost/audit/dev/lifecycle#10"
		}
		return 200, reply, f.known(r)
	}
}

func (f *fake) tokens(*http.Request) (int, any, error) {
	return 200, api.TokenList{Tokens: []api.Token{{
		Keystore: "hsm", Label: "signing", Serial: "0a1b", State: "pin_rejected", Since: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Workers: 1, Error: "PIN rejected", Hint: "put the right PIN into its file, then chancery token retry hsm",
		Unconfined: "file access: the kernel has no Landlock",
	}}}, nil
}

func (f *fake) servePublic(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	issuer := f.public + "/issuers/web"
	switch r.URL.Path {
	case "/issuers/web/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(map[string]string{"issuer": issuer, "jwks_uri": issuer + "/jwks.json"})
	case "/issuers/web/jwks.json":
		set := jose.JSONWebKeySet{}
		for _, v := range f.versions {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: v.key.Public(), KeyID: v.KID, Algorithm: "ES256", Use: "sig"})
		}
		w.Header().Set("Cache-Control", "public, max-age=900")
		json.NewEncoder(w).Encode(set)
	case "/issuers/web/historical-keys.jwt":
		f.serveHistory(w)
	default:
		http.NotFound(w, r)
	}
}

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery/keystore"
	"chancery/keystore/audit"
)

const actsExp = 1_900_000_000

// tokenBy returns a token with those members, signed by key.
func tokenBy(key *ecdsa.PrivateKey, sub, jti, kid string, exp int64) string {
	part := base64.RawURLEncoding.EncodeToString
	input := part(fmt.Appendf(nil, `{"alg":"ES256","kid":%q}`, kid)) + "." + part(fmt.Appendf(nil, `{"sub":%q,"exp":%d,"jti":%q}`, sub, exp, jti))
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + part(sig)
}

// An actsLog writes a log of acts and what they made.
type actsLog struct {
	ctx context.Context
	dir string
	log *audit.Log
	err error

	published []keystore.Record // the keys that made it
}

// publish has it entered at the end that a key is known, and returns its kid.
func (l *actsLog) publish(set string, purpose keystore.Purpose, version int, pub crypto.PublicKey) keystore.KID {
	kid, err := keystore.Thumbprint(pub)
	spki, errSPKI := keystore.MarshalPublic(pub)
	l.err = errors.Join(l.err, err, errSPKI)
	l.published = append(l.published, keystore.Record{
		Action: keystore.ActKeyPublish, Outcome: keystore.OutcomeDone, KeySet: set, KID: kid, Version: version, State: "published",
		Detail: audit.Announcement(purpose, &keystore.Version{Algorithm: keystore.ES256, SPKI: spki}),
	})
	return kid
}

func (l *actsLog) keys() {
	for _, rec := range l.published {
		if l.err == nil {
			_, l.err = l.log.Lifecycle(l.ctx, rec)
		}
	}
}

func (l *actsLog) act(rec keystore.Record) {
	if l.err == nil {
		_, l.err = l.log.Act(l.ctx, rec)
	}
}

func (l *actsLog) file(name string, content []byte) {
	l.err = errors.Join(l.err, os.WriteFile(filepath.Join(l.dir, name), content, 0o600))
}

// writeActs makes a log in dir/audit, all of it proven, its key in
// dir/audit.vkey, and beside it tokens in *.jwt and certificates in *.pem: "made"
// and what else there is a word for.
func writeActs(ctx context.Context, dir string) error {
	return writeActsBy(ctx, dir, func(l *actsLog) {
		l.tokens()
		l.certificates()
	})
}

// writeActsBy makes such a log of what act enters.
func writeActsBy(ctx context.Context, dir string, act func(*actsLog)) error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	key := fileKey{private}
	l := &actsLog{ctx: ctx, dir: dir}
	l.log, err = audit.Open(ctx, audit.Config{
		Dir: filepath.Join(dir, "audit"), Host: "localhost:8443", Node: "dev", Interval: time.Hour, JournalSize: 64 << 10,
		Keys: func(context.Context) (audit.Keys, error) { return audit.Keys{Active: key}, nil },
	})
	if err != nil {
		return err
	}
	vkey, err := l.log.VKey(keystore.EdDSA, key.Public())
	if err != nil {
		return err
	}
	l.file("audit.vkey", []byte(vkey+"\n"))
	act(l)
	l.keys()
	if l.err != nil {
		return l.err
	}
	return errors.Join(monthBegan(ctx, dir), l.log.Close(ctx))
}

func (l *actsLog) tokens() {
	key := newAuthority().key
	kid := l.publish("web", keystore.PurposeJWT, 3, key.Public())
	l.file("jwks.json", keySetOf(key, kid))
	l.file("stranger.json", keySetOf(newAuthority().key, kid)) // of that kid, says whoever made it
	rec := keystore.Record{
		Principal: "dev:spiffe:spiffe://chancery.dev/issuer", Action: keystore.ActSignJWT, KeySet: "web", KID: kid, Version: 3,
		State: "active", Rule: "issuer", Policy: "p", Request: "q", Exp: actsExp,
	}
	for _, a := range []struct {
		jti     string
		outcome keystore.Outcome
	}{
		{"made", keystore.OutcomeDone}, {"withdrawn", keystore.OutcomeDone}, {"withdrawn", keystore.OutcomeRefused},
		{"unknown", keystore.OutcomeUnknown}, {"failed", keystore.OutcomeFailed},
	} {
		rec.JTI, rec.Outcome = a.jti, a.outcome
		if a.outcome != keystore.OutcomeDone {
			rec.Code, rec.Reason = "lease_expired", "=HYPERLINK(\"http://evil\")\x1b[2J"
		}
		l.act(rec)
		l.file(a.jti+".jwt", []byte(tokenBy(key, "a", a.jti, string(kid), actsExp)+"\n"))
	}
	l.file("none.jwt", []byte(tokenBy(key, "a", "none", string(kid), actsExp)+"\n"))
	l.file("counterfeit.jwt", []byte(tokenBy(key, "a", "made", "another-key", actsExp)+"\n"))
	l.file("longer.jwt", []byte(tokenBy(key, "a", "made", string(kid), actsExp+3600)+"\n"))
	l.file("forged.jwt", []byte(tokenBy(newAuthority().key, "mallory", "made", string(kid), actsExp)+"\n"))
}

// keySetOf returns a JWK Set of key.
func keySetOf(key *ecdsa.PrivateKey, kid keystore.KID) []byte {
	point, err := key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		panic(err)
	}
	part := base64.RawURLEncoding.EncodeToString
	return fmt.Appendf(nil, `{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":%q,"x":%q,"y":%q}]}`, kid, part(point[1:33]), part(point[33:]))
}

func (l *actsLog) certificates() {
	ca, other := newAuthority(), newAuthority()
	kid := l.publish("devices", keystore.PurposeCA, 1, ca.key.Public())
	made, unknown := ca.issue(), ca.issue()
	rec := keystore.Record{
		Principal: "dev:spiffe:spiffe://chancery.dev/ca", Action: keystore.ActSignCSR, Outcome: keystore.OutcomeIntent,
		KeySet: "devices", KID: kid, Version: 1, Authority: "devices", Profile: "tls", NotAfter: made.NotAfter.Unix(),
	}
	rec.Serial = hex.EncodeToString(made.SerialNumber.Bytes())
	rec.ID = rec.Serial
	l.act(rec)
	rec.Outcome = keystore.OutcomeDone
	l.act(rec)
	rec.Outcome, rec.Serial = keystore.OutcomeIntent, hex.EncodeToString(unknown.SerialNumber.Bytes())
	rec.ID = rec.Serial
	l.act(rec)
	l.file("made.pem", pemsOf(made, ca.cert))
	l.file("ca.pem", pemsOf(ca.cert))
	l.file("alone.pem", pemsOf(made))
	l.file("unknown.pem", pemsOf(unknown))
	l.file("none.pem", pemsOf(ca.issue()))
	l.file("counterfeit.pem", pemsOf(other.again(made), other.cert))
	l.file("forged.pem", pemsOf(other.again(made))) // without its issuer
	l.file("serial", []byte(hex.EncodeToString(made.SerialNumber.Bytes())))
}

// An authority issues certificates of a day.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority() *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	a := &authority{key: key}
	a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "devices"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	return a
}

func (a *authority) issue() *x509.Certificate { return a.sign(&x509.Certificate{}, a.cert) }

// again issues a certificate with the serial number and dates of another.
func (a *authority) again(of *x509.Certificate) *x509.Certificate {
	return a.sign(&x509.Certificate{SerialNumber: of.SerialNumber, NotAfter: of.NotAfter}, a.cert)
}

func (a *authority) sign(t, parent *x509.Certificate) *x509.Certificate {
	if parent == nil {
		parent = t
	}
	if t.SerialNumber == nil {
		b := make([]byte, 16)
		rand.Read(b)
		b[0] = b[0]&0x3f | 0x40
		t.SerialNumber, t.NotAfter = new(big.Int).SetBytes(b), time.Now().Add(24*time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, a.key.Public(), a.key)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return c
}

func pemsOf(certs ...*x509.Certificate) (text []byte) {
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// makeActs writes a log of acts and what they made into DIR.
func makeActs(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(writeActs(context.Background(), dir))
}

// publishLog serves checkpoints and tiles of LOGDIR, as a node's public listener
// does, and says in AUDITURL where.
func publishLog(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, "/audit/dev/")
		if ok && audit.IsPublic(rest) {
			http.ServeFile(w, r, filepath.Join(dir, filepath.FromSlash(rest)))
			return
		}
		if r.URL.Path == "/audit/moved/lifecycle/checkpoint" {
			http.Redirect(w, r, "/audit/dev/lifecycle/checkpoint", http.StatusFound)
			return
		}
		http.NotFound(w, r)
	}))
	ts.Defer(server.Close)
	ts.Setenv("AUDITURL", server.URL+"/audit")
}

// publishFile serves FILE over TLS under HTTPSURL, with its roots in roots.pem, and
// under OLDURL with a version of TLS that is not spoken any more.
func publishFile(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	for name, version := range map[string]uint16{"HTTPSURL": tls.VersionTLS13, "OLDURL": tls.VersionTLS11} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) }))
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		ts.Defer(server.Close)
		ts.Setenv(name, server.URL)
		root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		ts.Check(os.WriteFile(ts.MkAbs("roots.pem"), root, 0o600))
	}
}

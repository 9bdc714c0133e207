package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/audit/witness"
)

// A grownLog is a real log that goes on.
type grownLog struct {
	*audit.Log
	dir  string // the audit directory
	vkey string
}

func newGrownLog(t *testing.T, key fileKey) grownLog {
	t.Helper()
	l := grownLog{dir: filepath.Join(t.TempDir(), "audit")}
	log, err := audit.Open(t.Context(), audit.Config{
		Dir: l.dir, Host: "localhost:8443", Node: "dev", Interval: time.Hour, JournalSize: 64 << 10,
		Keys: func(context.Context) (audit.Keys, error) { return audit.Keys{Active: key}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(context.WithoutCancel(t.Context())) })
	l.Log = log
	if l.vkey, err = log.VKey(keystore.EdDSA, key.Public()); err != nil {
		t.Fatal(err)
	}
	return l
}

func newFileKey(t *testing.T) fileKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return fileKey{private}
}

// enter enters n records into lifecycle and makes a checkpoint.
func (l grownLog) enter(t *testing.T, n int, reason string) {
	t.Helper()
	for range n {
		if _, err := l.Lifecycle(t.Context(), keystore.Record{Principal: "chancery", Action: keystore.ActKeyActivate, Outcome: keystore.OutcomeDone, Reason: reason}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// runWitness types `chancery audit witness` with args and returns what it prints.
func runWitness(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &o, err: &e, getenv: func(string) string { return "" }}
	status = a.run(t.Context(), append([]string{"audit", "witness"}, args...))
	return status, o.String(), e.String()
}

// TestALaptopWatchesALog in a directory and at its public URL.
func TestALaptopWatchesALog(t *testing.T) {
	key := newFileKey(t)
	l := newGrownLog(t, key)
	l.enter(t, 300, "a good reason")
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/audit/dev/")
		if !audit.IsPublic(name) {
			http.NotFound(w, r)
			return
		}
		http.ServeFile(w, r, filepath.Join(l.dir, filepath.FromSlash(name)))
	}))
	defer served.Close()
	state := t.TempDir()
	look := func(at string) (int, string, string) {
		return runWitness(t, "--dir", state, "--name", "alice.example/laptop", "--log", l.vkey, "--once", at)
	}
	if status, out, errs := look(served.URL + "/audit/dev"); status != 0 || !strings.Contains(out, "300 entries, for the first time") {
		t.Fatalf("the first look: %d %s%s", status, out, errs)
	}
	l.enter(t, 301, "another")
	if status, out, errs := look(served.URL + "/audit/dev/"); status != 0 || !strings.Contains(out, "601 entries, consistent with the 300 entries before") {
		t.Fatalf("the second look: %d %s%s", status, out, errs)
	}
	l.enter(t, 1, "a third")
	if status, out, errs := look(l.dir); status != 0 || !strings.Contains(out, "602 entries, consistent with the 601 entries before") {
		t.Fatalf("a look at the directory: %d %s%s", status, out, errs)
	}
	if status, _, errs := look(served.URL + "/audit/nobody"); status != 1 || !strings.Contains(errs, "lifecycle: reading the checkpoint") {
		t.Errorf("at a URL without a log: %d %s", status, errs)
	}
	if status, _, errs := look("ftp://localhost/audit/dev"); status != 2 || !strings.Contains(errs, "is no URL of a log") {
		t.Errorf("at another kind of URL: %d %s", status, errs)
	}

	edited := newGrownLog(t, key)
	edited.enter(t, 300, "a better reason")
	if status, _, errs := look(edited.dir); status != 1 || !strings.Contains(errs, "has 300 entries, and had 602") {
		t.Errorf("a log that was cut: %d %s", status, errs)
	}
	edited.enter(t, 400, "and more")
	if status, _, errs := look(edited.dir); status != 1 || !strings.Contains(errs, "are not what the 602 cosigned before became") {
		t.Errorf("a log that was rewritten: %d %s", status, errs)
	}
}

// TestAWitnessServes a Client until it is ended, plainly or over TLS.
func TestAWitnessServes(t *testing.T) {
	t.Run("plainly", func(t *testing.T) { serveOnce(t, nil) })
	t.Run("over TLS", func(t *testing.T) {
		cert, key, roots := newCertificate(t)
		serveOnce(t, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, "--cert", cert, "--key", key)
	})
}

// newCertificate makes a self-signed certificate for 127.0.0.1 and returns the
// files it and its key are in.
func newCertificate(t *testing.T) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	if err := errors.Join(os.WriteFile(cert, certPEM, 0o600), os.WriteFile(key, keyPEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return cert, key, roots
}

// serveOnce starts a witness, has it cosign a log and ends it.
func serveOnce(t *testing.T, transport http.RoundTripper, more ...string) {
	l := newGrownLog(t, newFileKey(t))
	l.enter(t, 5, "a reason")
	r, w := io.Pipe()
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		a := &app{in: strings.NewReader(""), out: w, err: io.Discard, getenv: func(string) string { return "" }}
		ended <- a.run(ctx, append([]string{"audit", "witness", "--dir", t.TempDir(), "--name", "auditor.example/w1", "--log", l.vkey, "--listen", "127.0.0.1:0"}, more...))
		w.Close()
	}()
	var policy strings.Builder
	for s := bufio.NewScanner(r); s.Scan(); {
		policy.WriteString(s.Text() + "\n") // all that it prints is one
		if strings.HasPrefix(s.Text(), "quorum ") {
			break
		}
	}
	p, err := witness.ParsePolicy([]byte(policy.String()))
	if err != nil || len(p.Known) != 1 {
		t.Fatalf("it prints the policy %q: %v", policy.String(), err)
	}
	client, err := witness.NewClient(p.Known[0].URL, transport)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(filepath.Join(l.dir, "lifecycle", "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := client.Add(t.Context(), witness.Request{Note: signed})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.KeepWitnessed("lifecycle", append(signed, lines...)); err != nil {
		t.Fatal(err)
	}
	rep, err := audit.Verify(t.Context(), l.dir, audit.Options{Keys: []string{l.vkey}, Witnesses: p})
	if err != nil || !rep.OK() || rep.Logs[0].Witnessed == nil || rep.Logs[0].Witnessed.Size != 5 {
		t.Errorf("verified: %+v, %v", rep, err)
	}
	client.Close()
	end()
	if status := <-ended; status != 0 {
		t.Errorf("it ended with %d", status)
	}
}

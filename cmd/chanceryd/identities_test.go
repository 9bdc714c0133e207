package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"chancery/signer/api"
)

// spiffe is the URI of a name in the development trust domain.
func spiffe(name string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: "chancery.dev", Path: "/" + name}
}

// identity makes a client certificate under the daemon's development root: the
// issuer's, but for what change does to it.
func (d *chanceryd) identity(change func(*x509.Certificate)) tls.Certificate {
	d.t.Helper()
	root := readCertificate(d.t, filepath.Join(d.dir, "ca.crt"))
	text, err := os.ReadFile(filepath.Join(d.dir, "pki", "root.key"))
	if err != nil {
		d.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		d.t.Fatal(err)
	}
	return issueIdentity(d.t, root, key.(*ecdsa.PrivateKey), change)
}

// strangers makes a client certificate under a root nobody knows.
func strangers(t *testing.T) tls.Certificate {
	t.Helper()
	key := newKey(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Another root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return issueIdentity(t, root, key, func(*x509.Certificate) {})
}

// anotherRoot is a CA certificate of somebody else, as PEM.
func anotherRoot(t *testing.T) []byte {
	t.Helper()
	key := newKey(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Another root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func issueIdentity(t *testing.T, root *x509.Certificate, rootKey *ecdsa.PrivateKey, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "issuer"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{spiffe("issuer")},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, root, &key.PublicKey, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func readCertificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s holds no PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// pair is the certificate and key of a role.
func (d *chanceryd) pair(role string) tls.Certificate {
	d.t.Helper()
	pair, err := tls.LoadX509KeyPair(d.cert(role), d.key(role))
	if err != nil {
		d.t.Fatal(err)
	}
	return pair
}

// handshake connects to the signing socket and returns the error of the
// handshake, or of the first read after a request.
func (d *chanceryd) handshake(change func(*tls.Config), certs ...tls.Certificate) error {
	d.t.Helper()
	raw, err := net.Dial("unix", d.endpoints.Socket)
	if err != nil {
		d.t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	cfg := &tls.Config{RootCAs: d.roots(), ServerName: "localhost", Certificates: certs}
	change(cfg)
	conn := tls.Client(raw, cfg)
	if err := conn.Handshake(); err != nil {
		return fmt.Errorf("in the handshake: %w", err)
	}
	io.WriteString(conn, "GET /v1/keysets HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("at the first read: %w", err)
	}
	return nil
}

// alertOf returns the number of the alert the other side sent, or 0.
func alertOf(err error) uint64 {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return 0
	}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 { // an alert of crypto/tls
		return v.Uint()
	}
	return 0
}

// A result is what a request over HTTP came to.
type result struct {
	status int
	header http.Header
	body   []byte
	code   api.Code // of the problem, if it is one
	closes bool     // the connection ends with it
}

// post sends a body to a path as it is.
func post(t *testing.T, c *http.Client, path, body string, headers ...string) result {
	t.Helper()
	r, err := send(t, c, http.MethodPost, path, strings.NewReader(body), headers...)
	if err != nil {
		t.Fatalf("POST %s: %v", path, err)
	}
	return r
}

// send makes one request and reads the whole answer. headers are names and
// values in turn.
func send(t *testing.T, c *http.Client, method, path string, body io.Reader, headers ...string) (result, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://localhost"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return result{}, err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return result{}, err
	}
	r := result{status: resp.StatusCode, header: resp.Header, body: b.Bytes(), closes: resp.Close}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		var p api.Problem
		if err := json.Unmarshal(r.body, &p); err != nil {
			t.Errorf("a problem that is none: %q", r.body)
		}
		if p.Status != r.status {
			t.Errorf("%s says status %d and came with %d", p.Code, p.Status, r.status)
		}
		r.code = p.Code
	}
	fitsDocument(t, method, path, r)
	return r, nil
}

// want checks code and status of a result; code "" is success.
func (r result) want(t *testing.T, what string, code api.Code) {
	t.Helper()
	status := http.StatusOK
	if code != "" {
		status = code.Status()
	}
	if r.code != code || r.status != status {
		t.Errorf("%.200s: %d %q, want %d %q: %.300s", what, r.status, r.code, status, code, r.body)
	}
	if r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") == "" {
		t.Errorf("%.200s: 503 without Retry-After", what)
	}
}

func readOrEmpty(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

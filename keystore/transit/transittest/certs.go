package transittest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A CA makes the certificates of one server or of its clients.
type CA struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes a CA that keeps its files in dir.
func NewCA(t testing.TB, dir string) *CA {
	t.Helper()
	ca := &CA{t: t, dir: dir}
	ca.key = ca.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "transittest " + randomHex(4)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.writePEM("ca.pem", "CERTIFICATE", der)
	return ca
}

// File is the PEM file of its certificate.
func (ca *CA) File() string { return filepath.Join(ca.dir, "ca.pem") }

// PEM is its certificate.
func (ca *CA) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
}

// ServerCert makes a certificate for 127.0.0.1 and localhost and returns its files.
func (ca *CA) ServerCert() (certFile, keyFile string) {
	return ca.issue("server", &x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
}

// ClientCert makes a certificate for a client and returns its files.
func (ca *CA) ClientCert(name string) (certFile, keyFile string) {
	return ca.issue("client-"+name, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (ca *CA) issue(file string, template *x509.Certificate) (certFile, keyFile string) {
	ca.t.Helper()
	key := ca.newKey()
	template.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	template.NotBefore, template.NotAfter = ca.cert.NotBefore, ca.cert.NotAfter
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return ca.writePEM(file+".pem", "CERTIFICATE", der), ca.writePEM(file+".key", "PRIVATE KEY", pkcs8)
}

func (ca *CA) newKey() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	return key
}

func (ca *CA) writePEM(name, kind string, der []byte) string {
	ca.t.Helper()
	path := filepath.Join(ca.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		ca.t.Fatal(err)
	}
	return path
}

// CallWithCert does a request without a token, showing a client certificate.
func (s *Server) CallWithCert(certFile, keyFile, method, path string, body any) (status int, reply map[string]any, err error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return 0, nil, err
	}
	transport := s.client.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
	return s.do(&http.Client{Timeout: callTimeout, Transport: transport}, "", method, path, body)
}

// Package devpki makes the certificates chanceryd dev works with: a root whose
// key is a file, a server certificate for localhost, and a client certificate
// for each role.
//
//	DIR/ca.crt                         the root
//	DIR/pki/root.key                   its key
//	DIR/pki/server.{crt,key}           localhost, 127.0.0.1, ::1
//	DIR/clients/ROLE.{crt,key}         spiffe://chancery.dev/ROLE
//
// ROLE is issuer, ca, operator or auditor. A root whose key is a file is for
// trying things out, so the root and all below it carry a private, non-critical
// extension by which IsDev knows them and `chanceryd serve` refuses them.
//
//	err := devpki.Ensure(dir, time.Now()) // at each start; makes what is missing
package devpki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
)

// TrustDomain is the SPIFFE trust domain of the client certificates.
const TrustDomain = "chancery.dev"

// Lifetimes. A certificate is renewed at a start when less than a third of its
// lifetime is left; the root, which clients were told of, only when it would not
// outlive a new leaf.
const (
	RootLifetime = 10 * 365 * 24 * time.Hour
	LeafLifetime = 90 * 24 * time.Hour
)

// backdate is for a clock that is set back a little after the first start.
const backdate = 5 * time.Minute

var roles = []string{"issuer", "ca", "operator", "auditor"}

// marker is the extension of every certificate made here. 32473 is the
// enterprise number for examples (RFC 5612), which nobody in production has;
// the arcs under it are random, so that no other example has them.
var marker = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 1129338486, 987534410}

// markerText is its value: it tells a person why the extension is there.
const markerText = "development only: the root's key is a file"

// IsDev reports whether cert was made by this package, on whatever machine.
func IsDev(cert *x509.Certificate) bool {
	return slices.ContainsFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(marker) })
}

// Ensure makes, below dir, what is missing, broken or near its end, and leaves
// the rest as it is. Directories have mode 0700 and keys 0600; every file
// appears whole or not at all. It must not run twice at once on one dir.
func Ensure(dir string, now time.Time) error {
	for _, d := range []string{dir, filepath.Join(dir, "pki"), filepath.Join(dir, "clients")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("making a directory: %w", err)
		}
	}
	now = now.UTC().Truncate(time.Second)
	root, err := ensure(files{filepath.Join(dir, "ca.crt"), filepath.Join(dir, "pki", "root.key")}, nil, rootTemplate(), now)
	if err != nil {
		return fmt.Errorf("development root: %w", err)
	}
	server := files{filepath.Join(dir, "pki", "server.crt"), filepath.Join(dir, "pki", "server.key")}
	if _, err := ensure(server, root, serverTemplate(), now); err != nil {
		return fmt.Errorf("certificate for localhost: %w", err)
	}
	for _, role := range roles {
		base := filepath.Join(dir, "clients", role)
		if _, err := ensure(files{base + ".crt", base + ".key"}, root, clientTemplate(role), now); err != nil {
			return fmt.Errorf("certificate for %s: %w", role, err)
		}
	}
	return nil
}

func rootTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject:  pkix.Name{CommonName: "Chancery development root"},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, MaxPathLenZero: true,
	}
}

func serverTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
}

func clientTemplate(role string) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: role},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: TrustDomain, Path: "/" + role}},
	}
}

// files are where a certificate and its key are.
type files struct{ cert, key string }

// A pair is a certificate and its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// ensure returns the pair in f, after making it where it cannot be used or is
// about to end. A nil issuer makes it self-signed.
func ensure(f files, issuer *pair, template *x509.Certificate, now time.Time) (*pair, error) {
	if p, err := f.read(); err == nil && p.usable(issuer, now) {
		return p, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errUnreadable) {
		return nil, err // a disk or a permission: making new keys would not help
	}
	p, err := create(issuer, template, now)
	if err != nil {
		return nil, err
	}
	return p, f.write(p)
}

// usable reports whether p belongs together, was made here by issuer, and has
// enough of its time left.
func (p *pair) usable(issuer *pair, now time.Time) bool {
	if !p.key.PublicKey.Equal(p.cert.PublicKey) || !IsDev(p.cert) || now.Before(p.cert.NotBefore) {
		return false
	}
	left := p.cert.NotAfter.Sub(now)
	if issuer == nil {
		return left > LeafLifetime // long enough for every leaf it signs
	}
	lifetime := p.cert.NotAfter.Sub(p.cert.NotBefore)
	return left > lifetime/3 && p.cert.CheckSignatureFrom(issuer.cert) == nil
}

func create(issuer *pair, template *x509.Certificate, now time.Time) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating a key: %w", err)
	}
	text, err := asn1.MarshalWithParams(markerText, "utf8")
	if err != nil {
		return nil, fmt.Errorf("encoding the marker: %w", err)
	}
	lifetime, parent := LeafLifetime, issuer
	if issuer == nil {
		lifetime, parent = RootLifetime, &pair{template, key}
	}
	template.SerialNumber = serial()
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(lifetime)
	template.BasicConstraintsValid = true
	template.ExtraExtensions = []pkix.Extension{{Id: marker, Value: text}}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, &key.PublicKey, parent.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate back: %w", err)
	}
	return &pair{cert, key}, nil
}

// serial returns 126 random bits, positive and always of 16 octets.
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails, by its contract
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// errUnreadable: there is a file, and what is in it is no certificate or key.
var errUnreadable = errors.New("not a certificate and its key")

func (f files) read() (*pair, error) {
	certDER, err := readPEM(f.cert, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	keyDER, err := readPEM(f.key, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, errUnreadable
	}
	key, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, errUnreadable
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errUnreadable
	}
	return &pair{cert, ec}, nil
}

func readPEM(path, kind string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errUnreadable
	}
	return block.Bytes, nil
}

// write keeps the key first: a certificate whose key is missing is made anew at
// the next start, and so is one whose key is another.
func (f files) write(p *pair) error {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := renameio.WriteFile(f.key, key, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("writing a key: %w", err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})
	if err := renameio.WriteFile(f.cert, cert, 0o644, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("writing a certificate: %w", err)
	}
	return nil
}

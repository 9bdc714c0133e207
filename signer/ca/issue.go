package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"chancery/keystore"
)

// DefaultAuthorityLifetime is how long a self-signed authority is valid where
// nothing else is said.
const DefaultAuthorityLifetime = 10 * 365 * 24 * time.Hour

// Redeem has key sign the certificate and returns its DER, checked field by
// field against what was prepared and verified under the issuer. It can be
// called once, whatever it returned. Errors of the key are wrapped, so that
// errors.Is finds the sentinels of package keystore.
func (p *Prepared) Redeem(ctx context.Context, key keystore.Key) ([]byte, error) {
	if p.redeemed.Swap(true) {
		return nil, errors.New("the prepared certificate was redeemed before")
	}
	der, err := create(ctx, p.template, p.issuer, p.public, key)
	if err != nil {
		return nil, fmt.Errorf("signing certificate %s: %w", p.serial, err)
	}
	if err := p.check(der); err != nil {
		return nil, fmt.Errorf("certificate %s is not what was prepared: %w", p.serial, err)
	}
	return der, nil
}

// check reads der as a relying party will.
func (p *Prepared) check(der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if err := cert.CheckSignatureFrom(p.issuer); err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrSignature, err)
	}
	t := p.template
	switch {
	case cert.SerialNumber.Cmp(t.SerialNumber) != 0:
		return errors.New("another serial number")
	case !bytes.Equal(cert.RawSubjectPublicKeyInfo, p.spki):
		return errors.New("another public key")
	case !slices.Equal(cert.DNSNames, t.DNSNames), len(cert.IPAddresses)+len(cert.URIs)+len(cert.EmailAddresses) != 0,
		len(cert.Subject.Names) != 0:
		return errors.New("other names")
	case !cert.NotBefore.Equal(t.NotBefore), !cert.NotAfter.Equal(t.NotAfter):
		return errors.New("another validity")
	case cert.IsCA, !cert.BasicConstraintsValid, cert.KeyUsage != t.KeyUsage, !slices.Equal(cert.ExtKeyUsage, t.ExtKeyUsage),
		len(cert.UnhandledCriticalExtensions) != 0:
		return errors.New("other uses")
	}
	return nil
}

// SelfSigned makes the certificate of an authority's key: valid from now less
// DefaultSkew for lifetime (zero: DefaultAuthorityLifetime), it may sign
// certificates and CRLs, and no authority below it. Errors of the key are
// wrapped.
func SelfSigned(ctx context.Context, key keystore.Key, commonName string, lifetime time.Duration, now time.Time) ([]byte, error) {
	if commonName == "" {
		return nil, errors.New("an authority has no common name")
	}
	if lifetime == 0 {
		lifetime = DefaultAuthorityLifetime
	}
	if lifetime < MaxTTL {
		return nil, fmt.Errorf("an authority's lifetime of %v is shorter than a certificate's", lifetime)
	}
	spki, err := keystore.MarshalPublic(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the authority's key: %w", err)
	}
	id, err := keyIdentifier(spki)
	if err != nil {
		return nil, err
	}
	now = now.UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber:          newSerial().number(),
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-DefaultSkew),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		SubjectKeyId:          id,
	}
	der, err := create(ctx, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of authority %q: %w", commonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of authority %q: %w", commonName, err)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, fmt.Errorf("authority %q: %w: %w", commonName, keystore.ErrSignature, err)
	}
	return der, nil
}

func create(ctx context.Context, template, parent *x509.Certificate, public crypto.PublicKey, key keystore.Key) ([]byte, error) {
	alg, err := signatureAlgorithm(key.Algorithm())
	if err != nil {
		return nil, err
	}
	t := *template // CreateCertificate may be told of the algorithm only here
	t.SignatureAlgorithm = alg
	return x509.CreateCertificate(rand.Reader, &t, parent, public, keystore.Signer(ctx, key))
}

func signatureAlgorithm(alg keystore.Algorithm) (x509.SignatureAlgorithm, error) {
	switch alg {
	case keystore.ES256:
		return x509.ECDSAWithSHA256, nil
	case keystore.ES384:
		return x509.ECDSAWithSHA384, nil
	case keystore.ES512:
		return x509.ECDSAWithSHA512, nil
	case keystore.RS256:
		return x509.SHA256WithRSA, nil
	case keystore.RS384:
		return x509.SHA384WithRSA, nil
	case keystore.RS512:
		return x509.SHA512WithRSA, nil
	case keystore.PS256:
		return x509.SHA256WithRSAPSS, nil
	case keystore.PS384:
		return x509.SHA384WithRSAPSS, nil
	case keystore.PS512:
		return x509.SHA512WithRSAPSS, nil
	case keystore.EdDSA:
		return x509.PureEd25519, nil
	}
	return 0, fmt.Errorf("no certificates are signed by algorithm %q", alg)
}

// keyUsage follows the type of the subject's key (RFC 5280 Section 4.2.1.3):
// only RSA can encipher a key, which TLS 1.2 clients may still ask of it.
func keyUsage(public any) x509.KeyUsage {
	if _, ok := public.(*rsa.PublicKey); ok {
		return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature
}

// keyIdentifier is RFC 7093 Section 2 method 1: the leftmost 160 bits of the
// SHA-256 of the public key alone, without its algorithm.
func keyIdentifier(spki []byte) ([]byte, error) {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &info); err != nil || len(rest) != 0 {
		return nil, errors.New("the public key is not a SubjectPublicKeyInfo")
	}
	sum := sha256.Sum256(info.PublicKey.Bytes)
	return sum[:20], nil
}

// A serial is a certificate's number: 126 random bits in 16 octets. The highest
// bit is clear, so that it is positive, and the next is set, so that neither
// DER nor hexadecimal has a leading zero to drop.
type serial [16]byte

func newSerial() serial {
	var s serial
	rand.Read(s[:]) // never fails, by its contract
	s[0] = s[0]&0x3f | 0x40
	return s
}

func (s serial) number() *big.Int { return new(big.Int).SetBytes(s[:]) }

// String returns 32 lower-case hexadecimal digits.
func (s serial) String() string { return hex.EncodeToString(s[:]) }

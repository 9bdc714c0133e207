package keystore_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
)

// Every algorithm signs certificates by way of crypto/x509, which verifies
// what it gets.
func TestSignerSignsCertificates(t *testing.T) {
	for _, alg := range keystore.Algorithms() {
		t.Run(string(alg), func(t *testing.T) {
			key := keystoretest.NewKey(t, keystore.PurposeCA, alg)
			template := &x509.Certificate{
				SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
				SignatureAlgorithm: map[keystore.Algorithm]x509.SignatureAlgorithm{
					keystore.ES256: x509.ECDSAWithSHA256, keystore.ES384: x509.ECDSAWithSHA384, keystore.ES512: x509.ECDSAWithSHA512,
					keystore.RS256: x509.SHA256WithRSA, keystore.RS384: x509.SHA384WithRSA, keystore.RS512: x509.SHA512WithRSA,
					keystore.PS256: x509.SHA256WithRSAPSS, keystore.PS384: x509.SHA384WithRSAPSS, keystore.PS512: x509.SHA512WithRSAPSS,
					keystore.EdDSA: x509.PureEd25519,
				}[alg],
			}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), keystore.Signer(t.Context(), key))
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil || cert.CheckSignatureFrom(cert) != nil || cert.SignatureAlgorithm != template.SignatureAlgorithm {
				t.Errorf("%v, signed by %v", err, cert.SignatureAlgorithm)
			}
			// What a certificate of this authority is signed over is nothing else.
			if err := keystore.CheckMessage(keystore.PurposeCA, alg, cert.RawTBSCertificate); err != nil {
				t.Error(err)
			}
			if keystore.CheckMessage(keystore.PurposeJWT, alg, cert.RawTBSCertificate) == nil {
				t.Error("a jwt key would sign it")
			}
		})
	}
}

func TestA05SignerTakesNoDigests(t *testing.T) {
	for _, alg := range keystore.Algorithms() {
		s := keystore.Signer(t.Context(), keystoretest.NewKey(t, keystore.PurposeCA, alg))
		for _, h := range []crypto.Hash{0, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			if sig, err := s.Sign(rand.Reader, make([]byte, 32), h); err == nil {
				t.Errorf("%s signs a digest: %x", alg, sig)
			}
		}
		if _, err := s.SignMessage(rand.Reader, []byte{0x30, 3, 2, 1, 5}, crypto.SHA224); err == nil {
			t.Errorf("%s signs by another hash", alg)
		}
		if _, err := s.SignMessage(rand.Reader, message, alg.Hash()); !errors.Is(err, keystore.ErrMessage) {
			t.Errorf("%s of a CA signs a JWT: %v", alg, err)
		}
	}
}

func TestSignerEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := keystore.Signer(ctx, keystoretest.NewKey(t, keystore.PurposeCA, keystore.EdDSA))
	cancel()
	if _, err := s.SignMessage(rand.Reader, []byte{0x30, 3, 2, 1, 5}, crypto.Hash(0)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

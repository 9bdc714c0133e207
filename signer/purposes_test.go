package signer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/ca"
	"chancery/signer/jwks"
)

// forgedJWT is the signing input of a token that nobody may have.
func forgedJWT() []byte {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return []byte(part(`{"alg":"ES256","typ":"JWT"}`) + "." + part(`{"iss":"https://localhost/issuers/web","sub":"root","exp":4102444800}`))
}

// forgedTBS is the to-be-signed part of a CA certificate that nobody may have.
func forgedTBS(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	evil := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "evil"}, IsCA: true, BasicConstraintsValid: true, NotAfter: noon.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, evil, evil, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert.RawTBSCertificate
}

// A05: a digest of a token or of a certificate is signed by no key whose signature
// would make it one, whatever a rule says.
func TestA05ForgeryByDigest(t *testing.T) {
	w := newWorld(t)
	token, cert := sha256.Sum256(forgedJWT()), sha256.Sum256(forgedTBS(t))
	for _, c := range []struct {
		what, keyset string
		digest       [32]byte
	}{
		{"sign(sha256(header.payload)) by a JWT key", "web", token},
		{"sign(sha256(TBS)) by a CA key", "devices-ca", cert},
		{"sign(sha256(TBS)) by a JWT key", "web", cert},
		{"sign(sha256(header.payload)) by a CA key", "devices-ca", token},
	} {
		for _, format := range []string{"", api.FormatDER, api.FormatRaw} {
			_, err := w.SignDigest(t.Context(), wild, api.SignDigestRequest{KeySet: c.keyset, Digest: b64(c.digest[:]), Format: format})
			wants(t, c.what, err, api.CodeForbidden)
		}
	}
	if w.signed != 0 {
		t.Errorf("%d signatures were made", w.signed)
	}
	// Even if everything before the key were deceived, it would not sign.
	for _, name := range []string{"web", "devices-ca"} {
		set := w.sets[name].Clone()
		set.Purpose = keystore.PurposeDigest
		w.sets[name] = set
		if _, err := w.SignDigest(t.Context(), wild, api.SignDigestRequest{KeySet: name, Digest: b64(token[:])}); err == nil {
			t.Errorf("the key of %s signed a digest", name)
		}
	}
}

// A05: a digest key signs neither tokens nor certificates, and its key is neither in
// a JWKS nor an authority's.
func TestA05ADigestKeyIsNothingElse(t *testing.T) {
	w := newWorld(t)
	_, err := w.SignJWT(t.Context(), wild, api.SignJWTRequest{KeySet: "release", Claims: json.RawMessage(`{"sub":"a"}`)})
	wants(t, "a JWT", err, api.CodeForbidden)
	_, err = w.SignHistory(t.Context(), "release", []byte(`[]`))
	wants(t, "a history", err, api.CodeBackendUnavailable)

	authority := w.Authority
	w.Authority = func(name string) (Authority, bool) {
		a, ok := authority(name)
		a.KeySet = "release" // a configuration that nothing has checked
		return a, ok
	}
	_, err = w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test"), "")
	wants(t, "a certificate", err, api.CodeForbidden)
	if w.signed != 0 {
		t.Errorf("%d signatures were made", w.signed)
	}

	set := w.sets["release"]
	if doc, _, err := jwks.Set(set, func(keystore.KID) bool { return true }); err == nil {
		t.Errorf("a JWKS of a digest key set: %s", doc)
	}
	v, _ := set.Active()
	if _, err := ca.SelfSigned(t.Context(), w.keys[v.KID], "evil", 0, noon); err == nil {
		t.Error("a digest key certified itself")
	}
}

// I9: a key signs only messages of its purpose, over all that can be asked and every
// purpose. Whatever a signature is of, nothing made by a key of one purpose is
// accepted as another's.
func TestI9EveryAPIAndEveryPurpose(t *testing.T) {
	purposes := []keystore.Purpose{keystore.PurposeJWT, keystore.PurposeCA, keystore.PurposeAudit, keystore.PurposeDigest, keystore.PurposeProbe}
	serves := map[string]keystore.Purpose{
		"jwt": keystore.PurposeJWT, "batch": keystore.PurposeJWT, "history": keystore.PurposeJWT,
		"csr": keystore.PurposeCA, "digest": keystore.PurposeDigest,
	}
	csr := csrFor(t, "a.devices.test")
	forged := [][]byte{forgedJWT(), forgedTBS(t), []byte("localhost/audit/dev/lifecycle\n1\nAAAA\n")}
	rapid.Check(t, func(rt *rapid.T) {
		purpose := rapid.SampledFrom(purposes).Draw(rt, "purpose")
		alg := rapid.SampledFrom([]keystore.Algorithm{keystore.ES256, keystore.ES384, keystore.ES512, keystore.RS256, keystore.PS256}).Draw(rt, "algorithm")
		how := rapid.SampledFrom([]string{"jwt", "batch", "history", "csr", "digest"}).Draw(rt, "asked")
		w := newWorld(t)
		w.add(t, "some", purpose, alg)
		settings, authority := w.Settings, w.Authority
		w.Settings = func(string) (Settings, bool) { s, _ := settings("web"); return s, true } // nothing has checked the configuration
		w.Digests = func(string) bool { return true }
		w.Authority = func(name string) (Authority, bool) {
			a, ok := authority(name)
			a.KeySet = "some"
			return a, ok
		}
		err := w.ask(t, how, alg, rapid.SampledFrom(forged).Draw(rt, "forged"), csr)
		if fits := serves[how] == purpose; (err == nil) != fits && how != "csr" {
			rt.Fatalf("%s of a key set of purpose %s: %v", how, purpose, err)
		} else if !fits && (w.signed != 0 || w.log.taken[w.active("some")] != 0) {
			rt.Fatalf("%s had the key of a set of purpose %s asked", how, purpose)
		}
	})
}

// ask asks the key set "some" in one of the ways there are.
func (w *world) ask(t *testing.T, how string, alg keystore.Algorithm, forged []byte, csr api.SignCSRRequest) error {
	ctx := t.Context()
	switch how {
	case "jwt":
		_, err := w.SignJWT(ctx, wild, api.SignJWTRequest{KeySet: "some", Claims: json.RawMessage(`{"sub":"a"}`)})
		return err
	case "batch":
		reply, err := w.SignJWTBatch(ctx, wild, api.BatchRequest{Requests: []json.RawMessage{[]byte(`{"keyset":"some","claims":{}}`)}})
		if err == nil && reply.Results[0].Problem != nil {
			return reply.Results[0].Problem
		}
		return err
	case "history":
		_, err := w.SignHistory(ctx, "some", []byte(`[]`))
		return err
	case "csr":
		_, err := w.SignCSR(ctx, client, csr, "")
		return err
	case "digest":
		_, err := w.SignDigest(ctx, wild, api.SignDigestRequest{KeySet: "some", Digest: b64(keystore.Digest(alg, forged))})
		return err
	}
	return fmt.Errorf("nothing is called %q", how)
}

// What a digest key signed is no token, and no certificate of an authority: those are
// verified under other keys.
func TestA05ASignatureOfADigestIsNoToken(t *testing.T) {
	w := newWorld(t)
	input := forgedJWT()
	sum := sha256.Sum256(input)
	reply, err := w.SignDigest(t.Context(), releaser, api.SignDigestRequest{KeySet: "release", Digest: b64(sum[:]), Format: api.FormatRaw})
	if err != nil {
		t.Fatal(err)
	}
	sig := unb64(t, reply.Signature)
	for name, set := range w.sets {
		v, _ := set.Active()
		pub, err := v.Public()
		if err != nil {
			t.Fatal(err)
		}
		verifies := keystore.Verify(v.Algorithm, pub, input, sig) == nil
		if verifies != (name == "release") {
			t.Errorf("under the key of %s it verifies: %v", name, verifies)
		}
	}
}

// The DER form is one SEQUENCE of two INTEGERs.
func TestDigestInDER(t *testing.T) {
	w := newWorld(t)
	reply, err := w.SignDigest(t.Context(), releaser, digestOf(keystore.ES256, strings.Repeat("x", 99)))
	if err != nil {
		t.Fatal(err)
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(unb64(t, reply.Signature), &rs); err != nil || len(rest) != 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 {
		t.Errorf("%v, %x after it", err, rest)
	}
}

package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/client"
)

// startWithDigests starts chanceryd dev --fast with key sets of purpose digest, of
// which issuer may have digests signed.
func startWithDigests(t *testing.T) *chanceryd {
	t.Helper()
	dir := tempDir(t)
	startDev(t, dir, "--fast").stop()
	var keysets strings.Builder
	for name, alg := range map[string]string{"release": "ES256", "firmware": "PS384", "legacy-code": "RS256"} {
		fmt.Fprintf(&keysets, "  %s:\n    purpose: digest\n    algorithm: %s\n    keystore: hsm\n    max_age: 2s\n    skew: 1s\n    retain: 1h\n", name, alg)
	}
	edit(t, filepath.Join(dir, "config.yaml"),
		"  devices: #", keysets.String()+"  devices: #",
		"  - rule: operator", `  - rule: release
    principals: ['dev:spiffe:spiffe://chancery.dev/issuer']
    actions: [digest.sign, keysets.read]
    keysets: [release, firmware, legacy-code]
  - rule: operator`,
		"key.resume, key.destroy", "key.resume, key.compromise, key.destroy",
	)
	return startDev(t, dir)
}

func (d *chanceryd) signDigest(c *client.Client, req api.SignDigestRequest) *api.SignDigestReply {
	d.t.Helper()
	reply, err := c.SignDigest(d.t.Context(), req)
	if err != nil {
		d.t.Fatalf("signing a digest with %s: %v", req.KeySet, err)
	}
	return reply
}

// publicKeyOf writes the public key that GET /v1/keysets has of a kid to a file, and
// returns its path; empty: it has none.
func (d *chanceryd) publicKeyOf(c *client.Client, keyset, kid string) string {
	d.t.Helper()
	for _, v := range d.keySet(c, keyset).Versions {
		if v.KID == kid && v.PublicKey != "" {
			path := filepath.Join(d.t.TempDir(), "public.pem")
			if err := os.WriteFile(path, []byte(v.PublicKey), 0o600); err != nil {
				d.t.Fatal(err)
			}
			return path
		}
	}
	return ""
}

// opensslVerifies has openssl verify the signature of a file, or of a digest.
func opensslVerifies(t *testing.T, args []string, public string, sig, over []byte) error {
	t.Helper()
	dir := t.TempDir()
	for name, b := range map[string][]byte{"sig": sig, "over": over} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, a := range args {
		args[i] = strings.NewReplacer("PUBLIC", public, "SIG", filepath.Join(dir, "sig"), "OVER", filepath.Join(dir, "over")).Replace(a)
	}
	out, err := exec.CommandContext(t.Context(), needTool(t, "openssl", "openssl"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("openssl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func unstd(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What digest key sets sign on a real token openssl verifies, as a file's signature
// and as a digest's, by the key that GET /v1/keysets serves: before and after a
// rotation, and not once the key is compromised.
func TestDigestsSignedByTheToken(t *testing.T) {
	t.Parallel()
	d := startWithDigests(t)
	c, ops := d.client("issuer"), d.client("operator")
	file := []byte("what is released\n")
	sum256, sum384 := sha256.Sum256(file), sha512.Sum384(file)

	ec := d.signDigest(c, api.SignDigestRequest{KeySet: "release", Digest: base64.StdEncoding.EncodeToString(sum256[:])})
	dgst := func() []string { return []string{"dgst", "-sha256", "-verify", "PUBLIC", "-signature", "SIG", "OVER"} }
	pkeyutl := func() []string {
		return []string{"pkeyutl", "-verify", "-pubin", "-inkey", "PUBLIC", "-sigfile", "SIG", "-in", "OVER"}
	}
	pub := d.publicKeyOf(c, "release", ec.KID)
	for _, err := range []error{
		opensslVerifies(t, dgst(), pub, unstd(t, ec.Signature), file),
		opensslVerifies(t, pkeyutl(), pub, unstd(t, ec.Signature), sum256[:]),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := opensslVerifies(t, dgst(), pub, unstd(t, ec.Signature), []byte("another")); err == nil {
		t.Error("openssl verifies it over another file")
	}
	pss := d.signDigest(c, api.SignDigestRequest{KeySet: "firmware", Digest: base64.StdEncoding.EncodeToString(sum384[:]), Format: api.FormatRaw})
	if err := opensslVerifies(t, append([]string{"dgst", "-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}, dgst()[2:]...),
		d.publicKeyOf(c, "firmware", pss.KID), unstd(t, pss.Signature), file); err != nil {
		t.Error(err)
	}
	pkcs1 := d.signDigest(c, api.SignDigestRequest{KeySet: "legacy-code", Digest: base64.StdEncoding.EncodeToString(sum256[:])})
	if err := opensslVerifies(t, append(pkeyutl(), "-pkeyopt", "digest:sha256"), d.publicKeyOf(c, "legacy-code", pkcs1.KID), unstd(t, pkcs1.Signature), sum256[:]); err != nil {
		t.Error(err)
	}
	d.signsAsACryptoSigner(c)
	d.refusesForgeries(c)
	d.isPublishedNowhereElse(c, "release", ec.KID)

	// It rotates on request only: nothing is published ahead.
	if n := len(d.keySet(ops, "release").Versions); n != 1 {
		t.Errorf("%d versions before anybody asked for another", n)
	}
	rotated, err := ops.Rotate(t.Context(), "release", rotateFor("to see it"))
	if err != nil {
		t.Fatal(err)
	}
	d.within(60*time.Second, "the successor signs", func() error {
		if reply := d.signDigest(c, api.SignDigestRequest{KeySet: "release", Digest: base64.StdEncoding.EncodeToString(sum256[:])}); reply.KID != rotated.To.KID {
			return errNotYet
		}
		return nil
	})
	old := d.keySet(c, "release").Versions[0]
	if old.State != "retiring" || old.RetiresAt == nil || old.RetiresAt.Before(time.Now().Add(50*time.Minute)) {
		t.Errorf("the first version, of signatures that are to be retained for an hour: %+v", old)
	}
	if err := opensslVerifies(t, dgst(), d.publicKeyOf(c, "release", ec.KID), unstd(t, ec.Signature), file); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
	if _, err := ops.Compromise(t.Context(), "release", api.CompromiseRequest{Reason: "it was seen elsewhere", KID: ec.KID}); err != nil {
		t.Fatal(err)
	}
	if pub := d.publicKeyOf(c, "release", ec.KID); pub != "" {
		t.Error("the compromised key is served still")
	}
	d.entriesOfDigests(ec)
}

// signsAsACryptoSigner has the token sign a certificate that this test makes.
func (d *chanceryd) signsAsACryptoSigner(c *client.Client) {
	d.t.Helper()
	s, err := c.DigestSigner(d.t.Context(), "release")
	if err != nil {
		d.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "release"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.Public(), s)
	if err != nil {
		d.t.Fatal(err)
	}
	if cert, err := x509.ParseCertificate(der); err != nil || cert.CheckSignatureFrom(cert) != nil {
		d.t.Errorf("the certificate: %v", err)
	}
	if _, err := s.Sign(nil, make([]byte, 48), crypto.SHA384); err == nil {
		d.t.Error("the signer took a digest of another hash")
	}
}

// refusesForgeries asks for what A05 is about.
func (d *chanceryd) refusesForgeries(c *client.Client) {
	t := d.t
	t.Helper()
	h := d.http("issuer")
	digest := base64.StdEncoding.EncodeToString(make([]byte, 32))
	post(t, h, "/v1/sign/digest", fmt.Sprintf(`{"keyset":"release","digest":%q,"format":"raw"}`, digest)).want(t, "a digest", "")
	if r, err := send(t, h, "GET", "/v1/keysets/release", nil); err != nil || r.status != 200 { // each is held against the OpenAPI document
		t.Errorf("the key set: %d, %v", r.status, err)
	}
	for _, keyset := range []string{"web", "legacy", "edge", "devices", "audit", "nothing"} {
		post(t, h, "/v1/sign/digest", fmt.Sprintf(`{"keyset":%q,"digest":%q}`, keyset, digest)).want(t, "a digest by "+keyset, api.CodeForbidden)
	}
	post(t, h, "/v1/sign/jwt", `{"keyset":"release","claims":{}}`).want(t, "a JWT by release", api.CodeForbidden)
	post(t, d.http("ca"), "/v1/sign/digest", fmt.Sprintf(`{"keyset":"release","digest":%q}`, digest)).want(t, "a digest for ca", api.CodeForbidden)
	for what, body := range map[string]string{
		"P24: too short":     fmt.Sprintf(`{"keyset":"release","digest":%q}`, base64.StdEncoding.EncodeToString(make([]byte, 31))),
		"P24: another hash":  fmt.Sprintf(`{"keyset":"release","digest":%q}`, base64.StdEncoding.EncodeToString(make([]byte, 48))),
		"no digest":          `{"keyset":"release"}`,
		"an unknown form":    fmt.Sprintf(`{"keyset":"release","digest":%q,"format":"p1363"}`, digest),
		"an unknown member":  fmt.Sprintf(`{"keyset":"release","digest":%q,"hash":"SHA-1"}`, digest),
		"a message, instead": `{"keyset":"release","message":"AAAA"}`,
	} {
		post(t, h, "/v1/sign/digest", body).want(t, what, api.CodeMalformed)
	}
	get, err := send(t, h, "GET", "/v1/sign/digest", nil)
	if err != nil || get.status != 405 {
		t.Errorf("GET: %d, %v", get.status, err)
	}
}

// isPublishedNowhereElse looks for the key of a digest key set where those of others
// are.
func (d *chanceryd) isPublishedNowhereElse(c *client.Client, keyset, kid string) {
	t := d.t
	t.Helper()
	for _, path := range []string{"/jwks.json", "/.well-known/openid-configuration", "/historical-keys.jwt"} {
		if status, body := d.get(d.issuer(keyset) + path); status != 404 {
			t.Errorf("%s of it: %d %s", path, status, body)
		}
	}
	public, err := os.ReadFile(d.publicKeyOf(c, keyset, kid))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(public)
	for _, name := range []string{"web", "legacy", "edge"} {
		if _, body := d.get(d.issuer(name) + "/jwks.json"); strings.Contains(body, kid) {
			t.Errorf("the JWKS of %s has it", name)
		}
	}
	_, chain := d.get(d.endpoints.Public + "/authorities/devices/ca.pem")
	for rest := []byte(chain); ; {
		var cert *pem.Block
		if cert, rest = pem.Decode(rest); cert == nil {
			break
		}
		if bytes.Contains(cert.Bytes, block.Bytes) {
			t.Error("ca.pem has it")
		}
	}
	for _, v := range d.keySet(d.client("operator"), "web").Versions {
		if v.PublicKey != "" {
			t.Errorf("GET /v1/keysets gives a public key of web: %+v", v)
		}
	}
}

// entriesOfDigests holds the log against what was released.
func (d *chanceryd) entriesOfDigests(reply *api.SignDigestReply) {
	t := d.t
	t.Helper()
	d.stop()
	jose, err := keystore.SignatureJOSE(keystore.Algorithm(reply.Algorithm), unstd(t, reply.Signature))
	if err != nil {
		t.Fatal(err)
	}
	hash, err := keystore.SignatureHash(keystore.Algorithm(reply.Algorithm), jose)
	if err != nil {
		t.Fatal(err)
	}
	open, found := map[string]bool{}, 0
	for _, e := range d.logged(audit.Filter{Log: "acts"}) {
		if e.Action != keystore.ActSignDigest {
			continue
		}
		switch e.Outcome {
		case keystore.OutcomeIntent:
			open[e.ID] = true
		case keystore.OutcomeDone:
			if !open[e.ID] {
				t.Errorf("an outcome without an intent: %+v", e)
			}
			delete(open, e.ID)
			if e.Detail["signature"] == hash {
				found++
			}
		}
	}
	if len(open) != 0 || found != 1 {
		t.Errorf("%d intents are open, %d entries have the signature", len(open), found)
	}
}

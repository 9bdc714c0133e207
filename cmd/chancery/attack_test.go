package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"runtime"
	"strings"
	"testing"

	"chancery/keystore"
)

// A07: what a token says of its algorithm counts for nothing where it is held
// against the log: the entry's key has one.
func TestA07TheLogsKeyDecidesTheAlgorithm(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	input := func(alg string) string {
		return b64([]byte(`{"alg":"`+alg+`","kid":"k"}`)) + "." + b64([]byte(`{"jti":"j","exp":1}`))
	}
	rs256 := func(alg string) []byte {
		digest := sha256.Sum256([]byte(input(alg)))
		sig, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	ps256 := func(alg string) []byte {
		digest := sha256.Sum256([]byte(input(alg)))
		sig, err := rsa.SignPSS(rand.Reader, private, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	hs256 := func(secret []byte) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input("HS256")))
		return mac.Sum(nil)
	}
	for _, c := range []struct {
		name, alg string
		sig       []byte
		key       keystore.Algorithm
		pub       crypto.PublicKey
		good      bool
	}{
		{"its own", "RS256", rs256("RS256"), keystore.RS256, private.Public(), true},
		{"PS256 under an RS256 key", "PS256", ps256("PS256"), keystore.RS256, private.Public(), false},
		{"RS256 under a PS256 key", "RS256", rs256("RS256"), keystore.PS256, private.Public(), false},
		{"HS256 under its SPKI", "HS256", hs256(spki), keystore.RS256, private.Public(), false},
		{"HS256 under its PEM", "HS256", hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})), keystore.RS256, private.Public(), false},
		{"HS256, by an algorithm there is not", "HS256", hs256(spki), "HS256", private.Public(), false},
		{"none", "none", nil, keystore.RS256, private.Public(), false},
		{"none, by an algorithm there is not", "none", nil, "none", private.Public(), false},
		{"an RSA signature under an ECDSA key", "RS256", rs256("RS256"), keystore.RS256, ec.Public(), false},
	} {
		i, err := issuedToken(input(c.alg) + "." + b64(c.sig))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := i.verify(c.key, c.pub); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A12: a line of a file that is no token takes no memory of its own.
func TestA12LinesThatAreNoTokens(t *testing.T) {
	for name, line := range map[string]string{
		"dots":             strings.Repeat(".", 8<<20), // CVE-2025-30204
		"a JWE":            strings.Repeat("A", 4<<20) + ".A.A.A.A",
		"a long signature": "e30.e30." + strings.Repeat("A", longestToken),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := issuedToken(line)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: it is taken for a token", name)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 64<<10 {
			t.Errorf("%s: %d bytes took %d of memory", name, len(line), took)
		}
	}
}

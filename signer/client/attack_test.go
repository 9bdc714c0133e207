package client

import (
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"runtime"
	"strings"
	"testing"
)

var everyAlgorithm = []string{"ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"}

// A07: a token is verified by the algorithm of the published key and by no other,
// though its signature by the other, under the same key, is as good.
func TestA07TheKeyDecidesTheAlgorithm(t *testing.T) {
	for _, published := range everyAlgorithm {
		k := newKey(t, "k", published)
		v := newVerifier(t, &publisher{keys: []json.RawMessage{k.jwk(t)}, control: "max-age=900"}, &clock{testNow}, nil)
		for _, claimed := range everyAlgorithm {
			for _, made := range everyAlgorithm {
				if a, _ := algorithmNamed(made); !a.fits(k.private.Public()) {
					continue // the key cannot sign by it
				}
				token := signingKey{"k", made, k.private}.sign(t, fmt.Sprintf(`{"alg":%q,"kid":"k","typ":"JWT"}`, claimed), payload(""))
				_, err := v.Verify(t.Context(), token)
				switch {
				case claimed == published && made == published:
					if err != nil {
						t.Errorf("%s: %v", published, err)
					}
				case err == nil:
					t.Errorf("a key published for %s verifies a token that says %s and is signed by %s", published, claimed, made)
				case claimed != published && !errors.Is(err, ErrAlgorithm):
					t.Errorf("a key for %s, a token of %s: %v", published, claimed, err)
				}
			}
		}
	}
}

// A07: nothing that is public of a key is the secret of a MAC, whatever form it
// was taken in, and nothing is unsigned, however that is spelt.
func TestA07NoMACAndNoNone(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		k := newKey(t, "k", alg)
		v := newVerifier(t, &publisher{keys: []json.RawMessage{k.jwk(t)}, control: "max-age=900"}, &clock{testNow}, nil)
		spki, err := x509.MarshalPKIXPublicKey(k.private.Public())
		if err != nil {
			t.Fatal(err)
		}
		secrets := map[string][]byte{
			"nothing": {}, "the JWK": k.jwk(t), "its SPKI": spki, "its PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
			"its PEM without the last line break": []byte(strings.TrimSuffix(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})), "\n")),
			"the kid":                             []byte("k"),
		}
		if pub, ok := k.private.Public().(*rsa.PublicKey); ok {
			secrets["its modulus"] = pub.N.Bytes()
			secrets["its PKCS #1"] = x509.MarshalPKCS1PublicKey(pub)
		}
		for name, h := range map[string]func() hash.Hash{"HS256": sha256.New, "HS384": sha512.New384, "HS512": sha512.New} {
			for _, said := range []string{name, alg} { // it may hide what it is
				input := b64([]byte(fmt.Sprintf(`{"alg":%q,"kid":"k","typ":"JWT"}`, said))) + "." + b64([]byte(payload("")))
				for what, secret := range secrets {
					mac := hmac.New(h, secret)
					mac.Write([]byte(input))
					if _, err := v.Verify(t.Context(), input+"."+b64(mac.Sum(nil))); !errors.Is(err, ErrAlgorithm) && !errors.Is(err, ErrSignature) {
						t.Errorf("%s: a token of %s that says %s under %s: %v", alg, name, said, what, err)
					}
				}
			}
		}
		good := k.sign(t, k.header(), payload(""))
		for _, none := range []string{"none", "None", "NONE", "nOnE", "", " none", "none\x00", "HS256", "dir", "A256KW", "PBES2-HS256+A128KW"} {
			header, err := json.Marshal(map[string]string{"alg": none, "kid": "k", "typ": "JWT"})
			if err != nil {
				t.Fatal(err)
			}
			input := b64(header) + "." + b64([]byte(payload("")))
			for _, signature := range []string{"", good[strings.LastIndexByte(good, '.')+1:]} {
				if _, err := v.Verify(t.Context(), input+"."+signature); !errors.Is(err, ErrAlgorithm) {
					t.Errorf("alg %q: %v", none, err)
				}
			}
		}
		if _, err := v.Verify(t.Context(), good[:strings.LastIndexByte(good, '.')+1]); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: without its signature: %v", alg, err)
		}
	}
}

// A12: what JOSE libraries were made to work for costs nothing here: nothing is
// derived, decrypted or inflated, and the memory that a token takes is a few times
// its length at most.
func TestA12NothingIsWorkedFor(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	k := newKey(t, "k", "ES256")
	v := newVerifier(t, &publisher{keys: []json.RawMessage{k.jwk(t)}, control: "max-age=900"}, &clock{testNow}, nil)
	if _, err := v.Verify(t.Context(), k.sign(t, k.header(), payload(""))); err != nil {
		t.Fatal(err) // and the key set is at hand
	}
	most := strings.Repeat
	kdf := `{"alg":"PBES2-HS256+A128KW","enc":"A128CBC-HS256","p2c":2147483647,"p2s":"AAAAAAAAAAA","kid":"k"}`
	manyMembers := func() string {
		var b strings.Builder
		for i := range 4000 {
			fmt.Fprintf(&b, `,"%d":0`, i)
		}
		return b.String()
	}
	for name, token := range map[string]string{
		"dots alone":                         most(".", MaxToken),                                                         // CVE-2025-30204, CVE-2025-27144
		"dots alone, a hundred times longer": most(".", 100*MaxToken),                                                     //
		"dots and letters":                   most("a.", MaxToken/2),                                                      //
		"a password to be stretched":         b64([]byte(kdf)) + ".AAAA.AAAA.AAAA.AAAA",                                   // CVE-2023-50658
		"the same in three parts":            b64([]byte(kdf)) + "." + b64([]byte(payload(""))) + ".AAAA",                 //
		"a compressed JWE":                   b64([]byte(`{"alg":"dir","enc":"A256GCM","zip":"DEF"}`)) + "..AAAA.AAAA.AA", // CVE-2024-28180
		"a compressed JWS":                   k.sign(t, `{"alg":"ES256","kid":"k","typ":"JWT","zip":"DEF"}`, payload("")),
		"a key to agree on":                  b64([]byte(`{"alg":"ECDH-ES","epk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}`)) + "..AAAA.AAAA.AA",
		"a header of thousands of members":   k.sign(t, `{"alg":"ES256","kid":"k","typ":"JWT"`+manyMembers()+`}`, payload("")),
		"a deep header":                      k.sign(t, `{"alg":"ES256","kid":"k","typ":"JWT","x":`+most("[", 10000)+most("]", 10000)+`}`, payload("")),
		"a deep payload":                     k.sign(t, k.header(), payload(`,"x":`+most("[", 10000)+most("]", 10000))),
		"a long number":                      k.sign(t, k.header(), payload(`,"x":`+most("9", 30000))),
		"exp of many digits":                 k.sign(t, k.header(), `{"iss":"`+testIssuer+`","exp":`+most("9", 30000)+`}`),
		"a signature as long as may be":      b64([]byte(k.header())) + "." + b64([]byte(payload(""))) + "." + most("A", MaxToken/2),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := v.Verify(t.Context(), token)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: it is taken for a token", name)
		}
		if took, bound := after.TotalAlloc-before.TotalAlloc, uint64(16*min(len(token), MaxToken)+64<<10); took > bound {
			t.Errorf("%s: %d bytes of token took %d of memory", name, len(token), took)
		}
	}
}

// A12: a key set that is fetched is bounded, too: nobody verifies by a key that
// takes seconds.
func TestA12KeysThatAreTooLarge(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	modulus := func(bits int) string { return b64([]byte(strings.Repeat("\xff", bits/8))) }
	for name, jwk := range map[string]string{
		"RSA of 16384 bits":  `{"kty":"RSA","alg":"RS256","kid":"k","n":"` + modulus(16384) + `","e":"AQAB"}`,
		"RSA of 131072 bits": `{"kty":"RSA","alg":"RS256","kid":"k","n":"` + modulus(131072) + `","e":"AQAB"}`,
		"RSA of 1024 bits":   `{"kty":"RSA","alg":"RS256","kid":"k","n":"` + modulus(1024) + `","e":"AQAB"}`,
		"a huge exponent":    `{"kty":"RSA","alg":"RS256","kid":"k","n":"` + modulus(2048) + `","e":"` + modulus(2048) + `"}`,
		"an exponent of 1":   `{"kty":"RSA","alg":"RS256","kid":"k","n":"` + modulus(2048) + `","e":"AQ"}`,
		"P-224":              `{"kty":"EC","crv":"P-224","alg":"ES256","kid":"k","x":"AA","y":"AA"}`,
		"off the curve":      `{"kty":"EC","crv":"P-256","alg":"ES256","kid":"k","x":"` + modulus(256) + `","y":"` + modulus(256) + `"}`,
		"a secret":           `{"kty":"oct","alg":"HS256","kid":"k","k":"AAAA"}`,
	} {
		if set, err := parseKeySet([]byte(`{"keys":[` + jwk + `]}`)); err == nil && len(set) > 0 {
			t.Errorf("%s may verify", name)
		}
	}
	if _, err := parseKeySet([]byte(`{"keys":[` + strings.TrimSuffix(strings.Repeat(`{},`, maxKeys+1), ",") + `]}`)); err == nil {
		t.Errorf("%d keys are read", maxKeys+1)
	}
	if _, err := parseKeySet([]byte(`{"keys":[]` + strings.Repeat(" ", maxKeySet) + `}`)); err == nil {
		t.Errorf("a set of over %d bytes is read", maxKeySet)
	}
}

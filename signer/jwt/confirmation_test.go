package jwt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

func certificate(t testing.TB, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: now, NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// confirm prepares claims of a caller with a certificate, and returns the cnf of the
// token.
func confirm(t *testing.T, p *Profile, rule policy.CNF, cert *x509.Certificate, claims, named string) (json.RawMessage, error) {
	t.Helper()
	pol, err := policy.New(policy.Config{
		Anchors: []policy.Anchor{{Name: "dev", DNS: []string{"issuer.test"}}},
		Rules: []policy.Rule{{
			Name: "issuers", Principals: []string{"dev:dns:issuer.test"}, Actions: []policy.Action{policy.SignJWT},
			KeySets: []string{"web"}, MaxTTL: time.Hour, Profiles: []string{policy.Any}, CNF: rule,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	who := policy.Caller{Principal: policy.Principal{Anchor: "dev", Kind: policy.KindDNS, Value: "issuer.test"}, Certificate: cert}
	grant, err := pol.Authorize(who, policy.SignJWT, policy.Target{KeySet: "web", Profile: p.Name()})
	if err != nil {
		t.Fatal(err)
	}
	env := environment()
	env.Profile = p
	prepared, err := Prepare(grant, Request{KeySet: "web", Claims: []byte(claims), CNFCertificate: named}, env)
	if err != nil {
		return nil, err
	}
	input, err := prepared.Redeem(kid, keystore.ES256)
	if err != nil {
		t.Fatal(err)
	}
	_, payload := parts(t, input)
	var got struct{ CNF json.RawMessage }
	if err := json.Unmarshal([]byte(payload), &got); err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	return got.CNF, nil
}

func pemOf(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

func TestWhatATokenIsBoundTo(t *testing.T) {
	mine, others := certificate(t, 1), certificate(t, 2)
	of := func(cert *x509.Certificate) string {
		sum := sha256.Sum256(cert.Raw)
		return base64.RawURLEncoding.EncodeToString(sum[:])
	}
	x5t := func(cert *x509.Certificate) string { return `{"x5t#S256":"` + of(cert) + `"}` }
	const claims = `{"aud":"a","sub":"s","client_id":"c"}`
	with := func(cnf string) string { return strings.TrimSuffix(claims, "}") + `,"cnf":` + cnf + `}` }
	at := func(cnf policy.CNF) *Profile {
		return profileOf(t, ProfileConfig{Name: "at+jwt", CNF: cnf})
	}
	jkt := `{"jkt":"` + of(others) + `"}`
	for _, c := range []struct {
		name    string
		profile *Profile
		rule    policy.CNF
		claims  string
		named   string
		want    string // of the token; empty: none
		code    api.Code
	}{
		{"plain, nothing said", nil, "", claims, "", "", ""},
		{"plain, the caller's text as it is", nil, "", with(`"anything"`), "", `"anything"`, ""},
		{"plain, other letters as they are", nil, "", `{"Cnf":1}`, "", "1", ""},
		{"plain, the caller's certificate", nil, "caller", claims, "", x5t(mine), ""},
		{"plain, no other claim", nil, "caller", `{ }`, "", x5t(mine), ""},
		{"plain, named", nil, "named", claims, pemOf(others), x5t(others), ""},
		{"plain, required", nil, "required", with(jkt), "", jkt, ""},
		{"plain, required and missing", nil, "required", claims, "", "", api.CodeClaimInvalid},
		{"plain, required and of no method", nil, "required", with(`{"x":1}`), "", "", api.CodeClaimInvalid},
		{"plain, forbidden", nil, "forbidden", with(jkt), "", "", api.CodeClaimInvalid},
		{"plain, forbidden in other letters", nil, "forbidden", `{"CNF":{}}`, "", "", api.CodeClaimInvalid},

		{"the caller's", at("caller"), "", claims, "", x5t(mine), ""},
		{"the caller's, as the rule says", at(""), "caller", claims, "", x5t(mine), ""},
		{"the caller's, both say so", at("caller"), "caller", claims, "", x5t(mine), ""},
		{"the caller's, but the caller writes one", at("caller"), "", with(x5t(others)), "", "", api.CodeClaimReserved},
		{"the caller's, in other letters", at("caller"), "", strings.Replace(with(x5t(others)), "cnf", "Cnf", 1), "", "", api.CodeClaimReserved},
		{"the caller's, escaped", at("caller"), "", strings.Replace(with(x5t(others)), "cnf", `\u0063nf`, 1), "", "", api.CodeClaimReserved},
		{"the caller's, but another is named", at("caller"), "", claims, pemOf(others), "", api.CodeClaimInvalid},

		{"named in PEM", at("named"), "", claims, pemOf(others), x5t(others), ""},
		{"named by its hash", at("named"), "", claims, of(others), x5t(others), ""},
		{"named, but none is", at("named"), "", claims, "", "", api.CodeClaimInvalid},
		{"named, and the caller writes one", at("named"), "", with(x5t(others)), of(others), "", api.CodeClaimReserved},
		{"named, with a newline", at("named"), "", claims, of(others) + "\n", "", api.CodeClaimInvalid},
		{"named, padded", at("named"), "", claims, of(others) + "=", "", api.CodeClaimInvalid},
		{"named, too short", at("named"), "", claims, of(others)[1:], "", api.CodeClaimInvalid},
		{"two certificates", at("named"), "", claims, pemOf(others) + pemOf(mine), "", api.CodeClaimInvalid},
		{"text before it", at("named"), "", claims, "x\n" + pemOf(others), "", api.CodeClaimInvalid},
		{"another sort of PEM", at("named"), "", claims, strings.ReplaceAll(pemOf(others), "CERTIFICATE", "PUBLIC KEY"), "", api.CodeClaimInvalid},
		{"PEM of no certificate", at("named"), "", claims, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "", api.CodeClaimInvalid},

		{"nothing said, none there", at(""), "", claims, "", "", ""},
		{"nothing said, a good one", at(""), "", with(jkt), "", jkt, ""},
		{"nothing said, a bad one", at(""), "", with(`{"jkt":"x"}`), "", "", api.CodeClaimInvalid},
		{"nothing said, none to be named", at(""), "", claims, of(others), "", api.CodeClaimInvalid},
		{"two keys", at(""), "", with(`{"jwk":{"kty":"EC"},"jku":"https://x.test"}`), "", "", api.CodeClaimInvalid},
		{"a private key", at(""), "", with(`{"jwk":{"kty":"EC","d":"x"}}`), "", "", api.CodeClaimInvalid},
		{"a symmetric key", at(""), "", with(`{"jwk":{"kty":"oct","k":"x"}}`), "", "", api.CodeClaimInvalid},
		{"a public key", at(""), "", with(`{"jwk":{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"},"kid":"k"}`), "", `{"jwk":{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"},"kid":"k"}`, ""},
		{"a key of no point", at(""), "", with(`{"jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}`), "", "", api.CodeClaimInvalid},
		{"a key without members", at(""), "", with(`{"jwk":{"kty":"EC"}}`), "", "", api.CodeClaimInvalid},
		{"a private member in capitals", at(""), "", with(`{"jwk":{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","D":"AA"}}`), "", "", api.CodeClaimInvalid},
		{"a file as the place of keys", at(""), "", with(`{"jku":"file:///etc/passwd"}`), "", "", api.CodeClaimInvalid},
		{"keys from anybody on the way", at(""), "", with(`{"jku":"http://x.test"}`), "", "", api.CodeClaimInvalid},
		{"no URL", at(""), "", with(`{"jku":""}`), "", "", api.CodeClaimInvalid},
		{"required", at("required"), "", with(x5t(others)), "", x5t(others), ""},
		{"required and missing", at("required"), "", claims, "", "", api.CodeClaimInvalid},
		{"forbidden", at("forbidden"), "", with(jkt), "", "", api.CodeClaimInvalid},
	} {
		got, err := confirm(t, c.profile, c.rule, mine, c.claims, c.named)
		if codeOf(err) != c.code || err != nil && c.code == "" {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
		if !bytes.Equal(got, []byte(c.want)) {
			t.Errorf("%s: cnf %s, want %s", c.name, got, c.want)
		}
	}
	if _, err := confirm(t, nil, "caller", nil, claims, ""); !errors.Is(err, policy.ErrForbidden) {
		t.Errorf("without a client certificate: %v", err)
	}
	for _, rule := range policy.CNFs() {
		for _, profile := range policy.CNFs() {
			if _, err := confirm(t, at(profile), rule, mine, claims, ""); rule != profile && !errors.Is(err, policy.ErrForbidden) {
				t.Errorf("the rule says %s and the profile %s: %v", rule, profile, err)
			}
		}
	}
}

// What is not a certificate in one spelling names none; what names one is that
// certificate's hash.
func FuzzReadCertificate(f *testing.F) {
	cert := certificate(f, 1)
	f.Add(pemOf(cert))
	f.Add(thumbprint(cert.Raw))
	f.Add("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := readCertificate(s)
		if err != nil {
			return
		}
		if decodedLen(got) != sha256.Size {
			t.Fatalf("%q is %q", s, got)
		}
		if block, _ := pem.Decode([]byte(s)); block != nil {
			if got != thumbprint(block.Bytes) {
				t.Fatalf("%q is %q", s, got)
			}
		} else if got != s {
			t.Fatalf("%q is %q", s, got)
		}
	})
}

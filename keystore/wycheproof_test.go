package keystore_test

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"

	"chancery/keystore"
)

type vectors struct {
	NumberOfTests int `json:"numberOfTests"`
	TestGroups    []struct {
		PublicKeyDER string `json:"publicKeyDer"`
		Tests        []struct {
			ID      int      `json:"tcId"`
			Comment string   `json:"comment"`
			Message string   `json:"msg"`
			Sig     string   `json:"sig"`
			Result  string   `json:"result"`
			Flags   []string `json:"flags"`
		} `json:"tests"`
	} `json:"testGroups"`
}

func TestWycheproof(t *testing.T) {
	for file, alg := range map[string]keystore.Algorithm{
		"ecdsa_secp256r1_sha256_p1363_test.json": keystore.ES256,
		"ecdsa_secp384r1_sha384_p1363_test.json": keystore.ES384,
		"ecdsa_secp521r1_sha512_p1363_test.json": keystore.ES512,
		"ed25519_test.json":                      keystore.EdDSA,
		"rsa_signature_2048_sha256_test.json":    keystore.RS256,
		"rsa_signature_3072_sha384_test.json":    keystore.RS384,
		"rsa_signature_4096_sha512_test.json":    keystore.RS512,
		"rsa_pss_2048_sha256_mgf1_32_test.json":  keystore.PS256,
		"rsa_pss_4096_sha384_mgf1_48_test.json":  keystore.PS384,
		"rsa_pss_4096_sha512_mgf1_64_test.json":  keystore.PS512,
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			valid := func(_ int, result string, pub crypto.PublicKey) bool {
				return result == "valid" && alg.Fits(pub) == nil
			}
			wycheproofFile(t, file, alg, valid)
		})
	}
}

// Other salts, hashes and encodings are other algorithms: their signatures are
// refused, but for the one that is of our form and stands there as a wrong one.
func TestWycheproofOtherForms(t *testing.T) {
	for file, c := range map[string]struct {
		alg  keystore.Algorithm
		ours int
	}{
		"ecdsa_secp256r1_sha256_test.json":          {keystore.ES256, 0}, // DER
		"ecdsa_secp256r1_sha512_p1363_test.json":    {keystore.ES256, 0},
		"ecdsa_secp224r1_sha256_p1363_test.json":    {keystore.ES256, 0},
		"ecdsa_secp521r1_sha512_test.json":          {keystore.ES512, 0},  // DER
		"rsa_pss_2048_sha256_mgf1_0_test.json":      {keystore.PS256, 69}, // "s_len changed to 32"
		"rsa_pss_2048_sha256_mgf1sha1_20_test.json": {keystore.PS256, 0},
		"rsa_pss_4096_sha512_mgf1_32_test.json":     {keystore.PS512, 0},
		"rsa_pss_2048_sha256_mgf1_32_test.json":     {keystore.RS256, 108}, // "PKCS #1 v1.5 signature"
		"rsa_signature_2048_sha256_test.json":       {keystore.PS256, 257}, // "RSASSA-PSS signature"
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			wycheproofFile(t, file, c.alg, func(id int, _ string, _ crypto.PublicKey) bool { return id == c.ours })
		})
	}
}

// wycheproofFile expects of every vector that it verifies if valid says so.
func wycheproofFile(t *testing.T, file string, alg keystore.Algorithm, valid func(id int, result string, pub crypto.PublicKey) bool) {
	data, err := fs.ReadFile(wycheproof.TestVectors, file)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, g := range v.TestGroups {
		pub, err := keystore.ParsePublic(unhex(t, g.PublicKeyDER))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range g.Tests {
			tried++
			err := keystore.Verify(alg, pub, unhex(t, c.Message), unhex(t, c.Sig))
			if want := valid(c.ID, c.Result, pub); (err == nil) != want && c.Result != "acceptable" {
				t.Errorf("%d (%s, %v): %v; that it verifies should be %v", c.ID, c.Comment, c.Flags, err, want)
			}
		}
	}
	if tried == 0 || tried != v.NumberOfTests {
		t.Errorf("tried %d of %d vectors", tried, v.NumberOfTests)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

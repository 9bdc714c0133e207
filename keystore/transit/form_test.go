package transit

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"

	"chancery/keystore"
)

func TestHowTransitIsAsked(t *testing.T) {
	for alg, want := range map[keystore.Algorithm]string{
		keystore.ES256: `{"key_version":1,"prehashed":true,"hash_algorithm":"sha2-256","marshaling_algorithm":"jws","batch_input":[{"input":"+/8A"}]}`,
		keystore.ES384: `{"key_version":1,"prehashed":true,"hash_algorithm":"sha2-384","marshaling_algorithm":"jws","batch_input":[{"input":"+/8A"}]}`,
		keystore.ES512: `{"key_version":1,"prehashed":true,"hash_algorithm":"sha2-512","marshaling_algorithm":"jws","batch_input":[{"input":"+/8A"}]}`,
		keystore.RS256: `{"key_version":1,"prehashed":true,"hash_algorithm":"sha2-256","signature_algorithm":"pkcs1v15","batch_input":[{"input":"+/8A"}]}`,
		keystore.RS384: `{"key_version":1,"prehashed":true,"hash_algorithm":"sha2-384","signature_algorithm":"pkcs1v15","batch_input":[{"input":"+/8A"}]}`,
		keystore.RS512: `{"key_version":1,"prehashed":true,"hash_algorithm":"sha2-512","signature_algorithm":"pkcs1v15","batch_input":[{"input":"+/8A"}]}`,
		keystore.PS256: `{"key_version":1,"prehashed":true,"hash_algorithm":"sha2-256","signature_algorithm":"pss","salt_length":"hash","batch_input":[{"input":"+/8A"}]}`,
		keystore.PS384: `{"key_version":1,"prehashed":true,"hash_algorithm":"sha2-384","signature_algorithm":"pss","salt_length":"hash","batch_input":[{"input":"+/8A"}]}`,
		keystore.PS512: `{"key_version":1,"prehashed":true,"hash_algorithm":"sha2-512","signature_algorithm":"pss","salt_length":"hash","batch_input":[{"input":"+/8A"}]}`,
		keystore.EdDSA: `{"key_version":1,"batch_input":[{"input":"+/8A"}]}`,
	} {
		r := signForm(alg)
		r.Batch = []signInput{{[]byte{0xfb, 0xff, 0}}} // the standard alphabet, padded
		if got, err := json.Marshal(r); err != nil || string(got) != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", alg, got, err, want)
		}
	}
}

func TestTypesOfKeys(t *testing.T) {
	for alg, want := range map[keystore.Algorithm]string{
		keystore.ES256: "ecdsa-p256", keystore.ES384: "ecdsa-p384", keystore.ES512: "ecdsa-p521", keystore.EdDSA: "ed25519",
		keystore.RS256: "rsa-3072", keystore.PS512: "rsa-3072",
	} {
		if got := keyType(alg, 3072); got != want {
			t.Errorf("%s: %s, want %s", alg, got, want)
		}
	}
}

func TestParseSignature(t *testing.T) {
	raw := []byte{0xfb, 0xff, 0xfe, 1} // +//+AQ== or -__-AQ
	for _, v := range []struct {
		name    string
		alg     keystore.Algorithm
		text    string
		version int
		ok      bool
	}{
		{"JWS form", keystore.ES256, "vault:v1:-__-AQ", 1, true},
		{"JWS form, padded", keystore.ES256, "vault:v1:-__-AQ==", 1, false},
		{"JWS form in the other alphabet", keystore.ES256, "vault:v1:+//+AQ", 1, false},
		{"JWS form with bits that count for nothing", keystore.ES256, "vault:v1:-__-AR", 1, false},
		{"standard form", keystore.RS256, "vault:v1:+//+AQ==", 1, true},
		{"standard form, not padded", keystore.PS256, "vault:v1:+//+AQ", 1, false},
		{"standard form in the other alphabet", keystore.EdDSA, "vault:v1:-__-AQ==", 1, false},
		{"standard form with bits that count for nothing", keystore.EdDSA, "vault:v1:+//+AR==", 1, false},
		{"another version", keystore.EdDSA, "vault:v2:+//+AQ==", 2, false},
		{"another version, said once", keystore.EdDSA, "vault:v2:+//+AQ==", 1, false},
		{"another version, said beside", keystore.EdDSA, "vault:v1:+//+AQ==", 2, false},
		{"no version beside", keystore.EdDSA, "vault:v1:+//+AQ==", 0, false},
		{"version ten", keystore.EdDSA, "vault:v10:+//+AQ==", 1, false},
		{"no prefix", keystore.EdDSA, "+//+AQ==", 1, false},
		{"the prefix in capitals", keystore.EdDSA, "Vault:v1:+//+AQ==", 1, false},
		{"the prefix twice", keystore.EdDSA, "vault:v1:vault:v1:+//+AQ==", 1, false},
		{"another program's prefix", keystore.EdDSA, "bao:v1:+//+AQ==", 1, false},
		{"nothing", keystore.EdDSA, "", 1, false},
		{"a space before", keystore.RS256, "vault:v1: +//+AQ==", 1, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			got, err := parseSignature(v.alg, signResult{Signature: v.text, KeyVersion: v.version})
			if v.ok && (err != nil || !bytes.Equal(got, raw)) {
				t.Errorf("%x, %v", got, err)
			}
			if !v.ok && (!errors.Is(err, keystore.ErrSignature) || got != nil) {
				t.Errorf("%x, %v; want ErrSignature", got, err)
			}
		})
	}
}

// Strict decoders of encoding/base64 skip line breaks, which is a second spelling.
func TestASignatureIsOnOneLine(t *testing.T) {
	for _, text := range []string{"vault:v1:+//+\nAQ==", "vault:v1:+//+AQ==\r\n"} {
		if got, err := parseSignature(keystore.EdDSA, signResult{Signature: text, KeyVersion: 1}); !errors.Is(err, keystore.ErrSignature) {
			t.Errorf("%q: %x, %v", text, got, err)
		}
	}
}

// publicPEM is a public key as Transit shows those that are no Ed25519 keys.
func publicPEM(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func p256(t testing.TB) *ecdsa.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey
}

// described is a key as it should be, with this public key.
func described(t testing.TB, kind, public string) map[string]any {
	t.Helper()
	return map[string]any{
		"type": kind, "derived": false, "exportable": false, "allow_plaintext_backup": false, "deletion_allowed": false, "imported_key": false,
		"auto_rotate_period": 0, "min_available_version": 0, "min_encryption_version": 0, "min_decryption_version": 1, "latest_version": 1,
		"keys": map[string]any{"1": map[string]any{"public_key": public, "name": kind}},
	}
}

func info(t testing.TB, described map[string]any) *keyInfo {
	t.Helper()
	b, err := json.Marshal(described)
	if err != nil {
		t.Fatal(err)
	}
	k := new(keyInfo)
	if err := json.Unmarshal(b, k); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAttributesOfAKey(t *testing.T) {
	public := publicPEM(t, p256(t))
	for _, v := range []struct {
		attribute string
		value     any
		lacks     string
		refused   error
	}{
		{"type", "ecdsa-p256", "", nil},
		{"derived", true, "derived=false", keystore.ErrAttributes},
		{"imported_key", true, "imported_key=false", keystore.ErrAttributes},
		{"exportable", true, "exportable=false", keystore.ErrAttributes},
		{"allow_plaintext_backup", true, "allow_plaintext_backup=false", keystore.ErrAttributes},
		{"deletion_allowed", true, "deletion_allowed=false", keystore.ErrAttributes},
		{"auto_rotate_period", 3600, "auto_rotate_period=0", keystore.ErrAttributes},
		{"auto_rotate_period", "3600", "auto_rotate_period=0", keystore.ErrAttributes},
		{"auto_rotate_period", "0", "", nil},
		{"auto_rotate_period", 0.5, "auto_rotate_period=0", keystore.ErrAttributes},
		{"min_encryption_version", 1, "", nil},
		{"min_encryption_version", 2, "min_encryption_version=0", keystore.ErrAttributes},
		{"min_available_version", 1, "", nil},
		{"min_available_version", 2, "min_available_version=0", keystore.ErrNotFound}, // trimmed: gone for ever
		{"latest_version", 2, "latest_version=1", nil},                                // by somebody else: version 1 signs all the same
	} {
		d := described(t, "ecdsa-p256", public)
		d[v.attribute] = v.value
		k := info(t, d)
		if got := strings.Join(k.lacks(), " "); got != v.lacks {
			t.Errorf("%s=%v: it lacks %q, want %q", v.attribute, v.value, got, v.lacks)
		}
		spki, err := k.check(keystore.ES256)
		switch {
		case v.refused == nil && (err != nil || len(spki) == 0):
			t.Errorf("%s=%v is refused: %v", v.attribute, v.value, err)
		case v.refused != nil && (!errors.Is(err, v.refused) || spki != nil):
			t.Errorf("%s=%v: %v, want %v", v.attribute, v.value, err, v.refused)
		}
	}
	d := described(t, "ecdsa-p256", public)
	for _, name := range []string{"derived", "imported_key", "exportable", "allow_plaintext_backup", "deletion_allowed"} {
		d[name] = true
	}
	if got := info(t, d).unfit(); len(got) != 5 {
		t.Errorf("of five wrong attributes it names %q", got)
	}
}

func TestPublicKeysThatAreDamagedOrAnothers(t *testing.T) {
	ec := p256(t)
	good := publicPEM(t, ec)
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	edKey := base64.StdEncoding.EncodeToString(make([]byte, ed25519.PublicKeySize))
	for _, v := range []struct {
		name, kind, public string
		alg                keystore.Algorithm
		ok                 bool
	}{
		{"as it should be", "ecdsa-p256", good, keystore.ES256, true},
		{"Ed25519", "ed25519", edKey, keystore.EdDSA, true},
		{"of another curve", "ecdsa-p256", good, keystore.ES384, false},
		{"of another type", "ecdsa-p256", good, keystore.RS256, false},
		{"Ed25519 for ECDSA", "ed25519", edKey, keystore.ES256, false},
		{"ECDSA for Ed25519", "ecdsa-p256", good, keystore.EdDSA, false},
		{"X25519", "ed25519", publicPEM(t, x.PublicKey()), keystore.EdDSA, false},
		{"X25519 in PEM", "ecdsa-p256", publicPEM(t, x.PublicKey()), keystore.ES256, false},
		{"RSA of 1024 bits", "rsa-1024", publicPEM(t, &small.PublicKey), keystore.RS256, false},
		{"none", "ecdsa-p256", "", keystore.ES256, false},
		{"cut", "ecdsa-p256", good[:len(good)/2], keystore.ES256, false},
		{"two", "ecdsa-p256", good + good, keystore.ES256, false},
		{"another block", "ecdsa-p256", strings.ReplaceAll(good, "PUBLIC KEY", "CERTIFICATE"), keystore.ES256, false},
		{"a private key", "ecdsa-p256", strings.ReplaceAll(good, "PUBLIC KEY", "PRIVATE KEY"), keystore.ES256, false},
		{"short Ed25519", "ed25519", edKey[4:], keystore.EdDSA, false},
		{"Ed25519 in the other alphabet", "ed25519", strings.Repeat("_", 43) + "=", keystore.EdDSA, false},
		{"Ed25519 in PEM", "ed25519", good, keystore.EdDSA, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			spki, err := info(t, described(t, v.kind, v.public)).check(v.alg)
			if v.ok && (err != nil || len(spki) == 0) {
				t.Error(err)
			}
			if !v.ok && (!errors.Is(err, keystore.ErrAttributes) || spki != nil) {
				t.Errorf("%x, %v; want ErrAttributes", spki, err)
			}
		})
	}
}

func TestVersionsThatAreNotThere(t *testing.T) {
	public := publicPEM(t, p256(t))
	for name, keys := range map[string]any{
		"none": map[string]any{}, "null": nil, "only the second": map[string]any{"2": map[string]any{"public_key": public}},
		"a number, as of a symmetric key": map[string]any{"1": 1767225600}, "another spelling": map[string]any{"01": map[string]any{"public_key": public}},
		"a list": map[string]any{"1": []any{public}}, "null inside": map[string]any{"1": nil},
	} {
		d := described(t, "ecdsa-p256", public)
		d["keys"] = keys
		if spki, err := info(t, d).check(keystore.ES256); !errors.Is(err, keystore.ErrAttributes) {
			t.Errorf("%s: %x, %v; want ErrAttributes", name, spki, err)
		}
	}
}

func TestHowAKeyIsListed(t *testing.T) {
	id := keystore.NewKeyID()
	d := described(t, "ecdsa-p256", publicPEM(t, p256(t)))
	d["exportable"], d["latest_version"] = true, 3
	ours := info(t, d).object("transit", nameOf(id, keystore.PurposeJWT, keystore.ES256))
	if ours.ID != id.String() || ours.Token != "transit" || ours.Type != "EC" || len(ours.SPKI) == 0 || !slices.Equal(ours.Missing, []string{"exportable=false", "latest_version=1"}) {
		t.Errorf("one of ours: %+v", ours)
	}
	other := info(t, d).object("transit", "somebody-elses")
	if other.ID != "" || other.Missing != nil || other.Label != "somebody-elses" {
		t.Errorf("another one: %+v", other)
	}
	for kind, want := range map[string]string{
		"ecdsa-p521": "EC", "rsa-4096": "RSA", "ed25519": "Ed25519", "aes256-gcm96": "secret", "chacha20-poly1305": "secret", "hmac": "secret", "ml-dsa": "ml-dsa",
	} {
		if got := objectType(kind); got != want {
			t.Errorf("%s is listed as %q, want %q", kind, got, want)
		}
	}
}

// FuzzSignature: what is read of a signature is written as it was in one way.
func FuzzSignature(f *testing.F) {
	f.Add("vault:v1:-__-AQ", 1, true)
	f.Add("vault:v1:+//+AQ==", 1, false)
	f.Add("vault:v1:+//+\nAQ==", 1, false)
	f.Add("vault:v2:AAAA", 2, true)
	f.Fuzz(func(t *testing.T, text string, version int, ec bool) {
		alg, encoding := keystore.EdDSA, base64.StdEncoding
		if ec {
			alg, encoding = keystore.ES256, base64.RawURLEncoding
		}
		sig, err := parseSignature(alg, signResult{Signature: text, KeyVersion: version})
		if err != nil {
			if !errors.Is(err, keystore.ErrSignature) {
				t.Errorf("%v", err)
			}
			return
		}
		if again := signaturePrefix + encoding.EncodeToString(sig); again != text || version != 1 {
			t.Errorf("%q by version %d is read as %q", text, version, again)
		}
	})
}

// FuzzKeyInfo: whatever Vault says of a key, what is taken for its public key is
// one, and of the algorithm that was asked for.
func FuzzKeyInfo(f *testing.F) {
	ec := publicPEM(f, p256(f))
	ed := base64.StdEncoding.EncodeToString(make([]byte, ed25519.PublicKeySize))
	for _, d := range []map[string]any{described(f, "ecdsa-p256", ec), described(f, "ed25519", ed), described(f, "aes256-gcm96", ""), described(f, "ed25519", ec)} {
		b, err := json.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"keys":{"1":1767225600},"auto_rotate_period":"3600"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k := new(keyInfo)
		if json.Unmarshal(b, k) != nil {
			return
		}
		k.object("transit", nameOf(probeID, probePurpose, probeAlgorithm))
		for _, alg := range keystore.Algorithms() {
			spki, err := k.check(alg)
			if err != nil {
				if !errors.Is(err, keystore.ErrAttributes) && !errors.Is(err, keystore.ErrNotFound) {
					t.Errorf("%s: %v", alg, err)
				}
				continue
			}
			pub, err := keystore.ParsePublic(spki)
			if err == nil {
				err = alg.Fits(pub)
			}
			if err != nil || k.Exportable || k.AllowPlaintextBackup || k.DeletionAllowed || k.Imported || k.Derived {
				t.Errorf("%s is taken: %s (%v)", alg, b, err)
			}
		}
	})
}

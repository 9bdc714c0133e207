package pkcs11

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"

	"chancery/keystore"
	"chancery/softhsm/softhsmtest"
)

// What the modules said that are named in the profiles' sources.
func TestProfilesFitTheirTokens(t *testing.T) {
	for _, v := range []struct {
		manufacturer, model, library, description string
		want                                      string
	}{
		{"SoftHSM project", "SoftHSM v2", "SoftHSM", "Implementation of PKCS11", "SoftHSM"},
		{"IBM Corp.", "IBM SoftTok", "IBM", "Meta PKCS11 LIBRARY", "openCryptoki"},
		{"Mozilla Foundation", "NSS 3", "PKCS#11 Kit", "PKCS#11 Kit Proxy Module", "NSS"},
		{"IBM", "SW   TPM", "tpm2-software.github.io", "TPM2.0 Cryptoki", "tpm2-pkcs11"},
		{"Yubico (www.yubico.com)", "YubiHSM", "Yubico (www.yubico.com)", "YubiHSM PKCS#11 Library", "YubiHSM 2"},
		{"Yubico (www.yubico.com)", "YubiKey YK5", "Yubico (www.yubico.com)", "PKCS#11 PIV Library (SP-800-73)", "YubiKey PIV"},
		{"Google", "Cloud KMS Token", "Google", "", "Google Cloud KMS"},
		{"Somebody", "Something", "Somebody", "", ""},
		{"", "", "", "", ""},
	} {
		q := quirksOf(tokenInfo{Manufacturer: v.manufacturer, Model: v.model}, libraryInfo{v.library, v.description})
		if q.vendor != v.want {
			t.Errorf("%s %s: the profile of %q, want %q", v.manufacturer, v.model, q.vendor, v.want)
		}
	}
}

// No profile does without what keeps a key inside, and the strict one, which
// unknown vendors get, does without none of it.
func TestNoProfileLetsAKeyOut(t *testing.T) {
	always := []uint{pkcs11.CKA_TOKEN, pkcs11.CKA_PRIVATE, pkcs11.CKA_SENSITIVE, pkcs11.CKA_EXTRACTABLE,
		pkcs11.CKA_ALWAYS_SENSITIVE, pkcs11.CKA_NEVER_EXTRACTABLE, pkcs11.CKA_LOCAL, pkcs11.CKA_SIGN,
		pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}
	strict := quirks{}.privateAttributes(keystore.PurposeCA)
	for _, q := range append(slices.Clone(profiles), quirks{}) {
		for _, p := range []keystore.Purpose{keystore.PurposeJWT, keystore.PurposeCA, keystore.PurposeAudit, keystore.PurposeDigest, keystore.PurposeProbe} {
			as := q.privateAttributes(p)
			if len(as) != len(strict) {
				t.Errorf("%s: %d attributes, want %d", q.vendor, len(as), len(strict))
			}
			for _, a := range as {
				switch {
				case a.lack && (q.vendor == "" || slices.Contains(always, a.code)):
					t.Errorf("%s: a key may lack %s", q.vendor, a.name)
				case a.lack && a.set:
					t.Errorf("%s: %s is unknown, and in the template", q.vendor, a.name)
				case a.code == pkcs11.CKA_COPYABLE && a.want && p != keystore.PurposeJWT:
					t.Errorf("%s: keys for %s may be copied", q.vendor, p)
				}
			}
		}
		if q.vendor != "" && (q.source == "" || q.manufacturer+q.model+q.library == "") {
			t.Errorf("%s: no source, or fits every token", q.vendor)
		}
		if relaxed := len(q.unknown)+len(q.told)+len(q.public) > 0; relaxed != (q.gives != "") {
			t.Errorf("%s: relaxes something (%t) and says that it gives up %q", q.vendor, relaxed, q.gives)
		}
	}
}

func TestTemplatesLeaveOutWhatATokenRefuses(t *testing.T) {
	id := keystore.NewKeyID()
	has := func(as []attribute, code uint, value byte) bool {
		return slices.ContainsFunc(template(as, id, "x"), func(a *pkcs11.Attribute) bool {
			return a.Type == code && len(a.Value) == 1 && a.Value[0] == value
		})
	}
	cloud := quirksOf(tokenInfo{Manufacturer: "Marvell Semiconductors, Inc."}, libraryInfo{})
	private := cloud.privateAttributes(keystore.PurposeJWT)
	for _, code := range []uint{pkcs11.CKA_COPYABLE, pkcs11.CKA_SIGN_RECOVER} {
		if has(private, code, 0) || has(private, code, 1) {
			t.Errorf("attribute %#x is in the template", code)
		}
	}
	if !has(private, pkcs11.CKA_EXTRACTABLE, 0) || !has(private, pkcs11.CKA_SENSITIVE, 1) {
		t.Error("the template does not keep the key inside")
	}
	if !has(cloud.publicAttributes(), pkcs11.CKA_PRIVATE, 1) || !has(quirks{}.publicAttributes(), pkcs11.CKA_PRIVATE, 0) {
		t.Error("CKA_PRIVATE of a public half is not what the token wants")
	}
	tpm := quirksOf(tokenInfo{}, libraryInfo{manufacturer: "tpm2-software.github.io"}).publicAttributes()
	if has(tpm, pkcs11.CKA_VERIFY, 1) || has(tpm, pkcs11.CKA_ENCRYPT, 0) {
		t.Error("the template of a TPM's public half says what its private half does")
	}
}

// CloudHSM answers CKR_DEVICE_ERROR when it has too much to do.
func TestP26ThrottledReadingWaits(t *testing.T) {
	throttled := []pkcs11.Error{pkcs11.CKR_DEVICE_ERROR}
	for _, v := range []struct {
		name   string
		codes  []pkcs11.Error
		fails  int
		err    pkcs11.Error
		sleeps int
		ok     bool
	}{
		{"once", throttled, 1, pkcs11.CKR_DEVICE_ERROR, 1, true},
		{"for long", throttled, 1000, pkcs11.CKR_DEVICE_ERROR, 5, false},
		{"something else", throttled, 1, pkcs11.CKR_GENERAL_ERROR, 0, false},
		{"a vendor that does not throttle", nil, 1, pkcs11.CKR_DEVICE_ERROR, 0, false},
	} {
		var calls, sleeps int
		var slept time.Duration
		_, err := patiently(v.codes, func(d time.Duration) { sleeps++; slept += d }, func() ([]byte, error) {
			if calls++; calls <= v.fails {
				return nil, v.err
			}
			return []byte{1}, nil
		})
		if (err == nil) != v.ok || sleeps != v.sleeps || slept > 2*time.Second {
			t.Errorf("%s: %v after %d pauses, %v in all", v.name, err, sleeps, slept)
		}
	}
}

// crypto11 takes the first token that has the name it is given, initialised or
// not. Every token of NSS has the serial number 0000000000000000.
func TestP17ATokenIsNamedByWhatIsItsAlone(t *testing.T) {
	token := tokenInfo{Serial: "1", Label: "a"}
	for _, v := range []struct {
		name   string
		others []tokenName
		serial string
		label  string
	}{
		{"alone", nil, "1", ""},
		{"another serial", []tokenName{{"2", "a"}}, "1", ""},
		{"the same serial", []tokenName{{"1", "b"}, {"1", ""}}, "", "a"},
		{"both", []tokenName{{"1", "b"}, {"2", "a"}}, "", ""},
	} {
		cfg := &crypto11.Config{}
		m := &module{names: append(v.others, tokenName{"1", "a"})}
		err := m.point(cfg, token)
		if cfg.TokenSerial != v.serial || cfg.TokenLabel != v.label || errors.Is(err, keystore.ErrAmbiguous) != (v.serial+v.label == "") {
			t.Errorf("%s: serial %q, label %q, %v", v.name, cfg.TokenSerial, cfg.TokenLabel, err)
		}
	}
}

// Nobody offers a PIN to a token that cannot be used.
func TestAnUnusableTokenIsNotLoggedInTo(t *testing.T) {
	m := &module{path: "/nonexistent"}
	err := m.login(loginRequest{Token: tokenInfo{Manufacturer: "Google", Model: "Cloud KMS Token"}, Maker: true}, []byte("1234"))
	if !errors.Is(err, keystore.ErrUnsupported) || !strings.Contains(err.Error(), "CKA_ID") {
		t.Errorf("%v, want %v", err, keystore.ErrUnsupported)
	}
	if algs := m.algorithms(0, quirks{unusable: "it is"}); algs != nil {
		t.Errorf("it has %v", algs)
	}
}

// On a real token: SoftHSM under the rules of others.
func TestP26QuirksHaveTheirEffect(t *testing.T) {
	token := softhsmtest.New(t)
	for name, value := range token.Env() {
		t.Setenv(name, value)
	}
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	m, err := loadModule(token.Module)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := m.begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.login(loginRequest{Token: tokens[0], Maker: true}, []byte(strings.TrimSpace(string(pin)))); err != nil {
		t.Fatal(err)
	}
	defer m.close()
	m.copies = false
	for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.RS256, keystore.EdDSA} {
		m.quirks = quirks{hidden: true, bare: true, readWrite: true, public: []uint{pkcs11.CKA_WRAP}}
		k, err := m.generate(keyRequest{keystore.NewKeyID(), keystore.PurposeCA, alg})
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		s, err := m.signer()
		if err != nil {
			t.Fatal(err)
		}
		if info, err := m.ctx.GetSessionInfo(s.session); err != nil || info.Flags&pkcs11.CKF_RW_SESSION == 0 {
			t.Errorf("the session's flags are %#x, %v", info.Flags, err)
		}
		message := []byte{0x30, 0x03, 0x02, 0x01, 0x05}
		sig, err := s.sign(k, message)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := keystore.ParsePublic(k.spki)
		if err != nil {
			t.Fatal(err)
		}
		if err := keystore.Verify(alg, pub, message, sig); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		m.quirks = quirks{}
		if _, err := m.find(keyRequest{k.id, k.purpose, alg}); !errors.Is(err, keystore.ErrAttributes) || !strings.Contains(err.Error(), "CKA_PRIVATE of the public half") {
			t.Errorf("%s by the strict profile: %v", alg, err)
		}
	}
	// It knows the attribute, and has it otherwise than is required.
	m.quirks = quirks{unknown: []uint{pkcs11.CKA_MODIFIABLE}}
	_, err = m.generate(keyRequest{keystore.NewKeyID(), keystore.PurposeCA, keystore.ES256})
	if !errors.Is(err, keystore.ErrAttributes) || !strings.Contains(err.Error(), "CKA_MODIFIABLE") {
		t.Errorf("a modifiable key: %v, want %v", err, keystore.ErrAttributes)
	}
}

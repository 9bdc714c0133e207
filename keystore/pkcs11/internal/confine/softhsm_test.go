package confine_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"chancery/keystore/pkcs11/internal/confine"
	"chancery/softhsm"
	"chancery/softhsm/softhsmtest"
)

// TestSoftHSM: a token works with what the package comment says that it needs,
// and not with less.
func TestSoftHSM(t *testing.T) {
	needFilter(t)
	needLandlock(t, 1)
	token := softhsmtest.New(t)
	arg, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(token.Dir, "tokens")
	all := confine.Rules{Module: token.Module, Read: []string{token.Conf, token.PINFile}, Write: []string{tokens}}
	if o := run(t, "softhsm", string(arg), &all); o.Text != "" {
		t.Errorf("confined: %s", o.Text)
	}
	for missing, rules := range map[string]confine.Rules{
		"configuration": {Module: token.Module, Read: []string{token.PINFile}, Write: []string{tokens}},
		"writing":       {Module: token.Module, Read: []string{token.Conf, token.PINFile, tokens}},
		"tokens":        {Module: token.Module, Read: []string{token.Conf, token.PINFile}},
	} {
		if o := run(t, "softhsm", string(arg), &rules); o.Text == "" {
			t.Errorf("it works without %s", missing)
		}
	}
}

// softHSM loads the module, logs in, makes a key pair on the token and signs.
func softHSM(arg string) func() error {
	var token softhsm.Token
	if err := json.Unmarshal([]byte(arg), &token); err != nil {
		panic(err)
	}
	os.Setenv("SOFTHSM2_CONF", token.Conf)
	return func() error {
		pin, err := os.ReadFile(token.PINFile)
		if err != nil {
			return err
		}
		p := pkcs11.New(token.Module)
		if p == nil {
			return errors.New("the module does not load")
		}
		if err := p.Initialize(); err != nil {
			return fmt.Errorf("C_Initialize: %w", err)
		}
		slots, err := p.GetSlotList(true)
		if err != nil {
			return err
		}
		s, err := p.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return err
		}
		if err := p.Login(s, pkcs11.CKU_USER, strings.TrimSpace(string(pin))); err != nil {
			return fmt.Errorf("C_Login: %w", err)
		}
		return makeAndSign(p, s)
	}
}

func makeAndSign(p *pkcs11.Ctx, s pkcs11.SessionHandle) error {
	curve, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	if err != nil {
		return err
	}
	public, private, err := p.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curve), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)})
	if err != nil {
		return fmt.Errorf("C_GenerateKeyPair: %w", err)
	}
	digest := sha256.Sum256([]byte("message"))
	if err := p.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, private); err != nil {
		return err
	}
	sig, err := p.Sign(s, digest[:])
	if err != nil {
		return fmt.Errorf("C_Sign: %w", err)
	}
	a, err := p.GetAttributeValue(s, public, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return err
	}
	var point []byte
	if _, err := asn1.Unmarshal(a[0].Value, &point); err != nil {
		return err
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return err
	}
	if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return errors.New("the signature does not verify")
	}
	return nil
}

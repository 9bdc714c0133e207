package pkcs11_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"chancery/keystore"
)

// facts are what modules differ in, as the module itself tells them of a key
// that a Provider has made.
type facts struct {
	Token    string // manufacturer and model
	Serial   string
	Flags    string
	Sessions uint   // ulMaxSessionCount; 0: no limit
	ReadOnly string // opening a session that is, and signing there
	Point    string // how CKA_EC_POINT begins, in hexadecimal
	Unknown  string // attributes of the private key
	Copy     string // C_CopyObject to a session object
	Modify   string // C_SetAttributeValue of CKA_LABEL, though CKA_MODIFIABLE is false
}

// facts makes a key for alg and asks the module, in this process.
func (r rig) facts(t *testing.T, alg keystore.Algorithm) facts {
	t.Helper()
	id := keystore.NewKeyID()
	p := open(t, r.config(t))
	if _, err := p.Generate(t.Context(), id, keystore.PurposeCA, alg); err != nil {
		t.Fatal(err)
	}
	p.Close()
	for name, value := range r.env {
		t.Setenv(name, value)
	}
	ctx := p11.New(r.module)
	if ctx == nil {
		t.Fatal("loading the module failed")
	}
	if err := ctx.Initialize(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ctx.Finalize() })
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		info, err := ctx.GetTokenInfo(slot)
		if err != nil || trimmed(info.Label) != r.label {
			continue
		}
		session, err := ctx.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		if err := ctx.Login(session, p11.CKU_USER, r.pin); err != nil {
			t.Fatal(err)
		}
		f := facts{Token: trimmed(info.ManufacturerID) + "/" + trimmed(info.Model), Serial: info.SerialNumber, Flags: flags(info.Flags), Sessions: info.MaxSessionCount}
		f.ask(t, ctx, slot, session, id, alg)
		return f
	}
	t.Fatalf("no token %q", r.label)
	return facts{}
}

func (f *facts) ask(t *testing.T, ctx *p11.Ctx, slot uint, session p11.SessionHandle, id keystore.KeyID, alg keystore.Algorithm) {
	t.Helper()
	private, public := object(t, ctx, session, p11.CKO_PRIVATE_KEY, id), object(t, ctx, session, p11.CKO_PUBLIC_KEY, id)
	for _, a := range []struct {
		code uint
		name string
	}{
		{p11.CKA_LOCAL, "LOCAL"}, {p11.CKA_ALWAYS_SENSITIVE, "ALWAYS_SENSITIVE"}, {p11.CKA_NEVER_EXTRACTABLE, "NEVER_EXTRACTABLE"},
		{p11.CKA_SIGN_RECOVER, "SIGN_RECOVER"}, {p11.CKA_MODIFIABLE, "MODIFIABLE"}, {p11.CKA_COPYABLE, "COPYABLE"},
		{p11.CKA_ALWAYS_AUTHENTICATE, "ALWAYS_AUTHENTICATE"},
	} {
		if _, err := ctx.GetAttributeValue(session, private, []*p11.Attribute{p11.NewAttribute(a.code, nil)}); err != nil {
			f.Unknown = strings.TrimSpace(f.Unknown + " " + a.name)
		}
	}
	mechanism := p11.NewMechanism(p11.CKM_RSA_PKCS, nil)
	if alg.Curve() != nil {
		mechanism = p11.NewMechanism(p11.CKM_ECDSA, nil)
		as, err := ctx.GetAttributeValue(session, public, []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_POINT, nil)})
		if err != nil {
			t.Fatal(err)
		}
		f.Point = fmt.Sprintf("%x", as[0].Value[:3])
	}
	readOnly, err := ctx.OpenSession(slot, p11.CKF_SERIAL_SESSION)
	if err == nil {
		err = ctx.SignInit(readOnly, []*p11.Mechanism{mechanism}, private)
	}
	if err == nil {
		_, err = ctx.Sign(readOnly, make([]byte, 32))
	}
	f.ReadOnly = outcome(err)
	_, err = ctx.CopyObject(session, private, []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, false)})
	f.Copy = outcome(err)
	f.Modify = outcome(ctx.SetAttributeValue(session, private, []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, "another")}))
}

// trimmed drops what fields are padded with.
func trimmed(s string) string { return strings.TrimRight(s, " \x00") }

// object returns the one object of a class with that CKA_ID.
func object(t *testing.T, ctx *p11.Ctx, session p11.SessionHandle, class uint, id keystore.KeyID) p11.ObjectHandle {
	t.Helper()
	if err := ctx.FindObjectsInit(session, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_ID, id[:])}); err != nil {
		t.Fatal(err)
	}
	found, _, err := ctx.FindObjects(session, 2)
	if err := errors.Join(err, ctx.FindObjectsFinal(session)); err != nil || len(found) != 1 {
		t.Fatalf("%d objects of class %d: %v", len(found), class, err)
	}
	return found[0]
}

// outcome is the name of the code in err.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	_, name, _ := strings.Cut(err.Error(), "CKR_")
	return name
}

// flags names those that the login depends on.
func flags(set uint) string {
	var names []string
	for _, f := range []struct {
		flag uint
		name string
	}{
		{p11.CKF_LOGIN_REQUIRED, "login"}, {p11.CKF_USER_PIN_INITIALIZED, "pin"}, {p11.CKF_TOKEN_INITIALIZED, "initialized"},
		{p11.CKF_PROTECTED_AUTHENTICATION_PATH, "pad"}, {p11.CKF_WRITE_PROTECTED, "read-only"},
	} {
		if set&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, " ")
}

func (r rig) check(t *testing.T, alg keystore.Algorithm, want facts) {
	t.Run("what is particular to it", func(t *testing.T) {
		if got := r.facts(t, alg); got != want {
			t.Errorf("has changed:\n got %+v\nwant %+v", got, want)
		}
	})
}

package pkcs11

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"chancery/keystore"
)

// A quirks profile is what is particular to a vendor's tokens, as data.
type quirks struct {
	// copyable is for which purpose a private key may be copied to a session
	// object. SoftHSM reopens and locks two files for each signature by a token
	// object; its copies stay sensitive and not extractable. CKA_COPYABLE cannot
	// go back to true, so it is decided when the key is made.
	copyable keystore.Purpose
}

// quirksOf returns the profile of the token's vendor.
func quirksOf(t tokenInfo) quirks {
	if t.Manufacturer == "SoftHSM project" {
		return quirks{copyable: keystore.PurposeJWT}
	}
	return quirks{}
}

// An attribute is a boolean attribute a key must have.
type attribute struct {
	code uint
	name string
	want bool
	set  bool // at generation; the others the token decides
}

// privateAttributes are those of a private key of the given purpose.
func (q quirks) privateAttributes(p keystore.Purpose) []attribute {
	return []attribute{
		{pkcs11.CKA_TOKEN, "CKA_TOKEN", true, true},
		{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true, true},
		{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, true},
		{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, true},
		{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true, false},
		{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, false},
		{pkcs11.CKA_LOCAL, "CKA_LOCAL", true, false},
		{pkcs11.CKA_SIGN, "CKA_SIGN", true, true},
		{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false, true},
		{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", false, true},
		{pkcs11.CKA_DERIVE, "CKA_DERIVE", false, true},
		{pkcs11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER", false, true},
		{pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false, true},
		{pkcs11.CKA_COPYABLE, "CKA_COPYABLE", q.copyable != "" && p == q.copyable, true},
	}
}

// alwaysAuthenticate must be false or unknown to the token: a PIN for each
// signature cannot be served.
var alwaysAuthenticate = attribute{code: pkcs11.CKA_ALWAYS_AUTHENTICATE, name: "CKA_ALWAYS_AUTHENTICATE"}

// publicAttributes are those of a public key.
var publicAttributes = []attribute{
	{pkcs11.CKA_TOKEN, "CKA_TOKEN", true, true},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", false, true},
	{pkcs11.CKA_VERIFY, "CKA_VERIFY", true, true},
	{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT", false, true},
	{pkcs11.CKA_WRAP, "CKA_WRAP", false, true},
	{pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false, true},
}

// template returns the attributes to set at generation.
func template(as []attribute, id keystore.KeyID, label string) []*pkcs11.Attribute {
	t := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	for _, a := range as {
		if a.set {
			t = append(t, pkcs11.NewAttribute(a.code, a.want))
		}
	}
	return t
}

// missing returns the names of those of as that object does not have as
// required. It reads one after the other, so that one the token does not know
// hides no other.
func (m *module) missing(object pkcs11.ObjectHandle, as []attribute) ([]string, error) {
	var names []string
	for _, a := range as {
		v, err := m.read(object, a.code)
		if err != nil && !hasNot(err) {
			return names, fmt.Errorf("reading %s: %w", a.name, err)
		}
		if err != nil || len(v) != 1 || (v[0] != 0) != a.want {
			names = append(names, a.name)
		}
	}
	return names, nil
}

// hasNot reports whether err says that the object has no such attribute.
func hasNot(err error) bool {
	cause := pkcs11.Error(0)
	return errors.As(err, &cause) &&
		(cause == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID || cause == pkcs11.CKR_ATTRIBUTE_SENSITIVE)
}

// missingPrivate is missing for a private key of purpose p.
func (m *module) missingPrivate(object pkcs11.ObjectHandle, p keystore.Purpose) ([]string, error) {
	names, err := m.missing(object, m.quirks.privateAttributes(p))
	if err != nil {
		return names, err
	}
	v, err := m.read(object, alwaysAuthenticate.code)
	if err != nil && !hasNot(err) {
		return names, fmt.Errorf("reading %s: %w", alwaysAuthenticate.name, err)
	}
	if err == nil && len(v) == 1 && v[0] != 0 {
		names = append(names, alwaysAuthenticate.name)
	}
	return names, nil
}

// read returns one attribute. It is never asked for a private value.
func (m *module) read(object pkcs11.ObjectHandle, code uint) ([]byte, error) {
	as, err := m.ctx.GetAttributeValue(m.desk, object, []*pkcs11.Attribute{pkcs11.NewAttribute(code, nil)})
	if err != nil {
		return nil, err
	}
	return as[0].Value, nil
}

// A key's purpose and algorithm are in the label of both its halves, which
// cannot be modified.
func labelOf(p keystore.Purpose, alg keystore.Algorithm) string {
	return "chancery/" + string(p) + "/" + string(alg)
}

// purposeOf returns the purpose that a label written by labelOf says.
func purposeOf(label string) (keystore.Purpose, bool) {
	rest, ok := strings.CutPrefix(label, "chancery/")
	if !ok {
		return "", false
	}
	name, _, _ := strings.Cut(rest, "/")
	p, err := keystore.ParsePurpose(name)
	return p, err == nil
}

// checkAttributes returns an error wrapping keystore.ErrAttributes that names
// whatever keeps the pair from being one of ours for purpose p and alg.
func (m *module) checkAttributes(private, public pkcs11.ObjectHandle, p keystore.Purpose, alg keystore.Algorithm) error {
	for _, object := range []pkcs11.ObjectHandle{private, public} {
		label, err := m.read(object, pkcs11.CKA_LABEL)
		if err != nil {
			return err
		}
		if string(label) != labelOf(p, alg) {
			return fmt.Errorf("%w: CKA_LABEL is %q, want %q", keystore.ErrAttributes, label, labelOf(p, alg))
		}
	}
	names, err := m.missingPrivate(private, p)
	if err != nil {
		return err
	}
	publicNames, err := m.missing(public, publicAttributes)
	if err != nil {
		return err
	}
	for _, name := range publicNames {
		names = append(names, name+" of the public half")
	}
	if len(names) > 0 {
		return fmt.Errorf("%w: %s", keystore.ErrAttributes, strings.Join(names, ", "))
	}
	return nil
}

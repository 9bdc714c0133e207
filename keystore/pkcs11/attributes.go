package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"chancery/keystore"
)

// An attribute is a boolean attribute a key must have.
type attribute struct {
	code uint
	name string
	want bool
	set  bool // at generation; the others the token decides
	lack bool // a token that does not know it may lack it
}

// privateAttributes are those of a private key of the given purpose.
func (q quirks) privateAttributes(p keystore.Purpose) []attribute {
	as := []attribute{
		{code: pkcs11.CKA_TOKEN, name: "CKA_TOKEN", want: true, set: true},
		{code: pkcs11.CKA_PRIVATE, name: "CKA_PRIVATE", want: true, set: true},
		{code: pkcs11.CKA_SENSITIVE, name: "CKA_SENSITIVE", want: true, set: true},
		{code: pkcs11.CKA_EXTRACTABLE, name: "CKA_EXTRACTABLE", set: true},
		{code: pkcs11.CKA_ALWAYS_SENSITIVE, name: "CKA_ALWAYS_SENSITIVE", want: true},
		{code: pkcs11.CKA_NEVER_EXTRACTABLE, name: "CKA_NEVER_EXTRACTABLE", want: true},
		{code: pkcs11.CKA_LOCAL, name: "CKA_LOCAL", want: true},
		{code: pkcs11.CKA_SIGN, name: "CKA_SIGN", want: true, set: true},
		{code: pkcs11.CKA_DECRYPT, name: "CKA_DECRYPT", set: true},
		{code: pkcs11.CKA_UNWRAP, name: "CKA_UNWRAP", set: true},
		{code: pkcs11.CKA_DERIVE, name: "CKA_DERIVE", set: true},
		{code: pkcs11.CKA_SIGN_RECOVER, name: "CKA_SIGN_RECOVER", set: true},
		{code: pkcs11.CKA_MODIFIABLE, name: "CKA_MODIFIABLE", set: true},
		{code: pkcs11.CKA_COPYABLE, name: "CKA_COPYABLE", want: q.copyable != "" && p == q.copyable, set: true},
	}
	for i := range as {
		if slices.Contains(q.unknown, as[i].code) {
			as[i].set, as[i].lack = false, true
		}
		if slices.Contains(q.told, as[i].code) {
			as[i].set = true
		}
	}
	return as
}

// alwaysAuthenticate must be false or unknown to the token: a PIN for each
// signature cannot be served.
var alwaysAuthenticate = attribute{code: pkcs11.CKA_ALWAYS_AUTHENTICATE, name: "CKA_ALWAYS_AUTHENTICATE"}

// harmless are the attributes of a secret key that cannot take a private key out
// of the token (Clulow, "On the Security of PKCS #11", 2003: wrap, then decrypt).
var harmless = []attribute{
	{code: pkcs11.CKA_WRAP, name: "CKA_WRAP"},
	{code: pkcs11.CKA_UNWRAP, name: "CKA_UNWRAP"},
	{code: pkcs11.CKA_DECRYPT, name: "CKA_DECRYPT"},
}

// publicAttributes are those of a public key.
func (q quirks) publicAttributes() []attribute {
	as := []attribute{
		{code: pkcs11.CKA_TOKEN, name: "CKA_TOKEN", want: true, set: true},
		{code: pkcs11.CKA_PRIVATE, name: "CKA_PRIVATE", want: q.hidden, set: true},
		{code: pkcs11.CKA_VERIFY, name: "CKA_VERIFY", want: true, set: true},
		{code: pkcs11.CKA_ENCRYPT, name: "CKA_ENCRYPT", set: true},
		{code: pkcs11.CKA_WRAP, name: "CKA_WRAP", set: true},
		{code: pkcs11.CKA_MODIFIABLE, name: "CKA_MODIFIABLE", set: true},
	}
	return slices.DeleteFunc(as, func(a attribute) bool { return slices.Contains(q.public, a.code) })
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
	all := m.readAll(object, as)
	for i, a := range as {
		v, err := all[i], error(nil)
		if v == nil {
			v, err = m.read(object, a.code)
		}
		if a.lack && errors.Is(err, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)) {
			continue
		}
		if err != nil && !hasNot(err) {
			return names, fmt.Errorf("reading %s: %w", a.name, err)
		}
		if err != nil || len(v) != 1 || (v[0] != 0) != a.want {
			names = append(names, a.name)
		}
	}
	return names, nil
}

// readAll reads all of as at once, which a token that looks at its files for each
// call takes for one. Where that fails, for one that the token does not know or
// for any other reason, each is nil, and is to be read by itself.
func (m *module) readAll(object pkcs11.ObjectHandle, as []attribute) [][]byte {
	values := make([][]byte, len(as))
	wanted := make([]*pkcs11.Attribute, len(as))
	for i, a := range as {
		wanted[i] = pkcs11.NewAttribute(a.code, nil)
	}
	got, err := m.ctx.GetAttributeValue(m.desk, object, wanted)
	if err != nil || len(got) != len(as) {
		return values
	}
	for i, a := range got {
		if a.Type == as[i].code {
			values[i] = a.Value
		}
	}
	return values
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
	return patiently(m.quirks.throttled, time.Sleep, func() ([]byte, error) {
		as, err := m.ctx.GetAttributeValue(m.desk, object, []*pkcs11.Attribute{pkcs11.NewAttribute(code, nil)})
		if err != nil {
			return nil, err
		}
		return as[0].Value, nil
	})
}

// patiently calls f again, after a growing pause, while it fails with one of the
// codes that ask for that. After about a second and a half it gives up.
func patiently(throttled []pkcs11.Error, sleep func(time.Duration), f func() ([]byte, error)) (b []byte, err error) {
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		b, err = f()
		cause := pkcs11.Error(0)
		if !errors.As(err, &cause) || !slices.Contains(throttled, cause) || pause > 800*time.Millisecond {
			return b, err
		}
		sleep(pause)
	}
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
	publicNames, err := m.missing(public, m.quirks.publicAttributes())
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

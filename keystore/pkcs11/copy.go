package pkcs11

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"chancery/keystore"
)

// copied returns the object to sign with: a copy of private in this session, if
// the token's quirks ask for that and the key may be copied, and private itself
// otherwise. A copy is as sensitive and as little extractable as the key, or it
// is destroyed and an error. It is the process's own and ends with it.
func (m *module) copied(private pkcs11.ObjectHandle, p keystore.Purpose) (pkcs11.ObjectHandle, error) {
	if !m.copies || p != m.quirks.copyable {
		return private, nil
	}
	object, err := m.ctx.CopyObject(m.desk, private, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})
	if isRefusedCopy(err) {
		return private, nil
	}
	if err != nil {
		return 0, fmt.Errorf("C_CopyObject: %w", err)
	}
	required := m.quirks.privateAttributes(p)
	for i := range required {
		if required[i].code == pkcs11.CKA_TOKEN {
			required[i].want = false
		}
	}
	names, err := m.missing(object, required)
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("%w: of the copy: %v", keystore.ErrAttributes, names)
	}
	if err != nil {
		return 0, errors.Join(err, m.ctx.DestroyObject(m.desk, object))
	}
	return object, nil
}

// isRefusedCopy reports whether err says that this key is not to be copied.
func isRefusedCopy(err error) bool {
	cause := pkcs11.Error(0)
	if !errors.As(err, &cause) {
		return false
	}
	switch cause {
	case pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT,
		pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_ACTION_PROHIBITED:
		return true
	}
	return false
}

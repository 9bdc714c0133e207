package pkcs11

import (
	"crypto"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"chancery/keystore"
)

// A signer is a session for one thread to sign on: session handles must not be
// shared between threads.
type signer struct {
	m       *module
	session pkcs11.SessionHandle
}

// signer opens a session, read-only where the token has such. It may be called
// from any goroutine after login.
func (m *module) signer() (*signer, error) {
	const readOnly, readWrite = pkcs11.CKF_SERIAL_SESSION, pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION
	var session pkcs11.SessionHandle
	err := error(pkcs11.Error(pkcs11.CKR_SESSION_READ_ONLY))
	if !m.quirks.readWrite {
		session, err = m.ctx.OpenSession(m.slot, readOnly)
	}
	if err != nil { // a vendor without read-only sessions says so in its own way
		session, err = m.ctx.OpenSession(m.slot, readWrite)
	}
	if err != nil {
		return nil, fmt.Errorf("C_OpenSession: %w", err)
	}
	return &signer{m, session}, nil
}

// sign returns k's signature of message in JOSE form, as the token gave it.
func (s *signer) sign(k *heldKey, message []byte) ([]byte, error) {
	if err := keystore.CheckMessage(k.purpose, k.alg, message); err != nil {
		return nil, err
	}
	input := message
	if k.purpose != keystore.PurposeDigest {
		input = keystore.Digest(k.alg, message)
	}
	if k.alg.IsPKCS1() {
		input = append(digestInfo(k.alg.Hash()), input...)
	}
	if err := s.m.ctx.SignInit(s.session, k.mech, k.handle); err != nil {
		return nil, fmt.Errorf("C_SignInit: %w", signError(err))
	}
	sig, err := s.m.ctx.Sign(s.session, input)
	if err != nil {
		return nil, fmt.Errorf("C_Sign: %w", err)
	}
	return sig, nil
}

// signError marks the errors that are about what was asked.
func signError(err error) error {
	cause := pkcs11.Error(0)
	if !errors.As(err, &cause) {
		return err
	}
	switch cause {
	case pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID,
		pkcs11.CKR_KEY_SIZE_RANGE, pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED:
		return fmt.Errorf("%w: %w", keystore.ErrUnsupported, err)
	}
	return err
}

// signMechanism returns the mechanism of alg with its parameters.
func signMechanism(alg keystore.Algorithm) *pkcs11.Mechanism {
	code := kindOf(alg).sign
	if !alg.IsPSS() {
		return pkcs11.NewMechanism(code, nil)
	}
	var hash, mgf uint
	switch alg.Hash() {
	case crypto.SHA256:
		hash, mgf = pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256
	case crypto.SHA384:
		hash, mgf = pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384
	case crypto.SHA512:
		hash, mgf = pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512
	}
	// RFC 7518 Section 3.5: the salt is as long as the hash.
	return pkcs11.NewMechanism(code, pkcs11.NewPSSParams(hash, mgf, uint(alg.Hash().Size())))
}

// digestInfo returns the DER of DigestInfo up to the digest (RFC 8017 Section 9.2, Note 1).
func digestInfo(h crypto.Hash) []byte {
	last := map[crypto.Hash]byte{crypto.SHA256: 1, crypto.SHA384: 2, crypto.SHA512: 3}[h]
	n := byte(h.Size())
	return []byte{
		0x30, 0x11 + n, // DigestInfo
		0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last, 0x05, 0x00, // id-sha256 and its like, NULL
		0x04, n, // digest
	}
}

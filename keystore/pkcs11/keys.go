package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"

	"chancery/keystore"
)

// PKCS#11 3.0 Sections 2.3.1 and 2.3.14; the bindings stop at 2.40.
const (
	ckkECEdwards        = 0x40
	ckmECEdwardsKeyPair = 0x1055
	ckmEDDSA            = 0x1057
	maxObjects          = 64 // per C_FindObjects
)

// A kind is how an algorithm's keys are made and used.
type kind struct {
	generate, sign uint
	params         []byte // CKA_EC_PARAMS
}

func kindOf(alg keystore.Algorithm) kind {
	switch {
	case alg == keystore.ES256:
		return kind{pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKM_ECDSA, paramsP256}
	case alg == keystore.ES384:
		return kind{pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKM_ECDSA, paramsP384}
	case alg == keystore.ES512:
		return kind{pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKM_ECDSA, paramsP521}
	case alg == keystore.EdDSA:
		return kind{ckmECEdwardsKeyPair, ckmEDDSA, paramsEd25519}
	case alg.IsPSS():
		return kind{pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKM_RSA_PKCS_PSS, nil}
	default:
		return kind{pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKM_RSA_PKCS, nil}
	}
}

// find checks the pair with r's CKA_ID and holds it.
func (m *module) find(r keyRequest) (*heldKey, error) {
	private, err := m.search(pkcs11.CKO_PRIVATE_KEY, r.ID)
	if err != nil {
		return nil, err
	}
	public, err := m.search(pkcs11.CKO_PUBLIC_KEY, r.ID)
	if err != nil {
		return nil, err
	}
	switch {
	case len(private) > 1 || len(public) > 1:
		return nil, fmt.Errorf("%w: %d private and %d public keys with CKA_ID %s",
			keystore.ErrAmbiguous, len(private), len(public), r.ID)
	case len(private) == 0:
		return nil, fmt.Errorf("private key with CKA_ID %s: %w", r.ID, keystore.ErrNotFound)
	case len(public) == 0:
		return nil, fmt.Errorf("%w: no public half with CKA_ID %s", keystore.ErrAttributes, r.ID)
	}
	if err := m.checkAttributes(private[0], public[0], r.Purpose, r.Algorithm); err != nil {
		return nil, fmt.Errorf("key %s: %w", r.ID, err)
	}
	pub, err := m.public(public[0])
	if err != nil {
		return nil, fmt.Errorf("public half of key %s: %w", r.ID, err)
	}
	if err := r.Algorithm.Fits(pub); err != nil {
		return nil, fmt.Errorf("%w: key %s: %w", keystore.ErrAttributes, r.ID, err)
	}
	return m.take(r, private[0], pub)
}

// take holds a private key under the name that pub gives it.
func (m *module) take(r keyRequest, private pkcs11.ObjectHandle, pub crypto.PublicKey) (*heldKey, error) {
	spki, err := keystore.MarshalPublic(pub)
	if err != nil {
		return nil, err
	}
	if k := m.key(nameOf(r.ID, spki)); k != nil && k.from == private && k.purpose == r.Purpose && k.alg == r.Algorithm {
		return k, nil // and no other copy
	}
	handle, err := m.copied(private, r.Purpose)
	if err != nil {
		return nil, fmt.Errorf("session copy of key %s: %w", r.ID, err)
	}
	k := &heldKey{
		id: r.ID, purpose: r.Purpose, alg: r.Algorithm, from: private, handle: handle,
		mech: []*pkcs11.Mechanism{signMechanism(r.Algorithm)}, spki: spki,
	}
	m.hold(k)
	return k, nil
}

// search returns the token objects of a class with a CKA_ID.
func (m *module) search(class uint, id keystore.KeyID) ([]pkcs11.ObjectHandle, error) {
	// CKA_TOKEN, because a session copy answers to the same CKA_ID and outlives
	// the object it was copied from.
	return m.objects(
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]))
}

func (m *module) objects(template ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := m.ctx.FindObjectsInit(m.desk, template); err != nil {
		return nil, fmt.Errorf("C_FindObjectsInit: %w", err)
	}
	var all []pkcs11.ObjectHandle
	for {
		some, _, err := m.ctx.FindObjects(m.desk, maxObjects)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("C_FindObjects: %w", err), m.ctx.FindObjectsFinal(m.desk))
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	if err := m.ctx.FindObjectsFinal(m.desk); err != nil {
		return nil, fmt.Errorf("C_FindObjectsFinal: %w", err)
	}
	return all, nil
}

// errNoMaker is what a worker says that has not logged in to make keys.
var errNoMaker = errors.New("this worker makes no keys")

// generate makes the pair and holds it. An error that wraps neither ErrExists
// nor ErrUnsupported says nothing about whether there is a pair now.
func (m *module) generate(r keyRequest) (*heldKey, error) {
	if m.c11 == nil {
		return nil, errNoMaker
	}
	if r.Purpose == keystore.PurposeDigest && r.Algorithm.Hash() == 0 {
		return nil, fmt.Errorf("%w: %s for purpose %s", keystore.ErrUnsupported, r.Algorithm, r.Purpose)
	}
	if !slices.Contains(m.algs, r.Algorithm) {
		return nil, fmt.Errorf("%w: the token has no %s", keystore.ErrUnsupported, r.Algorithm)
	}
	taken, err := m.objects(pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, r.ID[:]))
	if err != nil {
		return nil, err
	}
	if len(taken) > 0 {
		return nil, fmt.Errorf("CKA_ID %s: %w", r.ID, keystore.ErrExists)
	}
	label := labelOf(r.Purpose, r.Algorithm)
	public := template(m.quirks.publicAttributes(), r.ID, label)
	private := template(m.quirks.privateAttributes(r.Purpose), r.ID, label)
	reported, err := m.generatePair(r.Algorithm, public, private)
	if err != nil {
		if refusedTemplate(err) {
			return nil, fmt.Errorf("%w: generating %s: %w", keystore.ErrUnsupported, r.Algorithm, err)
		}
		return nil, fmt.Errorf("generating %s: %w", r.Algorithm, err)
	}
	k, err := m.find(r)
	if err != nil {
		return nil, err
	}
	if spki, err := keystore.MarshalPublic(reported); err != nil || !bytes.Equal(spki, k.spki) {
		return nil, fmt.Errorf("%w: the public key found is not the one generated", keystore.ErrAttributes)
	}
	return k, nil
}

// generatePair returns the public key as the generating library reads it.
func (m *module) generatePair(alg keystore.Algorithm, public, private []*pkcs11.Attribute) (crypto.PublicKey, error) {
	if alg == keystore.EdDSA || m.quirks.bare { // crypto11 has no EdDSA
		return m.generateBare(alg, public, private)
	}
	pub, priv := crypto11.NewAttributeSet(), crypto11.NewAttributeSet()
	pub.AddIfNotPresent(public)
	priv.AddIfNotPresent(private)
	var signer crypto11.Signer
	var err error
	if alg.IsRSA() {
		signer, err = m.c11.GenerateRSAKeyPairWithAttributes(pub, priv, keystore.RSABits)
	} else {
		signer, err = m.c11.GenerateECDSAKeyPairWithAttributes(pub, priv, alg.Curve())
	}
	if err != nil {
		return nil, err
	}
	return signer.Public(), nil
}

// generateBare makes a pair with the attributes given, what its algorithm needs,
// and none else.
func (m *module) generateBare(alg keystore.Algorithm, public, private []*pkcs11.Attribute) (crypto.PublicKey, error) {
	kind := kindOf(alg)
	switch {
	case alg == keystore.EdDSA:
		public = append(public, pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, ckkECEdwards))
		private = append(private, pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, ckkECEdwards))
	case alg.IsRSA():
		public = append(public, pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, keystore.RSABits),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
	}
	if kind.params != nil {
		public = append(public, pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, kind.params))
	}
	handle, _, err := m.ctx.GenerateKeyPair(m.desk, []*pkcs11.Mechanism{pkcs11.NewMechanism(kind.generate, nil)}, public, private)
	if err != nil {
		return nil, err
	}
	return m.public(handle)
}

// refusedTemplate reports whether err says that the token would not even begin.
func refusedTemplate(err error) bool {
	cause := pkcs11.Error(0)
	if !errors.As(err, &cause) {
		return false
	}
	switch cause {
	case pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_KEY_SIZE_RANGE,
		pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_CURVE_NOT_SUPPORTED,
		pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_DOMAIN_PARAMS_INVALID:
		return true
	}
	return false
}

// public reads the key that a public key object holds.
func (m *module) public(object pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	kt, err := m.read(object, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return nil, fmt.Errorf("CKA_KEY_TYPE: %w", err)
	}
	switch keyType(kt) {
	case pkcs11.CKK_RSA:
		return m.publicRSA(object)
	case pkcs11.CKK_EC, ckkECEdwards:
		params, err := m.read(object, pkcs11.CKA_EC_PARAMS)
		if err != nil {
			return nil, fmt.Errorf("CKA_EC_PARAMS: %w", err)
		}
		point, err := m.read(object, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, fmt.Errorf("CKA_EC_POINT: %w", err)
		}
		pub, err := pointKey(params, point)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", keystore.ErrAttributes, err)
		}
		return pub, nil
	}
	return nil, fmt.Errorf("%w: key type %#x", keystore.ErrAttributes, keyType(kt))
}

func (m *module) publicRSA(object pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	n, err := m.read(object, pkcs11.CKA_MODULUS)
	if err != nil {
		return nil, fmt.Errorf("CKA_MODULUS: %w", err)
	}
	exponent, err := m.read(object, pkcs11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, fmt.Errorf("CKA_PUBLIC_EXPONENT: %w", err)
	}
	e := new(big.Int).SetBytes(exponent)
	if !e.IsInt64() || e.Int64() > 1<<31-1 {
		return nil, fmt.Errorf("%w: RSA exponent of %d bits", keystore.ErrAttributes, e.BitLen())
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(e.Int64())}, nil
}

func pointKey(params, point []byte) (crypto.PublicKey, error) {
	curve, err := curveOf(params)
	if err != nil {
		return nil, err
	}
	if curve == nil {
		return edPublic(point)
	}
	return ecPublic(curve, point)
}

// keyType reads a CK_ULONG as this machine's C compiler lays it out.
func keyType(b []byte) uint {
	switch len(b) {
	case 8:
		return uint(binary.NativeEndian.Uint64(b))
	case 4:
		return uint(binary.NativeEndian.Uint32(b))
	}
	return ^uint(0) // no type has this number
}

// list describes every private key, public keys without one, and secret keys that
// could harm the others.
func (m *module) list() ([]keystore.Object, error) {
	onToken := pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)
	private, err := m.objects(onToken, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))
	if err != nil {
		return nil, err
	}
	public, err := m.objects(onToken, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY))
	if err != nil {
		return nil, err
	}
	halves := make(map[string][]pkcs11.ObjectHandle) // public, by CKA_ID
	for _, object := range public {
		id, _ := m.read(object, pkcs11.CKA_ID) // without one it belongs to nothing
		halves[string(id)] = append(halves[string(id)], object)
	}
	paired := make(map[string]bool)
	var list []keystore.Object
	for _, object := range private {
		o, id := m.describe(object)
		purpose, _ := purposeOf(o.Label)
		if o.Missing, err = m.missingPrivate(object, purpose); err != nil {
			o.Missing = append(o.Missing, "readable attributes")
		}
		if id == "" {
			o.Missing = append(o.Missing, "CKA_ID")
		} else if half := halves[id]; len(half) == 1 {
			o.SPKI = m.spki(half[0])
		}
		paired[id] = true
		list = append(list, o)
	}
	for id, half := range halves {
		if paired[id] && id != "" {
			continue
		}
		for _, object := range half {
			o, _ := m.describe(object)
			o.SPKI, o.Missing = m.spki(object), []string{"private half"}
			list = append(list, o)
		}
	}
	secret, err := m.secretKeys(onToken)
	return append(list, secret...), err
}

// secretKeys describes the secret keys that can take others out of the token:
// Chancery makes none.
func (m *module) secretKeys(onToken *pkcs11.Attribute) ([]keystore.Object, error) {
	objects, err := m.objects(onToken, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY))
	if err != nil {
		return nil, err
	}
	var list []keystore.Object
	for _, object := range objects {
		o, _ := m.describe(object)
		o.Type = "secret"
		if o.Missing, err = m.missing(object, harmless); err != nil {
			o.Missing = append(o.Missing, "readable attributes")
		}
		if len(o.Missing) > 0 {
			list = append(list, o)
		}
	}
	return list, nil
}

// describe returns what names an object, and its CKA_ID. An object that is
// going away or was left half-made has less.
func (m *module) describe(object pkcs11.ObjectHandle) (o keystore.Object, id string) {
	raw, _ := m.read(object, pkcs11.CKA_ID)
	label, _ := m.read(object, pkcs11.CKA_LABEL)
	kt, _ := m.read(object, pkcs11.CKA_KEY_TYPE)
	o = keystore.Object{Token: m.token.Serial, ID: hex.EncodeToString(raw), Label: string(label)}
	switch {
	case len(kt) == 0:
	case keyType(kt) == pkcs11.CKK_RSA:
		o.Type = "RSA"
	case keyType(kt) == pkcs11.CKK_EC:
		o.Type = "EC"
	case keyType(kt) == ckkECEdwards:
		o.Type = "Ed25519"
	default:
		o.Type = fmt.Sprintf("%#x", keyType(kt))
	}
	return o, string(raw)
}

// spki returns the DER public key that object holds, or nil.
func (m *module) spki(object pkcs11.ObjectHandle) []byte {
	pub, err := m.public(object)
	if err != nil {
		return nil
	}
	der, err := keystore.MarshalPublic(pub)
	if err != nil {
		return nil
	}
	return der
}

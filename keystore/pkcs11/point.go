package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"
)

// decodePoint returns the public point of size bytes that CKA_EC_POINT holds.
// Tokens write it raw, in an OCTET STRING, or in a BIT STRING. The length
// decides which: a raw Ed25519 point may begin with the bytes 04 1e, which a
// parser that tries DER first takes for a header.
func decodePoint(attr []byte, size int) ([]byte, error) {
	if len(attr) == size {
		return attr, nil
	}
	for _, header := range [][]byte{
		derHeader(0x04, size),                 // OCTET STRING
		append(derHeader(0x03, size+1), 0x00), // BIT STRING, no unused bits
	} {
		if len(attr) == len(header)+size && string(attr[:len(header)]) == string(header) {
			return attr[len(header):], nil
		}
	}
	return nil, fmt.Errorf("CKA_EC_POINT of %d bytes holds no point of %d bytes", len(attr), size)
}

// derHeader returns the DER tag and length of n < 256 bytes.
func derHeader(tag byte, n int) []byte {
	if n < 0x80 {
		return []byte{tag, byte(n)}
	}
	return []byte{tag, 0x81, byte(n)}
}

// ecPublic returns the key on curve whose CKA_EC_POINT is attr.
func ecPublic(curve elliptic.Curve, attr []byte) (crypto.PublicKey, error) {
	point, err := decodePoint(attr, 1+2*((curve.Params().BitSize+7)/8))
	if err != nil {
		return nil, err
	}
	return ecdsa.ParseUncompressedPublicKey(curve, point)
}

// edPublic returns the Ed25519 key whose CKA_EC_POINT is attr.
func edPublic(attr []byte) (crypto.PublicKey, error) {
	point, err := decodePoint(attr, ed25519.PublicKeySize)
	if err != nil {
		return nil, err
	}
	return ed25519.PublicKey(point), nil
}

// Values of CKA_EC_PARAMS, DER.
var (
	paramsP256    = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	paramsP384    = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	paramsP521    = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}
	paramsEd25519 = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}
	// PKCS#11 3.0 Section 2.3.10 allows a PrintableString as well.
	paramsEd25519Name = append([]byte{0x13, 0x0c}, "edwards25519"...)
)

// curveOf returns the curve that CKA_EC_PARAMS names, nil for Ed25519.
func curveOf(params []byte) (elliptic.Curve, error) {
	switch string(params) {
	case string(paramsP256):
		return elliptic.P256(), nil
	case string(paramsP384):
		return elliptic.P384(), nil
	case string(paramsP521):
		return elliptic.P521(), nil
	case string(paramsEd25519), string(paramsEd25519Name):
		return nil, nil
	}
	return nil, errors.New("a curve that is none of P-256, P-384, P-521 and Ed25519")
}

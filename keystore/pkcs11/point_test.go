package pkcs11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
)

func TestP21PointIsDecodedByItsLength(t *testing.T) {
	ed := append([]byte{0x04, 0x1e}, bytes.Repeat([]byte{0x5a}, 30)...) // looks like an OCTET STRING of 30
	bits := append([]byte{0x03, 0x1e, 0x00}, bytes.Repeat([]byte{0x5a}, 29)...)
	p256 := append([]byte{0x04}, bytes.Repeat([]byte{0x11}, 64)...)
	p384 := append([]byte{0x04}, bytes.Repeat([]byte{0x33}, 96)...)
	p521 := append([]byte{0x04}, bytes.Repeat([]byte{0x22}, 132)...)
	join := func(head []byte, rest []byte) []byte { return append(bytes.Clone(head), rest...) }
	for _, v := range []struct {
		name string
		attr []byte
		want []byte // nil: refused
		size int
	}{
		{"Ed25519 raw, beginning 04 1e", ed, ed, 32},
		{"Ed25519 raw, beginning 03 1e", bits, bits, 32},
		{"Ed25519 in an OCTET STRING", join([]byte{0x04, 0x20}, ed), ed, 32},
		{"Ed25519 in a BIT STRING", join([]byte{0x03, 0x21, 0x00}, ed), ed, 32},
		{"Ed25519 in a BIT STRING with unused bits", join([]byte{0x03, 0x21, 0x01}, ed), nil, 32},
		{"Ed25519 short", ed[:31], nil, 32},
		{"Ed25519 in an INTEGER", join([]byte{0x02, 0x20}, ed), nil, 32},
		{"P-256 raw", p256, p256, 65},
		{"P-256 in an OCTET STRING", join([]byte{0x04, 0x41}, p256), p256, 65},
		{"P-256 in a BIT STRING", join([]byte{0x03, 0x42, 0x00}, p256), p256, 65},
		{"P-256 with a long-form length", join([]byte{0x04, 0x81, 0x41}, p256), nil, 65},
		{"P-256 and a byte more", join([]byte{0x04, 0x41}, append(bytes.Clone(p256), 0)), nil, 65},
		{"P-521 raw", p521, p521, 133},
		{"P-521 in an OCTET STRING", join([]byte{0x04, 0x81, 0x85}, p521), p521, 133},
		{"P-521 in a BIT STRING", join([]byte{0x03, 0x81, 0x86, 0x00}, p521), p521, 133},
		{"P-521 without leading zeros, as a TPM has it", join([]byte{0x04, 0x81, 0x84}, p521[:132]), nil, 133},
		{"P-384 in an OCTET STRING", join([]byte{0x04, 0x61}, p384), p384, 97},
		{"P-384 in a BIT STRING", join([]byte{0x03, 0x62, 0x00}, p384), p384, 97},
		{"P-384 compressed", p384[:49], nil, 97},
		{"nothing", nil, nil, 32},
	} {
		got, err := decodePoint(v.attr, v.size)
		if (err != nil) != (v.want == nil) || !bytes.Equal(got, v.want) {
			t.Errorf("%s: %x, %v", v.name, got, err)
		}
	}
}

func TestPointMustBeOnItsCurve(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := pointKey(paramsP384, append([]byte{0x04, byte(len(point))}, point...))
	if err != nil || !k.PublicKey.Equal(got) {
		t.Errorf("%v, %v", got, err)
	}
	point[len(point)-1] ^= 1
	if _, err := pointKey(paramsP384, point); err == nil {
		t.Error("a point off the curve was accepted")
	}
	if _, err := pointKey([]byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a}, point); err == nil {
		t.Error("secp256k1 was accepted")
	}
}

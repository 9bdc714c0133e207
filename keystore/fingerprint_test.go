package keystore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"math/big"
	"testing"
)

// What is turned into the form of X.509 and back is the same, and has one spelling.
func TestSignatureJOSE(t *testing.T) {
	for _, alg := range []Algorithm{ES256, ES384, ES512} {
		half := (alg.Curve().Params().BitSize + 7) / 8
		for _, lead := range []byte{0x00, 0x01, 0x7f, 0x80} {
			sig := bytes.Repeat([]byte{0x5a}, 2*half)
			sig[0], sig[half] = lead, lead
			if alg == ES512 { // 521 bits in 66 bytes
				sig[0], sig[half] = lead&1, lead&1
			}
			der, err := SignatureASN1(alg, sig)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := SignatureJOSE(alg, der); err != nil || !bytes.Equal(back, sig) {
				t.Errorf("%s: %x came back as %x: %v", alg, sig, back, err)
			}
			for what, bad := range map[string][]byte{
				"a byte after it":   append(bytes.Clone(der), 0),
				"a byte less":       der[:len(der)-1],
				"nothing":           {},
				"the other form":    sig,
				"zero":              {0x30, 6, 2, 1, 0, 2, 1, 0},
				"a negative number": {0x30, 6, 2, 1, 0xff, 2, 1, 1},
				"too large":         tooLarge(half),
			} {
				if back, err := SignatureJOSE(alg, bad); err == nil {
					t.Errorf("%s: %s is read as %x", alg, what, back)
				}
			}
		}
	}
	if sig, err := SignatureJOSE(ES256, []byte{0x30, 0x81, 6, 2, 1, 1, 2, 1, 1}); err == nil {
		t.Errorf("a length in two bytes is read as %x", sig)
	}
	if sig, err := SignatureJOSE(RS256, []byte("as it is")); err != nil || string(sig) != "as it is" {
		t.Errorf("RSA: %q, %v", sig, err)
	}
}

// tooLarge is a signature whose r has a byte more than the curve.
func tooLarge(half int) []byte {
	r := append([]byte{1}, make([]byte, half)...)
	body := append(append([]byte{2, byte(len(r))}, r...), 2, 1, 1)
	return append([]byte{0x30, byte(len(body))}, body...)
}

// Both signatures that anybody can make of one have its hash, and no other has.
func TestSignatureHash(t *testing.T) {
	for _, alg := range []Algorithm{ES256, ES384, ES512} {
		key, err := ecdsa.GenerateKey(alg.Curve(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		digest, half := make([]byte, alg.Hash().Size()), (alg.Curve().Params().BitSize+7)/8
		seen := map[string]bool{}
		for range 20 {
			r, s, err := ecdsa.Sign(rand.Reader, key, digest)
			if err != nil {
				t.Fatal(err)
			}
			form := func(s *big.Int) []byte {
				return append(r.FillBytes(make([]byte, half)), s.FillBytes(make([]byte, half))...)
			}
			one, err := SignatureHash(alg, form(s))
			if err != nil {
				t.Fatal(err)
			}
			turned := form(new(big.Int).Sub(alg.Curve().Params().N, s))
			if err := VerifyDigest(alg, key.Public(), digest, turned); err != nil {
				t.Fatal(err)
			}
			if other, err := SignatureHash(alg, turned); err != nil || other != one || len(one) != 64 {
				t.Errorf("%s: %q and %q, %v", alg, one, other, err)
			}
			if seen[one] {
				t.Errorf("%s: two signatures with one hash", alg)
			}
			seen[one] = true
		}
		if _, err := SignatureHash(alg, make([]byte, 2*half-1)); err == nil {
			t.Errorf("%s: a short signature has a hash", alg)
		}
	}
	a, errA := SignatureHash(PS256, []byte("a"))
	b, errB := SignatureHash(PS256, []byte("b"))
	if a == b || errA != nil || errB != nil {
		t.Errorf("RSA: %q, %q, %v, %v", a, b, errA, errB)
	}
}

func FuzzSignatureJOSE(f *testing.F) {
	f.Add([]byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	f.Add([]byte{0x30, 8, 2, 2, 0, 0x80, 2, 2, 0, 0xff})
	f.Fuzz(func(t *testing.T, der []byte) {
		sig, err := SignatureJOSE(ES256, der)
		if err != nil {
			return
		}
		if back, err := SignatureASN1(ES256, sig); err != nil || !bytes.Equal(back, der) {
			t.Errorf("%x is read as %x, which is written as %x: %v", der, sig, back, err)
		}
	})
}

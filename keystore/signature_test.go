package keystore_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
)

var message = []byte("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ0ZXN0In0")

func sign(t *testing.T, k keystore.Key) []byte {
	t.Helper()
	sig, err := k.Sign(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestEveryAlgorithmVerifiesItsOwn(t *testing.T) {
	for _, alg := range keystore.Algorithms() {
		k := keystoretest.NewKey(t, keystore.PurposeJWT, alg)
		sig := sign(t, k)
		if err := keystore.Verify(alg, k.Public(), message, sig); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if len(sig) != alg.SignatureSize(k.Public()) {
			t.Errorf("%s: %d bytes, said to be %d", alg, len(sig), alg.SignatureSize(k.Public()))
		}
		for _, other := range keystore.Algorithms() {
			if other != alg && keystore.Verify(other, k.Public(), message, sig) == nil {
				t.Errorf("a signature by %s verifies as one by %s", alg, other)
			}
		}
		for i := 0; i < len(sig); i += 1 + len(sig)/20 {
			sig[i] ^= 1 << (i % 8)
			if keystore.Verify(alg, k.Public(), message, sig) == nil {
				t.Errorf("%s: a signature with another byte %d verifies", alg, i)
			}
			sig[i] ^= 1 << (i % 8)
		}
		if keystore.Verify(alg, k.Public(), message[1:], sig) == nil {
			t.Errorf("%s: the signature of another message verifies", alg)
		}
	}
}

// Every refusal is one callers can tell from a backend that is down.
func refused(t *testing.T, what string, alg keystore.Algorithm, pub crypto.PublicKey, sig []byte) {
	t.Helper()
	if err := keystore.Verify(alg, pub, message, sig); !errors.Is(err, keystore.ErrSignature) {
		t.Errorf("%s: %v, want %v", what, err, keystore.ErrSignature)
	}
}

func TestECDSASignaturesHaveOneForm(t *testing.T) {
	for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.ES384, keystore.ES512} {
		k := keystoretest.NewKey(t, keystore.PurposeJWT, alg)
		pub, sig := k.Public(), sign(t, k)
		half := len(sig) / 2
		der, err := keystore.SignatureASN1(alg, sig)
		if err != nil {
			t.Fatal(err)
		}
		if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), keystore.Digest(alg, message), der) {
			t.Errorf("%s: the X.509 form does not verify", alg)
		}
		zero, n := make([]byte, half), alg.Curve().Params().N.FillBytes(make([]byte, half))
		for what, bad := range map[string][]byte{
			"nothing":          nil,
			"DER":              der,
			"one byte short":   sig[:len(sig)-1],
			"one byte long":    append(bytes.Clone(sig), 0),
			"r alone":          sig[:half],
			"r wider by one":   append([]byte{0}, sig...),
			"both wider":       append(append(append([]byte{0}, sig[:half]...), 0), sig[half:]...),
			"r is zero":        append(bytes.Clone(zero), sig[half:]...),
			"s is zero":        append(bytes.Clone(sig[:half]), zero...),
			"both are zero":    make([]byte, 2*half),
			"r is the order":   append(bytes.Clone(n), sig[half:]...),
			"s is the order":   append(bytes.Clone(sig[:half]), n...),
			"s before r":       append(bytes.Clone(sig[half:]), sig[:half]...),
			"all bits are set": bytes.Repeat([]byte{0xff}, 2*half),
		} {
			refused(t, string(alg)+": "+what, alg, pub, bad)
		}
	}
}

// A token that drops the leading zero of r or s, as some do, does not get away
// with it: one signature in 128 would be unreadable elsewhere.
func TestShortIntegersAreRefused(t *testing.T) {
	k := keystoretest.NewKey(t, keystore.PurposeJWT, keystore.ES256)
	for {
		sig := sign(t, k)
		if sig[0] != 0 && sig[32] != 0 {
			continue
		}
		if err := keystore.Verify(keystore.ES256, k.Public(), message, sig); err != nil {
			t.Errorf("of full width: %v", err)
		}
		short := sig[1:]
		if sig[0] != 0 {
			short = append(bytes.Clone(sig[:32]), sig[33:]...)
		}
		refused(t, "without the leading zero", keystore.ES256, k.Public(), short)
		return
	}
}

func TestPSSSaltIsAsLongAsTheHash(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []keystore.Algorithm{keystore.PS256, keystore.PS384, keystore.PS512} {
		size := alg.Hash().Size()
		for _, salt := range []int{1, 20, size - 1, size, size + 1, 256 - size - 2} {
			sig, err := rsa.SignPSS(rand.Reader, private, alg.Hash(), keystore.Digest(alg, message), &rsa.PSSOptions{SaltLength: salt})
			if err != nil {
				t.Fatal(err)
			}
			if err := keystore.Verify(alg, private.Public(), message, sig); (err == nil) != (salt == size) {
				t.Errorf("%s with a salt of %d bytes: %v", alg, salt, err)
			}
		}
	}
}

func TestForeignKeysAreRefused(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := keystoretest.NewKey(t, keystore.PurposeJWT, keystore.RS256).Public().(*rsa.PublicKey)
	ed := keystoretest.NewKey(t, keystore.PurposeJWT, keystore.EdDSA).Public().(ed25519.PublicKey)
	for _, c := range []struct {
		what string
		alg  keystore.Algorithm
		pub  crypto.PublicKey
	}{
		{"no key", keystore.ES256, nil},
		{"a symmetric key", keystore.ES256, []byte("secret")},
		{"a key by value", keystore.ES256, p224.PublicKey},
		{"P-224", keystore.ES256, p224.Public()},
		{"RSA of 1024 bits", keystore.RS256, small.Public()},
		{"RSA of 2047 bits", keystore.RS256, &rsa.PublicKey{N: new(big.Int).Rsh(good.N, 1), E: 65537}},
		{"RSA of 8192 bits", keystore.PS512, &rsa.PublicKey{N: new(big.Int).Lsh(good.N, 8192-2048), E: 65537}},
		{"RSA with exponent 3", keystore.RS256, &rsa.PublicKey{N: good.N, E: 3}},
		{"RSA with exponent 65539", keystore.PS256, &rsa.PublicKey{N: good.N, E: 65539}},
		{"half an Ed25519 key", keystore.EdDSA, ed[:16]},
		{"an Ed25519 key and a byte", keystore.EdDSA, append(bytes.Clone(ed), 0)},
		{"Ed25519 for ECDSA", keystore.ES256, ed},
		{"RSA for EdDSA", keystore.EdDSA, good},
		{"an algorithm that is none", "none", good},
		{"an algorithm not said", "", ed},
	} {
		if err := c.alg.Fits(c.pub); err == nil {
			t.Errorf("%s fits %q", c.what, c.alg)
		}
		for _, size := range []int{0, 56, 64, 128, 256, 1024} {
			refused(t, c.what, c.alg, c.pub, make([]byte, size))
		}
	}
}

func TestSignatureASN1(t *testing.T) {
	for _, c := range []struct {
		what string
		alg  keystore.Algorithm
		sig  []byte
		want []byte // nil: refused
	}{
		{"small integers are short", keystore.ES256, append(append(make([]byte, 31), 1), append(make([]byte, 31), 2)...), []byte{0x30, 6, 2, 1, 1, 2, 1, 2}},
		{"a high bit gets a zero in front", keystore.ES256, append(append(make([]byte, 31), 0x80), append(make([]byte, 31), 2)...), []byte{0x30, 7, 2, 2, 0, 0x80, 2, 1, 2}},
		{"nothing", keystore.ES256, nil, nil},
		{"an odd number of bytes", keystore.ES384, make([]byte, 95), nil},
		{"RSA stays as it is", keystore.RS256, []byte{1, 2, 3}, []byte{1, 2, 3}},
		{"Ed25519 stays as it is", keystore.EdDSA, []byte{1, 2, 3}, []byte{1, 2, 3}},
	} {
		got, err := keystore.SignatureASN1(c.alg, c.sig)
		if !bytes.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %x, %v; want %x", c.what, got, err, c.want)
		}
	}
}

func TestDigest(t *testing.T) {
	for _, alg := range keystore.Algorithms() {
		got := keystore.Digest(alg, message)
		if h := alg.Hash(); h == 0 && !bytes.Equal(got, message) || h != 0 && len(got) != h.Size() {
			t.Errorf("%s digests to %d bytes", alg, len(got))
		}
	}
}

// The DER written without big numbers is the one that encoding/asn1 writes.
func TestSignatureASN1IsTheShortestDER(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		half := rapid.IntRange(1, 66).Draw(t, "width")
		sig := rapid.SliceOfN(rapid.OneOf(rapid.Just(byte(0)), rapid.Byte()), 2*half, 2*half).Draw(t, "signature")
		want, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := keystore.SignatureASN1(keystore.ES512, sig); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%x becomes %x, %v; want %x", sig, got, err, want)
		}
	})
	if _, err := keystore.SignatureASN1(keystore.ES512, make([]byte, 134)); err == nil {
		t.Error("a signature longer than any is taken")
	}
}

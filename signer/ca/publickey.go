package ca

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"sync"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1} // RFC 8017 Appendix C
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}     // RFC 5480 Section 2.1.1
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}             // RFC 8410 Section 3

	// Uncompressed points, RFC 5480 Section 2.2, by curve: 04 || X || Y.
	curves = []struct {
		oid  asn1.ObjectIdentifier
		size int
	}{
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, 1 + 2*32},
		{asn1.ObjectIdentifier{1, 3, 132, 0, 34}, 1 + 2*48},
		{asn1.ObjectIdentifier{1, 3, 132, 0, 35}, 1 + 2*66},
	}
)

// publicKeyOf walks a DER CertificationRequest (RFC 2986 Section 4.1) down to
// its SubjectPublicKeyInfo and returns that, whole.
func publicKeyOf(request []byte) ([]byte, error) {
	outer := cryptobyte.String(request)
	var seq, info, spki cryptobyte.String
	if !outer.ReadASN1(&seq, cbasn1.SEQUENCE) || !outer.Empty() ||
		!seq.ReadASN1(&info, cbasn1.SEQUENCE) ||
		!info.SkipASN1(cbasn1.INTEGER) || // version
		!info.SkipASN1(cbasn1.SEQUENCE) || // subject
		!info.ReadASN1Element(&spki, cbasn1.SEQUENCE) {
		return nil, errors.New("it is not a DER certification request")
	}
	return spki, nil
}

// checkShape returns nil if spki is a key of a type and size that is accepted.
// It computes nothing with the key's numbers, so that a huge one costs nothing.
func checkShape(spki []byte) error {
	outer := cryptobyte.String(spki)
	var seq, alg, bits cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !outer.ReadASN1(&seq, cbasn1.SEQUENCE) || !outer.Empty() ||
		!seq.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) ||
		!seq.ReadASN1(&bits, cbasn1.BIT_STRING) || !seq.Empty() ||
		len(bits) < 1 || bits[0] != 0 {
		return errors.New("the public key is not a SubjectPublicKeyInfo")
	}
	switch key := bits[1:]; {
	case oid.Equal(oidRSA):
		return checkRSAShape(alg, key)
	case oid.Equal(oidEC):
		return checkECShape(alg, key)
	case oid.Equal(oidEd25519):
		if !alg.Empty() || len(key) != 32 {
			return errors.New("an Ed25519 key has 32 bytes and no parameters")
		}
		return nil
	}
	return errors.New("the key is neither RSA, ECDSA nor Ed25519")
}

func checkRSAShape(params, key cryptobyte.String) error {
	var null, seq, n, e cryptobyte.String
	if !params.ReadASN1(&null, cbasn1.NULL) || !null.Empty() || !params.Empty() ||
		!key.ReadASN1(&seq, cbasn1.SEQUENCE) || !key.Empty() ||
		!seq.ReadASN1(&n, cbasn1.INTEGER) || !seq.ReadASN1(&e, cbasn1.INTEGER) || !seq.Empty() {
		return errors.New("the RSA key is not one of RFC 8017")
	}
	// 2048, 3072 and 4096 bits fill their octets, so DER puts one zero before.
	if size := len(n) - 1; size != 256 && size != 384 && size != 512 || n[0] != 0 || n[1] < 0x80 {
		return errors.New("the RSA modulus has not 2048, 3072 or 4096 bits")
	}
	if n[len(n)-1]&1 == 0 {
		return errors.New("the RSA modulus is even")
	}
	if !bytes.Equal(e, []byte{1, 0, 1}) {
		return errors.New("the RSA exponent is not 65537")
	}
	return nil
}

func checkECShape(params, point cryptobyte.String) error {
	var curve asn1.ObjectIdentifier
	if !params.ReadASN1ObjectIdentifier(&curve) || !params.Empty() {
		return errors.New("the ECDSA key does not name its curve")
	}
	for _, c := range curves {
		if !curve.Equal(c.oid) {
			continue
		}
		if len(point) != c.size || point[0] != 4 {
			return errors.New("the ECDSA key is not an uncompressed point of its curve")
		}
		return nil
	}
	return errors.New("the curve is neither P-256, P-384 nor P-521")
}

// smallPrimes is the product of the odd primes below 752, and rocaPrimes are
// those for which a modulus of Infineon's RSALib is a power of 65537
// (CVE-2017-15361, "The Return of Coppersmith's Attack", Section 2). They are
// worked out when they are needed: a worker is this program too, and starts often
// where a module crashes.
var (
	smallPrimes = sync.OnceValue(func() *big.Int { return primorial(752) })
	rocaPrimes  = []int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157}
	rocaPowers  = sync.OnceValue(func() []map[int64]bool { return powersOf65537(rocaPrimes) })
)

// fermatRounds is how many steps of Fermat's factorisation an RSA modulus has
// to withstand: primes that were drawn independently are never that close.
const fermatRounds = 100

// checkModulus returns nil if n shows none of the weaknesses that are cheap to see.
func checkModulus(n *big.Int) error {
	if new(big.Int).GCD(nil, nil, n, smallPrimes()).Cmp(big.NewInt(1)) != 0 {
		return errors.New("the RSA modulus has a small factor")
	}
	if isROCA(n) {
		return errors.New("the RSA modulus was made by a library with a known fault (CVE-2017-15361)")
	}
	if closePrimes(n) {
		return errors.New("the factors of the RSA modulus are too close")
	}
	return nil
}

func isROCA(n *big.Int) bool {
	var r big.Int
	powers := rocaPowers()
	for i, p := range rocaPrimes {
		if !powers[i][r.Mod(n, big.NewInt(p)).Int64()] {
			return false
		}
	}
	return true
}

// closePrimes looks for a, b with n = a² − b², from a = ⌈√n⌉ upwards.
func closePrimes(n *big.Int) bool {
	one := big.NewInt(1)
	a := new(big.Int).Sqrt(n)
	if new(big.Int).Mul(a, a).Cmp(n) == 0 {
		return true
	}
	a.Add(a, one)
	b2 := new(big.Int).Mul(a, a)
	b2.Sub(b2, n)
	for range fermatRounds {
		if b := new(big.Int).Sqrt(b2); b.Mul(b, b).Cmp(b2) == 0 {
			return true
		}
		// (a+1)² − n = (a² − n) + 2a + 1
		b2.Add(b2, a).Add(b2, a).Add(b2, one)
		a.Add(a, one)
	}
	return false
}

func primorial(below int64) *big.Int {
	product := big.NewInt(1)
	for p := int64(3); p < below; p += 2 {
		if big.NewInt(p).ProbablyPrime(0) {
			product.Mul(product, big.NewInt(p))
		}
	}
	return product
}

func powersOf65537(primes []int64) []map[int64]bool {
	powers := make([]map[int64]bool, len(primes))
	for i, p := range primes {
		powers[i] = make(map[int64]bool)
		for x := int64(1); !powers[i][x]; x = x * 65537 % p {
			powers[i][x] = true
		}
	}
	return powers
}

// smallOrder are the y coordinates, sign bit cleared, of the Ed25519 points
// whose order divides 8, those in a second spelling (y ≥ p) among them. Under
// such a key, signatures verify that nobody made.
var smallOrder = [][32]byte{
	{},  // order 4
	{1}, // the neutral element
	{
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	}, // order 8
	{
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	}, // order 8
	nearP(0xec), // p − 1, order 2
	nearP(0xed), // p, which is 0
	nearP(0xee), // p + 1, which is 1
}

func nearP(low byte) (y [32]byte) {
	for i := range y {
		y[i] = 0xff
	}
	y[0], y[31] = low, 0x7f
	return y
}

// checkPoint returns nil if an Ed25519 public key is not of small order.
func checkPoint(key []byte) error {
	if len(key) != 32 {
		return fmt.Errorf("an Ed25519 key of %d bytes", len(key))
	}
	y := [32]byte(key)
	y[31] &= 0x7f
	for _, s := range smallOrder {
		if y == s {
			return errors.New("the Ed25519 key is a point of small order")
		}
	}
	return nil
}

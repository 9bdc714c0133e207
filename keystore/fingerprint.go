package keystore

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
)

// SignatureHash returns the hexadecimal SHA-256 of sig, a signature by alg in JOSE
// form, by which the log knows it. Of an ECDSA signature (r, s) it is that of
// (r, min(s, n−s)): anybody can turn s into n−s, and both verify.
func SignatureHash(alg Algorithm, sig []byte) (string, error) {
	c := alg.Curve()
	if c == nil {
		return hexHash(sig), nil
	}
	half := (c.Params().BitSize + 7) / 8
	if len(sig) != 2*half {
		return "", fmt.Errorf("an %s signature in JOSE form has %d bytes, this one %d", alg, 2*half, len(sig))
	}
	s := new(big.Int).SetBytes(sig[half:])
	other := new(big.Int).Sub(c.Params().N, s)
	if other.Sign() <= 0 || other.Cmp(s) >= 0 {
		return hexHash(sig), nil
	}
	low := append([]byte(nil), sig...)
	other.FillBytes(low[half:])
	return hexHash(low), nil
}

func hexHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// SignatureJOSE turns a signature in the form X.509 uses into JOSE form: it is the
// reverse of SignatureASN1. It returns an error if sig is not the one DER encoding
// of two positive numbers that fit the curve.
func SignatureJOSE(alg Algorithm, sig []byte) ([]byte, error) {
	c := alg.Curve()
	if c == nil {
		return sig, nil
	}
	half := (c.Params().BitSize + 7) / 8
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(sig, &rs); err != nil || len(rest) != 0 {
		return nil, errors.New("it is not the DER of an ECDSA signature")
	}
	if rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 8*half || rs.S.BitLen() > 8*half {
		return nil, fmt.Errorf("the numbers of the signature do not fit %s", alg)
	}
	out := make([]byte, 2*half)
	rs.R.FillBytes(out[:half])
	rs.S.FillBytes(out[half:])
	if again, err := SignatureASN1(alg, out); err != nil || !bytes.Equal(again, sig) {
		return nil, errors.New("the DER of the ECDSA signature has another spelling")
	}
	return out, nil
}

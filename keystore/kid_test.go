package keystore_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"pgregory.net/rapid"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
)

func b64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestThumbprintVectors(t *testing.T) {
	ec := func(x, y string) *ecdsa.PublicKey {
		pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, b64(t, x), b64(t, y)))
		if err != nil {
			t.Fatal(err)
		}
		return pub
	}
	for _, c := range []struct {
		where string
		pub   crypto.PublicKey
		want  keystore.KID
	}{
		{"RFC 7638 Section 3.1", &rsa.PublicKey{E: 65537, N: new(big.Int).SetBytes(b64(t,
			"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W"+
				"-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt"+
				"-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"))},
			"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
		{"RFC 8037 Appendix A.3", ed25519.PublicKey(b64(t, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")),
			"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
		{"RFC 9449 Section 6.1", ec("l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs", "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"),
			"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
	} {
		got, err := keystore.Thumbprint(c.pub)
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.where, got, err, c.want)
		}
	}
}

// Coordinates have the curve's full width, also those that begin with zeros
// (RFC 7518 Section 6.2.1.2): otherwise every 128th key would have another name.
func TestThumbprintIsWhatAnotherLibrarySays(t *testing.T) {
	for _, alg := range keystore.Algorithms() {
		n := 1
		if alg == keystore.ES256 {
			n = 300
		}
		for range n {
			pub := keystoretest.NewKey(t, keystore.PurposeJWT, alg).Public()
			want, err := (&jose.JSONWebKey{Key: pub}).Thumbprint(crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			got, err := keystore.Thumbprint(pub)
			if err != nil || string(got) != base64.RawURLEncoding.EncodeToString(want) {
				t.Fatalf("%s: %q, %v; go-jose says %x", alg, got, err, want)
			}
		}
	}
}

func TestNoThumbprint(t *testing.T) {
	for name, pub := range map[string]crypto.PublicKey{
		"nothing":         nil,
		"a symmetric key": []byte("secret"),
		"a private key":   ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
	} {
		if kid, err := keystore.Thumbprint(pub); err == nil {
			t.Errorf("%s has thumbprint %q", name, kid)
		}
	}
}

func TestKeyID(t *testing.T) {
	one, two := keystore.NewKeyID(), keystore.NewKeyID()
	if !(keystore.KeyID{}).IsZero() || one.IsZero() || one == two {
		t.Error("a fresh id is zero, or was there before")
	}
	rapid.Check(t, func(t *rapid.T) {
		id := keystore.KeyID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		if again, err := keystore.ParseKeyID(id.String()); err != nil || again != id {
			t.Fatalf("%s reads as %s, %v", id, again, err)
		}
	})
	good := "00112233445566778899aabbccddeeff"
	for _, bad := range []string{"", good[1:], good + "0", strings.ToUpper(good), " " + good[1:], good[:31] + "g", "0x" + good[2:]} {
		if id, err := keystore.ParseKeyID(bad); err == nil || !id.IsZero() {
			t.Errorf("%q reads as %s, %v", bad, id, err)
		}
	}
}

func TestPublicKeysKeepTheirForm(t *testing.T) {
	for _, alg := range keystore.Algorithms() {
		spki, kid := keystoretest.NewKey(t, keystore.PurposeJWT, alg).SPKI(t)
		v := keystore.Version{Algorithm: alg, SPKI: spki}
		pub, err := v.Public()
		if err != nil || alg.Fits(pub) != nil {
			t.Fatalf("%s: %v, %v", alg, err, alg.Fits(pub))
		}
		again, err := keystore.MarshalPublic(pub)
		if err != nil || keystore.HashSPKI(again) != keystore.HashSPKI(spki) {
			t.Errorf("%s: reading and writing its key changed it: %v", alg, err)
		}
		if k, err := keystore.Thumbprint(pub); err != nil || k != kid {
			t.Errorf("%s: %s, %v; want %s", alg, k, err, kid)
		}
	}
}

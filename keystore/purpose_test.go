package keystore

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"pgregory.net/rapid"
)

const anyPurpose = "jwt ca audit probe"

func TestMessagesFitPurposes(t *testing.T) {
	sequence := func(head []byte, n int) []byte {
		return append(head, append([]byte{0x02}, make([]byte, n-1)...)...)
	}
	for _, c := range []struct {
		what    string
		message []byte
		fits    string // the purposes, digest with ES256 among them
	}{
		{"nothing", nil, ""},
		{"a probe", []byte("\x00probe"), anyPurpose},
		{"a zero byte", []byte{0}, anyPurpose},
		{"a probe of 32 bytes, which a digest could be", make([]byte, 32), anyPurpose + " digest"},
		{"a digest", bytes.Repeat([]byte{0xfe}, sha256.Size), "digest"},
		{"a longer digest", bytes.Repeat([]byte{0xfe}, sha512.Size), ""},
		{"over a mebibyte", make([]byte, MaxMessage+1), ""},
		{"a mebibyte", make([]byte, MaxMessage), anyPurpose},

		{"a JWS input", []byte("eyJhbGciOiJFUzI1NiJ9.e30"), "jwt"},
		{"with an empty payload", []byte("eyJhbGciOiJFUzI1NiJ9."), "jwt"},
		{"without a header", []byte(".e30"), ""},
		{"without a dot", []byte("eyJhbGciOiJFUzI1NiJ9"), ""},
		{"with a signature", []byte("eyJhbGciOiJFUzI1NiJ9.e30.AA"), ""},
		{"in the other base64", []byte("eyJhbGciOiJFUzI1NiJ9+/.e30"), ""},
		{"with padding", []byte("eyJhbGciOiJFUzI1NiJ9.e30="), ""},
		{"with a line end", []byte("eyJhbGciOiJFUzI1NiJ9.e30\n"), "audit"},
		{"an unencoded payload (RFC 7797)", []byte(`eyJhbGciOiJFUzI1NiJ9.{}`), ""},

		{"a DER SEQUENCE", []byte{0x30, 3, 2, 1, 5}, "ca"},
		{"of a [0]", []byte{0x30, 5, 0xa0, 3, 2, 1, 2}, "ca"},
		{"of a name, as a CSR's attributes", []byte{0x30, 2, 0x31, 0}, ""},
		{"of nothing", []byte{0x30, 0}, ""},
		{"cut short", []byte{0x30, 3, 2, 1}, ""},
		{"with a byte behind", []byte{0x30, 3, 2, 1, 5, 0}, ""},
		{"without a length", []byte{0x30}, ""},
		{"a SET", []byte{0x31, 3, 2, 1, 5}, ""},
		{"of indefinite length", []byte{0x30, 0x80, 2, 1, 5, 0, 0}, ""},
		{"of 127 bytes", sequence([]byte{0x30, 0x7f}, 127), "ca"},
		{"of 128 bytes", sequence([]byte{0x30, 0x81, 0x80}, 128), "ca"},
		{"of 127 bytes in the long form", sequence([]byte{0x30, 0x81, 0x7f}, 127), ""},
		{"of 256 bytes", sequence([]byte{0x30, 0x82, 1, 0}, 256), "ca"},
		{"of 255 bytes in two octets", sequence([]byte{0x30, 0x82, 0, 0xff}, 255), ""},
		{"of 65536 bytes", sequence([]byte{0x30, 0x83, 1, 0, 0}, 65536), "ca"},
		{"with a length of four octets", sequence([]byte{0x30, 0x84, 1, 0, 0, 0}, 256), ""},
		{"with a length that is cut", []byte{0x30, 0x82, 1}, ""},

		{"a note", []byte("localhost/audit/dev/lifecycle\n12\nAAAA\n"), "audit"},
		{"a note without the last line end", []byte("origin\n12"), ""},
		{"a note with a tab", []byte("origin\t12\n"), ""},
		{"a note with a carriage return", []byte("origin\r\n"), ""},
		{"a note with DEL", []byte("origin\x7f\n"), ""},
		{"a note that is not UTF-8", []byte("origin\xff\n"), ""},
		{"a note in Greek", []byte("ρίζα\n"), "audit"},

		{"a JWS input that a SEQUENCE's head begins", []byte("0A" + strings.Repeat("x", 63) + ".x"), "jwt"},
		{"a note that a SEQUENCE's head begins", []byte("0A" + strings.Repeat("x", 64) + "\n"), "audit"},
	} {
		for _, p := range purposes {
			err := CheckMessage(p, ES256, c.message)
			if want := strings.Contains(" "+c.fits+" ", " "+string(p)+" "); (err == nil) != want {
				t.Errorf("%s for %q: %v, want fits=%v", c.what, p, err, want)
			}
			if err != nil && !errors.Is(err, ErrMessage) {
				t.Errorf("%s for %q: %v does not wrap ErrMessage", c.what, p, err)
			}
		}
		if CheckMessage("", ES256, c.message) == nil || CheckMessage("tls", ES256, c.message) == nil {
			t.Errorf("%s fits a purpose there is not", c.what)
		}
	}
}

func TestDigestsHaveTheHashsLength(t *testing.T) {
	for _, alg := range Algorithms() {
		for n := range 130 {
			fits := CheckMessage(PurposeDigest, alg, make([]byte, n)) == nil
			if want := n > 0 && alg.Hash() != 0 && n == alg.Hash().Size(); fits != want {
				t.Errorf("%d bytes fit a %s key for digests: %v", n, alg, fits)
			}
		}
	}
}

// I9: bytes of one purpose are never signed by a key of another. Probes fit all
// but digests, by design; digests are any bytes of one length.
func TestI9PurposesAreDisjoint(t *testing.T) {
	text := rapid.StringMatching(`[0-9A-Za-z_-]{1,80}`)
	forms := map[Purpose]*rapid.Generator[[]byte]{
		PurposeJWT: rapid.Custom(func(t *rapid.T) []byte {
			header := text.Draw(t, "header")
			return []byte(header + "." + rapid.StringMatching(`[0-9A-Za-z_-]{0,80}`).Draw(t, "payload"))
		}),
		PurposeAudit: rapid.Custom(func(t *rapid.T) []byte {
			return []byte(strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ -~é€]{0,60}`), 1, 4).Draw(t, "lines"), "\n") + "\n")
		}),
		PurposeCA: rapid.Custom(func(t *rapid.T) []byte {
			var b cryptobyte.Builder
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddUint8(rapid.SampledFrom([]byte{0x02, 0xa0, 0xa1, 0xa2}).Draw(t, "first tag"))
				b.AddBytes([]byte(rapid.OneOf(text, rapid.StringN(0, 300, 400)).Draw(t, "rest")))
			})
			return b.BytesOrPanic()
		}),
		PurposeProbe: rapid.Custom(func(t *rapid.T) []byte {
			return append([]byte{ProbePrefix}, rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "rest")...)
		}),
	}
	rapid.Check(t, func(t *rapid.T) {
		of := rapid.SampledFrom([]Purpose{PurposeJWT, PurposeAudit, PurposeCA, PurposeProbe}).Draw(t, "purpose")
		m := forms[of].Draw(t, "message")
		if err := CheckMessage(of, ES256, m); err != nil {
			t.Fatalf("%q does not fit its own purpose: %v", m, err)
		}
		for p := range forms {
			if p != of && of != PurposeProbe && CheckMessage(p, ES256, m) == nil {
				t.Fatalf("%q is of purpose %q and fits %q", m, of, p)
			}
		}
	})
}

// A key set's own prefixes cannot be turned into another form by what a caller
// chooses: a JWS input begins with our header.
func TestA05TBSIsNoJWT(t *testing.T) {
	tbs := []byte{0x30, 5, 0xa0, 3, 2, 1, 2}
	for _, m := range [][]byte{tbs, []byte(base64.RawURLEncoding.EncodeToString(tbs))} {
		if CheckMessage(PurposeJWT, ES256, m) == nil {
			t.Errorf("a jwt key signs %q", m)
		}
	}
}

func FuzzCheckMessage(f *testing.F) {
	for _, seed := range []string{"a.b", "0A" + strings.Repeat("x", 63) + ".x", "origin\n1\n", "\x30\x03\x02\x01\x05", "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		var fit []Purpose
		for _, p := range []Purpose{PurposeJWT, PurposeCA, PurposeAudit, PurposeProbe} {
			if CheckMessage(p, EdDSA, m) == nil {
				fit = append(fit, p)
			}
		}
		want := 1
		if len(m) > 0 && m[0] == ProbePrefix {
			want = 4
		}
		if len(fit) > want || want == 4 && len(m) <= MaxMessage && len(fit) != 4 {
			t.Errorf("%q fits %q", m, fit)
		}
	})
}

// What isDERSequence takes is what another reader of DER takes, from the first
// byte to the last.
func FuzzDERSequence(f *testing.F) {
	for _, seed := range []string{"\x30\x03\x02\x01\x05", "\x30\x81\x80\x02", "\x30\x80\x02\x00\x00", "\x30\x84\x01\x00\x00\x00\x02", "\x30\x82\x00\xff\x02"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		var body cryptobyte.String
		rest := cryptobyte.String(m)
		want := rest.ReadASN1(&body, cbasn1.SEQUENCE) && rest.Empty() &&
			len(body) > 0 && len(body) < 1<<24 && beginsTBS(body[0])
		if got := isDERSequence(m); got != want {
			t.Errorf("%x: %v, cryptobyte says %v", m, got, want)
		}
	})
}

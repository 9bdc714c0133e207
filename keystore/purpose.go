package keystore

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf8"
)

// A Purpose is what a key may sign, fixed when it is made and for ever. The
// zero value means "not said".
type Purpose string

// The purposes.
const (
	PurposeJWT    Purpose = "jwt"    // JWS signing inputs
	PurposeCA     Purpose = "ca"     // X.509 to-be-signed structures
	PurposeAudit  Purpose = "audit"  // signed-note texts: log checkpoints
	PurposeDigest Purpose = "digest" // digests a caller made; the message is the digest
	PurposeProbe  Purpose = "probe"  // health probes
)

var purposes = []Purpose{PurposeJWT, PurposeCA, PurposeAudit, PurposeDigest, PurposeProbe}

// ParsePurpose returns the purpose with the name s, compared exactly.
func ParsePurpose(s string) (Purpose, error) {
	if slices.Contains(purposes, Purpose(s)) {
		return Purpose(s), nil
	}
	return "", fmt.Errorf("unknown purpose %q", s)
}

// MaxMessage is the longest message a key signs, in bytes.
const MaxMessage = 1 << 20

// ProbePrefix begins every self-test, challenge and probe message. No JWS
// signing input, signed note or DER structure begins with a zero byte, so a
// probe's signature is never anything else's.
const ProbePrefix = 0x00

// CheckMessage returns nil if a key of purpose p and algorithm alg may sign
// message, and otherwise an error wrapping ErrMessage. Providers ask it again
// where the key is, so that a key of one purpose signs nothing of another even
// if everything before was deceived.
//
// A message that begins with ProbePrefix fits every purpose but digest.
func CheckMessage(p Purpose, alg Algorithm, message []byte) error {
	if len(message) == 0 || len(message) > MaxMessage {
		return fmt.Errorf("%w: %d bytes", ErrMessage, len(message))
	}
	fits := false
	switch {
	case p == PurposeDigest:
		fits = alg.Hash() != 0 && len(message) == alg.Hash().Size()
	case message[0] == ProbePrefix:
		fits = slices.Contains(purposes, p)
	case p == PurposeJWT:
		fits = isJWSInput(message)
	case p == PurposeCA:
		fits = isDERSequence(message)
	case p == PurposeAudit:
		fits = isNoteText(message)
	}
	if !fits {
		return fmt.Errorf("%w %q", ErrMessage, p)
	}
	return nil
}

// isJWSInput reports whether m is BASE64URL(header) "." BASE64URL(payload)
// (RFC 7515 Section 5.1). A header is never empty.
func isJWSInput(m []byte) bool {
	dot := bytes.IndexByte(m, '.')
	if dot < 1 {
		return false
	}
	for i, c := range m {
		if i != dot && !isBase64URL[c] {
			return false
		}
	}
	return true
}

var isBase64URL = func() (t [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		t[c] = true
	}
	return t
}()

// isDERSequence reports whether m is one DER SEQUENCE and nothing after it,
// whose first element is what a to-be-signed structure begins with: a version, a
// serial number or a responder's name (RFC 5280 Sections 4.1 and 5.1, RFC 6960
// Section 4.2.1). The tag of a SEQUENCE is the letter "0" and a short length is
// a letter too; without the look at the first element there would be signed
// notes and JWS inputs that are such a SEQUENCE.
func isDERSequence(m []byte) bool {
	if len(m) < 2 || m[0] != 0x30 {
		return false
	}
	n, head := int(m[1]), 2
	if n >= 0x80 {
		octets := n & 0x7f
		if octets < 1 || octets > 3 || len(m) < 2+octets || m[2] == 0 {
			return false
		}
		n = 0
		for _, b := range m[2 : 2+octets] {
			n = n<<8 | int(b)
		}
		if n < 0x80 {
			return false
		}
		head += octets
	}
	return n > 0 && len(m) == head+n && beginsTBS(m[head])
}

// beginsTBS reports whether tag is INTEGER, [0], [1] or [2], constructed: none
// is an octet that can stand after a letter in text.
func beginsTBS(tag byte) bool { return tag == 0x02 || tag >= 0xa0 && tag <= 0xa2 }

// isNoteText reports whether m is the text of a signed note (C2SP signed-note):
// UTF-8, no control characters but newline, ending in a newline.
func isNoteText(m []byte) bool {
	if m[len(m)-1] != '\n' || !utf8.Valid(m) {
		return false
	}
	return !slices.ContainsFunc(m, func(c byte) bool { return c < 0x20 && c != '\n' || c == 0x7f })
}

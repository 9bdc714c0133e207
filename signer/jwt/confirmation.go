package jwt

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"chancery/signer/api"
	"chancery/signer/policy"
)

// isConfirmation is a cnf that confirms something (RFC 7800 Section 3.1): an object
// with a method that is known, in its form, and with one key at most.
func isConfirmation(value []byte) string {
	if isObject(value) != "" {
		return "an object"
	}
	known, keys, want := 0, 0, ""
	err := api.Object(value, api.ClaimsLimits, func(name, v []byte) error {
		known++
		switch string(name) {
		case "x5t#S256", "jkt": // RFC 8705 Section 3.1, RFC 9449 Section 6.1
			if s, ok := text(v); !ok || decodedLen(string(s)) != sha256.Size {
				want = `an object with "x5t#S256" or "jkt", a SHA-256 in base64url`
			}
		case "jwk":
			keys++
			if !isPublicJWK(v) {
				want = `an object with "jwk", a public key`
			}
		case "jku":
			keys++
			if s, ok := text(v); !ok || !strings.HasPrefix(string(s), "https://") || len(s) == len("https://") {
				want = `an object with "jku", an https URL`
			}
		case "jwe":
			keys++
			fallthrough
		case "kid":
			if isText(v) != "" {
				want = "an object with strings that are not empty"
			}
		default:
			known--
		}
		return nil
	})
	switch {
	case err != nil || want != "":
		return want
	case known == 0:
		return `an object with "x5t#S256", "jkt", "jwk", "jwe", "jku" or "kid"`
	case keys > 1:
		return "of one key"
	}
	return ""
}

// isPublicJWK reports whether a value is a public key as a JWK (RFC 7517) of a type
// that is known, and has none of the private members of RFC 7518 Section 6 in any
// letter case.
func isPublicJWK(value []byte) bool {
	private := false
	err := api.Object(value, api.ClaimsLimits, func(name, _ []byte) error {
		private = private || slices.ContainsFunc(privateMembers(), func(m string) bool { return strings.EqualFold(m, string(name)) })
		return nil
	})
	var key jose.JSONWebKey
	return err == nil && !private && key.UnmarshalJSON(value) == nil && key.Valid() && key.IsPublic()
}

func privateMembers() []string { return []string{"d", "k", "p", "q", "dp", "dq", "qi", "oth", "priv"} }

// A binding is what is said of cnf, and what a token is bound to by us.
type binding struct {
	cnf        policy.CNF
	part       string // who says it: the rule's member, or the profile
	thumbprint string // base64url; empty: we bind it to nothing, or it is not known yet
}

// bind returns what the token is bound to, as the rule or the profile says. The
// caller's certificate is not known here.
func bind(t policy.Terms, p *Profile, named string) (binding, error) {
	b, said := binding{cnf: t.CNF(), part: "cnf"}, p.CNF()
	switch {
	case b.cnf == "":
		b = binding{cnf: said, part: partProfile}
	case said != "" && said != b.cnf: // neither gives way
		return binding{}, &objection{b.part, fmt.Errorf("%w: the rule says %s of cnf, and the profile %s", policy.ErrForbidden, b.cnf, said)}
	}
	if named != "" && b.cnf != policy.CNFNamed {
		return binding{}, b.invalid("is not bound to a certificate that a request names")
	}
	if b.cnf != policy.CNFNamed {
		return b, nil
	}
	var err error
	if b.thumbprint, err = readCertificate(named); err != nil {
		return binding{}, b.invalid("cannot be made of the request's cnf_certificate: %v", err)
	}
	return b, nil
}

// invalid says what is wrong with cnf.
func (b binding) invalid(format string, args ...any) error {
	return &objection{b.part, claimInvalid("cnf", format, args...)}
}

// readCertificate returns the thumbprint of a certificate that a request names: PEM,
// one CERTIFICATE and nothing else, or the thumbprint itself.
func readCertificate(s string) (string, error) {
	if s == "" {
		return "", errors.New("it is missing")
	}
	if !strings.HasPrefix(s, "-----BEGIN ") {
		if decodedLen(s) != sha256.Size {
			return "", errors.New("it is neither PEM nor a SHA-256 in base64url")
		}
		return s, nil
	}
	block, rest := pem.Decode([]byte(s))
	if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return "", errors.New("it is not one certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", errors.New("it is no certificate")
	}
	return thumbprint(cert.Raw), nil
}

// thumbprint is the x5t#S256 of a certificate: the SHA-256 of its DER in base64url
// (RFC 8705 Section 3.1).
func thumbprint(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// len returns how many bytes append appends.
func (b binding) len() int {
	if b.thumbprint == "" {
		return 0
	}
	return len(`,"cnf":{"x5t#S256":""}`) + len(b.thumbprint)
}

// append appends what we say of cnf, with the comma before it.
func (b binding) append(payload []byte) []byte {
	if b.thumbprint == "" {
		return payload
	}
	return append(append(append(payload, `,"cnf":{"x5t#S256":"`...), b.thumbprint...), `"}`...)
}

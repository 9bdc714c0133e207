package jwt

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"chancery/signer/api"
)

// TypeKeySet is the typ of a signed key set, and of no token (OpenID Federation
// 1.0 Section 8.7.2). No caller can have a token of it, whatever a grant lists:
// whoever could would write the history of the keys.
const TypeKeySet = "jwk-set+jwt"

// IsKeySetType reports whether typ is TypeKeySet as a verifier may compare it: the
// case of letters and a missing "application/" make no difference (RFC 7515
// Section 4.1.9).
func IsKeySetType(typ string) bool {
	if i := len("application/"); len(typ) >= i && strings.EqualFold(typ[:i], "application/") {
		typ = typ[i:]
	}
	return strings.EqualFold(typ, TypeKeySet)
}

// PrepareHistory returns the historical key set of an issuer that is to be signed,
// once. keys is a JSON array of public keys, which Chancery has made and no caller.
// The payload has three members:
//
//	{"iss":ISSUER,"iat":IAT,"keys":KEYS}
//
// It has no grant: nobody asked for it, and it says nothing of anyone. Signed with
// the issuer's key, it could be shown to a verifier that does not look at typ. It
// is no token there either: it has no exp, which RFC 9068 Section 2.2 and OpenID
// Connect Core 1.0 Section 2 require, no sub and no aud.
func PrepareHistory(issuer string, now time.Time, keys []byte) (*Prepared, error) {
	if issuer == "" {
		return nil, errors.New("preparing a history: the key set has no issuer")
	}
	if !json.Valid(keys) || keys[0] != '[' {
		return nil, errors.New("preparing a history: its keys are no list")
	}
	b := appendString([]byte(`{"iss":`), issuer)
	b = strconv.AppendInt(append(b, `,"iat":`...), now.Unix(), 10)
	b = append(append(append(b, `,"keys":`...), keys...), '}')
	return &Prepared{typ: TypeKeySet, payload: b}, nil
}

// errKeySetType is what a caller sees who asks for a token of TypeKeySet.
func errKeySetType() error {
	return against("types", api.CodeTypNotAllowed, "%q is for signed key sets, which no caller can have signed", TypeKeySet)
}

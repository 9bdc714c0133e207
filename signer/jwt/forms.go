package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"chancery/signer/api"
)

// A Form is what the value of a claim can be said to be.
type Form string

// The forms.
const (
	FormString  Form = "string"  // not empty
	FormStrings Form = "strings" // an array of strings that are not empty, at least one
	FormNumber  Form = "number"
	FormInteger Form = "integer" // without fraction and exponent
	FormBoolean Form = "boolean"
	FormObject  Form = "object"
	FormArray   Form = "array"
)

// forms has how each Form is checked.
var forms = map[Form]form{
	FormString: isText, FormStrings: isTexts, FormNumber: isNumber, FormInteger: isInteger,
	FormBoolean: isBoolean, FormObject: isObject, FormArray: isArray,
}

// A form says what the value of a claim ought to be, in words, or nothing if it is
// that. The value is JSON that api.Object has read.
type form func(value []byte) (want string)

func isText(value []byte) string {
	if s, ok := text(value); !ok || len(s) == 0 {
		return "a string that is not empty"
	}
	return ""
}

func isTexts(value []byte) string {
	const want = "an array of strings that are not empty"
	all := elements(value)
	if !all.more {
		return want
	}
	for e, ok := all.next(); ok; e, ok = all.next() {
		if isText(e) != "" {
			return want
		}
	}
	return ""
}

func isNumber(value []byte) string {
	if c := value[0]; c != '-' && (c < '0' || c > '9') {
		return "a number"
	}
	return ""
}

func isInteger(value []byte) string {
	if isNumber(value) != "" || bytes.ContainsAny(value, ".eE") {
		return "a number without fraction and exponent"
	}
	return ""
}

func isBoolean(value []byte) string {
	if c := value[0]; c != 't' && c != 'f' {
		return "true or false"
	}
	return ""
}

func isObject(value []byte) string {
	if value[0] != '{' {
		return "an object"
	}
	return ""
}

func isArray(value []byte) string {
	if value[0] != '[' {
		return "an array"
	}
	return ""
}

// isTime is a NumericDate (RFC 7519 Section 2) as every verifier reads it: whole
// seconds, after 1970.
func isTime(value []byte) string {
	const mostDigits = 12 // the year 33658
	if isInteger(value) != "" || value[0] == '-' || value[0] == '0' || len(value) > mostDigits {
		return "a time in whole seconds since 1970"
	}
	return ""
}

// isSubject is a sub of OpenID Connect: at most 255 characters of ASCII (Core 1.0
// Section 2).
func isSubject(value []byte) string {
	s, ok := text(value)
	if !ok || len(s) == 0 || len(s) > 255 || bytes.ContainsFunc(s, func(c rune) bool { return c > '\x7f' }) {
		return "a string of 1 to 255 characters of ASCII"
	}
	return ""
}

// isClientID is what a client_id can be: printable ASCII (RFC 6749 Appendix A.1).
func isClientID(value []byte) string {
	s, ok := text(value)
	if !ok || len(s) == 0 || bytes.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "a string of printable ASCII that is not empty"
	}
	return ""
}

// isScope is a list of scope tokens, one space between two (RFC 8693 Section 4.2,
// RFC 6749 Section 3.3).
func isScope(value []byte) string {
	const want = "a string of scopes with one space between two"
	s, ok := text(value)
	if !ok {
		return want
	}
	begins := true // a token does here
	for _, c := range s {
		if c < ' ' || c > '~' || c == '"' || c == '\\' || c == ' ' && begins {
			return want
		}
		begins = c == ' '
	}
	if begins {
		return want
	}
	return ""
}

// isGroups is a multi-valued attribute of SCIM (RFC 7643 Sections 2.4 and 4.1.2):
// an array of strings, or of objects with a value each.
func isGroups(value []byte) string {
	const want = "an array of strings, or of objects with a value"
	if isArray(value) != "" {
		return want
	}
	var first byte
	all := elements(value)
	for e, ok := all.next(); ok; e, ok = all.next() {
		if first == 0 {
			first = e[0]
		}
		if e[0] != first || isText(e) != "" && isText(member(e, "value")) != "" {
			return want
		}
	}
	return ""
}

// isHalfHash is the left half of a SHA-256, SHA-384 or SHA-512 in base64url
// (OpenID Connect Core 1.0 Section 3.1.3.6).
func isHalfHash(value []byte) string {
	s, ok := text(value)
	if n := decodedLen(string(s)); !ok || n != 16 && n != 24 && n != 32 {
		return "the left half of a hash in base64url"
	}
	return ""
}

// decodedLen returns how many bytes s is in base64url without padding, or -1.
func decodedLen(s string) int {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") { // which the decoder passes over
		return -1
	}
	return len(b)
}

// logoutEvent is what an event of a logout token is called (Back-Channel Logout 1.0
// Section 2.4).
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

func isLogout(value []byte) string {
	if e := member(value, logoutEvent); len(e) == 0 || isObject(e) != "" {
		return "an object with the member " + logoutEvent + ", an object"
	}
	return ""
}

// isWorkload is the SPIFFE ID of a workload in one of domains, in its canonical
// form: with a path.
func isWorkload(domains []spiffeid.TrustDomain) form {
	return func(value []byte) string {
		s, ok := text(value)
		id, err := spiffeid.FromString(string(s))
		if !ok || err != nil || id.String() != string(s) || id.Path() == "" || !slices.ContainsFunc(domains, id.MemberOf) {
			return fmt.Sprintf("the SPIFFE ID of a workload in %v", domains)
		}
		return ""
	}
}

// audience is an aud: a string or an array of them, none empty and none twice (RFC
// 7519 Section 4.1.3), each of allowed unless that is empty.
func audience(allowed []string) form {
	want := "a string that is not empty, or an array of such, each once"
	if len(allowed) > 0 {
		want = "one or more of the profile's audiences, each once"
	}
	return func(value []byte) string {
		if value[0] != '[' {
			if !isAudience(value, allowed) {
				return want
			}
			return ""
		}
		if !distinct(elements(value), allowed) {
			return want
		}
		return ""
	}
}

// isAudience reports whether a value is one audience, of allowed unless that is empty.
func isAudience(value []byte, allowed []string) bool {
	s, ok := text(value)
	return ok && len(s) > 0 && (len(allowed) == 0 || slices.Contains(allowed, string(s)))
}

// distinct reports whether all are audiences, at least one, and none is there twice.
func distinct(all list, allowed []string) bool {
	if !all.more {
		return false
	}
	var few [8][]byte
	met := few[:0]
	for e, ok := all.next(); ok; e, ok = all.next() {
		if !isAudience(e, allowed) {
			return false
		}
		s, _ := text(e)
		for _, m := range met {
			if bytes.Equal(m, s) {
				return false
			}
		}
		met = append(met, s)
	}
	return true
}

// several reports whether an aud has more than one member.
func several(value []byte) bool {
	all := elements(value)
	all.next()
	return all.more
}

// text returns the string that value is, in value where it has no escapes.
func text(value []byte) (s []byte, ok bool) {
	if len(value) < 2 || value[0] != '"' {
		return nil, false
	}
	if inner := value[1 : len(value)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return inner, true
	}
	var escaped string
	err := json.Unmarshal(value, &escaped)
	return []byte(escaped), err == nil
}

// member returns the value of a member of the object that value is, or nothing.
func member(value []byte, name string) (found []byte) {
	if isObject(value) != "" {
		return nil
	}
	err := api.Object(value, api.ClaimsLimits, func(n, v []byte) error {
		if string(n) == name {
			found = v
		}
		return nil
	})
	if err != nil { // it was read before
		return nil
	}
	return found
}

// A list is the elements of an array that are still to be read.
type list struct {
	rest []byte
	more bool
}

// elements returns the elements of the array that value is; of another value none.
func elements(value []byte) list {
	if value[0] != '[' {
		return list{}
	}
	inside := bytes.Trim(value[1:len(value)-1], space)
	return list{rest: inside, more: len(inside) > 0}
}

// next returns the next element, and whether there was one.
func (l *list) next() (e []byte, ok bool) {
	if !l.more {
		return nil, false
	}
	n := elementLen(l.rest)
	e = bytes.Trim(l.rest[:n], space)
	if l.more = n < len(l.rest); l.more {
		l.rest = l.rest[n+1:]
	}
	return e, true
}

const space = " \t\r\n" // of JSON

// elementLen returns how long the element is that b begins with: up to a comma that
// stands in no string, array or object.
func elementLen(b []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == ',' && depth == 0:
			return i
		}
	}
	return len(b)
}

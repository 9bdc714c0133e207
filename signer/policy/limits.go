package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ClaimRules says which claims a JWT has to have and must not have.
type ClaimRules struct {
	Required  []string       `json:"required,omitempty"`
	Forbidden []string       `json:"forbidden,omitempty"`
	Forced    map[string]any `json:"forced,omitempty"` // there, with exactly this string, bool, int or int64
}

// A Limit is which limit of a rule a request is over. Its text is the stable
// code that the caller is answered with.
type Limit string

// The limits.
const (
	LimitTTL      Limit = "ttl_too_long"
	LimitType     Limit = "typ_not_allowed"
	LimitReserved Limit = "claim_reserved"
	LimitClaim    Limit = "claim_not_allowed"
	LimitMissing  Limit = "claim_missing"
	LimitAudience Limit = "audience_not_allowed"
	LimitScope    Limit = "scope_not_allowed"
	LimitSize     Limit = "too_large"
	LimitName     Limit = "name_not_allowed"
)

// A Refusal is a request that a rule lets someone make, over one of the rule's
// limits. Its text is printable ASCII, names what the caller wrote, and does not
// tell what would be allowed.
type Refusal struct {
	Limit Limit
	Text  string
}

func (r *Refusal) Error() string { return r.Text }

func refuse(l Limit, format string, args ...any) error {
	return &Refusal{Limit: l, Text: fmt.Sprintf(format, args...)}
}

// ours are the claims that are the signer's own.
var ours = [...]string{"iss", "iat", "nbf", "exp", "jti"}

func reserved(name string) bool {
	return slices.ContainsFunc(ours[:], func(s string) bool { return strings.EqualFold(s, name) })
}

// maxLimited is how many claims the limits of one rule may name.
const maxLimited = 64

// A limited is a claim that a rule has limits for.
type limited struct {
	name      []byte
	needed    bool // it must be there
	forbidden bool
	forced    *scalar
	audiences []string // what aud may name
	scopes    []string // what scope may hold
}

// A scalar is a JSON value that a claim must have: the string that text is, or
// the number, true or false that is spelt so.
type scalar struct {
	text   string
	string bool
}

// A ClaimsCheck holds the limits of a rule against the claims of one JWT as
// someone else walks over them. The zero ClaimsCheck has no limits.
type ClaimsCheck struct {
	rule    *rule
	seen    uint64 // of rule.limited
	members int
}

// CheckClaims begins a check of claims of so many bytes. It returns a *Refusal
// if they are too many. It allocates nothing, and the check is free where the
// rule has no limit on claims.
func (t Terms) CheckClaims(size int) (ClaimsCheck, error) {
	if t.rule == nil || !t.rule.bounds {
		return ClaimsCheck{}, nil
	}
	if most := t.rule.MaxBytes; most > 0 && size > most {
		return ClaimsCheck{}, refuse(LimitSize, "claims of %d bytes are over the limit of %d", size, most)
	}
	return ClaimsCheck{rule: t.rule}, nil
}

// Member checks one claim: its name, unescaped, and the JSON text of its value,
// which must be valid. It returns a *Refusal if the rule does not allow it. Names
// are compared exactly, and one that differs from a claim with a limit in letter
// case only is refused: some verifiers would take it for that claim.
func (c *ClaimsCheck) Member(name, value []byte) error {
	if c.rule == nil {
		return nil
	}
	c.members++
	if most := c.rule.MaxClaims; most > 0 && c.members > most {
		return refuse(LimitSize, "more than %d claims", most)
	}
	for i := range c.rule.limited {
		l := &c.rule.limited[i]
		if !bytes.EqualFold(name, l.name) {
			continue
		}
		if !bytes.Equal(name, l.name) {
			return refuse(LimitClaim, "the claim %s is %q in other letters", quoted(name), l.name)
		}
		if string(value) != "null" { // which many take for a claim that is not there
			c.seen |= 1 << i
		}
		return l.allows(value)
	}
	return nil
}

// Done returns a *Refusal if a claim is missing.
func (c *ClaimsCheck) Done() error {
	if c.rule == nil {
		return nil
	}
	for i := range c.rule.limited {
		if l := &c.rule.limited[i]; l.needed && c.seen&(1<<i) == 0 {
			return refuse(LimitMissing, "the claim %q is missing", l.name)
		}
	}
	return nil
}

func (l *limited) allows(value []byte) error {
	switch {
	case l.forbidden:
		return refuse(LimitClaim, "the claim %q is not allowed", l.name)
	case l.forced != nil && !l.forced.is(value):
		return refuse(LimitClaim, "the claim %q does not have the value it must have", l.name)
	case l.audiences != nil && !allAudiences(value, l.audiences):
		return refuse(LimitAudience, "the claim aud names someone that is not allowed, or is neither a string nor an array of strings")
	case l.scopes != nil && !allScopes(value, l.scopes):
		return refuse(LimitScope, "the claim scope holds one that is not allowed, or is not a string of scopes with a space between them")
	}
	return nil
}

func (s *scalar) is(value []byte) bool {
	if !s.string {
		return string(value) == s.text
	}
	text, ok := content(value)
	return ok && string(text) == s.text
}

// content returns what a valid JSON string says.
func content(value []byte) ([]byte, bool) {
	if len(value) < 2 || value[0] != '"' {
		return nil, false
	}
	inner := value[1 : len(value)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner, true
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, false
	}
	return []byte(s), true
}

// allAudiences reports whether aud, valid JSON, is one of allowed or a list of at
// least one with no other in it (RFC 7519 Section 4.1.3).
func allAudiences(aud []byte, allowed []string) bool {
	if name, ok := content(aud); ok {
		return holds(allowed, name)
	}
	if aud[0] != '[' {
		return false
	}
	rest, some := bytes.TrimLeft(aud[1:], space), false
	for rest[0] != ']' {
		n := stringEnd(rest)
		if n == 0 {
			return false
		}
		if name, ok := content(rest[:n]); !ok || !holds(allowed, name) {
			return false
		}
		some, rest = true, bytes.TrimLeft(rest[n:], space+",")
	}
	return some
}

// space is white space in JSON (RFC 8259 Section 2).
const space = " \t\n\r"

// stringEnd returns the length of the JSON string that valid text begins with,
// quotes included; 0 if it begins with none.
func stringEnd(text []byte) int {
	if text[0] != '"' {
		return 0
	}
	for i := 1; ; i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// allScopes reports whether value, valid JSON, is a list of scopes as OAuth writes
// it, a string with one space between them, and all are allowed (RFC 6749 Section
// 3.3).
func allScopes(value []byte, allowed []string) bool {
	text, ok := content(value)
	if !ok {
		return false
	}
	for {
		one, rest, more := bytes.Cut(text, []byte(" "))
		if !holds(allowed, one) {
			return false
		}
		if !more {
			return true
		}
		text = rest
	}
}

func holds(list []string, name []byte) bool {
	for _, s := range list {
		if s == string(name) {
			return true
		}
	}
	return false
}

// quoted returns what a caller wrote in printable ASCII, and not long.
func quoted(name []byte) string {
	const most = 40
	if len(name) > most {
		return strconv.QuoteToASCII(string(name[:most])) + "..."
	}
	return strconv.QuoteToASCII(string(name))
}

// AllowsCount reports whether a certificate may have so many names.
func (t Terms) AllowsCount(names int) bool {
	return t.are(SignCSR) && (t.rule.MaxNames == 0 || names <= t.rule.MaxNames)
}

// limits checks what r says of claims and names, and prepares it for the check.
func (b *builder) limits(path string, r *rule, jwt, csr bool) {
	b.given(path+".audiences", r.Audiences == nil, len(r.Audiences))
	b.given(path+".scopes", r.Scopes == nil, len(r.Scopes))
	b.each(path+".audiences", r.Audiences, checkText)
	b.each(path+".scopes", r.Scopes, checkScope)
	for _, l := range []struct {
		member string
		said   bool
		by     Action
		of     bool
	}{
		{"audiences", r.Audiences != nil, SignJWT, jwt}, {"scopes", r.Scopes != nil, SignJWT, jwt},
		{"claims", !r.Claims.empty(), SignJWT, jwt}, {"max_claims", r.MaxClaims != 0, SignJWT, jwt},
		{"max_bytes", r.MaxBytes != 0, SignJWT, jwt}, {"max_names", r.MaxNames != 0, SignCSR, csr},
	} {
		b.check(!l.said || l.of, path+"."+l.member, "only a rule for %s has this limit", l.by)
	}
	for member, n := range map[string]int{"max_claims": r.MaxClaims, "max_bytes": r.MaxBytes, "max_names": r.MaxNames} {
		b.check(n >= 0, path+"."+member, "%d is negative", n)
	}
	b.claims(path, r)
	r.bounds = len(r.limited) > 0 || r.MaxClaims > 0 || r.MaxBytes > 0
}

func (c ClaimRules) empty() bool { return c.Required == nil && c.Forbidden == nil && c.Forced == nil }

// claims checks the names of claims that r has limits for, and collects them.
func (b *builder) claims(path string, r *rule) {
	if r.Audiences != nil {
		l := r.limit("aud")
		l.needed, l.audiences = true, r.Audiences
	}
	if r.Scopes != nil {
		r.limit("scope").scopes = r.Scopes
	}
	b.each(path+".claims.required", r.Claims.Required, checkClaim)
	for _, name := range r.Claims.Required {
		r.limit(name).needed = true
	}
	for _, name := range slices.Sorted(maps.Keys(r.Claims.Forced)) {
		at := path + ".claims.forced." + name
		value, err := scalarOf(r.Claims.Forced[name])
		b.check(err == nil, at, "%v", err)
		err = checkClaim(name)
		b.check(err == nil, at, "%q: %v", name, err)
		l := r.limit(name)
		l.needed, l.forced = true, value
	}
	b.each(path+".claims.forbidden", r.Claims.Forbidden, func(name string) error {
		if l := r.limit(name); l.needed {
			return errors.New("the rule asks for this claim")
		}
		r.limit(name).forbidden = true
		return checkClaim(name)
	})
	b.satisfiable(path, r)
	b.check(len(r.limited) <= maxLimited, path+".claims", "the rule has limits for %d claims, more than %d", len(r.limited), maxLimited)
	for i, l := range r.limited {
		for _, other := range r.limited[:i] {
			b.check(!bytes.EqualFold(l.name, other.name), path+".claims", "%q and %q differ in letter case only", other.name, l.name)
		}
	}
}

// satisfiable checks that some claims are within the limits of r: a rule that nothing
// is within signs nothing, and keeps later ones from it.
func (b *builder) satisfiable(path string, r *rule) {
	needed := 0
	for i := range r.limited {
		l := &r.limited[i]
		if l.needed {
			needed++
		}
		if l.forced == nil || l.forbidden {
			continue // or said already
		}
		err := l.allows(l.forced.json())
		b.check(err == nil, path+".claims.forced."+string(l.name), "no request is within the rule's other limits then: %v", err)
	}
	b.check(r.MaxClaims <= 0 || needed <= r.MaxClaims, path+".max_claims", "%d claims have to be there, more than %d", needed, r.MaxClaims)
}

// json returns the scalar as JSON.
func (s *scalar) json() []byte {
	if !s.string {
		return []byte(s.text)
	}
	text, err := json.Marshal(s.text)
	if err != nil { // a string always has a form in JSON
		panic(err)
	}
	return text
}

// limit returns the limits for a claim, which it begins if there are none.
func (r *rule) limit(name string) *limited {
	for i := range r.limited {
		if string(r.limited[i].name) == name {
			return &r.limited[i]
		}
	}
	r.limited = append(r.limited, limited{name: []byte(name)})
	return &r.limited[len(r.limited)-1]
}

func scalarOf(v any) (*scalar, error) {
	switch v := v.(type) {
	case string:
		return &scalar{text: v, string: true}, nil
	case bool:
		return &scalar{text: strconv.FormatBool(v)}, nil
	case int:
		return &scalar{text: strconv.Itoa(v)}, nil
	case int64:
		return &scalar{text: strconv.FormatInt(v, 10)}, nil
	}
	return nil, errors.New("want a string, a whole number, true or false")
}

func checkClaim(name string) error {
	if reserved(name) {
		return errors.New("the claim is the signer's own")
	}
	return checkText(name)
}

// checkText returns nil if s can be what a claim is called or says.
func checkText(s string) error {
	switch {
	case s == "" || len(s) > 1024:
		return errors.New("want 1 to 1024 bytes")
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return errors.New("want text without control characters")
	}
	return nil
}

// checkScope returns nil if s is one scope (RFC 6749 Section 3.3).
func checkScope(s string) error {
	if s == "" || len(s) > 256 || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }) {
		return errors.New("a scope has 1 to 256 printable ASCII characters without space, quote and backslash")
	}
	return nil
}

package api

import (
	"bytes"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// A scanner walks once over JSON text and checks every byte of it. Its methods
// begin at pos and leave pos behind what they read; they allocate nothing
// unless a name is escaped, an object is large, or they fail.
type scanner struct {
	data  []byte
	pos   int
	lim   Limits
	depth int
	names [][]byte // unescaped, of all objects that are open, innermost last

	member []byte // the outermost object's member that pos is in
	at     int    // where its name begins
}

// manyNames is where an object's names are worth a map.
const manyNames = 16

func newScanner(data []byte, lim Limits) *scanner {
	return &scanner{data: data, lim: lim.orDefaults(), names: make([][]byte, 0, manyNames)}
}

// fail returns an Error about the byte at offset at. format must not print
// anything of the data.
func (s *scanner) fail(at int, format string, args ...any) error {
	e := Errorf(CodeMalformed, format, args...)
	e.Detail += " at byte " + strconv.Itoa(at)
	if s.member != nil {
		e.Detail = "member " + shown(s.member) + ": " + e.Detail
	}
	return e
}

// shown returns name quoted, in printable ASCII, and not longer than a line.
func shown(name []byte) string {
	const most = 40
	if len(name) > most {
		return strconv.QuoteToASCII(string(name[:most])) + "..."
	}
	return strconv.QuoteToASCII(string(name))
}

// document reads one object and the white space around it. each is called
// behind the colon of every member and must read its value.
func (s *scanner) document(each func(name []byte) error) error {
	if len(s.data) > s.lim.Bytes {
		return Errorf(CodeTooLarge, "%d bytes are over the limit of %d", len(s.data), s.lim.Bytes)
	}
	s.skipSpace()
	if s.peek() != '{' {
		return s.fail(s.pos, "not a JSON object")
	}
	err := s.object(func(name []byte, at int) error {
		s.member, s.at = name, at
		err := each(name)
		s.member = nil
		return err
	})
	if err != nil {
		return err
	}
	s.skipSpace()
	if s.pos < len(s.data) {
		return s.fail(s.pos, "data after the object")
	}
	return nil
}

// peek returns the byte at pos, or 0, which no JSON token begins with.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) skipSpace() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// expect reads white space and then c.
func (s *scanner) expect(c byte) error {
	s.skipSpace()
	if s.peek() != c {
		return s.fail(s.pos, "expected %q", c)
	}
	s.pos++
	return nil
}

// skipValue reads any value.
func (s *scanner) skipValue() error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(func([]byte, int) error { return s.skipValue() })
	case c == '[':
		return s.array(s.skipValue)
	case c == '"':
		_, _, err := s.skipString()
		return err
	case c == '-' || c >= '0' && c <= '9':
		return s.skipNumber()
	case c == 't':
		return s.skipLiteral("true")
	case c == 'f':
		return s.skipLiteral("false")
	case c == 'n':
		return s.skipLiteral("null")
	}
	return s.fail(s.pos, "expected a value")
}

func (s *scanner) skipLiteral(word string) error {
	if !bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
		return s.fail(s.pos, "expected a value")
	}
	s.pos += len(word)
	return nil
}

// enter reads the bracket that opens a container.
func (s *scanner) enter() error {
	if s.depth++; s.depth > s.lim.Depth {
		return s.fail(s.pos, "nested more than %d deep", s.lim.Depth)
	}
	s.pos++
	s.skipSpace()
	return nil
}

// more reads what stands behind the n-th part of a container, which ends with
// end, and reports whether another part follows.
func (s *scanner) more(n int, end byte) (bool, error) {
	s.skipSpace()
	switch s.peek() {
	case end:
		s.pos++
		s.depth--
		return false, nil
	case ',':
		if n >= s.lim.Members {
			return false, s.fail(s.pos, "more than %d members or elements", s.lim.Members)
		}
		s.pos++
		s.skipSpace()
		return true, nil
	}
	return false, s.fail(s.pos, "expected ',' or %q", end)
}

// array reads an array. each is called where an element begins and must read it.
func (s *scanner) array(each func() error) error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.pos++
		s.depth--
		return nil
	}
	for n := 1; ; n++ {
		if err := each(); err != nil {
			return err
		}
		if more, err := s.more(n, ']'); err != nil || !more {
			return err
		}
	}
}

// object reads an object. each is called with the name of a member, and where
// that begins, and must read the value.
func (s *scanner) object(each func(name []byte, at int) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.peek() == '}' {
		s.pos++
		s.depth--
		return nil
	}
	names := nameSet{base: len(s.names)}
	for n := 1; ; n++ {
		at := s.pos
		name, err := s.name(&names)
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		s.skipSpace()
		if err := each(name, at); err != nil {
			return err
		}
		if more, err := s.more(n, '}'); err != nil || !more {
			s.names = s.names[:names.base]
			return err
		}
	}
}

// name reads the name of a member and refuses one the object has already.
func (s *scanner) name(in *nameSet) ([]byte, error) {
	at := s.pos
	if s.peek() != '"' {
		return nil, s.fail(at, "expected a member's name")
	}
	name, escaped, err := s.skipString()
	if err != nil {
		return nil, err
	}
	if escaped {
		name = unescape(name)
	}
	if !in.add(s, name) {
		return nil, s.fail(at, "duplicate name %s", shown(name))
	}
	return name, nil
}

// A nameSet holds the names of one object: in the scanner's names from base
// on, and in folded as well when they are many. Two names are the same if they
// differ in letter case only, by Unicode's simple folding, which is how
// encoding/json and others compare them: U+212A is k, U+017F is s.
type nameSet struct {
	base   int
	folded map[string]struct{}
}

// add reports whether name is new.
func (set *nameSet) add(s *scanner, name []byte) bool {
	earlier := s.names[set.base:]
	s.names = append(s.names, name)
	if len(earlier) < manyNames {
		for _, e := range earlier {
			if bytes.EqualFold(e, name) {
				return false
			}
		}
		return true
	}
	if set.folded == nil {
		set.folded = make(map[string]struct{}, 4*manyNames)
		for _, e := range earlier {
			set.folded[fold(e)] = struct{}{}
		}
	}
	key := fold(name)
	_, have := set.folded[key]
	set.folded[key] = struct{}{}
	return !have
}

// fold returns the same string for all names that bytes.EqualFold finds equal.
func fold(name []byte) string {
	return string(bytes.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, name))
}

// skipNumber reads a number by the grammar of RFC 8259 Section 6.
func (s *scanner) skipNumber() error {
	start := s.pos
	if s.peek() == '-' {
		s.pos++
	}
	ok := true
	if s.peek() == '0' {
		s.pos++
	} else {
		ok = s.skipDigits()
	}
	if ok && s.peek() == '.' {
		s.pos++
		ok = s.skipDigits()
	}
	if c := s.peek(); ok && (c == 'e' || c == 'E') {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		ok = s.skipDigits()
	}
	if !ok {
		return s.fail(start, "malformed number")
	}
	if s.pos-start > s.lim.Number {
		return s.fail(start, "a number of more than %d characters", s.lim.Number)
	}
	return nil
}

// skipDigits reads digits and reports whether there was one.
func (s *scanner) skipDigits() bool {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > start
}

// skipString reads a string (RFC 8259 Section 7) and returns what is between its
// quotes, and whether that has escapes.
func (s *scanner) skipString() (raw []byte, escaped bool, err error) {
	s.pos++
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			raw = s.data[start:s.pos]
			if len(raw) > s.lim.String {
				return nil, false, s.fail(start, "a string of more than %d bytes", s.lim.String)
			}
			s.pos++
			return raw, escaped, nil
		case c == '\\':
			escaped = true
			if err := s.skipEscape(); err != nil {
				return nil, false, err
			}
		case c < 0x20:
			return nil, false, s.fail(s.pos, "a control character in a string")
		case c < utf8.RuneSelf:
			s.pos++
		default:
			_, n := utf8.DecodeRune(s.data[s.pos:])
			if n == 1 {
				return nil, false, s.fail(s.pos, "invalid UTF-8")
			}
			s.pos += n
		}
	}
	return nil, false, s.fail(start, "a string without end")
}

// skipEscape reads one escape, or the two that make a surrogate pair.
func (s *scanner) skipEscape() error {
	rest := s.data[s.pos:]
	if len(rest) < 2 {
		return s.fail(s.pos, "malformed escape")
	}
	switch rest[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos += 2
		return nil
	}
	r, ok := hexEscape(rest)
	if !ok {
		return s.fail(s.pos, "malformed escape")
	}
	if !utf16.IsSurrogate(r) {
		s.pos += 6
		return nil
	}
	low, ok := hexEscape(rest[6:])
	if !ok || utf16.DecodeRune(r, low) == unicode.ReplacementChar {
		return s.fail(s.pos, "a lone surrogate")
	}
	s.pos += 12
	return nil
}

// hexEscape returns the code unit of the \uXXXX that b begins with.
func hexEscape(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// unescape returns raw, which skipString has read, without its escapes.
func unescape(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			i++
			continue
		}
		if raw[i+1] != 'u' {
			out = append(out, escapes[raw[i+1]])
			i += 2
			continue
		}
		r, _ := hexEscape(raw[i:])
		i += 6
		if utf16.IsSurrogate(r) {
			low, _ := hexEscape(raw[i:])
			r = utf16.DecodeRune(r, low)
			i += 6
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}

// escapes has the byte that each two-character escape stands for.
var escapes = [256]byte{
	'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

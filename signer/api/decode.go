package api

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"reflect"
	"strconv"
	"strings"
)

// Sizes the server accepts.
const (
	MaxBatch     = 256      // requests in one BatchRequest
	MaxBody      = 64 << 10 // bytes of a request
	MaxBatchBody = 1 << 20  // bytes of a BatchRequest
	MaxClaims    = 32 << 10 // bytes of the claims of one JWT
	maxDepth     = 32       // containers inside each other
	maxMembers   = 1000     // members of one object, elements of one array
	maxString    = 32 << 10 // bytes of one string as written
	maxNumber    = 256      // characters of one number
)

// Limits bounds what Decode and Object read. A zero member means the default,
// which is the one for the body of a request.
type Limits struct {
	Bytes   int // of the whole text: 64 KiB
	Depth   int // containers inside each other, the outermost included: 32
	Members int // members of one object, elements of one array: 1000
	String  int // bytes of one string as written, names included: 32 KiB
	Number  int // characters of one number: 256
}

// The limits of the bodies the server reads, and of the claims of one JWT. A
// batch is two containers deeper than one request, so that both allow the same
// claims, which have a limit of their own.
var (
	DefaultLimits = Limits{}
	CSRLimits     = Limits{String: MaxBody} // the request is one long string
	BatchLimits   = Limits{Bytes: MaxBatchBody, Depth: maxDepth + 2}
	ClaimsLimits  = Limits{Bytes: MaxClaims}
)

func (l Limits) orDefaults() Limits {
	for _, m := range []struct {
		limit *int
		value int
	}{{&l.Bytes, MaxBody}, {&l.Depth, maxDepth}, {&l.Members, maxMembers}, {&l.String, maxString}, {&l.Number, maxNumber}} {
		if *m.limit == 0 {
			*m.limit = m.value
		}
	}
	return l
}

// Decode reads the one JSON object (RFC 8259) that data is into v, a pointer to
// a struct whose fields have json tags and types string, bool, int64, *int64,
// json.RawMessage, []json.RawMessage or []string.
//
// It reads one spelling only, and refuses everything RFC 8259 leaves open:
// names that occur twice in one object, at any depth, or that differ only in
// letter case; names v does not have, compared exactly; data behind the object;
// a byte order mark; invalid UTF-8 and lone surrogates, written out or escaped;
// null; integers written with fraction or exponent; and anything over lim. A
// member whose tag does not say omitempty must be there. Raw members hold the
// bytes as they came, whatever the numbers in them, and are part of data.
//
// Errors are *Error with CodeMalformed, or CodeTooLarge if data is longer than
// lim.Bytes. Their detail names the member and the byte offset, and is printable
// ASCII whatever data holds. v is of no use then.
func Decode(data []byte, v any, lim Limits) error {
	fields, err := fieldsOf(v)
	if err != nil {
		return err
	}
	s := newScanner(data, lim)
	var seen uint64
	err = s.document(func(name []byte) error {
		i := fields.find(name)
		if i < 0 {
			return s.fail(s.at, "unknown member")
		}
		seen |= 1 << i
		return s.into(fields.value.Field(i).Addr().Interface())
	})
	if err != nil {
		return err
	}
	if missing := fields.required &^ seen; missing != 0 {
		return Errorf(CodeMalformed, "member %q is missing", fields.names[bits.TrailingZeros64(missing)])
	}
	return nil
}

// Object reads the one JSON object that data is, as strictly as Decode, and
// calls each with the name, unescaped, and the raw value of every member of it
// in their order. name may be used during the call only. An error of each ends
// the reading and is returned as it is. each may have been called for the
// members before the place where data is malformed.
func Object(data []byte, lim Limits, each func(name, value []byte) error) error {
	s := newScanner(data, lim)
	return s.document(func(name []byte) error {
		start := s.pos
		if err := s.skipValue(); err != nil {
			return err
		}
		return each(name, data[start:s.pos])
	})
}

// fields are the members a struct can have: at most 64, one bit each.
type fields struct {
	value    reflect.Value
	names    []string // by field; empty: none
	required uint64
}

func fieldsOf(v any) (fields, error) {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() || p.Elem().Kind() != reflect.Struct || p.Elem().NumField() > 64 {
		return fields{}, Errorf(CodeInternal, "internal error").Because(fmt.Errorf("cannot decode into %T", v))
	}
	f := fields{value: p.Elem(), names: make([]string, p.Elem().NumField())}
	t := f.value.Type()
	for i := range f.names {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		f.names[i] = name
		if options != "omitempty" {
			f.required |= 1 << i
		}
	}
	return f, nil
}

func (f fields) find(name []byte) int {
	for i, n := range f.names {
		if n != "" && n == string(name) {
			return i
		}
	}
	return -1
}

// into reads one value into dst, a pointer to one of the types Decode knows.
func (s *scanner) into(dst any) (err error) {
	switch dst := dst.(type) {
	case *string:
		*dst, err = s.readString()
	case *int64:
		*dst, err = s.readInteger()
	case **int64:
		var n int64
		n, err = s.readInteger()
		*dst = &n
	case *bool:
		*dst, err = s.readBool()
	case *json.RawMessage:
		*dst, err = s.readRaw()
	case *[]json.RawMessage:
		*dst, err = readArray(s, s.readRaw)
	case *[]string:
		*dst, err = readArray(s, s.readString)
	default:
		err = Errorf(CodeInternal, "internal error").Because(fmt.Errorf("cannot decode into %T", dst))
	}
	return err
}

func (s *scanner) readString() (string, error) {
	if s.peek() != '"' {
		return "", s.fail(s.pos, "not a string")
	}
	raw, escaped, err := s.skipString()
	if err != nil {
		return "", err
	}
	if escaped {
		return string(unescape(raw)), nil
	}
	return string(raw), nil
}

// readInteger reads an integer in the one spelling strconv.FormatInt has.
func (s *scanner) readInteger() (int64, error) {
	start := s.pos
	if c := s.peek(); c != '-' && (c < '0' || c > '9') {
		return 0, s.fail(start, "not an integer")
	}
	if err := s.skipNumber(); err != nil {
		return 0, err
	}
	text := string(s.data[start:s.pos])
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || text == "-0" {
		return 0, s.fail(start, "not an integer of 64 bits without fraction or exponent")
	}
	return n, nil
}

func (s *scanner) readBool() (bool, error) {
	start := s.pos
	switch s.peek() {
	case 't':
		return true, s.skipLiteral("true")
	case 'f':
		return false, s.skipLiteral("false")
	}
	return false, s.fail(start, "not true or false")
}

func (s *scanner) readRaw() (json.RawMessage, error) {
	start := s.pos
	if err := s.skipValue(); err != nil {
		return nil, err
	}
	return s.data[start:s.pos:s.pos], nil
}

func readArray[T any](s *scanner, read func() (T, error)) ([]T, error) {
	if s.peek() != '[' {
		return nil, s.fail(s.pos, "not an array")
	}
	list := []T{}
	err := s.array(func() error {
		e, err := read()
		list = append(list, e)
		return err
	})
	return list, err
}

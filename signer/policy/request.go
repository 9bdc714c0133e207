package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Request is what of a request a rule's expression may read. Nothing of it is
// decoded unless an expression asks for it. In the zero Request nothing is known,
// and an expression that reads of it refuses.
type Request struct {
	TTL  int64  // seconds; 0: Defaults has it
	Typ  string // of a JWT; empty: likewise
	Body []byte // the claims of a JWT, or a CSR; not kept

	// Defaults returns the lifetime in seconds and the typ of what is asked for
	// without them, by the profile that it has under a rule; nil: they are not known.
	Defaults func(profile string) (ttl int64, typ string)

	// Object walks over the claims, a JSON object, as strictly as they are going to
	// be read: each member once, no duplicate names at any depth, each with the name
	// unescaped and the valid text of the value. Its errors reach the caller.
	Object func(body []byte, each func(name, value []byte) error) error
	// Names returns the names that a CSR asks for. Its errors reach the caller.
	Names func(body []byte) ([]string, error)
}

// filled returns r with its defaults under a profile.
func (r Request) filled(profile string) Request {
	if r.Defaults == nil || r.TTL != 0 && r.Typ != "" {
		return r
	}
	ttl, typ := r.Defaults(profile)
	r.TTL, r.Typ = cmp.Or(r.TTL, ttl), cmp.Or(r.Typ, typ)
	return r
}

// claims returns the claims as CEL takes them. A number is an int64 or, written
// with fraction or exponent, a float64, and only if it fits exactly.
func (r Request) claims() (map[string]any, error) {
	if r.Object == nil {
		return nil, errors.New("they are not known")
	}
	if err := r.Object(r.Body, func(_, _ []byte) error { return nil }); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(r.Body))
	d.UseNumber()
	var claims map[string]any
	if err := d.Decode(&claims); err != nil {
		return nil, err
	}
	if _, err := exact(claims); err != nil {
		return nil, err
	}
	return claims, nil
}

// exact returns v with its numbers as CEL knows them.
func exact(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			if v[name], err = exact(v[name]); err != nil {
				return nil, err
			}
		}
	case []any:
		for i := range v {
			if v[i], err = exact(v[i]); err != nil {
				return nil, err
			}
		}
	case json.Number:
		return exactNumber(string(v))
	}
	return v, nil
}

// exactNumber returns the int64 or float64 that text is. A float64 fits if it is
// written back as the same decimal number, so that no two numbers are taken for
// one.
func exactNumber(text string) (any, error) {
	unfit := fmt.Errorf("the number %.40s does not fit exactly into 64 bits", text)
	if !strings.ContainsAny(text, ".eE") {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || text == "-0" {
			return nil, unfit
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, unfit
	}
	was, ok := decimalOf(text)
	is, _ := decimalOf(strconv.FormatFloat(f, 'e', -1, 64))
	if !ok || was != is {
		return nil, unfit
	}
	return f, nil
}

// A decimal is 0.DIGITS · 10^exponent, with neither zeros around the digits nor
// any at all for zero.
type decimal struct {
	negative bool
	digits   string
	exponent int
}

// decimalOf reads a JSON number; false: its exponent is beyond reason.
func decimalOf(text string) (decimal, bool) {
	var d decimal
	text, d.negative = strings.CutPrefix(text, "-")
	mantissa, exponent := text, "0"
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		mantissa, exponent = text[:i], text[i+1:]
	}
	e, err := strconv.ParseInt(exponent, 10, 32)
	if err != nil {
		return d, false
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	all := strings.TrimLeft(whole+fraction, "0")
	if all == "" {
		return decimal{negative: d.negative}, true
	}
	d.exponent = int(e) + len(whole) - (len(whole) + len(fraction) - len(all))
	d.digits = strings.TrimRight(all, "0")
	return d, true
}

package audit

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"chancery/keystore"
)

// ParseEntry reads an entry in its one spelling: what it accepts, Append writes
// back to the same bytes. It returns an error for everything else, and for an
// entry of another schema.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) > MaxEntry {
		return Entry{}, fmt.Errorf("entry of %d bytes is over %d", len(b), MaxEntry)
	}
	p := parser{rest: b}
	e := Entry{Schema: Schema}
	e.Sequence, e.Time = p.prefix()
	p.record(&e.Record)
	if p.err == nil && len(p.rest) != 0 {
		p.fail("what follows is not expected there")
	}
	if p.err != nil {
		return Entry{}, fmt.Errorf("entry not in canonical form at byte %d: %w", len(b)-len(p.rest), p.err)
	}
	return e, nil
}

// parser goes over an entry from left to right. After the first error nothing
// is accepted any more.
type parser struct {
	rest []byte
	err  error
}

func (p *parser) fail(what string) {
	if p.err == nil {
		p.err = errors.New(what)
	}
}

// has consumes s if it is what comes next.
func (p *parser) has(s string) bool {
	if p.err != nil || len(p.rest) < len(s) || string(p.rest[:len(s)]) != s {
		return false
	}
	p.rest = p.rest[len(s):]
	return true
}

func (p *parser) want(s string) {
	if !p.has(s) {
		p.fail("expected " + s)
	}
}

func (p *parser) prefix() (int64, time.Time) {
	p.want(`{"v":1,"seq":`)
	seq := p.number()
	if seq < 0 {
		p.fail("sequence is negative")
	}
	p.want(`,"time":"`)
	return seq, p.time()
}

func (p *parser) time() time.Time {
	if p.err != nil || len(p.rest) < len(TimeLayout)+1 || p.rest[len(TimeLayout)] != '"' {
		p.fail("expected a time")
		return time.Time{}
	}
	text := p.rest[:len(TimeLayout)]
	t, err := time.Parse(TimeLayout, string(text))
	if err != nil {
		p.fail("not a time")
		return time.Time{}
	}
	var again [len(TimeLayout)]byte
	if !bytes.Equal(t.AppendFormat(again[:0], TimeLayout), text) {
		p.fail("time in another spelling")
	}
	p.rest = p.rest[len(TimeLayout)+1:]
	return t
}

func (p *parser) record(r *keystore.Record) {
	r.ID = p.text(`,"id":"`, limitName)
	r.Principal = p.text(`,"principal":"`, limitPrincipal)
	p.want(`,"action":"`)
	r.Action = keystore.Action(p.string(limitName))
	p.want(`,"outcome":"`)
	r.Outcome = keystore.Outcome(p.string(limitName))
	r.KeySet = p.text(`,"keyset":"`, limitText)
	r.KID = keystore.KID(p.text(`,"kid":"`, limitName))
	r.Version = p.small(`,"version":`)
	r.Use = p.member(`,"use":`)
	r.State = p.text(`,"state":"`, limitName)
	r.Rule = p.text(`,"rule":"`, limitText)
	r.Policy = p.text(`,"policy":"`, limitText)
	r.Request = p.text(`,"request":"`, limitText)
	r.Code = p.text(`,"code":"`, limitName)
	r.Reason = p.text(`,"reason":"`, limitReason)
	r.Exp = p.member(`,"exp":`)
	r.JTI = p.text(`,"jti":"`, limitText)
	r.Authority = p.text(`,"authority":"`, limitText)
	r.Profile = p.text(`,"profile":"`, limitText)
	r.Serial = p.text(`,"serial":"`, limitName)
	r.NotAfter = p.member(`,"not_after":`)
	r.Count = p.small(`,"count":`)
	r.Detail = p.detail()
	p.want("}")
}

// member reads a number that is absent when it is zero.
func (p *parser) member(name string) int64 {
	if !p.has(name) {
		return 0
	}
	n := p.number()
	if n == 0 {
		p.fail("zero is written by leaving it out")
	}
	return n
}

func (p *parser) small(name string) int {
	n := p.member(name)
	if n > math.MaxInt32 || n < math.MinInt32 {
		p.fail("number too large")
	}
	return int(n)
}

func (p *parser) number() int64 {
	i := 0
	for i < len(p.rest) && (p.rest[i] == '-' || p.rest[i] >= '0' && p.rest[i] <= '9') {
		i++
	}
	if p.err != nil || i > 20 {
		p.fail("not a number")
		return 0
	}
	n, err := strconv.ParseInt(string(p.rest[:i]), 10, 64)
	var again [20]byte
	if err != nil || !bytes.Equal(strconv.AppendInt(again[:0], n, 10), p.rest[:i]) {
		p.fail("not a number in its shortest spelling")
		return 0
	}
	p.rest = p.rest[i:]
	return n
}

// text reads a string that is absent when it is empty.
func (p *parser) text(name string, limit int) string {
	if !p.has(name) {
		return ""
	}
	s := p.string(limit)
	if s == "" {
		p.fail("an empty member is written by leaving it out")
	}
	return s
}

// string reads up to and over the closing quote.
func (p *parser) string(limit int) string { return p.decode(p.raw(limit)) }

func (p *parser) decode(raw []byte, isPlain bool) string {
	if p.err != nil || isPlain {
		return string(raw)
	}
	s, ok := unescape(raw)
	if !ok {
		p.fail("string in another spelling")
	}
	return s
}

// raw returns the escaped bytes of the string that comes next and consumes it
// with its closing quote.
func (p *parser) raw(limit int) (raw []byte, isPlain bool) {
	if p.err != nil {
		return nil, true
	}
	isPlain = true
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case plain[c]:
		case c == '"':
			raw, p.rest = p.rest[:i], p.rest[i+1:]
			if len(raw) > limit {
				p.fail("string too long for its member")
			}
			return raw, isPlain
		case c == '\\':
			isPlain = false
			i++ // whatever is escaped does not end the string
		default:
			p.fail("character that has to be escaped")
			return nil, true
		}
	}
	p.fail("string without an end")
	return nil, true
}

// unescape undoes appendRune, and reports whether raw is what appendRune writes.
func unescape(raw []byte) (string, bool) {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			i++
			continue
		}
		if i+1 < len(raw) && (raw[i+1] == '"' || raw[i+1] == '\\') {
			out = append(out, raw[i+1])
			i += 2
			continue
		}
		r, ok := unit(raw[i:])
		i += 6
		if ok && utf16.IsSurrogate(r) {
			var low rune
			if i > len(raw) {
				return "", false
			}
			low, ok = unit(raw[i:])
			r = utf16.DecodeRune(r, low)
			ok = ok && r != utf8.RuneError
			i += 6
		}
		if !ok {
			return "", false
		}
		out = utf8.AppendRune(out, r)
	}
	again := make([]byte, 0, len(raw))
	for _, r := range string(out) {
		again = appendRune(again, r)
	}
	return string(out), bytes.Equal(again, raw)
}

func unit(raw []byte) (rune, bool) {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return rune(n), err == nil
}

// detail reads the members, whose escaped names ascend.
func (p *parser) detail() map[string]string {
	const open = `,"detail":{`
	if !p.has(open) {
		return nil
	}
	before := len(p.rest) + len(open)
	m := make(map[string]string)
	var last []byte
	for first := true; first || p.has(","); first = false {
		p.want(`"`)
		raw, isPlain := p.raw(limitDetailKey)
		if p.err == nil && !first && bytes.Compare(last, raw) >= 0 {
			p.fail("detail members out of order")
		}
		last = raw
		name := p.decode(raw, isPlain)
		p.want(`:"`)
		m[name] = p.string(limitDetailVal)
	}
	p.want("}")
	if before-len(p.rest) > limitDetail {
		p.fail("detail too long")
	}
	return m
}

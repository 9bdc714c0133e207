package audit

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"chancery/keystore"
)

// Schema is the version of the entries this package writes and reads.
const Schema = 1

// MaxEntry is the longest entry, in bytes.
const MaxEntry = 16 << 10

// TimeLayout is the one spelling of a time in an entry, always UTC.
const TimeLayout = "2006-01-02T15:04:05.000000Z"

// An Entry is a Record that the log has taken: where it stands and when.
type Entry struct {
	Schema   int       `json:"v"`
	Sequence int64     `json:"seq"`  // its index in its log, from 0
	Time     time.Time `json:"time"` // UTC, microseconds; never before that of the entry before
	keystore.Record
}

// Append appends e's canonical form, which is what is hashed, to b. Strings
// longer than their member allows are cut and say so.
func (e Entry) Append(b []byte) []byte {
	b = appendPrefix(b, e.Sequence, e.Time)
	return appendRest(b, &e.Record)
}

// MarshalJSON returns e's canonical form.
func (e Entry) MarshalJSON() ([]byte, error) { return e.Append(nil), nil }

var _ json.Marshaler = Entry{}

// The most each string member takes in an entry, escapes included. Together
// with the rest they stay below MaxEntry.
const (
	limitName      = 64 // ids, actions, kids, codes, states
	limitText      = 256
	limitPrincipal = 2560 // a SPIFFE ID may have 2048 bytes
	limitReason    = 3072
	limitDetail    = 6144 // all of it
	limitDetailKey = 64
	limitDetailVal = 1024
)

// cutKey names the detail member that tells how many others were left out.
const cutKey = "cut"

func appendPrefix(b []byte, seq int64, t time.Time) []byte {
	b = append(b, `{"v":1,"seq":`...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, `,"time":"`...)
	b = t.UTC().AppendFormat(b, TimeLayout)
	return append(b, '"')
}

// appendRest appends what follows the time, which the caller of the log can
// encode before the committer knows sequence and time.
func appendRest(b []byte, r *keystore.Record) []byte {
	b = appendText(b, `,"id":"`, r.ID, limitName)
	b = appendText(b, `,"principal":"`, r.Principal, limitPrincipal)
	b = appendString(append(b, `,"action":"`...), string(r.Action), limitName)
	b = appendString(append(b, `,"outcome":"`...), string(r.Outcome), limitName)
	b = appendText(b, `,"keyset":"`, r.KeySet, limitText)
	b = appendText(b, `,"kid":"`, string(r.KID), limitName)
	b = appendNumber(b, `,"version":`, int64(r.Version))
	b = appendNumber(b, `,"use":`, r.Use)
	b = appendText(b, `,"state":"`, r.State, limitName)
	b = appendText(b, `,"rule":"`, r.Rule, limitText)
	b = appendText(b, `,"policy":"`, r.Policy, limitText)
	b = appendText(b, `,"request":"`, r.Request, limitText)
	b = appendText(b, `,"code":"`, r.Code, limitName)
	b = appendText(b, `,"reason":"`, r.Reason, limitReason)
	b = appendNumber(b, `,"exp":`, r.Exp)
	b = appendText(b, `,"jti":"`, r.JTI, limitText)
	b = appendText(b, `,"authority":"`, r.Authority, limitText)
	b = appendText(b, `,"profile":"`, r.Profile, limitText)
	b = appendText(b, `,"serial":"`, r.Serial, limitName)
	b = appendNumber(b, `,"not_after":`, r.NotAfter)
	b = appendNumber(b, `,"count":`, int64(r.Count))
	b = appendDetail(b, r.Detail)
	return append(b, '}')
}

func appendNumber(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, name...), n, 10)
}

func appendText(b []byte, name, s string, limit int) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, name...), s, limit)
}

// appendString appends s escaped, in at most limit bytes, and the closing quote.
func appendString(b []byte, s string, limit int) []byte {
	if len(s) <= limit && isPlain(s) {
		return append(append(b, s...), '"')
	}
	start := len(b)
	mark := "[cut: " + strconv.Itoa(len(s)) + " bytes]"
	fit := start // the longest whole prefix that leaves room for the mark
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		b = appendRune(b, r)
		if len(b)-start > limit {
			b = append(b[:fit], mark...)
			break
		}
		if len(b)-start+len(mark) <= limit {
			fit = len(b)
		}
		i += n
	}
	return append(b, '"')
}

const hexDigits = "0123456789abcdef"

func appendRune(b []byte, r rune) []byte {
	switch {
	case r < utf8.RuneSelf && plain[byte(r)]:
		return append(b, byte(r))
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r > 0xffff:
		r -= 0x10000
		b = appendUnit(b, 0xd800+uint16(r>>10))
		return appendUnit(b, 0xdc00+uint16(r&0x3ff))
	}
	return appendUnit(b, uint16(r))
}

func appendUnit(b []byte, u uint16) []byte {
	return append(b, '\\', 'u', hexDigits[u>>12], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
}

// plain are the bytes that stand for themselves in a string. What could end a
// string, start a terminal sequence, turn the direction of text or open an HTML
// element is not among them.
var plain = func() (t [256]bool) {
	for c := 0x20; c <= 0x7e; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

func isPlain(s string) bool {
	for i := range len(s) {
		if !plain[s[i]] {
			return false
		}
	}
	return true
}

// A member of an entry's detail, escaped.
type member struct{ name, value string }

// appendDetail writes the members in the order of their escaped names. What
// goes beyond the limits, or has the same name when escaped, is left out and
// counted under cutKey.
func appendDetail(b []byte, detail map[string]string) []byte {
	if len(detail) == 0 {
		return b
	}
	members := make([]member, 0, len(detail))
	for k, v := range detail {
		members = append(members, member{escape(k, limitDetailKey), escape(v, limitDetailVal)})
	}
	slices.SortFunc(members, func(x, y member) int {
		return cmp.Or(strings.Compare(x.name, y.name), strings.Compare(x.value, y.value))
	})
	members = slices.CompactFunc(members, func(x, y member) bool { return x.name == y.name })
	start := len(b)
	b = appendMembers(b, members)
	if len(members) == len(detail) && len(b)-start <= limitDetail {
		return b
	}
	return appendMembers(b[:start], shorten(members, len(detail)))
}

// shorten returns as many of members as fit beside the one that tells how many
// of all were left out.
func shorten(members []member, all int) []member {
	room := limitDetail - len(`,"detail":{},"cut":"-9223372036854775808 members"`)
	var kept []member
	for _, m := range members {
		if n := len(m.name) + len(m.value) + len(`,"":""`); n <= room && m.name != cutKey {
			kept, room = append(kept, m), room-n
		}
	}
	i, _ := slices.BinarySearchFunc(kept, cutKey, func(m member, key string) int { return strings.Compare(m.name, key) })
	return slices.Insert(kept, i, member{cutKey, strconv.Itoa(all-len(kept)) + " members"})
}

func appendMembers(b []byte, members []member) []byte {
	b = append(b, `,"detail":`...)
	separator := byte('{')
	for _, m := range members {
		b = append(append(append(b, separator, '"'), m.name...), `":"`...)
		b = append(append(b, m.value...), '"')
		separator = ','
	}
	return append(b, '}')
}

func escape(s string, limit int) string {
	b := appendString(nil, s, limit)
	return string(b[:len(b)-1])
}

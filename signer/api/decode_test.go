package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func decodeJWT(text string) (SignJWTRequest, error) {
	var r SignJWTRequest
	err := Decode([]byte(text), &r, Limits{})
	return r, err
}

func TestDecodeReadsARequest(t *testing.T) {
	claims := `{ "sub":"a\u0062", "n":9007199254740993,"e":1e400,"x":[1.0,-0, {}] }`
	r, err := decodeJWT(" {\"keyset\":\"w\\u0065b\" ,\n\t\"claims\": " + claims + ",\r\"ttl\":60,\"typ\":\"at+jwt\"} ")
	if err != nil {
		t.Fatal(err)
	}
	if r.KeySet != "web" || r.TTL == nil || *r.TTL != 60 || r.Typ != "at+jwt" {
		t.Errorf("read %+v", r)
	}
	if string(r.Claims) != claims {
		t.Errorf("claims are not verbatim:\n%s\n%s", r.Claims, claims)
	}
}

func TestDecodeReadsEveryType(t *testing.T) {
	var v struct {
		N    int64             `json:"n"`
		B    bool              `json:"b"`
		Raws []json.RawMessage `json:"raws"`
		S    []string          `json:"s"`
		Not  string            `json:"-"`
		None string
	}
	if err := Decode([]byte(`{"n":-7,"b":true,"raws":[ {} , 1 ],"s":["\ud83d\ude00",""]}`), &v, Limits{}); err != nil {
		t.Fatal(err)
	}
	if v.N != -7 || !v.B || len(v.Raws) != 2 || string(v.Raws[0]) != "{}" || !slices.Equal(v.S, []string{"\U0001f600", ""}) {
		t.Errorf("read %+v", v)
	}
	for _, text := range []string{`{"-":"","n":0,"b":false,"raws":[],"s":[]}`, `{"None":"","n":0,"b":false,"raws":[],"s":[]}`} {
		if Decode([]byte(text), &v, Limits{}) == nil {
			t.Errorf("accepted %s", text)
		}
	}
}

// What encoding/json lets through, or reads in another way than it was meant:
// the header and the claims must have one reading.
func TestA01A02A03StrictDecoding(t *testing.T) {
	const ok = `"keyset":"web","claims":{"sub":"x"}`
	deep := strings.Repeat("[", 20000) + strings.Repeat("]", 20000)
	for _, c := range []struct{ name, text, detail string }{
		{"A01 header members", `{` + ok + `,"alg":"none"}`, `member "alg": unknown member`},
		{"A01 header object", `{` + ok + `,"header":{"jku":"x"}}`, "unknown member"},
		{"A01 kid", `{` + ok + `,"kid":"x"}`, "unknown member"},
		{"A02 duplicate", `{` + ok + `,"keyset":"edge"}`, `duplicate name "keyset"`},
		{"A02 duplicate, escaped", `{` + ok + `,"k\u0065yset":"edge"}`, `duplicate name "keyset"`},
		{"A02 duplicate in claims", `{"keyset":"web","claims":{"sub":"x","sub":"y"}}`, `member "claims": duplicate name "sub"`},
		{"A02 duplicate in claims, escaped", `{"keyset":"web","claims":{"sub":"x","\u0073ub":"y"}}`, "duplicate name"},
		{"A02 duplicate deep in claims", `{"keyset":"web","claims":{"a":[{"b":{"c":1,"c":2}}]}}`, `duplicate name "c"`},
		{"A02 claims differ in case", `{"keyset":"web","claims":{"sub":"x","Sub":"y"}}`, "duplicate name"},
		{"A03 case-folded name", `{"KeySet":"web","claims":{}}`, "unknown member"},
		{"A03 Kelvin sign", "{\"\u212aeyset\":\"web\",\"claims\":{}}", `member "\u212aeyset": unknown member`},
		{"A03 Kelvin sign beside k", "{" + ok + ",\"\u212aeyset\":\"edge\"}", `duplicate name "\u212aeyset"`},
		{"A03 long s in claims", "{\"keyset\":\"web\",\"claims\":{\"sub\":1,\"\u017fub\":2}}", "duplicate name"},
		{"A03 second document", `{` + ok + `}{}`, "data after the object"},
		{"A03 trailing brace", `{` + ok + `}}`, "data after the object"},
		{"A03 trailing NUL", `{` + ok + "}\x00", "data after the object"},
		{"A03 byte order mark", "\ufeff{" + ok + `}`, "not a JSON object"},
		{"A03 bad UTF-8", "{\"keyset\":\"w\xff\",\"claims\":{}}", "invalid UTF-8"},
		{"A03 overlong UTF-8", "{\"keyset\":\"\xc0\xaf\",\"claims\":{}}", "invalid UTF-8"},
		{"A03 surrogate in UTF-8", "{\"keyset\":\"web\",\"claims\":{\"a\":\"\xed\xa0\x80\"}}", "invalid UTF-8"},
		{"A03 lone high surrogate", `{"keyset":"\ud800","claims":{}}`, "a lone surrogate"},
		{"A03 lone low surrogate", `{"keyset":"\uDC00","claims":{}}`, "a lone surrogate"},
		{"A03 surrogates in wrong order", `{"keyset":"\uDC00\uD800","claims":{}}`, "a lone surrogate"},
		{"A03 lone surrogate in a name", `{"keyset":"web","claims":{"\ud800":1}}`, "a lone surrogate"},
		{"A03 high surrogate, then text", `{"keyset":"\ud800abcdef","claims":{}}`, "a lone surrogate"},
		{"A03 big ttl", `{` + ok + `,"ttl":9223372036854775808}`, "not an integer"},
		{"A03 1e400 as ttl", `{` + ok + `,"ttl":1e400}`, "not an integer"},
		{"A03 second spellings of a number", `{` + ok + `,"ttl":60.0}`, "not an integer"},
		{"A03 minus zero", `{` + ok + `,"ttl":-0}`, "not an integer"},
		{"A03 number as string", `{` + ok + `,"ttl":"60"}`, "not an integer"},
		{"A03 null", `{` + ok + `,"ttl":null}`, `member "ttl": not an integer`},
		{"A03 null name", `{"keyset":null,"claims":{}}`, "not a string"},
		{"A03 depth 20000", `{"keyset":"web","claims":` + deep + `}`, "nested more than 32 deep"},
		{"A04 too many members", `{"keyset":"web","claims":{` + manyMembers(1001) + `}}`, "more than 1000"},
		{"A04 too many elements", `{"keyset":"web","claims":[1` + strings.Repeat(",1", 1000) + `]}`, "more than 1000"},
		{"A04 long string", `{"keyset":"` + strings.Repeat("x", 32<<10+1) + `","claims":{}}`, "more than 32768 bytes"},
		{"A04 long number", `{"keyset":"web","claims":{"n":` + strings.Repeat("1", 257) + `}}`, "more than 256 characters"},
		{"missing member", `{"keyset":"web"}`, `member "claims" is missing`},
		{"empty", ``, "not a JSON object"},
		{"array", `[]`, "not a JSON object"},
		{"null document", `null`, "not a JSON object"},
		{"comma at the end", `{` + ok + `,}`, "expected a member's name"},
		{"comma at the end of an array", `{"keyset":"web","claims":[1,]}`, "expected a value"},
		{"no end", `{` + ok, "expected ',' or '}'"},
		{"string without end", `{"keyset":"web`, "a string without end"},
		{"newline in a string", "{\"keyset\":\"a\nb\",\"claims\":{}}", "control character"},
		{"comment", `{/**/` + ok + `}`, "expected a member's name"},
		{"leading zero", `{"keyset":"web","claims":{"n":01}}`, "expected ',' or '}'"},
		{"plus sign", `{"keyset":"web","claims":{"n":+1}}`, "expected a value"},
		{"bare point", `{"keyset":"web","claims":{"n":1.}}`, "malformed number"},
		{"bare exponent", `{"keyset":"web","claims":{"n":1e}}`, "malformed number"},
		{"bare minus", `{"keyset":"web","claims":{"n":-}}`, "malformed number"},
		{"NaN", `{"keyset":"web","claims":{"n":NaN}}`, "expected a value"},
		{"escape \\x", `{"keyset":"\x41","claims":{}}`, "malformed escape"},
		{"short \\u", `{"keyset":"\u004`, "malformed escape"},
		{"no-break space", "{\u00a0" + ok + "}", "expected a member's name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decodeJWT(c.text)
			e, is := errors.AsType[*Error](err)
			if !is || e.Code != CodeMalformed || !strings.Contains(e.Detail, c.detail) {
				t.Errorf("got %v, want %q", err, c.detail)
			}
		})
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"m%d":0`, i)
	}
	return b.String()[1:]
}

func TestA04SizeIsLookedAtFirst(t *testing.T) {
	err := Decode([]byte(strings.Repeat("{", MaxBody+1)), new(SignJWTRequest), Limits{})
	if e, is := errors.AsType[*Error](err); !is || e.Code != CodeTooLarge {
		t.Errorf("got %v", err)
	}
}

// A million members cost no more than the bytes up to the limit.
func TestA04ManyNamesAreCheap(t *testing.T) {
	text := `{"keyset":"web","claims":{` + manyMembers(1000) + `,"M7":1}}`
	_, err := decodeJWT(strings.Replace(text, `,"m999":0`, "", 1))
	if err == nil || !strings.Contains(err.Error(), `duplicate name "M7"`) {
		t.Errorf("got %v", err)
	}
	if _, err := decodeJWT(`{"keyset":"web","claims":{` + manyMembers(1000) + `}}`); err != nil {
		t.Error(err)
	}
}

func TestA22DetailsArePrintable(t *testing.T) {
	for _, name := range []string{"a\\nb", "\\u001b[31m", "\u202etxt", strings.Repeat("y", 1<<14)} {
		_, err := decodeJWT(`{"` + name + `":1}`)
		e, _ := errors.AsType[*Error](err)
		if e == nil || len(e.Detail) > 120 || strings.ContainsFunc(e.Detail, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("detail %q", e.Detail)
		}
	}
}

func TestClaimsMayBeAsDeepInABatch(t *testing.T) {
	claims := `{"a":` + strings.Repeat("[", 30) + strings.Repeat("]", 30) + `}`
	one := `{"keyset":"web","claims":` + claims + `}`
	if _, err := decodeJWT(one); err != nil {
		t.Fatal(err)
	}
	var b BatchRequest
	if err := Decode([]byte(`{"requests":[`+one+`,`+one+`]}`), &b, BatchLimits); err != nil {
		t.Fatal(err)
	}
	if len(b.Requests) != 2 || string(b.Requests[1]) != one {
		t.Errorf("read %q", b.Requests)
	}
}

func TestObjectNamesAreComparedUnescaped(t *testing.T) {
	var got []string
	err := Object([]byte(` {"\u0069ss":"x", "a" : [1, 2] } `), Limits{}, func(name, value []byte) error {
		got = append(got, string(name)+"="+string(value))
		return nil
	})
	if err != nil || !slices.Equal(got, []string{`iss="x"`, `a=[1, 2]`}) {
		t.Errorf("%q, %v", got, err)
	}
	stop := errors.New("stop")
	if err := Object([]byte(`{"a":1,"b"`), Limits{}, func(_, _ []byte) error { return stop }); err != stop {
		t.Errorf("got %v", err)
	}
}

func TestDecodeIsCheap(t *testing.T) {
	text := []byte(`{"keyset":"web","claims":{"sub":"someone","aud":["a","b"],"scope":"read write"},"ttl":60}`)
	n := testing.AllocsPerRun(100, func() {
		var r SignJWTRequest
		if err := Decode(text, &r, Limits{}); err != nil {
			t.Fatal(err)
		}
	})
	if n > 15 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecode(b *testing.B) {
	text := []byte(`{"keyset":"web","claims":{"sub":"someone","aud":["a","b"],"scope":"read write"},"ttl":60}`)
	b.ReportAllocs()
	for b.Loop() {
		var r SignJWTRequest
		if err := Decode(text, &r, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

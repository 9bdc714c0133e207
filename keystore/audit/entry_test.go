package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chancery/keystore"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC)

func TestEntryLooksLikeThis(t *testing.T) {
	e := Entry{1, 41, noon, keystore.Record{
		Principal: "dev:spiffe:spiffe://chancery.dev/issuer", Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone,
		KeySet: "web", Version: 3, Exp: 1_900_000_000, Detail: map[string]string{"b": "2", "a": "1"},
	}}
	want := `{"v":1,"seq":41,"time":"2026-11-22T12:00:00.123456Z","principal":"dev:spiffe:spiffe://chancery.dev/issuer",` +
		`"action":"jwt.sign","outcome":"done","keyset":"web","version":3,"exp":1900000000,"detail":{"a":"1","b":"2"}}`
	if got := string(e.Append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, err := json.Marshal(e); err != nil || string(got) != want {
		t.Errorf("encoding/json: %s, %v", got, err)
	}
}

// TestA22 writes what an attacker may put into a name.
func TestA22HostileStringsAreEscapedAndCut(t *testing.T) {
	megabyte := strings.Repeat("x", 1<<20)
	tests := []struct{ name, in, want string }{
		{"newline", "a\nb", `a\u000ab`},
		{"forged entry", `x","outcome":"done`, `x\",\"outcome\":\"done`},
		{"ANSI", "\x1b[31mred", `\u001b[31mred`},
		{"bidi", "user\u202etxt.exe", `user\u202etxt.exe`},
		{"NUL and DEL", "\x00\x7f", `\u0000\u007f`},
		{"HTML", "<script>&", `\u003cscript\u003e\u0026`},
		{"beyond the BMP", "😀", `\ud83d\ude00`},
		{"not UTF-8", "a\xffb", `a\ufffdb`},
		{"a megabyte", megabyte, strings.Repeat("x", limitReason-20) + "[cut: 1048576 bytes]"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := Entry{1, 0, noon, keystore.Record{Reason: test.in}}
			b := e.Append(nil)
			if !bytes.Contains(b, []byte(`"reason":"`+test.want+`"`)) {
				t.Errorf("%.300s", b)
			}
			for _, c := range b {
				if c < 0x20 || c > 0x7e {
					t.Fatalf("byte %#x in an entry", c)
				}
			}
			if _, err := ParseEntry(b); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("everything too long", func(t *testing.T) {
		s := strings.Repeat("\u202e", 10_000)
		detail := map[string]string{}
		for i := range 60 {
			detail[fmt.Sprintf("%s%d", s, i)] = s
			detail[fmt.Sprint(i)] = s
		}
		e := Entry{1, 1<<63 - 1, noon, keystore.Record{
			ID: s, Principal: s, Action: keystore.Action(s), Outcome: keystore.Outcome(s), KeySet: s,
			KID: keystore.KID(s), Version: -1 << 31, Use: -1 << 63, State: s, Rule: s, Policy: s, Request: s, Code: s, Reason: s,
			Exp: -1 << 63, JTI: s, Authority: s, Profile: s, Serial: s, NotAfter: -1 << 63, Count: -1 << 31,
			Detail: detail,
		}}
		b := e.Append(nil)
		if len(b) > MaxEntry {
			t.Fatalf("%d bytes", len(b))
		}
		again, err := ParseEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		if again.Detail[cutKey] == "" {
			t.Errorf("nothing tells that members are missing: %v", maps.Keys(again.Detail))
		}
	})
}

func TestOneSpellingOnly(t *testing.T) {
	good := string(Entry{1, 7, noon, keystore.Record{
		Action: "a", Outcome: "b", Reason: "é", Count: 2, Detail: map[string]string{"k": "v", "l": "w"},
	}}.Append(nil))
	if _, err := ParseEntry([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"empty":             "",
		"truncated":         good[:len(good)-1],
		"trailing":          good + " ",
		"two":               good + good,
		"space":             strings.Replace(good, `:7`, `: 7`, 1),
		"leading zero":      strings.Replace(good, `:7`, `:07`, 1),
		"minus zero":        strings.Replace(good, `:7`, `:-0`, 1),
		"negative sequence": strings.Replace(good, `:7`, `:-7`, 1),
		"exponent":          strings.Replace(good, `:7`, `:7e0`, 1),
		"schema 2":          strings.Replace(good, `"v":1`, `"v":2`, 1),
		"time zone":         strings.Replace(good, `Z"`, `+00:00"`, 1),
		"time with comma":   strings.Replace(good, `00.1`, `00,1`, 1),
		"13th month":        strings.Replace(good, `-11-`, `-13-`, 1),
		"raw é":             strings.Replace(good, `\u00e9`, `é`, 1),
		"upper-case escape": strings.Replace(good, `\u00e9`, `\u00E9`, 1),
		"needless escape":   strings.Replace(good, `\u00e9`, `\u0061`, 1),
		"short escape":      strings.Replace(good, `\u00e9`, `\n`, 1),
		"lone surrogate":    strings.Replace(good, `\u00e9`, `\ud83d`, 1),
		"swapped pair":      strings.Replace(good, `\u00e9`, `\ude00\ud83d`, 1),
		"control":           strings.Replace(good, `\u00e9`, "\x01", 1),
		"unknown member":    strings.Replace(good, `,"count"`, `,"cnt":1,"count"`, 1),
		"twice":             strings.Replace(good, `"count":2`, `"count":2,"count":2`, 1),
		"order":             strings.Replace(good, `"action":"a","outcome":"b"`, `"outcome":"b","action":"a"`, 1),
		"empty member":      strings.Replace(good, `"reason":"\u00e9"`, `"reason":""`, 1),
		"zero count":        strings.Replace(good, `"count":2`, `"count":0`, 1),
		"empty detail":      strings.Replace(good, `{"k":"v","l":"w"}`, `{}`, 1),
		"detail order":      strings.Replace(good, `{"k":"v","l":"w"}`, `{"l":"w","k":"v"}`, 1),
		"detail twice":      strings.Replace(good, `{"k":"v","l":"w"}`, `{"k":"v","k":"w"}`, 1),
		"no action":         strings.Replace(good, `"action":"a",`, ``, 1),
		"too long":          strings.Replace(good, `"a"`, `"`+strings.Repeat("a", limitName+1)+`"`, 1),
	} {
		if bad == good {
			t.Fatalf("%s: the case does not change the entry", name)
		}
		if e, err := ParseEntry([]byte(bad)); err == nil {
			t.Errorf("%s: accepted as %+v", name, e)
		}
	}
}

func TestEntriesComeBackAsTheyWere(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.StringN(0, 5000, -1), rapid.Just(""))
	rapid.Check(t, func(t *rapid.T) {
		e := Entry{1, rapid.Int64Min(0).Draw(t, "seq"), noon, keystore.Record{
			ID: text.Draw(t, "id"), Principal: text.Draw(t, "principal"), Action: keystore.Action(text.Draw(t, "action")),
			Reason: text.Draw(t, "reason"), Exp: rapid.Int64().Draw(t, "exp"), Use: rapid.Int64().Draw(t, "use"), Count: int(rapid.Int32().Draw(t, "count")),
			Detail: rapid.MapOfN(text, text, 0, 20).Draw(t, "detail"),
		}}
		b := e.Append(nil)
		if len(b) > MaxEntry {
			t.Fatalf("%d bytes", len(b))
		}
		again, err := ParseEntry(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if b2 := again.Append(nil); !bytes.Equal(b, b2) {
			t.Fatalf("%s\n%s", b, b2)
		}
		var std struct {
			Reason string
			Detail map[string]string
		}
		if err := json.Unmarshal(b, &std); err != nil {
			t.Fatalf("encoding/json: %v", err)
		}
		if std.Reason != again.Reason || !cmp.Equal(std.Detail, again.Detail) {
			t.Fatalf("encoding/json reads it differently: %+v", std)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	f.Add(Entry{1, 41, noon, signed(1)}.Append(nil))
	f.Add(Entry{1, 0, noon, keystore.Record{Reason: "\u202e\x00😀", Detail: map[string]string{"a": "é", "b": ""}}}.Append(nil))
	f.Add(Entry{1, 0, noon, keystore.Record{Reason: strings.Repeat("\n", 4000)}}.Append(nil))
	f.Add([]byte(`{"v":1,"seq":0,"time":"2026-11-22T12:00:00.000000Z","action":"\ud83d","outcome":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			return
		}
		if again := e.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("parsed %s\nwrote  %s", b, again)
		}
		if !json.Valid(b) {
			t.Fatal("not JSON")
		}
	})
}

func BenchmarkParseEntry(b *testing.B) {
	entry := Entry{1, 41, noon, signed(1)}.Append(nil)
	b.SetBytes(int64(len(entry)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEntry(entry); err != nil {
			b.Fatal(err)
		}
	}
}

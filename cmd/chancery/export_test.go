package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestCellOfAnExport(t *testing.T) {
	for _, c := range []struct {
		text string
		json bool
		want string
	}{
		{"quarterly", false, "quarterly"},
		{"=HYPERLINK(\"x\")", false, "'=HYPERLINK(\"x\")"},
		{"＝1", false, "'＝1"},
		{"-1", false, "'-1"},
		{"'quoted", false, "''quoted"},
		{"\t=1", false, `\u0009=1`},
		{"\r\n=1", false, `\u000d\u000a=1`},
		{"\x1b[2J\x00\x7f\u009b", false, `\u001b[2J\u0000\u007f\u009b`},
		{"\u202e\u2028\U000e0001", false, `\u202e\u2028\udb40\udc01`},
		{`DOMAIN\user \u001b`, false, `DOMAIN\\user \\u001b`},
		{`{"a":"\n\u001b` + "\u009b" + `"}`, true, `{"a":"\n\u001b\u009b"}`},
		{"žluťoučký 鍵", false, "žluťoučký 鍵"},
	} {
		if got := harmless(printable(c.text, c.json)); got != c.want {
			t.Errorf("%q becomes %s, want %s", c.text, got, c.want)
		}
	}
}

// TestCellCanBeUndone: no two texts make one cell, and nothing in a cell is obeyed.
func TestCellCanBeUndone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`['=+@\\\x00-\x20a-fu0-9]*`)).Draw(t, "text")
		cell := harmless(printable(text, false))
		if strings.ContainsFunc(cell, func(r rune) bool { return !unicode.IsPrint(r) }) || cell != "" && strings.ContainsAny(cell[:1], "=+-@") {
			t.Fatalf("%q", cell)
		}
		var back string
		quoted := `"` + strings.ReplaceAll(strings.TrimPrefix(cell, "'"), `"`, `\"`) + `"`
		if err := json.Unmarshal([]byte(quoted), &back); err != nil || back != text && utf8.ValidString(text) {
			t.Fatalf("%q is read back as %q, %v", cell, back, err)
		}
	})
}

package confine_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore/pkcs11/internal/confine"
)

func TestRulesTravel(t *testing.T) {
	for text, want := range map[string]confine.Rules{
		`{"module":"/usr/lib/m.so"}`: {Module: "/usr/lib/m.so"},
		`{"module":"/m.so","read":["/a","/b c"],"write":["/d"],"network":true,"exec":true}`: {
			Module: "/m.so", Read: []string{"/a", "/b c"}, Write: []string{"/d"}, Network: true, Exec: true,
		},
	} {
		got, err := want.Marshal()
		if err != nil || got != text {
			t.Errorf("Marshal: %s, %v, want %s", got, err, text)
		}
		back, err := confine.Parse(text)
		if err != nil || !cmp.Equal(back, want) {
			t.Errorf("Parse(%s): %+v, %v", text, back, err)
		}
	}
}

func TestRulesRefused(t *testing.T) {
	for text, want := range map[string]string{
		``:                                   "EOF",
		`{}`:                                 "module: \"\" is not an absolute path",
		`{"module":"m.so"}`:                  "not an absolute path",
		`{"module":"/a/../m.so"}`:            "shortest form",
		`{"module":"/m.so","read":["/"]}`:    "everything",
		`{"module":"/m.so","write":["/"]}`:   "everything",
		`{"module":"/m.so","read":["/a/"]}`:  "shortest form",
		`{"module":"/m\u0000.so"}`:           "not UTF-8 text",
		`{"module":"/m.so","paths":["/a"]}`:  "unknown field",
		`{"module":"/m.so","network":false}`: "not in the form",
		`{"module":"/m.so","Exec":true}`:     "not in the form",
		`{"module":"/a","module":"/b"}`:      "not in the form",
		`{"module":"/m.so"}{}`:               "not in the form",
		` {"module":"/m.so"}`:                "not in the form",
		`{"module":"/m.so","read":["` + strings.Repeat(`/a","`, 256) + `/b"]}`: "more than 256",
		strings.Repeat(" ", 40<<10): "more than 32768",
	} {
		if _, err := confine.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.60q): %v, want %q", text, err, want)
		}
	}
	if _, err := (confine.Rules{Module: "/m\xff.so"}).Marshal(); err == nil {
		t.Error("a path that is not UTF-8 is marshalled, as another one")
	}
	if _, err := confine.Apply(confine.Rules{}); err == nil {
		t.Error("rules without a module are applied")
	}
}

// FuzzRules: what parses, formats back to the same bytes.
func FuzzRules(f *testing.F) {
	f.Add(`{"module":"/usr/lib/softhsm/libsofthsm2.so","read":["/etc/softhsm"],"write":["/var/lib/softhsm/tokens"]}`)
	f.Add(`{"module":"/m.so","network":true,"exec":true}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := confine.Parse(text)
		if err != nil {
			return
		}
		if again, err := r.Marshal(); err != nil || again != text {
			t.Errorf("%q comes back as %q, %v", text, again, err)
		}
	})
}

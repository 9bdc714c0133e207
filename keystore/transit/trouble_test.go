package transit

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"chancery/keystore"
)

// vaultList is how Vault words an error that it passes on from inside.
func vaultList(text string) string { return `{"errors":["1 error occurred:\n\t* ` + text + `\n\n"]}` }

const proxyPage = "<html>\r\n<head><title>An error</title></head>\r\n<body><center><h1>errors</h1></center></body></html>"

// What Vault 1.21.1 was recorded to answer, and what stands in front of it.
func TestReadTrouble(t *testing.T) {
	for _, v := range []struct {
		name   string
		status int
		body   string
		want   kind
	}{
		{"sealed", 503, `{"errors":["Vault is sealed"]}`, sealed},
		{"sealed, in other words", 503, `{"errors":["error performing token check: Vault is Sealed"]}`, sealed},
		{"a health that is sealed", 503, `{"initialized":true,"sealed":true,"standby":true}`, sealed},
		{"a proxy without a backend", 503, proxyPage, broken},
		{"sealed is no other status's", 500, `{"errors":["Vault is sealed"]}`, broken},
		{"not initialised", 501, `{"initialized":false}`, blank},
		{"not initialised, in words", 503, `{"errors":["Vault is not initialized"]}`, blank},
		{"a standby that knows no leader", 500, `{"errors":["local node not active but active cluster node not found"]}`, standby},
		{"a standby that sends on", 307, ``, standby},
		{"a page that sends on", 302, proxyPage, standby},
		{"a disaster recovery secondary", 472, `{}`, standby},
		{"a performance standby", 473, `{}`, standby},
		{"a standby whose leader is away", 474, `{}`, standby},
		{"a node that was removed", 530, `{}`, standby},
		{"a quota", 429, `{"errors":["request path \"transit/sign/k\": rate limit quota exceeded"]}`, limited},
		{"a proxy's quota", 429, proxyPage, limited},
		{"a node that is behind", 412, `{"errors":["required index state not present"]}`, stale},
		{"no such version", 500, vaultList("no such key version"), broken},
		{"a gateway", 502, proxyPage, broken},
		{"a gateway that waited", 504, ``, broken},
		{"the token is refused", 403, `{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}`, denied},
		{"the policy does not allow it", 403, vaultList("permission denied"), denied},
		{"a preflight", 403, `{"errors":["preflight capability check returned 403, please ensure client's policies grant access to path \"x/\""]}`, denied},
		{"a proxy that wants a login", 401, proxyPage, denied},
		{"an absent key", 404, `{"errors":[]}`, absent},
		{"an absent key, spaced", 404, "{\n  \"errors\" : [ ]\n}\n", absent},
		{"no engine", 404, `{"errors":["no handler for route \"transit/keys/k\". route entry not found."]}`, noRoute},
		{"no such path of the engine", 404, vaultList("unsupported path"), noRoute},
		{"a proxy's 404", 404, proxyPage, noRoute},
		{"an empty 404", 404, ``, noRoute},
		{"a 404 without errors", 404, `{}`, noRoute},
		{"a 404 whose errors are null", 404, `{"errors":null}`, noRoute},
		{"another program's 404", 404, `{"message":"no route; see errors"}`, noRoute},
		{"another program's errors", 404, `{"Errors":[]}`, noRoute},
		{"errors that are no list", 404, `{"errors":"none"}`, noRoute},
		{"errors of something else", 404, `{"errors":[{"code":7}]}`, noRoute},
		{"too large", 413, `{"errors":["put failed due to value being too large"]}`, tooLarge},
		{"a key that is not there", 400, `{"errors":["signing key not found"]}`, refused},
		{"a deletion", 400, `{"errors":["error deleting policy k: deletion is not allowed for this key"]}`, refused},
		{"unsupported operation", 405, vaultList("unsupported operation"), refused},
	} {
		t.Run(v.name, func(t *testing.T) {
			got := readTrouble(v.status, nil, []byte(v.body))
			if got.kind != v.want || got.status != v.status || got.unsent || got.retryAfter != 0 {
				t.Errorf("%v, status %d, unsent %v, retry after %v; want %v", kindNames[got.kind], got.status, got.unsent, got.retryAfter, kindNames[v.want])
			}
		})
	}
}

func TestWhatATroubleIsForACaller(t *testing.T) {
	for k := range kindNames {
		got := &trouble{kind: k, status: 400}
		want := keystore.ErrUnavailable
		switch k {
		case limited:
			want = keystore.ErrOverloaded
		case absent, refused: // for who asked to say
			want = nil
		}
		for _, sentinel := range []error{keystore.ErrUnavailable, keystore.ErrOverloaded, keystore.ErrNotFound} {
			if errors.Is(got, sentinel) != (sentinel == want) {
				t.Errorf("%v: is it %v? %v", got, sentinel, errors.Is(got, sentinel))
			}
		}
	}
}

// Only what may have been carried out is looked for afterwards.
func TestWhatMayHaveBeenDone(t *testing.T) {
	for k := range kindNames {
		for _, unsent := range []bool{false, true} {
			want := k == broken || k == unreachable && !unsent
			if got := (&trouble{kind: k, unsent: unsent}).done(); got != want {
				t.Errorf("%s, unsent %v: %v, want %v", kindNames[k], unsent, got, want)
			}
		}
		if got, want := (&trouble{kind: k}).down(), k == sealed || k == blank || k == standby; got != want {
			t.Errorf("%s takes a server down: %v, want %v", kindNames[k], got, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, "90": 90 * time.Second, "65535": 65535 * time.Second, "007": 7 * time.Second,
		"65536": 0, "99999999999999999999": 0, "-1": 0, "+1": 0, "1.5": 0, " 1": 0, "1s": 0, "0x10": 0, "1_0": 0, "soon": 0,
		"Wed, 21 Oct 2026 07:28:00 GMT": 0,
	} {
		h := http.Header{"Retry-After": {text}}
		if got := retryAfter(h); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
		if got := readTrouble(429, h, nil).retryAfter; got != want {
			t.Errorf("%q of a 429: %v, want %v", text, got, want)
		}
		if got := readTrouble(503, h, nil).retryAfter; got != 0 {
			t.Errorf("%q of a 503: %v", text, got)
		}
	}
}

func TestTextFromOutside(t *testing.T) {
	for _, v := range []struct{ name, in, want string }{
		{"plain", "permission denied", "permission denied"},
		{"lines", "1 error occurred:\n\t* permission denied\n\n", "1 error occurred: * permission denied"},
		{"an escape sequence", "a\x1b[31mred\x07", "a [31mred"},
		{"a forged line", "no\r\nlevel=ERROR msg=forged", "no level=ERROR msg=forged"},
		{"no UTF-8", "a\xff\xfeb", "a b"},
		{"DEL", "a\x7fb", "a b"},
		{"nothing but control", "\x00\x01\n", ""},
		{"C1 control: CSI and NEL", "a\u009b31mred\u0085next", "a 31mred next"},
		{"text that runs backwards", "a\u202etxt.exe\u2066b", "a txt.exe b"},
		{"a line separator", "a\u2028b", "a b"},
	} {
		if got := clean(v.in); got != v.want {
			t.Errorf("%s: %q, want %q", v.name, got, v.want)
		}
	}
	for n := mostText - 4; n < mostText+4; n++ { // a cut inside of a letter
		in := strings.Repeat("x", n) + strings.Repeat("é", 8)
		got := clean(in)
		if !utf8.ValidString(got) || len(got) > mostText+len("…") || !strings.HasSuffix(got, "…") && got != in {
			t.Errorf("cut at %d: %q", n, got)
		}
	}
}

// FuzzTrouble has whatever a server or a proxy may say read: it is one line of
// bounded length, and a server is only taken for one whose key is absent when it
// said so as Vault does.
func FuzzTrouble(f *testing.F) {
	for _, body := range []string{`{"errors":["Vault is sealed"]}`, `{"errors":[]}`, `{"errors":null}`, `{"ERRORS":[]}`, proxyPage, "{\"errors\":[\"\u202e\x7f\"]}", ""} {
		f.Add(404, "1", []byte(body))
		f.Add(503, "", []byte(body))
	}
	f.Fuzz(func(t *testing.T, status int, after string, body []byte) {
		got := readTrouble(status, http.Header{"Retry-After": {after}}, body)
		text := got.Error()
		switch {
		case kindNames[got.kind] == "":
			t.Errorf("kind %d", got.kind)
		case len(text) > mostText+100 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
			t.Errorf("%q", text)
		case got.kind == absent && (status != 404 || !strings.Contains(string(body), "errors") || got.text != ""):
			t.Errorf("absent: status %d, %q", status, body)
		case got.retryAfter < 0 || got.retryAfter > 18*time.Hour+13*time.Minute || got.retryAfter > 0 && got.kind != limited:
			t.Errorf("retry after %v", got.retryAfter)
		}
	})
}

package server

import (
	"errors"
	"net/http"
	"testing"
)

func TestAdmin(t *testing.T) {
	good := Check{Name: "catalog", Run: func() error { return nil }}
	noted := Check{Name: "keystore hsm", Run: good.Run, Note: func() string { return "not confined" }}
	bad := Check{Name: "keyset web", Run: func() error { return errors.New("suspended\nby operator") }}
	warned := Check{Name: "witnesses", Run: good.Run, Note: noted.Note, Warn: func() string { return "contradicted" }}
	quiet := Check{Name: "witnesses", Run: good.Run, Note: noted.Note, Warn: func() string { return "" }}
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("numbers")) })
	const trouble = "[+]catalog ok\n[-]keyset web failed: \"suspended\\nby operator\"\n1 of 2 checks failed\n"
	for _, c := range []struct {
		path   string
		checks []Check
		status int
		body   string
	}{
		{"/livez", []Check{bad}, 200, "ok\n"},
		{"/readyz", nil, 200, "ready\n"},
		{"/readyz", []Check{good}, 200, "ready\n"},
		{"/readyz?verbose", []Check{good, good}, 200, "[+]catalog ok\n[+]catalog ok\nready\n"},
		{"/readyz?verbose", []Check{noted}, 200, "[+]keystore hsm ok: \"not confined\"\nready\n"},
		{"/readyz?verbose", []Check{warned}, 200, "[!]witnesses warning: \"contradicted\"\nready\n"},
		{"/readyz?verbose", []Check{quiet}, 200, "[+]witnesses ok: \"not confined\"\nready\n"},
		{"/readyz", []Check{good, bad}, 503, trouble},
		{"/readyz?verbose", []Check{good, bad}, 503, trouble},
		{"/metrics", nil, 200, "numbers"},
	} {
		w := get(Admin(c.checks, metrics), "GET", c.path)
		if w.Code != c.status || w.Body.String() != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.path, w.Code, w.Body, c.status, c.body)
		}
	}
	h := Admin(nil, metrics)
	for _, path := range []string{"/", "/debug/pprof/", "/readyz/x", "/v1/sign/jwt"} {
		if w := get(h, "GET", path); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := get(h, "POST", "/readyz"); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
}

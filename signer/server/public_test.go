package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"chancery/signer/api"
)

func get(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// problem fails the test unless w is a problem document with the code.
func problem(t *testing.T, what string, w *httptest.ResponseRecorder, code api.Code) api.Problem {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%s: %v in %q", what, err, w.Body)
	}
	h := w.Header()
	if w.Code != code.Status() || p.Status != w.Code || p.Code != code || p.Type != "about:blank" || p.Title != http.StatusText(w.Code) ||
		h.Get("Content-Type") != "application/problem+json" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: %d %+v with %v; want %s", what, w.Code, p, h, code)
	}
	return p
}

func newPublic() *Public {
	return &Public{Node: "dev", Log: slog.New(slog.DiscardHandler), Now: at(noon), Logs: fstest.MapFS{
		"lifecycle/checkpoint":         {Data: []byte("note\n")},
		"lifecycle/journal-0":          {Data: []byte("secret")},
		"lifecycle/tile/0/000":         {Data: []byte("hashes")},
		"lifecycle/tile/0/001.p/7":     {Data: []byte("hashes")},
		"lifecycle/tile/entries/000":   {Data: []byte("secret")},
		"acts/2026-03/checkpoint":      {Data: []byte("note\n")},
		"acts/2026-03/journal-0":       {Data: []byte("secret")},
		"acts/2026-03/tile/1/x001/234": {Data: []byte("hashes")},
		"catalog.db":                   {Data: []byte("secret")},
	}}
}

func TestPublicDocument(t *testing.T) {
	p := newPublic()
	problem(t, "before anything is published", get(p, "GET", "/issuers/web/jwks.json"), api.CodeNotFound)
	pub := NewPublication()
	var maxAge time.Duration
	pub.Add("/issuers/web/jwks.json", Document{
		Body: []byte(`{"keys":[]}`), ContentType: "application/jwk-set+json", ETag: `"one"`,
		MaxAge: func(now time.Time) time.Duration { return maxAge + now.Sub(noon) },
	})
	pub.Add("/plain", Document{Body: []byte("x"), ContentType: "text/plain"})
	p.Publish(pub)

	maxAge = 90*time.Second + 900*time.Millisecond
	w := get(p, "GET", "/issuers/web/jwks.json")
	h := w.Header()
	if w.Code != 200 || w.Body.String() != `{"keys":[]}` || h.Get("ETag") != `"one"` || h.Get("Cache-Control") != "public, max-age=90" ||
		h.Get("Content-Type") != "application/jwk-set+json" || h.Get("Content-Length") != "11" || h.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%d %q %v", w.Code, w.Body, h)
	}
	head := get(p, "HEAD", "/issuers/web/jwks.json")
	if head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("Content-Length") != "11" || head.Header().Get("ETag") != `"one"` {
		t.Errorf("HEAD: %d %q %v", head.Code, head.Body, head.Header())
	}
	for header, want := range map[string]int{
		`"one"`: 304, `W/"one"`: 304, `*`: 304, `"two", "one"`: 304, `"two",W/"one"`: 304,
		`"two"`: 200, `one`: 200, ``: 200, `"one`: 200, `"o", "ne"`: 200,
	} {
		w := get(p, "GET", "/issuers/web/jwks.json", "If-None-Match", header)
		if w.Code != want || want == 304 && w.Body.Len() != 0 {
			t.Errorf("If-None-Match %s: %d %q", header, w.Code, w.Body)
		}
		// Rule 3: 304 repeats it.
		if w.Header().Get("Cache-Control") != "public, max-age=90" || w.Header().Get("ETag") != `"one"` {
			t.Errorf("If-None-Match %s: %v", header, w.Header())
		}
	}
	w = get(p, "GET", "/plain", "If-None-Match", "")
	if w.Code != 200 || w.Header().Get("Cache-Control") != "no-cache" {
		t.Errorf("without a promise: %d %v", w.Code, w.Header())
	}

	p.Publish(NewPublication())
	problem(t, "taken back", get(p, "GET", "/issuers/web/jwks.json"), api.CodeNotFound)
}

// A process that was stopped between the look at what is published and the look at
// its lease could serve a set from before by a lease that had begun anew since.
func TestALeaseIsAskedOfWhatIsServed(t *testing.T) {
	p := newPublic()
	publish := func(body string) {
		pub := NewPublication()
		pub.Add("/issuers/web/jwks.json", Document{Body: []byte(body)})
		p.Publish(pub)
	}
	publish("before")
	stopped := true
	p.Lease = func() error {
		if stopped {
			stopped = false
			publish("since")
		}
		return nil
	}
	if w := get(p, "GET", "/issuers/web/jwks.json"); w.Code != 200 || w.Body.String() != "since" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestPublicDoorIsForReading(t *testing.T) {
	p := newPublic()
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
		w := get(p, method, "/audit/dev/lifecycle/checkpoint")
		problem(t, method, w, api.CodeMethodNotAllowed)
		if w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: allow %q", method, w.Header().Get("Allow"))
		}
	}
	for _, path := range []string{"/", "/issuers/web", "/livez", "/v1/sign/jwt", "//issuers/web/jwks.json", "/audit/dev"} {
		problem(t, path, get(p, "GET", path), api.CodeNotFound)
	}
}

// Journals hold entries and are never served, whatever the path looks like.
func TestPublicLogHasNoEntries(t *testing.T) {
	p := newPublic()
	for path, immutable := range map[string]bool{
		"lifecycle/checkpoint": false, "acts/2026-03/checkpoint": false,
		"lifecycle/tile/0/000": true, "lifecycle/tile/0/001.p/7": true, "acts/2026-03/tile/1/x001/234": true,
	} {
		w := get(p, "GET", "/audit/dev/"+path)
		if w.Code != 200 || w.Body.Len() == 0 || strings.Contains(w.Header().Get("Cache-Control"), "immutable") != immutable {
			t.Errorf("%s: %d %q %v", path, w.Code, w.Body, w.Header())
		}
	}
	for _, path := range []string{
		"lifecycle/journal-0", "acts/2026-03/journal-0", "lifecycle/tile/entries/000", "catalog.db", "",
		"lifecycle/", "lifecycle", "lifecycle/tile", "lifecycle/tile/0/999", "lifecycle/tile/0/0", "lifecycle/tile/00/000",
		"lifecycle/tile/0/000.p/0", "lifecycle/tile/0/000.p/256", "acts/2026-13/checkpoint", "acts/checkpoint", "acts/2026-03/",
		"lifecycle/../catalog.db", "lifecycle/./checkpoint", "lifecycle//checkpoint", "../audit/dev/lifecycle/checkpoint",
		"lifecycle/checkpoint/", "lifecycle/checkpoint%00", "lifecycle/checkpoint%0A", "lifecycle%2Fjournal-0", "lifecycle/%6aournal-0",
		"lifecycle/tile/0/../../journal-0", "lifecycle/tile/0/%2e%2e/%2e%2e/journal-0",
	} {
		w := get(p, "GET", "/audit/dev/"+path)
		problem(t, path, w, api.CodeNotFound)
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %q", path, w.Body)
		}
	}
	problem(t, "another node", get(p, "GET", "/audit/other/lifecycle/checkpoint"), api.CodeNotFound)
	p.Logs = nil
	problem(t, "no logs", get(p, "GET", "/audit/dev/lifecycle/checkpoint"), api.CodeNotFound)

	var log bytes.Buffer
	p.Logs, p.Log = brokenFS{}, slog.New(slog.NewTextHandler(&log, nil))
	problem(t, "a disk that fails", get(p, "GET", "/audit/dev/lifecycle/checkpoint"), api.CodeNotFound)
	if !strings.Contains(log.String(), "lifecycle/checkpoint") {
		t.Errorf("the log has %q", &log)
	}
}

type brokenFS struct{}

func (brokenFS) Open(string) (fs.File, error) { return nil, fs.ErrPermission }

// A node that may not be up to date, or cannot serve a set whole, says so with
// 503, also to a cache that asks whether its copy is good still (rotation rule 5).
func TestPublicWithheld(t *testing.T) {
	p, over := newPublic(), error(nil)
	p.Lease = func() error { return over }
	pub := NewPublication()
	pub.Add("/whole", Document{Body: []byte("{}"), ContentType: "application/json", ETag: `"a"`})
	pub.Add("/part", Document{Withheld: "version 2 has not been seen signing here"})
	p.Publish(pub)
	if w := get(p, "GET", "/whole"); w.Code != http.StatusOK {
		t.Errorf("within the lease: %d", w.Code)
	}
	if got := problem(t, "a set that is not whole", get(p, "GET", "/part"), api.CodeBackendUnavailable); got.RetryAfter == 0 || !strings.Contains(got.Detail, "version 2") {
		t.Errorf("a set that is not whole: %+v", got)
	}
	over = errors.New("the catalog was last seen long ago")
	for name, header := range map[string][]string{"a fetch": nil, "a revalidation": {"If-None-Match", `"a"`}} {
		got := problem(t, name+" after the lease", get(p, "GET", "/whole", header...), api.CodeLeaseExpired)
		if got.RetryAfter == 0 || strings.Contains(got.Detail, "long ago") {
			t.Errorf("%s after the lease: %+v", name, got)
		}
	}
	problem(t, "what is not published, after the lease", get(p, "GET", "/other"), api.CodeNotFound)
}

package server

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"chancery/keystore/audit"
	"chancery/signer/api"
)

// A Publication is what the public door serves at one revision. It is
// immutable once it is published.
type Publication struct {
	documents map[string]Document
}

// A Document is one published body.
type Document struct {
	Body        []byte
	ContentType string
	ETag        string // with its quotes
	// MaxAge returns the Cache-Control max-age to send at a time; nil: no-cache.
	MaxAge func(now time.Time) time.Duration
	// Withheld says why the document, which others may serve, is not served here
	// now: it is answered with 503, which no cache takes for an answer. Empty: it is
	// served.
	Withheld string
}

// NewPublication returns an empty Publication.
func NewPublication() *Publication { return &Publication{documents: make(map[string]Document)} }

// Add has d served at path.
func (p *Publication) Add(path string, d Document) { p.documents[path] = d }

// Public is the public door: read only, for everyone.
type Public struct {
	// Node is this node's name. Logs holds its logs ("lifecycle/…"); only their
	// checkpoints and hash tiles are served, under /audit/NODE/, never entries.
	Node string
	Logs fs.FS
	Log  *slog.Logger
	Now  func() time.Time
	// Lease returns nil while this node may serve what is published, and otherwise
	// why not; it is asked for every request. Nil: it always may.
	Lease func() error

	current atomic.Pointer[Publication]
}

// Publish swaps what is served. When it returns, every request that begins
// sees p.
func (p *Public) Publish(pub *Publication) { p.current.Store(pub) }

// Published returns the document that is published at a path.
func (p *Public) Published(path string) (Document, bool) {
	pub := p.current.Load()
	if pub == nil {
		return Document{}, false
	}
	d, ok := pub.documents[path]
	return d, ok
}

// ServeHTTP answers GET and HEAD. A document that is not published is 404 with
// no-store, which is not serving: caches keep nothing of it.
func (p *Public) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeProblem(w, api.Errorf(api.CodeMethodNotAllowed, "this door is for reading"))
		return
	}
	if rest, ok := strings.CutPrefix(r.URL.Path, "/audit/"+p.Node+"/"); ok {
		p.serveLog(w, r, rest)
		return
	}
	pub := p.current.Load()
	if pub == nil {
		writeProblem(w, api.Errorf(api.CodeNotFound, "nothing is published here"))
		return
	}
	doc, ok := pub.documents[r.URL.Path]
	if !ok {
		writeProblem(w, api.Errorf(api.CodeNotFound, "nothing is published here"))
		return
	}
	p.serveDocument(w, r, pub, doc)
}

func (p *Public) serveDocument(w http.ResponseWriter, r *http.Request, pub *Publication, doc Document) {
	if doc.Withheld != "" {
		writeProblem(w, later(api.Errorf(api.CodeBackendUnavailable, "%s", doc.Withheld)))
		return
	}
	if p.Lease != nil {
		if err := p.Lease(); err != nil {
			writeProblem(w, later(api.Errorf(api.CodeLeaseExpired, "this node may not be up to date, so it serves no keys").Because(err)))
			return
		}
		if p.current.Load() != pub { // the process may have been stopped, and the lease be one for what is served now
			p.ServeHTTP(w, r)
			return
		}
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	if doc.MaxAge != nil {
		h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int64(doc.MaxAge(p.now())/time.Second)))
	}
	h.Set("ETag", doc.ETag)
	h.Set("Content-Type", doc.ContentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Access-Control-Allow-Origin", "*") // public keys are for everyone's scripts
	if matches(r.Header.Get("If-None-Match"), doc.ETag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", fmt.Sprint(len(doc.Body)))
	if r.Method == http.MethodHead {
		return
	}
	w.Write(doc.Body)
}

// later adds when to try again.
func later(e *api.Error) *api.Error {
	e.RetryAfter = 5
	return e
}

// matches reports whether an If-None-Match header names etag (RFC 9110
// Section 13.1.2, weak comparison).
func matches(header, etag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
		if one == "*" || one == etag && etag != "" {
			return true
		}
	}
	return false
}

// serveLog serves what everyone may read of a log: checkpoints and hash tiles.
// Entries they may not.
func (p *Public) serveLog(w http.ResponseWriter, r *http.Request, path string) {
	if p.Logs == nil || !audit.IsPublic(path) {
		writeProblem(w, api.Errorf(api.CodeNotFound, "nothing is published here"))
		return
	}
	body, err := fs.ReadFile(p.Logs, path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			p.Log.Error("reading a log file failed", "path", path, "err", err)
		}
		writeProblem(w, api.Errorf(api.CodeNotFound, "nothing is published here"))
		return
	}
	if strings.HasSuffix(path, "/checkpoint") || strings.HasSuffix(path, "/witnessed") {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-cache")
	} else {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Write(body)
}

func (p *Public) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

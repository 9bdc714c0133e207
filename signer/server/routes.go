package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/signer"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// Config is what the two guarded doors work with.
type Config struct {
	Service *signer.Service
	// Gate returns what is in force of who may come in.
	Gate   func() *Gate
	Limits Limits
	Log    *slog.Logger
	// Admit counts a request in before its body is read, or refuses it; what it
	// returns is called when the request has been answered. It may be nil: then
	// everybody is admitted.
	Admit func(who policy.Caller) (release func(), err error)
	// Observe is told of each request that was answered: the route's pattern, the
	// code ("ok" or the problem's; of a batch the gravest), and how long it took. It may be nil.
	Observe func(route, code string, took time.Duration)
	// Entries reads the log for auditors; see EntryReader.
	Entries EntryReader
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
}

// EntryReader reads entries of this node's logs, as JSON lines.
type EntryReader interface {
	// WriteEntries writes up to limit entries of a log ("lifecycle" or
	// "acts/YYYY-MM"), from an index on. It returns an error wrapping
	// keystore.ErrNotFound for a log there is not.
	WriteEntries(ctx context.Context, w io.Writer, node, log string, from, limit int64) error
}

// A route is one endpoint: what it is called and what it does. do returns the
// status and the value to answer with.
type route struct {
	pattern string
	maxBody int64 // 0: no body
	do      func(r *request) (int, any, error)
}

// A request is one HTTP request and the principal who made it.
type request struct {
	*http.Request
	who  policy.Caller
	body []byte
}

// decode reads the body into v, strictly.
func (r *request) decode(v any, lim api.Limits) error { return api.Decode(r.body, v, lim) }

// crossOrigin refuses what a page of another origin has a browser send along
// with the client certificate it holds.
var crossOrigin = http.NewCrossOriginProtection()

// guarded serves a table of routes to principals.
type guarded struct {
	Config
	mux   *http.ServeMux
	allow map[string][]string // by path: the methods there are
}

// Signing returns the handler of the signing door.
func Signing(c Config) http.Handler {
	g := newGuarded(c)
	return g.handle(g.signing())
}

func (g *guarded) signing() []route {
	return []route{
		{"POST /v1/sign/jwt", g.Limits.MaxBody, g.signJWT},
		{"POST /v1/sign/jwt/batch", g.Limits.MaxBatchBody, g.signBatch},
		{"POST /v1/sign/csr", g.Limits.MaxBody, g.signCSR},
		{"POST /v1/sign/digest", g.Limits.MaxBody, g.signDigest},
		{"GET /v1/keysets", 0, g.keySets},
		{"GET /v1/keysets/{name}", 0, g.keySet},
		{"GET /v1/openapi.json", 0, openAPI},
	}
}

// Ops returns the handler of the ops door.
func Ops(c Config) http.Handler {
	g := newGuarded(c)
	return g.handle(g.ops())
}

func (g *guarded) ops() []route {
	return []route{
		{"GET /v1/keysets", 0, g.keySets},
		{"GET /v1/keysets/{name}", 0, g.keySet},
		{"GET /v1/keysets/{name}/plan", 0, g.plan},
		{"GET /v1/keysets/{name}/history", 0, g.history},
		{"POST /v1/keysets/{name}/rotate", g.Limits.MaxBody, g.rotate},
		{"POST /v1/keysets/{name}/suspend", g.Limits.MaxBody, g.suspend},
		{"POST /v1/keysets/{name}/resume", g.Limits.MaxBody, g.resume},
		{"POST /v1/keysets/{name}/compromise", g.Limits.MaxBody, g.compromise},
		{"POST /v1/keysets/{name}/destroy", g.Limits.MaxBody, g.destroy},
		{"GET /v1/ops/reconcile/last", 0, g.reconciled},
		{"POST /v1/ops/reconcile", g.Limits.MaxBody, g.reconcile},
		{"POST /v1/ops/compromise", g.Limits.MaxBody, g.compromiseAll},
		{"GET /v1/ops/tokens", 0, g.tokens},
		{"POST /v1/ops/tokens/retry", g.Limits.MaxBody, g.tokenRetry},
		{"GET /v1/ops/nodes", 0, g.nodes},
		{"POST /v1/ops/nodes/{name}/forget", g.Limits.MaxBody, g.nodeForget},
		{"POST /v1/ops/clock/confirm", g.Limits.MaxBody, g.clockConfirm},
		{"GET /v1/audit/{node}/lifecycle/entries", 0, g.lifecycleEntries},
		{"GET /v1/audit/{node}/acts/{month}/entries", 0, g.actsEntries},
		{"GET /v1/openapi.json", 0, openAPI},
	}
}

func newGuarded(c Config) *guarded {
	c.Limits = c.Limits.withDefaults()
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(string, string, time.Duration) {}
	}
	if c.Admit == nil {
		c.Admit = func(policy.Caller) (func(), error) { return func() {}, nil }
	}
	return &guarded{Config: c, mux: http.NewServeMux(), allow: make(map[string][]string)}
}

func (g *guarded) handle(routes []route) http.Handler {
	for _, rt := range routes {
		g.mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, rt) })
		method, path, _ := strings.Cut(rt.pattern, " ")
		g.allow[path] = append(g.allow[path], method)
	}
	for path := range g.allow {
		g.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			g.serve(w, r, route{pattern: path, do: func(*request) (int, any, error) {
				return 0, nil, api.Errorf(api.CodeMethodNotAllowed, "no such method here")
			}})
		})
	}
	nowhere := route{pattern: "/", do: func(*request) (int, any, error) {
		return 0, nil, api.Errorf(api.CodeNotFound, "no such endpoint at this door")
	}}
	g.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, nowhere) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The mux would redirect to another spelling of the path without asking who it is.
		if path.Clean(r.URL.Path) != r.URL.Path {
			g.serve(w, r, nowhere)
			return
		}
		g.mux.ServeHTTP(w, r)
	})
}

// serve identifies the caller before it reads a byte of the body, then reads,
// acts and answers.
func (g *guarded) serve(w http.ResponseWriter, r *http.Request, rt route) {
	start := time.Now()
	status, value, err := g.answer(w, r, rt)
	code := "ok"
	if err != nil {
		e, ok := errors.AsType[*api.Error](err)
		if !ok {
			e = api.Errorf(api.CodeInternal, "internal error").Because(err)
		}
		code = string(e.Code)
		level := slog.LevelDebug // the log of acts has the cause, once and within its budget
		if e.Code.Status() == http.StatusInternalServerError {
			level = slog.LevelError
		}
		g.Log.Log(r.Context(), level, "request refused", "route", rt.pattern, "code", e.Code, "err", e)
		if e.Code == api.CodeMethodNotAllowed {
			w.Header().Set("Allow", strings.Join(g.allow[rt.pattern], ", "))
		}
		writeProblem(w, e)
	} else if lines, ok := value.(jsonLines); ok {
		w.Header().Set("Content-Type", "application/jsonl")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		w.Write(lines)
	} else {
		if batch, ok := value.(api.BatchReply); ok {
			code = batch.Gravest()
		}
		writeJSON(w, g.Log, status, value)
	}
	g.Observe(rt.pattern, code, time.Since(start))
}

// jsonLines is a reply that is one JSON document a line.
type jsonLines []byte

// answer identifies, reads and acts. A panic is a 500 whose stack is logged: it
// is one request's, and the daemon goes on.
func (g *guarded) answer(w http.ResponseWriter, r *http.Request, rt route) (status int, value any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = api.Errorf(api.CodeInternal, "internal error").Because(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	who, err := visitorOf(r.Context()).Identify(g.Gate(), r.TLS, g.Now())
	if err != nil {
		if r.ContentLength != 0 {
			closeAfter(w) // or net/http waits for the body, to throw it away, before it answers
		}
		return 0, nil, g.Service.Refuse(keystore.Record{
			Action: keystore.ActRequest, Detail: map[string]string{"route": rt.pattern, "certificate": subjectOf(r)},
		}, err)
	}
	if err := crossOrigin.Check(r); err != nil {
		return 0, nil, g.refuse(who, rt, api.Errorf(api.CodeForbidden, "not allowed").Because(err))
	}
	release, err := g.Admit(who)
	if err != nil {
		return 0, nil, g.refuse(who, rt, err)
	}
	defer release()
	ctx, cancel, err := within(r.Context(), r.Header, g.Limits.RequestTimeout)
	if err != nil {
		return 0, nil, g.refuse(who, rt, err)
	}
	defer cancel()
	body, err := readBody(ctx, w, r, rt.maxBody)
	if err != nil {
		return 0, nil, g.refuse(who, rt, err)
	}
	status, value, err = rt.do(&request{Request: r.WithContext(ctx), who: who, body: body})
	if e, ok := errors.AsType[*decodeError](err); ok { // the Service never saw it
		return 0, nil, g.refuse(who, rt, e.cause)
	}
	return status, value, err
}

func (g *guarded) refuse(who policy.Caller, rt route, err error) error {
	return g.Service.Refuse(keystore.Record{
		Principal: who.String(), Action: keystore.ActRequest, Detail: map[string]string{"route": rt.pattern},
	}, err)
}

// decodeError is a body that was refused before the Service was asked.
type decodeError struct{ cause error }

func (e *decodeError) Error() string { return e.cause.Error() }

func readBody(ctx context.Context, w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if limit == 0 {
		return nil, nil
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, api.Errorf(api.CodeMalformed, "the body is to be sent as it is, without Content-Encoding")
	}
	if r.ContentLength > limit {
		return nil, api.Errorf(api.CodeTooLarge, "the body is over %d bytes", limit)
	}
	stop := untilDone(ctx, w)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	stop()
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, api.Errorf(api.CodeTooLarge, "the body is over %d bytes", limit)
	}
	// The context is cancelled as well when the listener's time is over.
	if late := errors.Is(ctx.Err(), context.DeadlineExceeded); late && errors.Is(err, os.ErrDeadlineExceeded) && signer.EndedByCaller(ctx) {
		return nil, api.Errorf(api.CodeDeadlineExceeded, "the deadline that the caller set passed before the body had come").Because(err)
	}
	if err != nil {
		return nil, api.Errorf(api.CodeMalformed, "the body ended early, or was too slow to come").Because(err)
	}
	return body, nil
}

// untilDone has nothing be read for a request whose time is over. The time that the
// listener gives a body holds as well, and no caller gets more of it by asking.
func untilDone(ctx context.Context, w http.ResponseWriter) (stop func()) {
	ended := make(chan struct{})
	stopped := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // where it cannot be set nothing is waited for
	})
	return func() {
		if !stopped() {
			<-ended
			// net/http may have been reading on behind the body: what it makes of the
			// deadline ends the next request as well.
			closeAfter(w)
		}
	}
}

// subjectOf names the certificate of a caller who is nobody, by its SPKI hash.
func subjectOf(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "none"
	}
	return policy.PinOf(r.TLS.PeerCertificates[0])
}

// slop is how much more of headers net/http takes than it is told.
const slop = 4 << 10

// HTTPServer returns a server for a guarded door's handler. It speaks HTTP/1.1
// only; gRPC has a protocol of its own.
func HTTPServer(h http.Handler, lim Limits, log *slog.Logger) *http.Server {
	lim = lim.withDefaults()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: h, Protocols: protocols,
		ReadHeaderTimeout: lim.ReadHeader, ReadTimeout: lim.Read, WriteTimeout: lim.Write,
		IdleTimeout: lim.Idle, MaxHeaderBytes: max(1, lim.HeaderBytes-slop), ConnContext: withVisitor,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

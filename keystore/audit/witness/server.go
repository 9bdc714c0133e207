package witness

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore/audit"
)

// addPath is where a witness takes checkpoints, under its submission prefix.
const addPath = "/add-checkpoint"

// contentSize is the media type of a size alone (C2SP tlog-witness).
const contentSize = "text/x.tlog.size"

// A ServerConfig says what a witness knows. It is not changed after OpenServer.
type ServerConfig struct {
	Dir  string           // of the key and of what was cosigned; made if missing
	Name string           // of the witness; may be empty when Dir has a key
	Logs []note.Verifier  // log keys; one's name is an origin, or the node whose logs' origins begin with it
	Now  func() time.Time // nil: time.Now
	Log  *slog.Logger     // nil: nowhere
}

// A Server is a small witness: an http.Handler of add-checkpoint (C2SP
// tlog-witness). What it cosigned last of each log is on stable storage before
// it answers. Its methods may be called concurrently.
type Server struct {
	cfg    ServerConfig
	key    *audit.Cosigner
	memory *memory
	lock   *flock.Flock
	mux    *http.ServeMux

	persisted func() // tests stop here: it is remembered and not yet answered
}

// OpenServer opens or makes the witness in cfg.Dir, which no other process may
// use until Close.
func OpenServer(cfg ServerConfig) (_ *Server, err error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := checkLogs(cfg.Logs); err != nil {
		return nil, err
	}
	logs := filepath.Join(cfg.Dir, "logs")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, fmt.Errorf("making the witness's directory: %w", err)
	}
	lock := flock.New(filepath.Join(cfg.Dir, "lock"))
	switch got, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("locking the witness's directory: %w", err)
	case !got:
		return nil, fmt.Errorf("another process is the witness in %s", cfg.Dir)
	}
	key, err := LoadKey(cfg.Dir, cfg.Name)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s := &Server{cfg: cfg, key: key, memory: newMemory(logs), lock: lock, mux: http.NewServeMux(), persisted: func() {}}
	s.mux.HandleFunc("POST "+addPath, s.add)
	return s, nil
}

func checkLogs(keys []note.Verifier) error {
	if len(keys) == 0 {
		return errors.New("a witness without a log")
	}
	seen := map[string]bool{}
	for _, k := range keys {
		id := fmt.Sprintf("%s+%08x", k.Name(), k.KeyHash())
		if seen[id] {
			return fmt.Errorf("log key %s is given twice", id)
		}
		seen[id] = true
	}
	return nil
}

// Close lets go of the directory.
func (s *Server) Close() error { return s.lock.Close() }

// Key returns the witness's key.
func (s *Server) Key() audit.WitnessKey { return s.key.Key }

// ServeHTTP answers add-checkpoint under its path, and nothing else.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) add(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largestRequest))
	if err != nil {
		refuse(w, tooLarge(err))
		return
	}
	req, err := ParseRequest(b)
	if err != nil {
		refuse(w, &refusal{http.StatusBadRequest, 0, err.Error()})
		return
	}
	line, err := s.Cosign(req)
	if err != nil {
		if _, known := errors.AsType[*refusal](err); !known {
			s.cfg.Log.Error("a checkpoint was not cosigned", "err", err)
		}
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, line)
}

func tooLarge(err error) error {
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return &refusal{http.StatusRequestEntityTooLarge, 0, err.Error()}
	}
	return &refusal{http.StatusBadRequest, 0, "reading the request failed"}
}

// A refusal is an answer other than a cosignature.
type refusal struct {
	status int
	size   int64 // with 409: of what was cosigned last
	why    string
}

func (r *refusal) Error() string { return r.why }

func refuse(w http.ResponseWriter, err error) {
	r, ok := errors.AsType[*refusal](err)
	switch {
	case !ok:
		http.Error(w, "internal error", http.StatusInternalServerError)
	case r.status == http.StatusConflict:
		w.Header().Set("Content-Type", contentSize)
		w.WriteHeader(r.status)
		fmt.Fprintf(w, "%d\n", r.size)
	default:
		http.Error(w, r.why, r.status)
	}
}

// Cosign checks req as C2SP tlog-witness says, remembers its checkpoint on stable
// storage, and returns the signature line. It returns an error that says why if
// it does not; a witness has no other way to cosign.
func (s *Server) Cosign(req Request) (string, error) {
	text, _, err := splitNote(req.Note)
	if err != nil {
		return "", &refusal{http.StatusBadRequest, 0, err.Error()}
	}
	next, err := parseBody(text)
	if err != nil {
		return "", &refusal{http.StatusBadRequest, 0, err.Error()}
	}
	keys := s.keysOf(next.origin)
	if len(keys) == 0 {
		return "", &refusal{http.StatusNotFound, 0, "unknown log"}
	}
	signed, err := verified(req.Note, keys)
	if err != nil {
		return "", err
	}
	if req.Old > next.size {
		return "", &refusal{http.StatusBadRequest, 0, "the old size is beyond the checkpoint's"}
	}
	if err := s.remember(req, next, signed); err != nil {
		return "", err
	}
	s.persisted()
	return s.key.Cosign(text, s.cfg.Now())
}

// keysOf returns the keys that may sign checkpoints of that origin.
func (s *Server) keysOf(origin string) []note.Verifier {
	node, _, _ := audit.LogOf(origin) // empty for a foreign log, and no key is called that
	var keys []note.Verifier
	for _, k := range s.cfg.Logs {
		if k.Name() == origin || k.Name() == node {
			keys = append(keys, k)
		}
	}
	return keys
}

// verified returns the note with those signatures only that keys made.
func verified(signed []byte, keys []note.Verifier) ([]byte, error) {
	n, err := note.Open(signed, note.VerifierList(keys...))
	_, unverified := errors.AsType[*note.UnverifiedNoteError](err)
	_, invalid := errors.AsType[*note.InvalidSignatureError](err)
	switch {
	case unverified:
		return nil, &refusal{http.StatusForbidden, 0, "no signature by a known log key"}
	case invalid:
		return nil, &refusal{http.StatusForbidden, 0, "invalid signature"}
	case err != nil:
		return nil, &refusal{http.StatusBadRequest, 0, "not a signed note"}
	}
	n.UnverifiedSigs = nil
	return note.Sign(n)
}

// remember compares next with what was cosigned last and, if it is consistent
// with it, makes it that.
func (s *Server) remember(req Request, next body, signed []byte) error {
	r := s.memory.of(next.origin)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.recall(); err != nil {
		return err
	}
	last := r.last
	split := next.size == last.size && last.size > 0 && next.root != last.root
	if split {
		s.cfg.Log.Error("a log has split: two checkpoints of one size", "origin", next.origin, "size", next.size)
		if err := r.accuse(signed); err != nil {
			return err
		}
	}
	switch {
	case req.Old != last.size || split && len(req.Proof) == 0:
		return &refusal{http.StatusConflict, last.size, "not the size cosigned last"}
	case last.size == 0:
		if len(req.Proof) > 0 || next.size == 0 && next.root != sha256.Sum256(nil) {
			return &refusal{http.StatusUnprocessableEntity, 0, "the consistency proof does not verify"}
		}
	default:
		if err := checkTree(req.Proof, next, last); err != nil {
			s.cfg.Log.Warn("a checkpoint is not consistent with the one before", "origin", next.origin, "size", next.size, "before", last.size)
			return &refusal{http.StatusUnprocessableEntity, 0, "the consistency proof does not verify"}
		}
		if next == last && !r.unsure {
			return nil
		}
	}
	return r.remember(next, signed)
}

// checkTree is tlog.CheckTree, but that a proof of what is the same is empty
// (RFC 6962 Section 2.1.2).
func checkTree(p tlog.TreeProof, next, last body) error {
	if next.size == last.size && len(p) > 0 {
		return errors.New("a proof where none is needed")
	}
	return tlog.CheckTree(p, next.size, next.root, last.size, last.root)
}

// Size returns the size of the checkpoint of that origin that was cosigned last,
// or 0.
func (s *Server) Size(origin string) (int64, error) {
	if len(s.keysOf(origin)) == 0 {
		return 0, nil
	}
	r := s.memory.of(origin)
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.recall()
	return r.last.size, err
}

package witness

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore/audit"
)

// post posts a body and returns the answer.
func post(s *Server, body []byte) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(body)))
	return w
}

// TestAWitnessAnswersAsSpecified walks through C2SP tlog-witness.
func TestAWitnessAnswersAsSpecified(t *testing.T) {
	l := newTestLog(t).add(10, "entry")
	forged := l.fork()
	forged.signers = []note.Signer{newLogKey(t)}
	split := newTestLog(t).add(10, "another entry")
	split.signers = l.signers
	stranger := l.fork()
	stranger.name = "strange"
	s := newServer(t, l)

	wrongProof := l.request(3, 7)
	wrongProof.Proof[0][0] ^= 1
	needlessProof := l.request(0, 3)
	needlessProof.Proof = tlog.TreeProof{l.root(1)}
	sameWithProof := l.request(7, 7)
	sameWithProof.Proof = tlog.TreeProof{l.root(1)}
	badSignature := l.request(0, 3)
	badSignature.Note = bytes.Replace(badSignature.Note, []byte("lifecycle\n3\n"), []byte("lifecycle\n4\n"), 1)
	// A signature by nobody known beside the log's, and a known one that is wrong.
	beside := l.request(7, 8)
	beside.Note = append(beside.Note, lastLine(forged.checkpoint(8))...)
	wrongBeside := l.request(8, 9)
	wrongBeside.Note = append(forged.checkpoint(9), lastLine(l.checkpoint(2))...)
	unsigned, _, _ := splitNote(l.checkpoint(3))

	for _, c := range []struct {
		what   string
		body   []byte
		status int
		size   string // with 409
	}{
		{"not a request", []byte("hello"), 400, ""},
		{"a checkpoint without signatures", []byte("old 0\n\n" + unsigned), 400, ""},
		{"a checkpoint in another spelling", bytes.Replace(l.request(0, 3).Bytes(), []byte("lifecycle\n3\n"), []byte("lifecycle\n03\n"), 1), 400, ""},
		{"a checkpoint without a root", bytes.Replace(l.request(0, 3).Bytes(), []byte(l.root(3).String()), []byte("root"), 1), 400, ""},
		{"an unknown log", stranger.request(0, 3).Bytes(), 404, ""},
		{"an unknown key", forged.request(0, 3).Bytes(), 403, ""},
		{"a wrong signature", badSignature.Bytes(), 403, ""},
		{"an old size beyond the new", l.request(4, 3).Bytes(), 400, ""},
		{"an old size of a log never seen", l.request(1, 3).Bytes(), 409, "0\n"},
		{"a proof from nothing", needlessProof.Bytes(), 422, ""},
		{"the first checkpoint", l.request(0, 3).Bytes(), 200, ""},
		{"an old size of zero, now", l.request(0, 7).Bytes(), 409, "3\n"},
		{"a proof that is wrong", wrongProof.Bytes(), 422, ""},
		{"a proof that is missing", Request{Old: 3, Note: l.checkpoint(7)}.Bytes(), 422, ""},
		{"the proof of a log that split", split.request(3, 7).Bytes(), 422, ""},
		{"the next checkpoint", l.request(3, 7).Bytes(), 200, ""},
		{"the same again, as if for the first time", l.request(3, 7).Bytes(), 409, "7\n"},
		{"the same again", l.request(7, 7).Bytes(), 200, ""},
		{"the same, with a proof", sameWithProof.Bytes(), 422, ""},
		{"another tree of that size", split.request(7, 7).Bytes(), 409, "7\n"},
		{"an older checkpoint", l.request(3, 5).Bytes(), 409, "7\n"},
		{"a signature of nobody beside it", beside.Bytes(), 200, ""},
		{"a wrong signature of the log beside another", wrongBeside.Bytes(), 403, ""},
		{"too much", append(l.request(8, 9).Bytes(), make([]byte, largestRequest)...), 413, ""},
	} {
		w := post(s, c.body)
		if w.Code != c.status {
			t.Fatalf("%s: %d %q, want %d", c.what, w.Code, w.Body, c.status)
		}
		switch c.status {
		case http.StatusOK:
			r, err := ParseRequest(c.body)
			if err != nil {
				t.Fatal(err)
			}
			cosignedBy(t, s.Key(), r.Note, w.Body.String())
		case http.StatusConflict:
			if got := w.Header().Get("Content-Type"); got != "text/x.tlog.size" || w.Body.String() != c.size {
				t.Errorf("%s: %q of type %q, want %q", c.what, w.Body, got, c.size)
			}
		}
	}
	if size, err := s.Size(l.origin()); err != nil || size != 8 {
		t.Errorf("the witness is at %d (%v), want 8", size, err)
	}
	for method, want := range map[string]int{"GET": 405, "PUT": 405} {
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, httptest.NewRequest(method, "/add-checkpoint", nil)); w.Code != want {
			t.Errorf("%s: %d, want %d", method, w.Code, want)
		}
	}
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, httptest.NewRequest("POST", "/", nil)); w.Code != 404 {
		t.Errorf("another path: %d", w.Code)
	}
}

func lastLine(signed []byte) []byte {
	return append([]byte(nil), signed[bytes.LastIndex(signed, []byte("—")):]...)
}

func TestAWitnessKeepsTheProofOfASplit(t *testing.T) {
	l := newTestLog(t).add(3, "entry")
	split := newTestLog(t).add(3, "another entry")
	split.signers = l.signers
	s := newServer(t, l)
	post(s, l.request(0, 3).Bytes())
	post(s, split.request(0, 3).Bytes())
	cosigned, err := filepath.Glob(filepath.Join(s.cfg.Dir, "logs", "*.split"))
	if err != nil || len(cosigned) != 1 {
		t.Fatalf("kept %v, %v", cosigned, err)
	}
	for path, want := range map[string][]byte{cosigned[0]: split.checkpoint(3), strings.TrimSuffix(cosigned[0], ".split"): l.checkpoint(3)} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s holds %q (%v), want %q", path, got, err, want)
		}
	}
}

// TestAWitnessTakesOtherLogs: their origin is their key's name, and their
// checkpoints may have extension lines, which are cosigned with the rest.
func TestAWitnessTakesOtherLogs(t *testing.T) {
	l := newTestLog(t).add(1, "entry")
	s := newServer(t, l)
	text := node + "\n1\n" + l.root(1).String() + "\nextension line\n"
	signed, err := note.Sign(&note.Note{Text: text}, l.signers...)
	if err != nil {
		t.Fatal(err)
	}
	w := post(s, Request{Note: signed}.Bytes())
	n, err := note.Open(append(signed, w.Body.Bytes()...), note.VerifierList(s.Key()))
	if w.Code != 200 || err != nil || n.Text != text {
		t.Errorf("answered %d %q: %v", w.Code, w.Body, err)
	}
}

func TestEachLogIsByItself(t *testing.T) {
	l := newTestLog(t).add(5, "entry")
	month := l.fork()
	month.name = "acts/2026-11"
	s := newServer(t, l)
	for _, r := range []Request{l.request(0, 5), month.request(0, 2)} {
		if w := post(s, r.Bytes()); w.Code != 200 {
			t.Errorf("answered %d %q", w.Code, w.Body)
		}
	}
}

// TestAWitnessIsNeverOfTwoMinds: eight callers show two trees that split;
// whatever is cosigned is of one.
func TestAWitnessIsNeverOfTwoMinds(t *testing.T) {
	l := newTestLog(t).add(40, "entry")
	split := newTestLog(t).add(40, "another entry")
	split.signers = l.signers
	s := newServer(t, l)
	var all sync.WaitGroup
	var mu sync.Mutex
	cosigned := map[int64]map[tlog.Hash]bool{}
	for _, side := range []*testLog{l, split} {
		for range 4 {
			all.Go(func() {
				size := int64(1)
				for old := int64(0); size <= side.size; {
					line, err := s.Cosign(side.request(old, size))
					if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusConflict && r.size < side.size {
						if old, size = r.size, r.size+1; old == side.size {
							return
						}
						continue
					}
					if err != nil {
						return
					}
					cosignedBy(t, s.Key(), side.checkpoint(size), line)
					mu.Lock()
					if cosigned[size] == nil {
						cosigned[size] = map[tlog.Hash]bool{}
					}
					cosigned[size][side.root(size)] = true
					mu.Unlock()
					old, size = size, size+1
				}
			})
		}
	}
	all.Wait()
	if len(cosigned) != 40 {
		t.Errorf("%d sizes were cosigned, want 40", len(cosigned))
	}
	for size, roots := range cosigned {
		if len(roots) > 1 {
			t.Errorf("two trees of %d entries were cosigned", size)
		}
	}
}

// TestAWitnessThatEndsBeforeItAnswers has remembered what it did not answer.
func TestAWitnessThatEndsBeforeItAnswers(t *testing.T) {
	l := newTestLog(t).add(9, "entry")
	split := newTestLog(t).add(9, "another entry")
	split.signers = l.signers
	s := newServer(t, l)
	post(s, l.request(0, 4).Bytes())
	s.persisted = func() { panic(http.ErrAbortHandler) }
	func() {
		defer func() { recover() }()
		post(s, l.request(4, 9).Bytes())
		t.Error("it answered")
	}()
	s.Close()
	again := newServer(t, l, func(cfg *ServerConfig) { cfg.Dir = s.cfg.Dir })
	if w := post(again, split.request(0, 9).Bytes()); w.Code != 409 || w.Body.String() != "9\n" {
		t.Errorf("the other tree: %d %q", w.Code, w.Body)
	}
	if w := post(again, l.request(9, 9).Bytes()); w.Code != 200 {
		t.Errorf("the same again: %d %q", w.Code, w.Body)
	}
	if again.Key().VKey() != s.Key().VKey() {
		t.Error("it has another key")
	}
}

// TestAWitnessThatCannotRemember cosigns nothing, and neither does one that
// cannot recall.
func TestAWitnessThatCannotRemember(t *testing.T) {
	l := newTestLog(t).add(9, "entry")
	s := newServer(t, l)
	path := s.memory.of(l.origin()).path
	if err := os.Mkdir(path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if w := post(s, l.request(0, 4).Bytes()); w.Code != 500 || strings.Contains(w.Body.String(), path) {
		t.Errorf("answered %d %q", w.Code, w.Body)
	}
	if err := os.Remove(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if w := post(s, l.request(0, 4).Bytes()); w.Code != 200 {
		t.Errorf("once it can: %d %q", w.Code, w.Body)
	}
	s.Close()
	for _, content := range []string{"", "garbage", "x\n\ny\n", string(l.checkpoint(4)[10:])} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := OpenServer(s.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if w := post(again, l.request(0, 4).Bytes()); w.Code != 500 {
			t.Errorf("with %q: answered %d %q", content, w.Code, w.Body)
		}
		again.Close()
	}
}

func TestOneProcessIsTheWitness(t *testing.T) {
	l := newTestLog(t)
	s := newServer(t, l)
	if _, err := OpenServer(s.cfg); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second one: %v", err)
	}
	s.Close()
	renamed := s.cfg
	renamed.Name = "other"
	if _, err := OpenServer(renamed); err == nil || !strings.Contains(err.Error(), "is called witness.example/w1") {
		t.Errorf("under another name: %v", err)
	}
	key := filepath.Join(s.cfg.Dir, "key")
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
	b, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "key\n", string(b[:len(b)-1]), string(b) + "\n", strings.Replace(string(b), "w1", "w2", 1)} {
		if err := os.WriteFile(key, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if again, err := OpenServer(s.cfg); err == nil {
			again.Close()
			t.Errorf("with the key %q it opened", content)
		}
	}
}

func TestTheTimeIsTheWitnesses(t *testing.T) {
	l := newTestLog(t).add(1, "entry")
	at := time.Date(2026, 11, 27, 12, 0, 0, 5e8, time.UTC)
	s := newServer(t, l, func(cfg *ServerConfig) { cfg.Now = func() time.Time { return at } })
	w := post(s, l.request(0, 1).Bytes())
	_, by, err := audit.OpenCosigned(append(l.checkpoint(1), w.Body.Bytes()...), []audit.WitnessKey{s.Key()})
	if err != nil || len(by) != 1 || !by[0].Time.Equal(at.Truncate(time.Second)) {
		t.Errorf("cosigned %v, %v", by, err)
	}
}

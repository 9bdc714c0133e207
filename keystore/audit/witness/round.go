package witness

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery/keystore/audit"
)

// roundPatience is how long one checkpoint is shown while the quorum is not met:
// time enough for a witness that answers at its second try.
const roundPatience = 30 * time.Second

// A round is one checkpoint of one log that is shown to every witness. A log
// under load has another checkpoint each second; if each witness were shown the
// newest one, no two would cosign the same.
type round struct {
	name   string // of the log
	signed []byte // the checkpoint as its log signed it
	body
	began time.Time

	// Guarded by rounds.mu.
	lines map[string]string // signature lines, by the witness's key
	order []string          // of lines
	met   bool
}

// rounds holds the open round of each log.
type rounds struct {
	cfg *Config

	mu   sync.Mutex
	open map[string]*round // by the log's name
	news chan struct{}     // closed when another begins
}

func newRounds(cfg *Config) *rounds {
	return &rounds{cfg: cfg, open: map[string]*round{}, news: make(chan struct{})}
}

// begun returns a channel that is closed when the next round begins.
func (s *rounds) begun() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news
}

// current returns the open round of the log of that name, and begins another if
// it is over and there is a newer checkpoint. It returns nil if there is none.
func (s *rounds) current(name string) (*round, error) {
	dir := filepath.Join(s.cfg.Dir, filepath.FromSlash(name))
	signed, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading a checkpoint: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.open[name]
	if r != nil && (bytes.Equal(r.signed, signed) || !s.over(r)) {
		return r, nil
	}
	if r, err = newRound(name, signed); err != nil {
		return nil, err
	}
	s.continued(r, filepath.Join(dir, "witnessed"))
	s.open[name] = r
	close(s.news)
	s.news = make(chan struct{})
	return r, nil
}

func newRound(name string, signed []byte) (*round, error) {
	text, _, err := splitNote(signed)
	if err != nil {
		return nil, fmt.Errorf("reading a checkpoint: %w", err)
	}
	b, err := parseBody(text)
	if err != nil {
		return nil, fmt.Errorf("reading a checkpoint: %w", err)
	}
	if _, of, _ := audit.LogOf(b.origin); of != name {
		return nil, fmt.Errorf("the checkpoint of %s is of %s", name, b.origin)
	}
	return &round{name: name, signed: signed, body: b, began: time.Now(), lines: map[string]string{}}, nil
}

// over reports whether r may give way to a newer checkpoint. The caller has mu.
func (s *rounds) over(r *round) bool {
	age := time.Since(r.began)
	return age >= s.cfg.Every && (r.met || age >= roundPatience)
}

// continued gives r the cosignatures that it has from before a restart. The
// caller has mu.
func (s *rounds) continued(r *round, path string) {
	b, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(b, r.signed) {
		return
	}
	for _, k := range s.cfg.Policy.Witnesses() {
		if line, err := cosignatureBy(k, r.signed, b[len(r.signed):]); err == nil {
			s.put(r, k, line)
		}
	}
	r.met = s.cfg.Policy.Met(r.hasLocked)
}

func (r *round) hasLocked(k audit.WitnessKey) bool { _, ok := r.lines[k.String()]; return ok }

// has reports whether the witness has cosigned r.
func (s *rounds) has(r *round, k audit.WitnessKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.hasLocked(k)
}

func (s *rounds) put(r *round, k audit.WitnessKey, line string) {
	if !r.hasLocked(k) {
		r.order = append(r.order, k.String())
	}
	r.lines[k.String()] = line
}

// collect adds a cosignature to r and has the checkpoint kept if enough have
// cosigned it. What comes after another round began is still of use for r.
func (s *rounds) collect(r *round, k audit.WitnessKey, line string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(r, k, line)
	if r.met = s.cfg.Policy.Met(r.hasLocked); !r.met {
		return nil
	}
	signed := bytes.Clone(r.signed)
	for _, key := range r.order {
		signed = append(signed, r.lines[key]...)
	}
	if err := s.cfg.Keep(r.name, signed); err != nil {
		return fmt.Errorf("keeping a cosigned checkpoint: %w", err)
	}
	return nil
}

// cosignatureBy returns the signature line by k among lines, verified to be of
// the checkpoint signed.
func cosignatureBy(k audit.WitnessKey, signed, lines []byte) (string, error) {
	text, _, err := splitNote(signed)
	if err != nil {
		return "", err
	}
	n, err := note.Open([]byte(text+"\n"+string(lines)), note.VerifierList(k))
	if other, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		return "", fmt.Errorf("signed by %s; the policy has %s", signersOf(other.Note), k)
	}
	if err != nil {
		return "", fmt.Errorf("no cosignature by %s: %w", k, err)
	}
	return fmt.Sprintf("— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64), nil
}

// mostSigners is how many keys signersOf tells, and longestSigner how many bytes of
// each name: they are a stranger's.
const (
	mostSigners   = 3
	longestSigner = 100
)

// signersOf tells the NAME+ID of the keys that say they signed n.
func signersOf(n *note.Note) string {
	var keys []string
	for _, s := range n.UnverifiedSigs[:min(mostSigners, len(n.UnverifiedSigs))] {
		name := strings.ToValidUTF8(s.Name[:min(longestSigner, len(s.Name))], "")
		keys = append(keys, fmt.Sprintf("%s+%08x", name, s.Hash))
	}
	if more := len(n.UnverifiedSigs) - len(keys); more > 0 {
		keys = append(keys, fmt.Sprintf("%d more", more))
	}
	return strings.Join(keys, ", ")
}

// alone returns the signed checkpoint with its first signature only, the NAME+ID
// of the key that made it, and how many there are.
func alone(signed []byte) (first []byte, key string, signatures int, err error) {
	_, err = note.Open(signed, nil)
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return nil, "", 0, fmt.Errorf("not a signed checkpoint: %w", err)
	}
	n := unverified.Note
	s := n.UnverifiedSigs[0]
	line := fmt.Sprintf("— %s %s\n", s.Name, s.Base64)
	return []byte(n.Text + "\n" + line), fmt.Sprintf("%s+%08x", s.Name, s.Hash), len(n.UnverifiedSigs), nil
}

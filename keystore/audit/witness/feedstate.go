package witness

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"sync"
	"time"
)

// A feedState is how far a witness is, in a small file. It is a convenience: a
// witness says itself how far it is, and is asked when the file is lost.
type feedState struct {
	path string

	mu      sync.Mutex
	written []byte
	data    stateFile
}

type stateFile struct {
	Witness string                  `json:"witness"` // its verifier key
	Keys    []string                `json:"keys"`    // NAME+ID of the log keys that it knows
	Logs    map[string]*stateOfALog `json:"logs"`    // by origin
}

type stateOfALog struct {
	Size        int64     `json:"size"` // that it cosigned last
	At          time.Time `json:"at"`
	Contradicts string    `json:"contradicts,omitempty"`
	Since       time.Time `json:"since,omitzero"`

	failed string
}

// loadState reads the file at path, or begins anew when it is not there, not to
// be read, or of another witness.
func loadState(path, vkey string) *feedState {
	s := &feedState{path: path}
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &s.data) != nil || s.data.Witness != vkey || slices.Contains(slices.Collect(maps.Values(s.data.Logs)), nil) {
		s.data = stateFile{Witness: vkey}
	}
	if s.data.Logs == nil {
		s.data.Logs = map[string]*stateOfALog{}
	}
	for _, l := range s.data.Logs {
		l.Size = max(l.Size, 0)
	}
	return s
}

// save writes the file if anything in it has changed.
func (s *feedState) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := json.Marshal(s.data)
	if err != nil || bytes.Equal(b, s.written) {
		return err
	}
	if err := writeDurably(s.path, append(b, '\n'), 0o640); err != nil {
		return err
	}
	s.written = b
	return nil
}

// log returns what is known of a log. The caller has mu.
func (s *feedState) log(origin string) *stateOfALog {
	l, ok := s.data.Logs[origin]
	if !ok {
		l = &stateOfALog{}
		s.data.Logs[origin] = l
	}
	return l
}

func (s *feedState) size(origin string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log(origin).Size
}

func (s *feedState) cosigned(origin string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log(origin)
	l.Size, l.At = size, time.Now().UTC().Truncate(time.Second)
}

// failed notes why asking failed, or that it did not, and returns what was
// noted before.
func (s *feedState) failed(origin string, err error) (before string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log(origin)
	before, l.failed = l.failed, ""
	if err != nil {
		l.failed = err.Error()
	}
	return before
}

func (s *feedState) contradiction(origin string) (since time.Time, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log(origin)
	return l.Since, l.Contradicts
}

func (s *feedState) contradict(origin, what string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log(origin)
	if l.Contradicts, l.Since = what, since; what == "" {
		l.Since = time.Time{}
	}
}

func (s *feedState) knows(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.data.Keys, key)
}

func (s *feedState) learn(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.data.Keys, key) {
		s.data.Keys = append(s.data.Keys, key)
	}
}

func (s *feedState) standings() []Standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Standing
	for _, origin := range slices.Sorted(maps.Keys(s.data.Logs)) {
		l := s.data.Logs[origin]
		all = append(all, Standing{Origin: origin, Size: l.Size, At: l.At, Failed: l.failed, Contradicts: l.Contradicts, Since: l.Since})
	}
	return all
}

package witness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// A memory is what a witness cosigned last of each log: one file per origin, the
// checkpoint as its log signed it.
type memory struct {
	dir string

	mu   sync.Mutex
	logs map[string]*remembered
}

// A remembered is one log's part of the memory.
type remembered struct {
	mu   sync.Mutex // held from comparing to writing
	path string
	read bool
	last body // size 0: nothing was cosigned yet
	// unsure: a write failed, so that what is read may not be on stable storage.
	unsure bool
}

func newMemory(dir string) *memory { return &memory{dir: dir, logs: map[string]*remembered{}} }

// of returns the part of the log with that origin. Only origins of known logs,
// under a verified signature, get one.
func (m *memory) of(origin string) *remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.logs[origin]
	if !ok {
		sum := sha256.Sum256([]byte(origin))
		r = &remembered{path: filepath.Join(m.dir, hex.EncodeToString(sum[:])), last: body{origin: origin}}
		m.logs[origin] = r
	}
	return r
}

// recall reads the file once. What is there and cannot be read is an error: a
// witness that takes it for nothing would sign another tree. The caller has mu.
func (r *remembered) recall() error {
	if r.read {
		return nil
	}
	b, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		r.read = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("recalling what was cosigned: %w", err)
	}
	text, _, err := splitNote(b)
	if err != nil {
		return fmt.Errorf("recalling what was cosigned: %s: %w", r.path, err)
	}
	last, err := parseBody(text)
	if err != nil {
		return fmt.Errorf("recalling what was cosigned: %s: %w", r.path, err)
	}
	if last.origin != r.last.origin {
		return fmt.Errorf("recalling what was cosigned: %s is of %q", r.path, last.origin)
	}
	r.read, r.last = true, last
	return nil
}

// remember writes signed, a checkpoint of size and root as in next, and returns
// when it is on stable storage. After an error it is read anew before it is used,
// as nobody knows which of both is there. The caller has mu.
func (r *remembered) remember(next body, signed []byte) error {
	r.read, r.last, r.unsure = false, body{origin: r.last.origin}, true
	if err := writeDurably(r.path, signed, 0o600); err != nil {
		return fmt.Errorf("remembering what is cosigned: %w", err)
	}
	r.read, r.last, r.unsure = true, next, false
	return nil
}

// writeDurably puts content under path at once or not at all, on stable storage
// with its name.
func writeDurably(path string, content []byte, mode os.FileMode) (err error) {
	unfinished := path + ".new"
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(unfinished))
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

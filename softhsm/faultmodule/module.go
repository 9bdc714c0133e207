package faultmodule

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
)

// A Module is the built module before a real one, with a control file and
// counters of its own. Any number of processes may load it, one after the other
// or at once. Its methods may be called concurrently.
type Module struct {
	Path string // of the module that the program under test loads
	Real string // of the module that it stands before

	control, counts, check string
	mu                     sync.Mutex // one replacement of the control file at a time
}

// New builds the module if need be and returns it with its files in dir, which
// must exist. It starts without orders.
func New(dir, real string) (*Module, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return nil, err
	}
	cache := ""
	if _, err := os.UserCacheDir(); err != nil {
		cache = dir
	}
	path, err := Build(cache)
	if err != nil {
		return nil, err
	}
	m := &Module{
		Path: path, Real: real,
		control: filepath.Join(dir, "faultmodule.control"),
		counts:  filepath.Join(dir, "faultmodule.counts"),
		check:   filepath.Join(filepath.Dir(path), checkFile),
	}
	return m, m.Clear()
}

// Env returns the environment that a process needs to load the module.
func (m *Module) Env() map[string]string {
	return map[string]string{
		"FAULTMODULE_MODULE":  m.Real,
		"FAULTMODULE_CONTROL": m.control,
		"FAULTMODULE_COUNTS":  m.counts,
	}
}

// Order replaces all orders by these, in every process, from its next call on.
// Calls that are under way, such as one that hangs, stay under the old ones.
// Orders with a mistake are refused and the old ones stay.
func (m *Module) Order(lines ...string) error {
	text := strings.Join(append(lines, ""), "\n")
	cmd := exec.Command(m.check)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		if len(out) > 0 {
			return fmt.Errorf("orders: %s", firstLine(out))
		}
		return fmt.Errorf("checking orders: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.control + ".new"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(next, m.control)
}

// Clear withdraws all orders.
func (m *Module) Clear() error { return m.Order() }

// Count returns how often a function was called, in all processes together:
//
//	C_Sign           calls that want the signature
//	C_Sign:size      calls that only ask how long it would be
//	C_Sign:ordered   calls of both kinds that an order has changed
//
// It panics if there is no such function, since a count of zero would be taken
// for an answer, and if the counters cannot be read.
func (m *Module) Count(function string) uint64 {
	name, kind, of := strings.Cut(function, ":")
	column, ok := columns[kind]
	ok = ok && of == (kind != "")
	at := -1
	for i, f := range functions() {
		if f == name {
			at = i
		}
	}
	if !ok || at < 0 {
		panic(fmt.Sprintf("faultmodule: nothing counts %q", function))
	}
	all, err := m.read()
	if err != nil {
		panic(fmt.Sprintf("faultmodule: %v", err))
	}
	if all == nil {
		return 0
	}
	return all[at][column]
}

// Counts returns all counts that are not zero, by the names that Count has.
func (m *Module) Counts() (map[string]uint64, error) {
	all, err := m.read()
	if err != nil {
		return nil, err
	}
	counts := make(map[string]uint64)
	for i, numbers := range all {
		for kind, column := range columns {
			if numbers[column] > 0 {
				counts[strings.TrimSuffix(functions()[i]+":"+kind, ":")] = numbers[column]
			}
		}
	}
	return counts, nil
}

// The file of counters, as module/counts.c draws it.
const (
	magic      = "faultmodule 1\n\x00\x00"
	recordSize = 64
	nameSize   = 40
)

var columns = map[string]int{"": 0, "size": 1, "ordered": 2}

// read returns the three counts of each function, or nil if nothing has loaded
// the module yet.
func (m *Module) read() ([][3]uint64, error) {
	f, err := os.Open(m.counts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Under the lock that the module makes the file under.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
		return nil, fmt.Errorf("locking %s: %w", m.counts, err)
	}
	names := functions()
	size := len(magic) + recordSize*len(names)
	if fi, err := f.Stat(); err != nil || fi.Size() < int64(size) {
		return nil, err
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", m.counts, err)
	}
	defer syscall.Munmap(b)
	if string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%s holds no counters", m.counts)
	}
	all := make([][3]uint64, len(names))
	for i, name := range names {
		r := b[len(magic)+i*recordSize:][:recordSize]
		if got := string(bytes.TrimRight(r[:nameSize], "\x00")); got != name {
			return nil, fmt.Errorf("%s counts %q where %s should be", m.counts, got, name)
		}
		for c := range all[i] {
			all[i][c] = binary.NativeEndian.Uint64(r[nameSize+8*c:])
		}
	}
	return all, nil
}

// functions returns the names of all functions in the order of their list.
var functions = sync.OnceValue(func() []string {
	text, err := source.ReadFile("module/functions.h")
	if err != nil {
		panic(err) // it is embedded
	}
	var names []string
	for _, match := range regexp.MustCompile(`(?m)^\tX\((C_\w+),`).FindAllSubmatch(text, -1) {
		names = append(names, string(match[1]))
	}
	return names
})

package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"chancery/keystore"
)

// A mark is the newest change that was seen of the catalog, in memory and in a
// file of the node's own: what tells a database that lost changes, such as an
// asynchronous replica that was promoted (S05).
//
// The file is text of three lines, each ended by a line feed:
//
//	chancery catalog mark 1
//	revision 17
//	transition 5f0c…          32 lower-case hexadecimal digits
//
// It is replaced as a whole: written beside it as PATH.new, synced, renamed.
type mark struct {
	path string // empty: no file

	mu   sync.Mutex // guards what follows
	held marked
	kept marked // what the file says
	err  error  // why kept is not held; nil if it is

	file sync.Mutex // held while the disk is waited for
}

// A marked is a change: its revision, from 1, and its transition.
type marked struct {
	revision   int64
	transition string
}

const markHead = "chancery catalog mark 1\n"

// openMark reads the file, if there is one.
func openMark(path string) (*mark, error) {
	m := &mark{path: path}
	if path == "" {
		return m, nil
	}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m, nil
	case err != nil:
		return nil, fmt.Errorf("reading the mark: %w: %w", keystore.ErrUnavailable, err)
	}
	if m.held, err = parseMark(text); err != nil {
		return nil, fmt.Errorf("reading the mark %s: %w: %w (hint: make sure that the database is the one this node used last, "+
			"and has all its changes; then move the file away)", path, ErrDamaged, err)
	}
	m.kept = m.held
	return m, nil
}

// parseMark reads what formatMark writes, in that spelling only.
func parseMark(text []byte) (marked, error) {
	rest, ok := strings.CutPrefix(string(text), markHead)
	if !ok {
		return marked{}, errors.New("it is no mark")
	}
	var m marked
	lines := strings.Split(rest, "\n")
	if len(lines) != 3 {
		return marked{}, errors.New("it has not three lines")
	}
	number, ok := strings.CutPrefix(lines[0], "revision ")
	if !ok {
		return marked{}, errors.New("it has no revision")
	}
	var err error
	if m.revision, err = strconv.ParseInt(number, 10, 64); err != nil || m.revision <= 0 {
		return marked{}, errors.New("its revision is no positive number")
	}
	m.transition, ok = strings.CutPrefix(lines[1], "transition ")
	if !ok || !recordIDForm().MatchString(m.transition) {
		return marked{}, errors.New("its transition is not 32 lower-case hexadecimal digits")
	}
	if string(formatMark(m)) != string(text) {
		return marked{}, errors.New("it is spelled differently")
	}
	return m, nil
}

func formatMark(m marked) []byte {
	return fmt.Appendf(nil, "%srevision %d\ntransition %s\n", markHead, m.revision, m.transition)
}

// seen returns the newest change there was.
func (m *mark) seen() marked {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held
}

// check returns an error wrapping ErrBehind if a database whose newest change is
// found lacks the change that was seen.
func (m *mark) check(seen marked, found head) error {
	if seen.revision == 0 || found.revision >= seen.revision && found.marked == seen.transition {
		return nil
	}
	what := fmt.Sprintf("its newest change is %d, and %d was seen", found.revision, seen.revision)
	if found.revision >= seen.revision {
		what = fmt.Sprintf("its change %d is not the one that was seen", seen.revision)
	}
	hint := fmt.Sprintf("promote the server that has change %d, %s", seen.revision, seen.transition)
	if m.path != "" {
		hint += fmt.Sprintf("; only if no server has it, stop every node, wait until all that they published and signed has expired, "+
			"move %s away, on each of them its own, start them, and run `chancery keys reconcile`", m.path)
	}
	return fmt.Errorf("%w: %s (hint: %s)", ErrBehind, what, hint)
}

// notice keeps found if it is newer than what was seen. It counts at once; that
// the file could not be written is told by failure, and tried again with the next
// change.
func (m *mark) notice(found head) {
	m.mu.Lock()
	if found.revision > m.held.revision {
		m.held = marked{found.revision, found.transition}
	}
	current := m.path == "" || m.held == m.kept
	m.mu.Unlock()
	if !current {
		m.keep()
	}
}

func (m *mark) keep() {
	m.file.Lock()
	defer m.file.Unlock()
	held := m.seen()
	m.mu.Lock()
	current := held == m.kept // who was first wrote ours too
	m.mu.Unlock()
	if current {
		return
	}
	err := replaceFile(m.path, formatMark(held))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	if err == nil {
		m.kept = held
	}
}

// failure returns why the file does not hold what was seen.
func (m *mark) failure() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// replaceFile puts a file with this content, mode 0600, in the place of path. It
// is on the disk before it returns.
func replaceFile(path string, content []byte) error {
	building := path + ".new"
	f, err := os.OpenFile(building, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(building, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

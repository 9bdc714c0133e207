package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A file is a journal as the committer sees it.
type file interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when everything written is on stable storage. After an error
	// it proves nothing any more: the file is to be closed.
	Sync() error
	Stat() (os.FileInfo, error)
	Close() error
}

// A disk makes and opens journals. Tests put one between that fails.
type disk interface {
	// Create makes a new file of the given size with its space reserved and
	// content at its beginning, all of it on stable storage with its name. If
	// the name is taken it returns an error wrapping fs.ErrExist and leaves what
	// is there as it is; if it fails otherwise it leaves nothing under that name.
	Create(path string, size int64, content []byte) (file, error)
	// Open opens a file for reading and writing. What is read from it comes
	// from the device, not from what a failed write left in memory.
	Open(path string) (file, error)
}

type osDisk struct{}

func (osDisk) Create(path string, size int64, content []byte) (_ file, err error) {
	unfinished := path + newSuffix
	// What a crash left there may be a second name of path: it is never opened.
	if err := removeIfThere(unfinished); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(unfinished, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), removeIfThere(unfinished))
		}
	}()
	if err := reserve(f, size); err != nil {
		return nil, fmt.Errorf("reserving %d bytes: %w", size, err)
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	// A link, because a rename would put it over what is there.
	if err := os.Link(unfinished, path); err != nil {
		return nil, err
	}
	if err := errors.Join(os.Remove(unfinished), syncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return osFile{f}, nil
}

func (osDisk) Open(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := forget(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return osFile{f}, nil
}

type osFile struct{ *os.File }

func (f osFile) Sync() error { return datasync(f.File) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes dir and its parents up to base, each on stable storage.
func makeDir(base, dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if err := syncDir(filepath.Dir(at)); err != nil {
			return err
		}
		if at == base || at == filepath.Dir(at) {
			return nil
		}
	}
}

// replace puts content under path at once or not at all, without a sync: for
// what can be made again.
func replace(path string, content []byte) error {
	unfinished := path + newSuffix
	err := os.WriteFile(unfinished, content, 0o640)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o750); err == nil {
			err = os.WriteFile(unfinished, content, 0o640)
		}
	}
	if err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(unfinished))
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

const (
	newSuffix     = ".new" // of what is not finished
	journalPrefix = "journal-"
)

func journalPath(dir string, n int) string {
	return filepath.Join(dir, journalPrefix+strconv.Itoa(n))
}

// listJournals returns the numbers of the journals in dir, ascending.
func listJournals(dir string) ([]int, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, f := range found {
		text, ok := strings.CutPrefix(f.Name(), journalPrefix)
		n, err := strconv.Atoi(text)
		if ok && err == nil && n > 0 && strconv.Itoa(n) == text {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// errForeign is what the error wraps of reading what can be no file of a log.
var errForeign = errors.New("somebody put something else in its place")

// openPlain opens a file to read it. What is none, a pipe or a device that somebody
// put in its place, is refused: to open a pipe may take for ever.
func openPlain(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblocking, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w: it is no file", errForeign)}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// mostDerived is the longest of the small files that is read, in bytes.
const mostDerived = 1 << 20

// readPlain reads a checkpoint, a tile or another small file whole.
func readPlain(path string) ([]byte, error) {
	f, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, mostDerived+1))
	if err == nil && len(b) > mostDerived {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("%w: it has more than %d bytes", errForeign, mostDerived)}
	}
	return b, errors.Join(err, f.Close())
}

// readHeader returns the header of the journal at path.
func readHeader(path string) (header, error) {
	f, err := openPlain(path)
	if err != nil {
		return header{}, err
	}
	b := make([]byte, headerSize)
	_, err = io.ReadFull(f, b)
	if err = errors.Join(err, f.Close()); err != nil {
		return header{}, fmt.Errorf("reading the journal's header: %w", err)
	}
	return parseHeader(b)
}

// writeZeros writes n zeros at off.
func writeZeros(f io.WriterAt, off, n int64) error {
	zeros := make([]byte, 64<<10)
	for n > 0 {
		chunk := zeros[:min(n, int64(len(zeros)))]
		if _, err := f.WriteAt(chunk, off); err != nil {
			return err
		}
		off, n = off+int64(len(chunk)), n-int64(len(chunk))
	}
	return nil
}

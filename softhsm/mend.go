package softhsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// tokenObject is the file in a token's directory without which SoftHSM does not
// see the token.
const tokenObject = "token.object"

func keptDir(dir string) string { return filepath.Join(dir, "kept") }

// Mend puts back the token objects of the tokens that Create made in dir and
// that an interrupted login has torn, and returns the names of those tokens'
// directories. SoftHSM 2.6.1 empties a token's object and writes it again at
// each login (320 bytes, in two system calls), so a process that is killed
// between the two leaves a token that nothing finds any more, with all its keys
// still there. It must not run while a process has a token of dir open.
//
// An object that is whole is kept in place of the copy: it has changed if a PIN
// has. A token that was deleted stays deleted.
func Mend(dir string) (mended []string, err error) {
	copies, err := os.ReadDir(keptDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, c := range copies {
		torn, err := mend(filepath.Join(keptDir(dir), c.Name()), filepath.Join(dir, "tokens", c.Name()), true)
		if err != nil {
			return mended, fmt.Errorf("mending token %s: %w", c.Name(), err)
		}
		if torn {
			mended = append(mended, c.Name())
		}
	}
	return mended, nil
}

// mend brings a copy and the object in a token's directory together: a torn object
// only if it is to be put back. It reports whether that was done, or failed.
func mend(kept, token string, putBack bool) (torn bool, err error) {
	if _, err := os.Stat(token); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	want, err := os.ReadFile(kept)
	if err != nil {
		return false, err
	}
	path := filepath.Join(token, tokenObject)
	have, err := os.ReadFile(path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	case bytes.Equal(have, want), len(have) < len(want) && !putBack:
		return false, nil
	case len(have) >= len(want): // it has the same members, or more
		return false, writeFile(kept, string(have))
	}
	return true, writeFile(path, string(want))
}

// lookEvery is how often Watch looks. A login that is under way empties an object
// for far less: an object that is torn at two looks stays torn.
const lookEvery = 200 * time.Millisecond

// Watch does what Mend does until ctx ends, while processes use the tokens of dir:
// it puts back an object that is torn and not about to be whole, and keeps one that
// is whole. It tells of each that it puts back, and once of one that it cannot.
func Watch(ctx context.Context, dir string, tell func(token string, err error)) {
	looks := map[string]int{} // at a token that is torn, in a row
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		copies, err := os.ReadDir(keptDir(dir))
		if err != nil {
			continue // there are no tokens yet
		}
		for _, c := range copies {
			kept, token := filepath.Join(keptDir(dir), c.Name()), filepath.Join(dir, "tokens", c.Name())
			if !isTorn(kept, token) {
				looks[token] = 0
			} else if looks[token]++; looks[token] < 2 {
				continue
			}
			mended, err := mend(kept, token, looks[token] > 0)
			if mended && (err == nil || looks[token] == 2) {
				tell(c.Name(), err)
			}
		}
	}
}

// isTorn reports whether the object in a token's directory lacks something of the
// copy. One that cannot be read is not torn, but gone.
func isTorn(kept, token string) bool {
	want, err := os.Stat(kept)
	if err != nil {
		return false
	}
	have, err := os.Stat(filepath.Join(token, tokenObject))
	return err == nil && have.Size() < want.Size()
}

// keep copies the object of the token in the directory token to where Mend
// looks for it.
func (t *Token) keep(token string) error {
	object, err := os.ReadFile(filepath.Join(token, tokenObject))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(keptDir(t.Dir), 0o700); err != nil {
		return err
	}
	return writeFile(filepath.Join(keptDir(t.Dir), filepath.Base(token)), string(object))
}

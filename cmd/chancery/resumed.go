package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"

	"chancery/keystore/audit"
)

// A resumption is a review that goes on from what a file says was verified, and
// keeps there how far it came.
type resumption struct {
	path    string // empty: there is none
	entries int64  // of the state that was read or kept last
}

// resume has opt go on from the file, which need not be there yet.
func (r *resumption) resume(opt *audit.Options) error {
	if r.path == "" {
		return nil
	}
	if len(opt.Keys) == 0 {
		return usagef("audit verify: --resume keeps what a log key has signed: give the log key with --key")
	}
	b, err := readState(r.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return hinted{fmt.Errorf("reading how far the log was verified: %w", err), "--resume names a file, which is made if it is not there"}
	}
	if err := r.writable(); err != nil {
		return hinted{fmt.Errorf("nothing could be kept for --resume: %w", err), "give a file in a directory that is there and that you may write to"}
	}
	if err == nil {
		if opt.State, err = audit.ParseState(b); err != nil {
			return hinted{fmt.Errorf("%s: %w", r.path, err), "move it away to begin anew"}
		}
		r.entries = opt.State.Entries()
	}
	opt.Keep = r.keep
	return nil
}

// writable tells before a long review that its state could not be kept after it.
func (r *resumption) writable() error {
	f, err := renameio.NewPendingFile(r.path, renameio.WithPermissions(0o600))
	if err != nil {
		return err
	}
	return f.Cleanup()
}

// readState reads a file up to what a state may have.
func readState(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	return io.ReadAll(io.LimitReader(f, audit.MaxState+1))
}

// keep writes the state, whole or not at all. Who signs what with which key is not
// for everybody who has an account on the machine.
func (r *resumption) keep(s *audit.State) error {
	b, err := s.Encode()
	if err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(r.path, renameio.WithPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup() // nothing is left to do once it is in place
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	r.entries = s.Entries()
	return nil
}

// stopped tells of a review that ctx has ended how to go on.
func (r *resumption) stopped(ctx context.Context, err error) error {
	switch {
	case r.path == "" || ctx.Err() == nil || !errors.Is(err, context.Cause(ctx)):
		return fmt.Errorf("verifying the log: %w", err)
	case r.entries == 0:
		return errors.New("stopped before anything was kept")
	}
	return fmt.Errorf("stopped at %s; go on with --resume %s", count(r.entries, "entry", "entries"), r.path)
}

// printBefore tells what was not looked at again.
func (a *app) printBefore(r *audit.Report) {
	if r.Before != nil {
		a.printf("verified before: %s, by the state of %s UTC\n", count(r.Before.Entries, "entry", "entries"), when(r.Before.Time))
	}
}

// hintAtProblems tells that the file was left before what is wrong.
func (r *resumption) hintAtProblems(w io.Writer, report *audit.Report) {
	if r.path != "" && !report.OK() {
		fmt.Fprintf(w, "hint: %s was not taken beyond what is wrong: the next review finds it again\n", clean(r.path))
	}
}

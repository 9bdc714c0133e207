package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"chancery/keystore/audit"
)

// logDir returns the audit directory, which is there: the argument, or that of --dir.
func (a *app) logDir(args []string) (string, error) {
	dir := filepath.Join(a.dir, "audit")
	switch {
	case len(args) == 1:
		dir = args[0]
	case a.dir == "":
		return "", usagef("which log? give its directory, or --dir DIR")
	}
	return dir, a.logDirs([]string{dir})
}

// logDirs returns an error unless all of these are audit directories.
func (a *app) logDirs(dirs []string) error {
	for _, dir := range dirs {
		if isURL(dir) {
			return hinted{
				usagef("%s: entries are not published, and this reads them", dir),
				"give the log's directory, or a copy of it; `chancery audit verify` and `audit witness --once` take the URL of what is published",
			}
		}
		if scheme, _, isURL := strings.Cut(dir, "://"); isURL {
			return usagef("%s: a node publishes its logs by http or https, not %s", dir, scheme)
		}
		if err := isLogDir(dir); err != nil {
			return hinted{err, logDirHint(dir, err)}
		}
	}
	return nil
}

// isLogDir returns an error unless there is a log in dir, or what is left of one.
func isLogDir(dir string) error {
	_, err := os.ReadDir(dir)
	if err == nil {
		if _, err = os.Stat(filepath.Join(dir, "lifecycle")); errors.Is(err, fs.ErrNotExist) && exists(filepath.Join(dir, "acts")) {
			err = nil // it was taken away: whoever reads it tells
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("reading the audit log in %s: %w", dir, err)
	case err != nil:
		return fmt.Errorf("no audit log in %s: %w", dir, err)
	}
	return nil
}

// logDirHint says which directory may be meant, or how it can be read.
func logDirHint(dir string, err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return logPermissionHint
	}
	for _, near := range []string{filepath.Join(dir, "audit"), filepath.Dir(filepath.Clean(dir)), filepath.Dir(filepath.Dir(filepath.Clean(dir)))} {
		if isLogDir(near) == nil {
			return "there is one in " + near
		}
	}
	return "give the audit directory, which has lifecycle and acts in it: `audit` in the daemon's data directory, or a copy of it"
}

const logPermissionHint = "this user may not read it; the log belongs to the user the daemon runs as: read it as that user, or have a copy made"

// withReadHint has what an audit command may not read told with a hint of its own:
// there is no daemon that it could be about.
func withReadHint(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		err := run(c, args)
		failed, ok := errors.AsType[failure](err)
		if _, has := errors.AsType[hinted](err); !ok || has || !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return failure{hinted{failed.error, logPermissionHint}}
	}
}

// withWords has run refuse arguments and flags that are empty: a variable that is not
// set would choose everything, or leave a check out.
func withWords(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		var empty error
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Changed {
				return
			}
			words := []string{f.Value.String()}
			if many, ok := f.Value.(pflag.SliceValue); ok {
				words = many.GetSlice()
			}
			if slices.Contains(words, "") {
				empty = usagef("%s: --%s is empty", c.CommandPath(), f.Name)
			}
		})
		if slices.Contains(args, "") {
			empty = usagef("%s: an argument is empty", c.CommandPath())
		}
		if empty != nil {
			return empty
		}
		return run(c, args)
	}
}

// isLogName returns an error unless name is that of a log in dir, or "acts" for all
// of its months.
func isLogName(dir, name string) error {
	if name == "" || name == "acts" {
		return nil
	}
	names, err := audit.LogNames(dir)
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if slices.Contains(names, name) {
		return nil
	}
	return hinted{
		fmt.Errorf("there is no log %s in %s", name, dir),
		"there are " + strings.Join(names, ", ") + "; a month without acts has none, and one that was removed is told by `chancery audit verify`",
	}
}

func atMostLogDir(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s: unexpected argument %q", cmd.CommandPath(), args[1])
	}
	return nil
}

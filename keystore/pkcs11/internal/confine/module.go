package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// CheckModule returns an error unless only root and this process's user can
// decide what the file at path is: the file, every directory and every symbolic
// link that leads to it are owned by one of them and written by nobody else. A
// sticky directory that others may write, such as /tmp, is accepted for an entry
// owned by root or this user, which nobody else can rename or remove there
// (inode(7)).
//
// An error wraps fs.ErrNotExist if something is missing.
func CheckModule(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("module %q is not an absolute path", path)
	}
	if filepath.Clean(path) != path {
		return fmt.Errorf("module %q is not in its shortest form, %q", path, filepath.Clean(path))
	}
	fi, err := walk(path)
	if err != nil {
		return fmt.Errorf("module %s: %w", path, err)
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("module %s is not a file", path)
	}
	return nil
}

const maxLinks = 40 // path_resolution(7)

// walk follows path from the root as the kernel does, and returns its end.
func walk(path string) (fs.FileInfo, error) {
	at := "/"
	here, err := os.Lstat(at)
	if err != nil {
		return nil, err
	}
	if err := checkOwner(at, here); err != nil {
		return nil, err
	}
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..": // of a link; already checked on the way down
			at = filepath.Dir(at)
			if here, err = os.Lstat(at); err != nil {
				return nil, err
			}
			continue
		}
		next := filepath.Join(at, name)
		fi, err := os.Lstat(next)
		if err != nil {
			return nil, err
		}
		if err := checkOwner(next, fi); err != nil {
			return nil, err
		}
		if err := checkWriters(at, here); err != nil {
			return nil, err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			at, here = next, fi
			continue
		}
		if links++; links > maxLinks {
			return nil, errors.New("too many symbolic links")
		}
		target, err := os.Readlink(next)
		if err != nil {
			return nil, err
		}
		if filepath.IsAbs(target) {
			at = "/"
			if here, err = os.Lstat(at); err != nil {
				return nil, err
			}
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return here, checkWriters(at, here)
}

func checkOwner(path string, fi fs.FileInfo) error {
	uid := fi.Sys().(*syscall.Stat_t).Uid
	if uid == 0 || int(uid) == os.Geteuid() {
		return nil
	}
	return fmt.Errorf("%s belongs to user %d, who could put another file there (hint: chown root %s)", path, uid, path)
}

// checkWriters refuses what its group or everybody may write; a directory only
// if it is not sticky: its entry's owner has been checked. Access lists show in
// the group's bits (acl(5)).
func checkWriters(path string, fi fs.FileInfo) error {
	if fi.Mode().Perm()&0o022 == 0 || fi.IsDir() && fi.Mode()&fs.ModeSticky != 0 {
		return nil
	}
	return fmt.Errorf("%s can be written by others than its owner (hint: chmod go-w %s)", path, path)
}

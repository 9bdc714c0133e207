package confine_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/keystore/pkcs11/internal/confine"
	"chancery/softhsm"
)

func TestCheckModule(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(dir string) (path string, err error)
		want string // in the error; "": none
	}{
		{"a file of ours", func(d string) (string, error) { return d + "/lib/m.so", nil }, ""},
		{"a relative path", func(string) (string, error) { return "m.so", nil }, "not an absolute path"},
		{"a longer path", func(d string) (string, error) { return d + "/lib/../lib/m.so", nil }, "shortest form"},
		{"a directory", func(d string) (string, error) { return d + "/lib", nil }, "is not a file"},
		{"a file its group writes", func(d string) (string, error) {
			return d + "/lib/m.so", os.Chmod(d+"/lib/m.so", 0o664)
		}, "m.so can be written by others than its owner (hint: chmod go-w "},
		{"a directory its group writes", func(d string) (string, error) {
			return d + "/lib/m.so", os.Chmod(d+"/lib", 0o775)
		}, "lib can be written by others"},
		{"a directory above that all write", func(d string) (string, error) {
			return d + "/lib/m.so", os.Chmod(d, 0o777)
		}, "can be written by others"},
		{"a sticky directory", func(d string) (string, error) {
			return d + "/lib/m.so", os.Chmod(d+"/lib", 0o777|fs.ModeSticky)
		}, ""},
		{"a link", func(d string) (string, error) { return d + "/link", os.Symlink("lib/m.so", d+"/link") }, ""},
		{"a link out of and into it", func(d string) (string, error) {
			return d + "/other/link", os.Symlink("../lib/./m.so", d+"/other/link")
		}, ""},
		{"a link in a directory that all write", func(d string) (string, error) {
			return d + "/other/link", errors.Join(os.Symlink(d+"/lib/m.so", d+"/other/link"), os.Chmod(d+"/other", 0o777))
		}, "other can be written by others"},
		{"a link into a directory that all write", func(d string) (string, error) {
			return d + "/other/link", errors.Join(os.Symlink(d+"/lib/m.so", d+"/other/link"), os.Chmod(d+"/lib", 0o777))
		}, "lib can be written by others"},
		{"a link to itself", func(d string) (string, error) { return d + "/link", os.Symlink("link", d+"/link") }, "too many symbolic links"},
		{"another user's file", func(d string) (string, error) { return d + "/lib/m.so", chown(d + "/lib/m.so") }, "belongs to user 65533"},
		{"another user's directory", func(d string) (string, error) { return d + "/lib/m.so", chown(d + "/lib") }, "lib belongs to user 65533"},
		{"another user's link", func(d string) (string, error) {
			return d + "/link", errors.Join(os.Symlink("lib/m.so", d+"/link"), chown(d+"/link"))
		}, "link belongs to user 65533"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, d := range []string{"lib", "other"} {
				if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(dir+"/lib/m.so", nil, 0o644); err != nil {
				t.Fatal(err)
			}
			path, err := test.do(dir)
			if errors.Is(err, fs.ErrPermission) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			err = confine.CheckModule(path)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func chown(path string) error { return os.Lchown(path, 65533, -1) }

func TestCheckModuleOfThisMachine(t *testing.T) {
	if err := confine.CheckModule("/nonexistent/m.so"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	path, err := softhsm.Find()
	if err != nil {
		t.Skip(err)
	}
	if err := confine.CheckModule(path); err != nil {
		t.Error(err)
	}
}

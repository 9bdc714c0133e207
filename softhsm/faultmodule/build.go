package faultmodule

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

//go:embed module/*.c module/*.h
var source embed.FS

// ErrNoCompiler is wrapped by Build's error when there is no C compiler, or no
// headers of the C library for it.
var ErrNoCompiler = errors.New("no C compiler")

// Names of what is built.
const (
	moduleFile = "faultmodule.so"
	checkFile  = "faultmodule-check" // reads orders and says what is wrong with them
)

// The flags of module/Makefile, but for its warnings: those of a compiler that
// nobody has tried are no reason not to go on.
var (
	compileFlags = []string{"-std=c11", "-D_GNU_SOURCE", "-O2"}
	moduleFlags  = []string{"-fPIC", "-fvisibility=hidden", "-pthread", "-shared", "-Wl,-z,nodelete"}
	checkSources = []string{"check.c", "orders.c", "names.c"}
)

// Build compiles the module and returns its path. What it makes is kept in a
// directory below dir that is named by the source and the compiler, and found
// there the next time. With dir "" it is faultmodule in the user's cache.
//
// The compiler is what the environment variable CC names, otherwise cc.
func Build(dir string) (string, error) {
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("%w (hint: give Build a directory)", err)
		}
		dir = filepath.Join(cache, "faultmodule")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	cc, err := compiler()
	if err != nil {
		return "", err
	}
	name, err := buildName(cc)
	if err != nil {
		return "", err
	}
	built := filepath.Join(dir, name)
	if _, err := os.Stat(built); err == nil {
		return filepath.Join(built, moduleFile), nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := compile(cc, dir, built); err != nil {
		return "", fmt.Errorf("building the fault module: %w", err)
	}
	return filepath.Join(built, moduleFile), nil
}

func compiler() (string, error) {
	name := os.Getenv("CC")
	if name == "" {
		name = "cc"
	}
	cc, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w (hint: install the package gcc, or set CC)", ErrNoCompiler, err)
	}
	return cc, nil
}

// buildName returns a name that changes with everything that is built from.
func buildName(cc string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.GOARCH, cc, compileFlags, moduleFlags)
	err := fs.WalkDir(source, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := source.ReadFile(path)
		fmt.Fprintln(h, path, len(text))
		h.Write(text)
		return err
	})
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
}

// compile makes built, by one rename, so that whoever finds it finds it whole.
func compile(cc, dir, built string) error {
	stage, err := os.MkdirTemp(dir, "new-") // 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	if err := os.CopyFS(stage, source); err != nil {
		return err
	}
	sources, err := filepath.Glob(filepath.Join(stage, "module", "*.c"))
	if err != nil {
		return err
	}
	sources = slices.DeleteFunc(sources, func(s string) bool { return filepath.Base(s) == "check.c" })
	var check []string
	for _, name := range checkSources {
		check = append(check, filepath.Join(stage, "module", name))
	}
	err = errors.Join(
		run(cc, slices.Concat(moduleFlags, []string{"-o", filepath.Join(stage, moduleFile)}, sources, []string{"-ldl"})),
		run(cc, slices.Concat([]string{"-o", filepath.Join(stage, checkFile)}, check)))
	if err != nil {
		return err
	}
	// Whatever the umask, a module that others may write is loaded by no one
	// careful.
	err = errors.Join(os.Chmod(filepath.Join(stage, moduleFile), 0o755), os.Chmod(filepath.Join(stage, checkFile), 0o755))
	if err != nil {
		return err
	}
	if err := os.Rename(stage, built); err != nil {
		if _, there := os.Stat(built); there == nil {
			return nil // another process was first
		}
		return err
	}
	return nil
}

func run(cc string, args []string) error {
	out, err := exec.Command(cc, slices.Concat(compileFlags, args)...).CombinedOutput()
	switch {
	case err == nil:
		return nil
	case bytes.Contains(out, []byte(".h: No such file")) || bytes.Contains(out, []byte("file not found")):
		return fmt.Errorf("%w: the headers of the C library are missing (hint: install libc6-dev or glibc-devel): %s",
			ErrNoCompiler, firstLine(out))
	}
	return fmt.Errorf("%s: %w: %s", cc, err, firstLine(out))
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

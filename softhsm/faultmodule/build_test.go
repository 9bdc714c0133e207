package faultmodule_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"chancery/softhsm/faultmodule"
	"chancery/softhsm/softhsmtest"
)

func TestItIsBuiltOnce(t *testing.T) {
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	paths := make([]string, 2)
	var all sync.WaitGroup
	for i := range paths {
		all.Go(func() {
			path, err := faultmodule.Build(dir)
			if err != nil {
				t.Error(err)
			}
			paths[i] = path
		})
	}
	all.Wait()
	fi, err := os.Stat(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, want 0755", fi.Mode().Perm())
	}
	if slices.Max(paths) != slices.Min(paths) {
		t.Errorf("built at %v", paths)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%d entries in the directory, %v; want one", len(left), err)
	}
	again, err := faultmodule.Build(dir)
	if err != nil || again != paths[0] {
		t.Errorf("built again: %s, %v", again, err)
	}
	if now, err := os.Stat(again); err != nil || !os.SameFile(fi, now) {
		t.Errorf("it is another file now, %v", err)
	}
}

func TestWithoutACompiler(t *testing.T) {
	t.Setenv("CC", "no-such-compiler")
	if _, err := faultmodule.Build(t.TempDir()); !errors.Is(err, faultmodule.ErrNoCompiler) {
		t.Errorf("error %v, want %v", err, faultmodule.ErrNoCompiler)
	}
	broken := filepath.Join(t.TempDir(), "cc")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho 'x.c:1:10: fatal error: stdio.h: No such file or directory' >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("CC", broken)
	if _, err := faultmodule.Build(dir); !errors.Is(err, faultmodule.ErrNoCompiler) {
		t.Errorf("error %v, want %v", err, faultmodule.ErrNoCompiler)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%d entries left behind, %v", len(left), err)
	}
}

func TestTheSourceHasNoWarnings(t *testing.T) {
	sources, err := filepath.Glob("module/*.c")
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"}, sources...)
	out, err := exec.Command("cc", args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip(err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The table of functions has the order of the published header.
func TestFunctionsAreInOrder(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Skip(err)
	}
	names := func(path, pattern string) []string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			all = append(all, m[1])
		}
		return all
	}
	want := names(filepath.Join(strings.TrimSpace(string(dir)), "pkcs11f.h"), `CK_PKCS11_FUNCTION_INFO\((C_\w+)\)`)
	got := names("module/functions.h", `\tX\((C_\w+),`)
	if len(want) != 68 || !slices.Equal(got, want) {
		t.Errorf("functions %v, want %v", got, want)
	}
}

func TestCountKnowsItsFunctions(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	if n := token.Faults.Count("C_Sign"); n != 0 {
		t.Errorf("before anything loads it: %d", n)
	}
	for _, name := range []string{"C_Sing", "C_Sign:", "C_Sign:all", ""} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Count(%q) did not panic", name)
				}
			}()
			token.Faults.Count(name)
		}()
	}
}

// What cannot work says so on standard error.
func TestAModuleThatCannotBeLoaded(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip(err)
	}
	const load = `import ctypes, sys
p = ctypes.c_void_p()
print(hex(ctypes.CDLL(sys.argv[1]).C_GetFunctionList(ctypes.byref(p))))`
	notCounts := filepath.Join(t.TempDir(), "counts")
	if err := os.WriteFile(notCounts, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, value, says string }{
		{"FAULTMODULE_MODULE", "", "FAULTMODULE_MODULE names no module"},
		{"FAULTMODULE_MODULE", "/nowhere.so", "/nowhere.so"},
		{"FAULTMODULE_MODULE", token.Module, "is no other PKCS#11 module"},
		{"FAULTMODULE_COUNTS", notCounts, notCounts},
	} {
		cmd := exec.Command("python3", "-c", load, token.Module)
		env := token.Env()
		env[test.name] = test.value
		for name, value := range env {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "faultmodule: ") || !strings.Contains(string(out), test.says) ||
			!strings.HasSuffix(string(out), "0x5\n") {
			t.Errorf("%s=%s: %v\n%s", test.name, test.value, err, out)
		}
	}
}

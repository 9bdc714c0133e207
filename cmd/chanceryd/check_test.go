package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/softhsm"
)

// checked runs chanceryd check on a file and returns its exit status and the
// lines it wrote.
func checked(t *testing.T, path string) (status int, lines []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "check", "--config", path)
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			t.Fatal(err)
		}
		status = exit.ExitCode()
	}
	return status, strings.Split(strings.TrimSpace(string(out)), "\n")
}

// A finding is what a line of check's output has to say, and of which line of
// the file.
type finding struct{ at, severity, says string }

// place returns line and column of the value after text in the file, or of text
// itself if it is no member with a value.
func place(t *testing.T, path, text string) string {
	t.Helper()
	for i, line := range strings.Split(readOrEmpty(path), "\n") {
		if column := strings.Index(line, text); column >= 0 {
			if strings.HasSuffix(text, ": ") {
				column += len(text)
			}
			return fmt.Sprintf("%s:%d:%d", path, i+1, column+1)
		}
	}
	t.Fatalf("%s has no %q", path, text)
	return ""
}

// wantFindings checks that lines are the findings, each once, and their count.
func wantFindings(t *testing.T, lines []string, want ...finding) {
	t.Helper()
	left := slices.Clone(lines[:len(lines)-1])
	errs := 0
	for _, f := range want {
		if f.severity == "error" {
			errs++
		}
		prefix := f.at + ": " + f.severity + ": "
		i := slices.IndexFunc(left, func(line string) bool { return strings.HasPrefix(line, prefix) && strings.Contains(line, f.says) })
		if i < 0 {
			t.Errorf("no line %s…%s", prefix, f.says)
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, line := range left {
		t.Errorf("nobody expected: %s", line)
	}
	if last := lines[len(lines)-1]; !strings.HasSuffix(last, ": "+count(errs, "error")+", "+count(len(want)-errs, "warning")) {
		t.Errorf("the count: %s", last)
	}
}

// devConfig makes a development directory with its token, without serving it.
func devConfig(t *testing.T, args ...string) (path string) {
	t.Helper()
	d := startDev(t, tempDir(t), args...)
	d.stop()
	return d.configFile()
}

// The configuration chanceryd dev writes has nothing to be said of it.
func TestCheckDevConfigurations(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--fast"}} {
		if status, lines := checked(t, devConfig(t, args...)); status != 0 || len(lines) != 1 || !strings.HasSuffix(lines[0], ": 0 errors, 0 warnings") {
			t.Errorf("dev %v: status %d:\n%s", args, status, strings.Join(lines, "\n"))
		}
	}
}

// Every mistake is told at once, at its line and column, and status 1; serve
// and a start of dev tell the same and serve nothing.
func TestCheckTellsEveryMistake(t *testing.T) {
	t.Parallel()
	path := devConfig(t)
	module, err := softhsm.Find()
	if err != nil {
		t.Fatal(err)
	}
	edit(t, path,
		"node: dev #", "nood: dev #",
		"server_name: localhost", "server_name: [localhost]",
		"certificate: pki/server.crt", "certificate: pki/absent.crt",
		module, filepath.Join(filepath.Dir(module), "absent.so"),
		"algorithm: RS256", "algorithm: RS255",
		"keysets: [web, legacy, edge]", "keysets: [web, legacy, egde]",
		"max_ttl: 24h\n        default_ttl: 24h", "max_ttl: 240h\n        default_ttl: 24h",
	)
	// The first of the key sets' windows that violates the rules.
	text := strings.Replace(readOrEmpty(path), "rotate_every: 30d", "rotate_every: 20m", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	status, lines := checked(t, path)
	if status != 1 {
		t.Errorf("exit status %d", status)
	}
	for _, f := range []finding{
		{place(t, path, "nood"), "error", "there is no such member"},
		{place(t, path, "server_name: "), "error", "server_name"},
		{place(t, path, "    certificate: "), "error", "no such file"},
		{place(t, path, "module: "), "error", "no such file"},
		{place(t, path, "rotate_every: "), "error", "rule 1"},
		{place(t, path, "algorithm: RS255")[:len(place(t, path, "algorithm: RS255"))-1], "error", "did you mean RS256?"},
		{place(t, path, "egde"), "error", "did you mean edge?"},
		{place(t, path, "        max_ttl: "), "error", "240h"},
	} {
		if !slices.ContainsFunc(lines, func(line string) bool {
			return strings.HasPrefix(line, f.at) && strings.Contains(line, ": "+f.severity+": ") && strings.Contains(line, f.says)
		}) {
			t.Errorf("nothing says %q at %s", f.says, f.at)
		}
	}
	if t.Failed() {
		t.Logf("it says:\n%s", strings.Join(lines, "\n"))
	}
	seen := make(map[string]bool)
	for _, line := range lines {
		if seen[line] {
			t.Errorf("said twice: %s", line)
		}
		seen[line] = true
	}
	dir := filepath.Dir(path)
	d := launch(t, dir, "dev", "--dir", dir)
	if err := d.ended(); err == nil || !strings.Contains(d.log.String(), "did you mean edge?") || !strings.Contains(d.log.String(), "hint: chanceryd check") {
		t.Errorf("a start with it: %v\n%s", err, d.log)
	}
}

// A token URI that is none is one mistake, and no reason to say as well that
// its token was not checked.
func TestCheckTellsABadTokenOnce(t *testing.T) {
	t.Parallel()
	path := devConfig(t)
	edit(t, path, "token: 'pkcs11:", "token: 'pkcs12:")
	status, lines := checked(t, path)
	if status != 1 {
		t.Errorf("exit status %d", status)
	}
	wantFindings(t, lines, finding{place(t, path, "token: "), "error", "PKCS#11 URI"})
}

// Windows that violate the rules of rotation are refused by a start as well.
func TestCheckWindows(t *testing.T) {
	t.Parallel()
	path := devConfig(t, "--fast")
	clean := readOrEmpty(path)
	for _, c := range []struct {
		name           string
		oldnew         []string
		at             string
		severity, says string
	}{
		{"cache_for below max_age", []string{"cache_for: 4s", "cache_for: 1s"}, "cache_for: ", "error", "rule 3"},
		{"no time for a successor", []string{"rotate_every: 20s", "rotate_every: 5s"}, "rotate_every: ", "error", "rule 1"},
		{"too many versions known", []string{"max_ttl: 10s", "max_ttl: 1h"}, "rotate_every: ", "error", "rule 2"},
		{"short, and not accepted", []string{"accept_short_windows: true", "accept_short_windows: false"}, "cache_for: ", "warning", "npm jose"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(clean), 0o600); err != nil {
				t.Fatal(err)
			}
			edit(t, path, c.oldnew...)
			status, lines := checked(t, path)
			at := place(t, path, c.at)
			if !slices.ContainsFunc(lines, func(line string) bool {
				return strings.HasPrefix(line, at+": "+c.severity+": ") && strings.Contains(line, c.says)
			}) {
				t.Errorf("nothing says %q at %s:\n%s", c.says, at, strings.Join(lines, "\n"))
			}
			if (status == 1) != (c.severity == "error") {
				t.Errorf("exit status %d for a %s", status, c.severity)
			}
			if c.severity != "error" {
				wantFindings(t, lines, shortWindows(t, path)...)
				return
			}
			dir := filepath.Dir(path)
			d := launch(t, dir, "dev", "--dir", dir)
			select {
			case err := <-d.exited:
				if err == nil || !strings.Contains(d.log.String(), c.says) {
					t.Errorf("a start with it: %v\n%s", err, d.log)
				}
			case <-time.After(20 * time.Second):
				d.kill()
				t.Error("a start with it serves")
			}
		})
	}
}

// shortWindows is the warning of each key set that signs JWTs.
func shortWindows(t *testing.T, path string) (want []finding) {
	t.Helper()
	for i, line := range strings.Split(readOrEmpty(path), "\n") {
		if _, ok := strings.CutPrefix(line, "    cache_for: "); ok && len(want) < 3 {
			want = append(want, finding{fmt.Sprintf("%s:%d:16", path, i+1), "warning", "npm jwks-rsa"})
		}
	}
	return want
}

// What cannot be asked is not checked, which is said and is no error; what can
// be asked is: an algorithm that the token lacks.
func TestCheckModules(t *testing.T) {
	t.Parallel()
	path := devConfig(t)
	clean := readOrEmpty(path)
	module, err := softhsm.Find()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	withModule := func(t *testing.T, name, source string) []string {
		t.Helper()
		needTool(t, "gcc", "gcc")
		stub := filepath.Join(dir, name+".so")
		gcc := exec.Command("gcc", "-shared", "-fPIC", "-x", "c", "-o", stub, "-")
		gcc.Stdin = strings.NewReader(source)
		if out, err := gcc.CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v: %s", err, out)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(clean, module, stub, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		status, lines := checked(t, path)
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
		return append(lines, fmt.Sprint(status))
	}
	notChecked := func(t *testing.T, lines []string) {
		t.Helper()
		if len(lines) != 3 || !strings.HasPrefix(lines[0], path+":") || !strings.Contains(lines[0], ": warning: keystores.hsm.pkcs11: not checked") || lines[2] != "0" {
			t.Errorf("want one warning and status 0:\n%s", strings.Join(lines, "\n"))
		}
	}
	t.Run("a token there is not", func(t *testing.T) {
		_, serial, _ := strings.Cut(clean, "pkcs11:serial=")
		edit(t, path, serial[:16], "0123456789abcdef")
		status, lines := checked(t, path)
		notChecked(t, append(lines, fmt.Sprint(status)))
	})
	for name, source := range map[string]string{
		"hangs":  "#include <unistd.h>\nlong C_GetFunctionList(void *p) { for (;;) pause(); }\n",
		"fails":  "long C_GetFunctionList(void *p) { return 5; }\n",
		"crash":  "#include <stdlib.h>\nlong C_GetFunctionList(void *p) { abort(); }\n",
		"no API": "int nothing;\n",
	} {
		t.Run(name, func(t *testing.T) { notChecked(t, withModule(t, strings.ReplaceAll(name, " ", "-"), source)) })
	}
	t.Run("no EdDSA", func(t *testing.T) {
		lines := withModule(t, "no-eddsa", fmt.Sprintf(withoutEdDSA, module))
		wantFindings(t, lines[:len(lines)-1],
			finding{placeOf(t, path, "  edge:", "algorithm: "), "error", `the token of keystore "hsm" has no EdDSA`},
			finding{placeOf(t, path, "  audit:", "algorithm: "), "error", `the token of keystore "hsm" has no EdDSA`},
		)
		if lines[len(lines)-1] != "1" {
			t.Errorf("exit status %s", lines[len(lines)-1])
		}
	})
}

// placeOf is place, for the first line with text below one that begins with
// above.
func placeOf(t *testing.T, path, above, text string) string {
	t.Helper()
	below := false
	for i, line := range strings.Split(readOrEmpty(path), "\n") {
		below = below || strings.HasPrefix(line, above)
		if column := strings.Index(line, text); below && column >= 0 {
			return fmt.Sprintf("%s:%d:%d", path, i+1, column+len(text)+1)
		}
	}
	t.Fatalf("%s has no %q below %q", path, text, above)
	return ""
}

// withoutEdDSA is SoftHSM with two mechanisms hidden: CKM_EDDSA and the one that
// generates its keys. A function list is a version and 68 pointers, of which the
// eighth and ninth tell of mechanisms.
const withoutEdDSA = `
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
typedef struct { unsigned char version[8]; void *f[68]; } list;
typedef unsigned long ulong;
static list ours, *theirs;
static int hidden(ulong m) { return m == 0x1055 || m == 0x1057; }
static ulong mechanisms(ulong slot, ulong *all, ulong *n) {
	ulong rv = ((ulong (*)(ulong, ulong *, ulong *))theirs->f[7])(slot, all, n);
	if (rv == 0 && all != NULL)
		for (ulong i = 0; i < *n; i++) if (hidden(all[i])) all[i] = 0x80000001;
	return rv;
}
static ulong mechanism(ulong slot, ulong m, void *info) {
	return hidden(m) ? 0x70 : ((ulong (*)(ulong, ulong, void *))theirs->f[8])(slot, m, info);
}
ulong C_GetFunctionList(list **out) {
	void *so = dlopen("%s", RTLD_NOW);
	ulong rv = so == NULL ? 5 : ((ulong (*)(list **))dlsym(so, "C_GetFunctionList"))(&theirs);
	if (rv != 0) return rv;
	memcpy(&ours, theirs, sizeof ours);
	ours.f[7] = mechanisms, ours.f[8] = mechanism;
	*out = &ours;
	return 0;
}
`

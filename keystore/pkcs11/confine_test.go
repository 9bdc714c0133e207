package pkcs11_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
	"chancery/softhsm/softhsmtest"
)

// What a module may do follows from its environment and from what is allowed
// besides.
func TestWhatAModuleMayUse(t *testing.T) {
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	conf := filepath.Join(dir, "softhsm2.conf")
	write(t, conf, fmt.Appendf(nil, "# directories.tokendir = /elsewhere\ndirectories.tokendir =  %s/\nlog.level = ERROR\n", tokens))
	for _, v := range []struct {
		name        string
		env         map[string]string
		needs       pkcs11.Confinement
		read, write []string
	}{
		{"nothing", nil, pkcs11.Confinement{}, nil, nil},
		{"a file and what SoftHSM's names", map[string]string{"SOFTHSM2_CONF": conf}, pkcs11.Confinement{}, []string{conf}, []string{tokens}},
		{"a file of another variable", map[string]string{"OTHER_CONF": conf}, pkcs11.Confinement{}, []string{conf}, nil},
		{"a directory", map[string]string{"STORE": dir}, pkcs11.Confinement{}, []string{dir}, nil},
		{"what is no path", map[string]string{"A": "/", "B": "relative", "C": "/does/not/exist"}, pkcs11.Confinement{}, nil, nil},
		{"what is allowed besides", map[string]string{"SOFTHSM2_CONF": conf}, pkcs11.Confinement{Read: []string{"/etc/vendor/"}, Write: []string{"/dev/bus/usb", tokens}},
			[]string{"/etc/vendor", conf}, []string{"/dev/bus/usb", tokens}},
	} {
		read, write := pkcs11.RulesOf(v.needs, "/usr/lib/module.so", v.env)
		if !reflect.DeepEqual(read, v.read) || !reflect.DeepEqual(write, v.write) {
			t.Errorf("%s: it reads %q and writes %q, want %q and %q", v.name, read, write, v.read, v.write)
		}
	}
}

// A module that is not allowed its own files is a token that is not there, and no
// harm to anybody; and each worker says what it could not be kept from.
func TestAModuleIsConfined(t *testing.T) {
	token := softhsmtest.New(t)
	cfg := config(t, token)
	p := open(t, cfg)
	if err := p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.WorkerPID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in the worker's status", want)
		}
	}
	if s := p.Status()[0]; strings.Contains(s.Unconfined, "configuration") || strings.Contains(s.Unconfined, "system calls") {
		t.Errorf("not confined: %s", s.Unconfined)
	}
	p.Close()

	elsewhere := filepath.Join(t.TempDir(), "softhsm2.conf") // names a directory that the rules do not
	text, err := os.ReadFile(token.Conf)
	if err != nil {
		t.Fatal(err)
	}
	write(t, elsewhere, []byte(strings.ReplaceAll(string(text), "directories.tokendir =", "directories.tokendir=")))
	hidden := cfg
	hidden.Env = map[string]string{"SOFTHSM2_CONF": "/proc/self/cwd" + elsewhere} // no file in the daemon's eyes
	p = open(t, hidden)
	if err := p.Probe(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("without its files: %v", err)
	}
	p.Close()

	cfg.Confinement.Off = true
	p = open(t, cfg)
	if err := p.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	if s := p.Status()[0]; !strings.Contains(s.Unconfined, "the configuration says so") {
		t.Errorf("an unconfined module says %q", s.Unconfined)
	}
}

// A30: a module that others could replace is not loaded.
func TestA30AModuleThatOthersCanWriteIsRefused(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	library, err := os.ReadFile(cfg.Module)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(open, "module.so"), library)
	for _, module := range []string{"module.so", "../module.so", filepath.Join(open, "module.so"), open} {
		cfg.Module = module
		if p, err := pkcs11.Open(cfg); err == nil {
			p.Close()
			t.Errorf("%s was opened", module)
		}
	}
	t.Attr("provoked", "a relative path; a directory that others write; a directory")
	t.Attr("seen", "refused when the configuration is read")
}

package pkcs11_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
	"chancery/softhsm/softhsmtest"
)

func TestAPINFromACredential(t *testing.T) {
	token := softhsmtest.New(t)
	cfg := config(t, token)
	cfg.URI = "pkcs11:serial=" + token.Serial + "?pin-source=credential:hsm.pin"
	if _, err := pkcs11.Open(cfg); err == nil || !strings.Contains(err.Error(), "LoadCredential=hsm.pin") {
		t.Errorf("without credentials: %v", err)
	}
	cfg.Credentials = t.TempDir()
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(cfg.Credentials, "hsm.pin"), pin)
	p := open(t, cfg)
	if err := p.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

// A pipe gives the PIN once; workers that follow each other each have it.
func TestAPINFromADescriptor(t *testing.T) {
	token := softhsmtest.New(t)
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	fds := make([]int, 2)
	if err := syscall.Pipe(fds); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Write(fds[1], pin); err != nil {
		t.Fatal(err)
	}
	syscall.Close(fds[1])
	cfg := config(t, token)
	uri := pkcs11.URI{Serial: token.Serial, Descriptor: fds[0]}
	cfg.URI = uri.String()
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	for range 3 {
		kill(t, p)
		if _, err := k.Sign(t.Context(), message); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Fstat(fds[0], new(syscall.Stat_t)); err == nil {
		if target, _ := os.Readlink(filepath.Join("/proc/self/fd", cfg.URI[strings.LastIndex(cfg.URI, ":")+1:])); strings.HasPrefix(target, "pipe:") {
			t.Errorf("the descriptor is open still: %s", target)
		}
	}
}

// What it was: nothing said what to do when a PIN file was empty or had gone.
func TestAPINFileThatSaysNothing(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"empty": func(path string) error { return os.Truncate(path, 0) }, "gone": os.Remove,
	} {
		token := softhsmtest.New(t)
		pin, err := os.ReadFile(token.PINFile)
		if err != nil {
			t.Fatal(err)
		}
		if err := spoil(token.PINFile); err != nil {
			t.Fatal(err)
		}
		p := open(t, config(t, token))
		if err := p.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "hint: write the PIN to it") {
			t.Errorf("%s: %v", name, err)
		}
		write(t, token.PINFile, pin)
		eventually(t, "it is looked at again", func() bool { return p.Probe(t.Context()) == nil })
	}
}

func TestAPINFromADescriptorThatHasNone(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "too long": strings.Repeat("1", 300), "never closed": "1234"} {
		fds := make([]int, 2)
		if err := syscall.Pipe(fds); err != nil {
			t.Fatal(err)
		}
		if _, err := syscall.Write(fds[1], []byte(content)); err != nil {
			t.Fatal(err)
		}
		if name == "never closed" { // What it was: the daemon waited for ever.
			defer syscall.Close(fds[1])
		} else {
			syscall.Close(fds[1])
		}
		cfg := config(t, softhsmtest.New(t))
		cfg.URI = pkcs11.URI{Serial: "1", Descriptor: fds[0]}.String()
		if p, err := pkcs11.Open(cfg); err == nil {
			p.Close()
			t.Errorf("%s: it opened", name)
		} else if content != "" && strings.Contains(err.Error(), content) || errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

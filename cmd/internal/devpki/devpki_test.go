package devpki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)

func leaf(t *testing.T, dir, base string) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, base+".crt"), filepath.Join(dir, base+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func roots(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("no root in ca.crt")
	}
	return pool
}

// check verifies everything in dir as TLS will.
func check(t *testing.T, dir string, at time.Time) {
	t.Helper()
	pool := roots(t, dir)
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		opts := x509.VerifyOptions{Roots: pool, CurrentTime: at, DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if _, err := leaf(t, dir, "pki/server").Verify(opts); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, role := range []string{"issuer", "ca", "operator", "auditor"} {
		c := leaf(t, dir, "clients/"+role)
		opts := x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if _, err := c.Verify(opts); err != nil {
			t.Errorf("%s: %v", role, err)
		}
		if len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://chancery.dev/"+role || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0 {
			t.Errorf("%s: %v and other names", role, c.URIs)
		}
		if !IsDev(c) || len(c.UnhandledCriticalExtensions) != 0 {
			t.Errorf("%s: dev %v, critical %v", role, IsDev(c), c.UnhandledCriticalExtensions)
		}
	}
}

// contents returns every file below dir.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files[path[len(dir)+1:]] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func changed(before, after map[string]string) map[string]bool {
	names := make(map[string]bool)
	for name, text := range after {
		names[name] = before[name] != text
	}
	return names
}

func TestEnsure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	if err := Ensure(dir, start); err != nil {
		t.Fatal(err)
	}
	check(t, dir, start)
	first := contents(t, dir)
	if len(first) != 12 {
		t.Errorf("%d files", len(first))
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o644)
		switch {
		case d.IsDir():
			want = 0o700
		case filepath.Ext(path) == ".key":
			want = 0o600
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := Ensure(dir, start.Add(59*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for name, yes := range changed(first, contents(t, dir)) {
		if yes {
			t.Errorf("%s changed without need", name)
		}
	}
}

func TestLeavesAreRenewed(t *testing.T) {
	dir := t.TempDir()
	if err := Ensure(dir, start); err != nil {
		t.Fatal(err)
	}
	first, later := contents(t, dir), start.Add(61*24*time.Hour)
	if err := Ensure(dir, later); err != nil {
		t.Fatal(err)
	}
	check(t, dir, later.Add(80*24*time.Hour))
	for name, yes := range changed(first, contents(t, dir)) {
		if root := name == "ca.crt" || name == "pki/root.key"; root == yes {
			t.Errorf("%s: changed %v", name, yes)
		}
	}
}

func TestRootIsRenewedWithEverythingBelow(t *testing.T) {
	dir := t.TempDir()
	if err := Ensure(dir, start); err != nil {
		t.Fatal(err)
	}
	first, later := contents(t, dir), start.Add(RootLifetime-30*24*time.Hour)
	if err := Ensure(dir, later); err != nil {
		t.Fatal(err)
	}
	check(t, dir, later)
	for name, yes := range changed(first, contents(t, dir)) {
		if !yes {
			t.Errorf("%s is still the old one", name)
		}
	}
}

// What a crash or a hand left half done is made anew, and nothing else.
func TestRepair(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(dir string) error
	}{
		{"a certificate is missing", func(dir string) error { return os.Remove(filepath.Join(dir, "clients/ca.crt")) }},
		{"a key is missing", func(dir string) error { return os.Remove(filepath.Join(dir, "clients/ca.key")) }},
		{"a key is another's", func(dir string) error {
			return os.Rename(filepath.Join(dir, "clients/issuer.key"), filepath.Join(dir, "clients/ca.key"))
		}},
		{"rubbish", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "clients/ca.crt"), []byte("rubbish"), 0o644)
		}},
		{"the root is gone", func(dir string) error { return os.Remove(filepath.Join(dir, "pki/root.key")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := Ensure(dir, start); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(dir); err != nil {
				t.Fatal(err)
			}
			if err := Ensure(dir, start.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			check(t, dir, start.Add(2*time.Hour))
			for path, text := range contents(t, dir) {
				if filepath.Ext(path) == ".crt" && bytes.Count([]byte(text), []byte("BEGIN")) != 1 {
					t.Errorf("%s holds more than one certificate", path)
				}
			}
		})
	}
}

func TestIsDevKnowsNoOthers(t *testing.T) {
	dir := t.TempDir()
	if err := Ensure(dir, start); err != nil {
		t.Fatal(err)
	}
	c := *leaf(t, dir, "clients/issuer")
	c.Extensions = nil
	if IsDev(&c) {
		t.Error("a certificate without the extension is taken for ours")
	}
}

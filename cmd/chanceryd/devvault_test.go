package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore"
)

// What the first start is told of a Vault is in its configuration, and another
// start cannot be told otherwise. The Vault need not answer for that.
func TestDevWithAVault(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	token := filepath.Join(dir, "it's a token")
	if err := os.WriteFile(token, []byte("s.x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "d")
	args := []string{"dev", "--dir", path, "--transit", "http://127.0.0.1:9", "--transit-token-file", token, "--transit-mount", "chancery"}
	d := launch(t, path, args...)
	d.within(60*time.Second, "the first start is done", func() error {
		_, err := os.Stat(filepath.Join(path, "dev.json"))
		return err
	})
	d.kill()
	cfg, findings := config.Load(filepath.Join(path, "config.yaml"))
	if len(findings) > 0 || cfg == nil {
		t.Fatal(findings)
	}
	v := cfg.Keystores["vault"].Transit
	if v == nil || v.Addresses[0] != "http://127.0.0.1:9" || v.Mount != "chancery" || v.CA != "" || v.Auth != (config.Auth{Method: "token", File: token}) {
		t.Errorf("keystore %+v", v)
	}
	if ks := cfg.KeySets["vaulted"]; ks.Keystore != "vault" || ks.Algorithm != keystore.ES256 || ks.Spec().Schedule != cfg.KeySets["web"].Spec().Schedule {
		t.Errorf("key set %+v", ks)
	}
	for _, other := range [][]string{
		{"--transit", "http://127.0.0.1:10", "--transit-token-file", token, "--transit-mount", "chancery"},
		{"--transit", "http://127.0.0.1:9", "--transit-token-file", token},
	} {
		out, status := chancerydSays(t, append([]string{"dev", "--dir", path}, other...)...)
		if status != exitUsage || !strings.Contains(out, "first start only") || !strings.Contains(out, "hint: use another --dir") {
			t.Errorf("%v: exit status %d\n%s", other, status, out)
		}
	}
	var state devState
	if err := json.Unmarshal([]byte(readOrEmpty(filepath.Join(path, "dev.json"))), &state); err != nil {
		t.Fatal(err)
	}
	vault, err := devVault{Address: "http://127.0.0.1:9", TokenFile: token, Mount: "chancery"}.checked()
	if err != nil || vault != state.Vault {
		t.Errorf("the same flags again: %+v, %v, want %+v", vault, err, state.Vault)
	}
}

// A directory without a Vault says nothing of one, and is not given one later.
func TestDevWithoutAVault(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	d := startDev(t, dir)
	d.stop()
	if text := readOrEmpty(d.configFile()) + readOrEmpty(filepath.Join(dir, "dev.json")); strings.Contains(text, "vault") || strings.Contains(text, "transit") {
		t.Error(text)
	}
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("s.x"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, status := chancerydSays(t, "dev", "--dir", dir, "--transit", "http://127.0.0.1:9", "--transit-token-file", token)
	if status != exitUsage || !strings.Contains(out, "first start only") {
		t.Errorf("exit status %d\n%s", status, out)
	}
}

// Wrong flags are refused before anything is made.
func TestDevRefusesWhatIsNoVault(t *testing.T) {
	t.Parallel()
	files := tempDir(t)
	for name, mode := range map[string]os.FileMode{"token": 0o600, "open": 0o644} {
		if err := os.WriteFile(filepath.Join(files, name), []byte("s.x"), mode); err != nil {
			t.Fatal(err)
		}
	}
	token := filepath.Join(files, "token")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--transit", "http://127.0.0.1:9"}, "belong together"},
		{[]string{"--transit-token-file", token}, "belong together"},
		{[]string{"--transit-mount", "transit"}, "belong together"},
		{[]string{"--transit", "http://127.0.0.1:9", "--transit-token-file", filepath.Join(files, "none")}, "--transit-token-file: stat " + files},
		{[]string{"--transit", "http://127.0.0.1:9", "--transit-token-file", files}, "is no file"},
		{[]string{"--transit", "http://127.0.0.1:9", "--transit-token-file", filepath.Join(files, "open")}, "mode 0644"},
		{[]string{"--transit", "http://127.0.0.1:9", "--transit-token-file", token, "--transit-ca", filepath.Join(files, "none")}, "--transit-ca: "},
		{[]string{"--transit", "http://vault.example.com:8200", "--transit-token-file", token}, "--transit: a token would go over the network unprotected"},
		{[]string{"--transit", "127.0.0.1:8200", "--transit-token-file", token}, "--transit: "},
		{[]string{"--transit", "http://127.0.0.1:9", "--transit-token-file", token, "--transit-mount", "/transit"}, `--transit-mount: "/transit" is no mount`},
	} {
		dir := filepath.Join(files, "dev")
		out, status := chancerydSays(t, append([]string{"dev", "--dir", dir}, c.args...)...)
		if status != exitUsage || !strings.Contains(out, c.want) || !strings.Contains(out, "\nhint: ") {
			t.Errorf("%v: exit status %d, want %q\n%s", c.args, status, c.want, out)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v: something was made: %v", c.args, err)
		}
	}
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"chancery/keystore/transit/transittest"
)

// check says of a Vault what an operator would otherwise learn from the daemon:
// that it cannot be asked, is not there, or gives too little or too much.
func TestCheckLooksAtTheVault(t *testing.T) {
	t.Parallel()
	f := transittest.Fake(t)
	v := newVaulted(t, f.Server)
	v.end()
	check := func() (string, int) { return chancerydSays(t, "check", "--config", v.configFile()) }
	want := func(what string, status int, texts ...string) {
		t.Helper()
		out, exit := check()
		if exit != status {
			t.Errorf("%s: exit status %d, want %d\n%s", what, exit, status, out)
		}
		for _, text := range texts {
			if !strings.Contains(out, text) {
				t.Errorf("%s: nothing of %q\n%s", what, text, out)
			}
		}
	}
	seen := len(f.Requests())
	want("all is well", 0, "0 errors, 0 warnings")
	for _, r := range f.Requests()[seen:] {
		if r.Method != "GET" && r.Path != "sys/capabilities-self" {
			t.Errorf("check asked for %s %s", r.Method, r.Path)
		}
	}
	v.giveToken(t, f.RootToken())
	want("a root token", 0, "0 errors, 1 warning", "read "+v.mount+"/export/signing-key/NAME", "hint: README has the policy")
	v.giveToken(t, f.Token(t, map[string]any{"policies": []string{f.Policy(t, `path "`+v.mount+`/sign/+" { capabilities = ["update"] }`)}}))
	want("a token that may only sign", 1, "the Vault token may not: list "+v.mount+"/keys", "1 error")
	v.giveToken(t, "s.unknown")
	want("a token that Vault does not know", 1, "login: ", "permission denied")
	v.giveToken(t, f.RootToken())
	edit(t, filepath.Join(v.dir, "config.yaml"), "mount: '"+v.mount+"'", "mount: 'transot'")
	want("a mount that is not there", 1, `mount "transot"`, "vault secrets enable -path=transot transit")
	f.Seal()
	want("a sealed Vault", 0, "not checked: ", "is sealed", "unseal Vault")
	f.Close()
	want("no Vault", 0, "not checked: ", "unreachable")
}

// What README has an operator type sets a Vault up so that Chancery can use it by
// AppRole, with nothing to spare: check finds nothing to say, and it signs.
func TestTheREADMEsVaultCommands(t *testing.T) {
	t.Parallel()
	s := transittest.Vault(t)
	readme := readOrEmpty("../../README.md")
	_, rest, _ := strings.Cut(readme, "```sh\nvault secrets enable")
	commands, _, ok := strings.Cut("vault secrets enable"+rest, "```")
	if !ok {
		t.Fatal("README has no commands for a Vault")
	}
	dir := tempDir(t)
	binary, _ := transittest.FindVault()
	if err := os.Symlink(binary, filepath.Join(dir, "vault")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "chancery.hcl"), []byte(leastPolicy(t, "transit")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", "set -euo pipefail; umask 077\n"+commands)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir,
		"VAULT_ADDR="+s.Address(), "VAULT_CACERT="+s.CAFile(), "VAULT_TOKEN="+s.RootToken())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	role := regexp.MustCompile(`(?m)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`).FindString(string(out))
	v := newVaulted(t, transittest.Fake(t).Server)
	v.end()
	edit(t, v.configFile(),
		"addresses: ['"+v.vault.Address()+"']", "addresses: ['"+s.Address()+"']", "mount: '"+v.mount+"'", "mount: transit",
		"ca: '"+v.vault.CAFile()+"'", "ca: '"+s.CAFile()+"'",
		"method: token", "method: approle\n        role_id: "+role, "file: '"+v.file+"'", "file: '"+filepath.Join(dir, "secret-id")+"'",
		"vaulted:", "approled:", "edge, vaulted]", "edge, approled]")
	if out, exit := chancerydSays(t, "check", "--config", v.configFile()); exit != 0 || !strings.Contains(out, "0 errors, 0 warnings") {
		t.Errorf("check: exit status %d\n%s", exit, out)
	}
	d := startDev(t, v.dir)
	d.sign(d.client("issuer"), "approled", `{}`)
}

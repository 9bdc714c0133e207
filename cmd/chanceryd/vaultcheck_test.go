package main

import (
	"path/filepath"
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

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/softhsm"
)

// devToken returns the token of a development directory.
func devToken(t *testing.T, dir string) *softhsm.Token {
	t.Helper()
	token, err := softhsm.Open(filepath.Join(dir, "softhsm"), devLabel)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// edit replaces parts of a file, each of which it has to have.
func edit(t *testing.T, path string, oldnew ...string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(b), oldnew[i]) {
			t.Fatalf("%s has no %q", path, oldnew[i])
		}
	}
	text := strings.NewReplacer(oldnew...).Replace(string(b))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// spyOn has the module of a development directory's only keystore write its
// calls to a file. It returns what was written.
func spyOn(t *testing.T, dir string) func() string {
	t.Helper()
	spies, err := filepath.Glob("/usr/lib/*/pkcs11/pkcs11-spy.so")
	if err != nil || len(spies) == 0 {
		lacks(t, "no pkcs11-spy.so (Debian: opensc)")
	}
	token, out := devToken(t, dir), filepath.Join(dir, "spy.log")
	edit(t, filepath.Join(dir, "config.yaml"),
		"module: '"+token.Module+"'", "module: '"+spies[0]+"'",
		"env: # of the process that loads the module\n", fmt.Sprintf("confine: {write: ['"+dir+"']}\n      env:\n        PKCS11SPY: '%s'\n        PKCS11SPY_OUTPUT: '%s'\n", token.Module, out))
	return func() string {
		b, err := os.ReadFile(out)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return string(b)
	}
}

// The keys are in the token, sign-only, sensitive, and never extractable, as
// another program sees it.
func TestI8KeysAreInTheToken(t *testing.T) {
	t.Parallel()
	tool := needTool(t, "pkcs11-tool", "opensc")
	dir := tempDir(t)
	d := startDev(t, dir)
	d.stop()
	token := devToken(t, dir)
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), tool, "--module", token.Module, "--token-label", token.Label,
		"--login", "--pin", "env:TOKEN_PIN", "--list-objects", "--type", "privkey")
	cmd.Env = []string{"SOFTHSM2_CONF=" + token.Conf, "TOKEN_PIN=" + strings.TrimSpace(string(pin))}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	keys := strings.Split(string(out), "Private Key Object")[1:]
	if len(keys) < 6 { // five key sets and the probe key; successors come on top
		t.Errorf("%d private keys:\n%s", len(keys), out)
	}
	for _, k := range keys {
		for _, want := range []string{"Usage:      sign\n", "Access:     sensitive, always sensitive, never extractable, local\n"} {
			if !strings.Contains(k, want) {
				t.Errorf("not %q:\n%s", want, k)
			}
		}
	}
	t.Logf("%d private keys", len(keys))
}

// OpenSC's spy sees every call to the module: no private value is ever read,
// at the start, while signing, and while rotating.
func TestNoPrivateValueIsEverRead(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	startDev(t, dir, "--fast").stop()
	calls := spyOn(t, dir)
	d := startDev(t, dir)
	issuer := d.client("issuer")
	rotated, err := d.client("operator").Rotate(t.Context(), "web", api.OperateRequest{Reason: "to watch it"})
	if err != nil {
		t.Fatal(err)
	}
	d.within(time.Until(rotated.SignsFrom)+20*time.Second, "the successor signs", func() error {
		if kid := d.sign(issuer, "web", `{}`).KID; kid != rotated.To.KID {
			time.Sleep(50 * time.Millisecond) // the spy writes a lot
			return fmt.Errorf("%s signs", kid)
		}
		return nil
	})
	for _, keyset := range []string{"legacy", "edge"} {
		d.sign(issuer, keyset, `{}`)
	}
	d.stop()
	log := calls()
	for _, name := range []string{"C_GenerateKeyPair\n", "C_Sign\n", "C_GetAttributeValue\n", "CKA_NEVER_EXTRACTABLE"} {
		if !strings.Contains(log, name) {
			t.Errorf("the spy saw no %s: nothing was shown", strings.TrimSpace(name))
		}
	}
	log, notes := withoutNotes(log)
	if destroyed := strings.Count(log, "C_DestroyObject\n"); notes == 0 || destroyed > notes {
		t.Errorf("%d notes were made, and %d objects destroyed", notes, destroyed)
	}
	for _, name := range []string{
		"CKA_VALUE ", "CKA_PRIVATE_EXPONENT", "CKA_PRIME_1", "CKA_PRIME_2", "CKA_EXPONENT_1", "CKA_EXPONENT_2", "CKA_COEFFICIENT",
		"C_WrapKey", "C_UnwrapKey", "C_Decrypt", "C_CreateObject", "C_Logout", "C_SetPIN",
	} {
		if n := strings.Count(log, name); n > 0 {
			t.Errorf("the log shows %s %d times", name, n)
		}
	}
}

// withoutNotes returns what a spy saw without the calls that make and read the notes
// on the token, data objects that are no keys, and how many notes were made.
func withoutNotes(log string) (rest string, made int) {
	var kept strings.Builder
	for _, call := range strings.SplitAfter(log, "\n\n") { // an empty line is between calls
		note := strings.Contains(call, "CKA_APPLICATION") // no key has it
		if note && strings.Contains(call, "C_CreateObject\n") {
			made++
		}
		if !note {
			kept.WriteString(call)
		}
	}
	return kept.String(), made
}

// Every algorithm signs what its key set's relying parties verify, with our
// verifier and with another library.
func TestEveryAlgorithmSignsAndVerifies(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	startDev(t, dir).stop()
	var sets, names strings.Builder
	for _, alg := range keystore.Algorithms() {
		name := "all-" + strings.ToLower(string(alg))
		fmt.Fprintf(&sets, "  %s: {purpose: jwt, algorithm: %s, keystore: hsm, rotate_every: 30d}\n", name, alg)
		fmt.Fprintf(&names, ", %s", name)
	}
	edit(t, filepath.Join(dir, "config.yaml"), "keysets:\n  # rotate_every", "keysets:\n"+sets.String()+"  # rotate_every",
		"keysets: [web, legacy, edge]", "keysets: [web, legacy, edge"+names.String()+"]")
	d := startDev(t, dir)
	c := d.client("issuer")
	for _, alg := range keystore.Algorithms() {
		name := "all-" + strings.ToLower(string(alg))
		reply := d.sign(c, name, `{"sub":"alice"}`)
		token, err := d.verifier(name).Verify(t.Context(), reply.Token)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if token.Header.Algorithm != string(alg) || token.Header.KID != reply.KID {
			t.Errorf("%s: header %+v, reply's kid %s", alg, token.Header, reply.KID)
		}
		if err := d.joseVerifies(name, alg, reply.Token); err != nil {
			t.Errorf("%s, by go-jose: %v", alg, err)
		}
	}
	d.stop()
	d.proven()
}

// joseVerifies verifies a token by the published key set with go-jose.
func (d *chanceryd) joseVerifies(keyset string, alg keystore.Algorithm, token string) error {
	d.t.Helper()
	status, body := d.get(d.issuer(keyset) + "/jwks.json")
	if status != http.StatusOK {
		return fmt.Errorf("status %d", status)
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(body), &keys); err != nil {
		return err
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		return err
	}
	found := keys.Key(jws.Signatures[0].Header.KeyID)
	if len(found) != 1 {
		return fmt.Errorf("%d keys of that kid", len(found))
	}
	_, err = jws.Verify(found[0])
	return err
}

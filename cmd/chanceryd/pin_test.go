package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/client"
	"chancery/softhsm"
)

const wrongPIN = "a-wrong-PIN-8264951"

// twoTokens starts a daemon whose key set "edge" is on a token of its own, and
// ends it again when both have served. It returns the second token, and what
// the second token's module was asked.
func twoTokens(t *testing.T, dir string) (*softhsm.Token, func() string) {
	t.Helper()
	startDev(t, dir).stop()
	second, err := softhsm.Create(t.Context(), filepath.Join(dir, "second"), "second")
	if err != nil {
		t.Fatal(err)
	}
	spies, err := filepath.Glob("/usr/lib/*/pkcs11/pkcs11-spy.so")
	if err != nil || len(spies) == 0 {
		lacks(t, "no pkcs11-spy.so (Debian: opensc)")
	}
	out := filepath.Join(dir, "spy.log")
	edit(t, filepath.Join(dir, "config.yaml"),
		"listeners:\n", fmt.Sprintf(`  other:
    pkcs11:
      module: '%s'
      token: '%s'
      env: {SOFTHSM2_CONF: '%s', PKCS11SPY: '%s', PKCS11SPY_OUTPUT: '%s'}
      confine: {write: ['%s']}

listeners:
`, spies[0], second.URI(), second.Conf, second.Module, out, dir),
		"keysets:\n  # rotate_every", "keysets:\n  remote: {purpose: jwt, algorithm: ES256, keystore: other, rotate_every: 30d}\n  # rotate_every",
		"keysets: [web, legacy, edge]", "keysets: [web, legacy, edge, remote]")
	d := startDev(t, dir)
	d.sign(d.client("issuer"), "remote", `{}`)
	d.stop()
	return second, func() string {
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// I7: a wrong PIN is one attempt, however often daemon and workers restart.
// Meanwhile the other token signs and everything stays published, and after the
// fix one word of an operator is enough.
func TestI7WrongPINIsOneAttempt(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	token, calls := twoTokens(t, dir)
	right, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	writePIN(t, token, wrongPIN)
	logins := func() int { return strings.Count(calls(), "C_Login\n") }
	before := logins()
	var said strings.Builder
	for round := range 3 {
		d := launch(t, dir, "dev", "--dir", dir)
		d.awaitServing()
		issuer, operator := d.client("issuer"), d.client("operator")
		d.wantPINRejected(operator)
		d.sign(issuer, "web", `{}`)
		_, err := issuer.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "remote", Claims: []byte(`{}`)})
		if p := wantCode(t, err, api.CodeBackendUnavailable); p.RetryAfter < 1 || strings.Contains(p.Detail, "PIN") || strings.Contains(p.Detail, "CKR") {
			t.Errorf("Retry-After %d, %q", p.RetryAfter, p.Detail)
		}
		for _, keyset := range []string{"web", "remote"} {
			if len(d.published(keyset)) == 0 {
				t.Errorf("the key set of %s is empty", keyset)
			}
		}
		if ready, words := d.readyz(); ready || !strings.Contains(words, "[-]keystore other") || !strings.Contains(words, "[+]keystore hsm") {
			t.Errorf("ready %v:\n%s", ready, words)
		}
		d.killWorkers() // the other token's: this one has none
		d.within(10*time.Second, "the other token signs again", func() error {
			_, err := issuer.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
			return err
		})
		if round == 2 {
			writePIN(t, token, strings.TrimSpace(string(right)))
			if n := logins() - before; n != 1 {
				t.Errorf("%d logins with one wrong PIN, want 1", n)
			}
			list, err := operator.TokenRetry(t.Context(), "other")
			if err != nil {
				t.Fatalf("retrying after the fix: %v", err)
			}
			t.Logf("after the retry: %+v", list.Tokens)
			d.within(10*time.Second, "the repaired token signs", func() error {
				_, err := issuer.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "remote", Claims: []byte(`{}`)})
				return err
			})
			// The right one logs in each process that comes to serve: two, and the clerk, who
			// comes once to compare and once to write down how far the log has come.
			if n := logins() - before; n < 2 || n > 5 {
				t.Errorf("%d logins, want 1 with the wrong PIN and 1 to 4 with the right one", n)
			}
		}
		d.wantNowhere(wrongPIN, strings.TrimSpace(string(right)))
		d.stop()
		said.WriteString(d.log.String())
	}
	// Until it stops one more may come for each of the two that began before the next
	// version's key was made.
	if n := logins() - before; n > 7 {
		t.Errorf("%d logins, want 1 with the wrong PIN and 6 with the right one at the most", n)
	}
	if !strings.Contains(said.String(), string(keystore.TokenPINRejected)) {
		t.Error("the daemon's log does not tell of the state")
	}
}

// With a wrong PIN the daemon used to look dead for two minutes: nobody knew
// where to ask, and so nobody could tell it to try again.
func TestDevWithAWrongPIN(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	startDev(t, dir).stop()
	token := devToken(t, dir)
	right := readOrEmpty(token.PINFile)
	writePIN(t, token, wrongPIN)
	d := startDev(t, dir) // it says how to reach it
	operator := d.client("operator")
	list, err := operator.Tokens(t.Context())
	if err != nil || list.Tokens[0].State != string(keystore.TokenPINRejected) || !strings.Contains(list.Tokens[0].Hint, "token retry hsm") {
		t.Fatalf("%+v, %v", list, err)
	}
	writePIN(t, token, strings.TrimSpace(right))
	if _, err := operator.TokenRetry(t.Context(), "hsm"); err != nil {
		t.Fatal(err)
	}
	d.within(10*time.Second, "it signs", func() error {
		_, err := d.client("issuer").SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
		return err
	})
}

// A daemon whose token will not come up ends on SIGTERM all the same, long
// before it would give up waiting for it.
func TestSIGTERMBeforeReady(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	startDev(t, dir).stop()
	config := filepath.Join(dir, "config.yaml")
	edit(t, config, "keysets:\n  # rotate_every", "keysets:\n  late: {purpose: jwt, algorithm: ES256, keystore: hsm, rotate_every: 30d}\n  # rotate_every")
	writePIN(t, devToken(t, dir), wrongPIN)
	d := launch(t, dir, "dev", "--dir", dir)
	d.within(30*time.Second, "the PIN was rejected", func() error {
		if !strings.Contains(d.log.String(), string(keystore.TokenPINRejected)) {
			return errNotYet
		}
		return nil
	})
	began := time.Now()
	d.stop()
	if took := time.Since(began); took > grace+5*time.Second {
		t.Errorf("it ended after %v", took)
	}
	if _, err := os.Stat(filepath.Join(dir, "endpoints.json")); err == nil {
		t.Error("it said that it was ready")
	}
}

// writePIN replaces a token's PIN file, as an operator would.
func writePIN(t *testing.T, token *softhsm.Token, pin string) {
	t.Helper()
	if err := os.WriteFile(token.PINFile, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// awaitServing waits until a daemon that was launched signs with "web". Its
// endpoints are those of its configuration: it may never say that it is ready.
func (d *chanceryd) awaitServing() {
	d.t.Helper()
	cfg, err := loadConfig(filepath.Join(d.dir, "config.yaml"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.endpoints = api.Endpoints{
		Socket: cfg.Listeners.Signing.Socket, Ops: cfg.Listeners.Ops.Socket,
		Public: cfg.PublicURL, Admin: "http://" + cfg.Listeners.Admin.TCP,
	}
	issuer := d.client("issuer")
	d.within(30*time.Second, "the first token signs", func() error {
		_, err := issuer.SignJWT(d.t.Context(), api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
		return err
	})
}

// wantPINRejected waits until operators see that a PIN was refused, and what to
// do about it.
func (d *chanceryd) wantPINRejected(operator *client.Client) {
	d.t.Helper()
	d.within(10*time.Second, "the token's state is told", func() error {
		list, err := operator.Tokens(d.t.Context())
		if err != nil {
			return err
		}
		for _, tok := range list.Tokens {
			if tok.Keystore == "other" && tok.State == string(keystore.TokenPINRejected) {
				if tok.Hint == "" {
					d.t.Errorf("no hint: %+v", tok)
				}
				return nil
			}
		}
		return fmt.Errorf("%+v", list.Tokens)
	})
}

// I12: none of the secrets is in what the daemon says, writes, or shows of its
// processes. Files of the tokens themselves are theirs.
func (d *chanceryd) wantNowhere(secrets ...string) {
	d.t.Helper()
	seen := map[string][]byte{"output": []byte(d.log.String())}
	for _, pid := range append(d.workers(), d.cmd.Process.Pid) {
		for _, name := range []string{"environ", "cmdline"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, name)
			if b, err := os.ReadFile(path); err == nil {
				seen[path] = b
			}
		}
	}
	for _, path := range []string{"/readyz?verbose", "/metrics"} {
		_, body := d.get(d.endpoints.Admin + path)
		seen[path] = []byte(body)
	}
	for _, dir := range []string{"audit", "tokens", "run"} {
		filepath.WalkDir(filepath.Join(d.dir, dir), func(path string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				seen[path], _ = os.ReadFile(path)
			}
			return nil
		})
	}
	for _, name := range []string{"catalog.db", "catalog.db-wal", "brake", "config.yaml"} {
		seen[name], _ = os.ReadFile(filepath.Join(d.dir, name))
	}
	for where, b := range seen {
		for _, s := range secrets {
			if bytes.Contains(b, []byte(s)) {
				d.t.Errorf("a PIN is in %s", where)
			}
		}
	}
	if len(seen) < 10 {
		d.t.Errorf("only %d places were looked at", len(seen))
	}
}

// I12: a configuration with a PIN in it is refused without saying the PIN.
func TestI12ConfigurationErrorsSayNoPIN(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	d := startDev(t, dir)
	d.stop()
	token := devToken(t, dir)
	path := filepath.Join(dir, "config.yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{
		"pkcs11:serial=" + token.Serial + "?pin-value=" + wrongPIN,
		"pkcs11:serial=" + token.Serial + ";pin-value=" + wrongPIN + "?pin-source=" + token.PINFile,
		"pkcs11:serial=" + token.Serial + "?pin-source=|echo%20" + wrongPIN,
	} {
		if err := os.WriteFile(path, bytes.Replace(good, []byte(token.URI()), []byte(uri), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"check", "--config", path}, {"serve", "--config", path}, {"dev", "--dir", dir}} {
			out, status := chancerydSays(t, args...)
			if status != exitFailed {
				t.Errorf("%s: exit status %d\n%s", args[0], status, out)
			}
			if strings.Contains(out, wrongPIN) {
				t.Errorf("%s says the PIN:\n%s", args[0], out)
			}
		}
	}
}

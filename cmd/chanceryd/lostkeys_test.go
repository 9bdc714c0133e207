package main

import (
	"database/sql"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// deletePrivateKey deletes the private half of a version's key from the token,
// as someone who has the PIN can, with a program of their own, and ends the
// workers.
func (d *chanceryd) deletePrivateKey(keyset string, state keystore.State) {
	d.t.Helper()
	id := d.keyID("keyset = ? AND state = ?", keyset, state.String())
	d.pkcs11Tool("--delete-object", "--type", "privkey", "--id", id)
	d.killWorkers() // SoftHSM may miss what another process does; a fresh one does not
}

// keyID returns the key id of the version that a condition is of.
func (d *chanceryd) keyID(where string, args ...any) string {
	d.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(d.dir, "catalog.db")+"?mode=ro&_busy_timeout=10000")
	if err != nil {
		d.t.Fatal(err)
	}
	defer db.Close()
	var id []byte
	if err := db.QueryRowContext(d.t.Context(), "SELECT key_id FROM version WHERE "+where, args...).Scan(&id); err != nil {
		d.t.Fatalf("the version where %s %v: %v", where, args, err)
	}
	return hex.EncodeToString(id)
}

// pkcs11Tool has another program work on the token, and returns what it says.
func (d *chanceryd) pkcs11Tool(args ...string) string {
	d.t.Helper()
	tool := needTool(d.t, "pkcs11-tool", "opensc")
	token := devToken(d.t, d.dir)
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.CommandContext(d.t.Context(), tool, append([]string{
		"--module", token.Module, "--token-label", token.Label, "--login", "--pin", "env:TOKEN_PIN"}, args...)...)
	cmd.Env = []string{"SOFTHSM2_CONF=" + token.Conf, "TOKEN_PIN=" + strings.TrimSpace(string(pin))}
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// A key that had been deleted from its token left its key set stuck, and
// everything said that all is well.
func TestAKeyIsDeletedFromTheToken(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	operator, issuer := d.client("operator"), d.client("issuer")
	d.keySets() // every successor is published
	d.deletePrivateKey("web", keystore.Published)
	d.within(10*time.Second, "the token is up again", d.servedFor(0))
	rotated, err := operator.Rotate(t.Context(), "web", rotateFor("a drill"))
	if err != nil || rotated.To.Version != 3 {
		t.Errorf("version 2 has lost its key; the rotation is to version %d, %v", rotated.To.Version, err)
	}
	set, err := operator.KeySet(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	// It is told, or has left already because version 3 is served.
	v := set.Versions[1]
	if alarms := strings.Join(v.Alarms, ", "); v.State != "retired" && !strings.Contains(alarms, "cannot be used") {
		t.Errorf("of version 2, %s, it is said: %q", v.State, alarms)
	}
	d.within(30*time.Second, "the history tells why version 2 left", func() error {
		for _, r := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyRemove}) {
			if string(r.KID) == v.KID && strings.Contains(r.Reason, "cannot be used") {
				return nil
			}
		}
		return errors.New("not yet")
	})
	d.sign(issuer, "web", `{}`)

	d.sign(issuer, "edge", `{}`)
	d.deletePrivateKey("edge", keystore.Active)
	d.within(10*time.Second, "edge does not sign", func() error {
		_, err := issuer.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "edge", Claims: []byte(`{}`)})
		if err == nil {
			return errors.New("it signs by a key that is gone")
		}
		wantCode(t, err, api.CodeBackendUnavailable)
		return nil
	})
	d.within(10*time.Second, "readyz says so", func() error {
		_, _ = issuer.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "edge", Claims: []byte(`{}`)}) // the first refusal may have been that it restarted
		if ok, text := d.readyz(); ok || !strings.Contains(text, "[-]keyset edge") || !strings.Contains(text, "cannot be used") || !strings.Contains(text, "[+]keyset legacy") {
			return errors.New(text)
		}
		return nil
	})
	d.sign(issuer, "legacy", `{}`)
	d.stop()

	again := startDevUnready(t, d.dir) // it is known again after a restart
	again.within(30*time.Second, "the missing keys are told", func() error {
		if ok, text := again.readyz(); ok || !strings.Contains(text, "[-]keyset edge") {
			return errors.New(text)
		}
		if _, metrics := again.get(again.endpoints.Admin + "/metrics"); !strings.Contains(metrics, "chancery_missing_keys 2\n") {
			return errors.New("the metric of missing keys is not 2")
		}
		return nil
	})
	again.sign(again.client("issuer"), "web", `{}`)
}

// startDevUnready starts chanceryd dev in a directory that has endpoints from
// before, without waiting for every key set to sign.
func startDevUnready(t *testing.T, dir string) *chanceryd {
	t.Helper()
	d := launch(t, dir, "dev", "--dir", dir)
	d.awaitServing()
	return d
}

// Removing a key set from the configuration used to unpublish it at once, though
// its tokens were valid.
func TestAKeySetThatIsNotConfiguredStaysPublished(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	token := d.sign(d.client("issuer"), "edge", `{}`)
	before := d.published("edge")
	d.stop()
	text := readOrEmpty(d.configFile())
	begin := strings.Index(text, "  edge:\n")
	end := begin + strings.Index(text[begin:], "  devices:")
	text = strings.Replace(text[:begin]+text[end:], "keysets: [web, legacy, edge]", "keysets: [web, legacy]", 1)
	if err := os.WriteFile(d.configFile(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d = startDev(t, d.dir)
	for _, kid := range before { // a successor may have come since
		if now := d.published("edge"); !slices.Contains(now, kid) {
			t.Errorf("published %v, before %v", now, before)
		}
	}
	if _, err := d.verifier("edge").Verify(t.Context(), token.Token); err != nil {
		t.Errorf("a token from before: %v", err)
	}
	_, err := d.client("issuer").SignJWT(t.Context(), api.SignJWTRequest{KeySet: "edge", Claims: []byte(`{}`)})
	wantCode(t, err, api.CodeForbidden)
	_, err = d.client("operator").Plan(t.Context(), "edge")
	if p := wantCode(t, err, api.CodeNotFound); !strings.Contains(p.Detail, "configuration") {
		t.Errorf("its plan: %q", p.Detail)
	}
	if !strings.Contains(d.log.String(), "not in the configuration any more") {
		t.Error("the daemon's output does not tell")
	}
}

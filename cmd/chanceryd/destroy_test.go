package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
	"chancery/signer/api"
	"chancery/signer/client"
)

// destroyFirst asks for the destruction of web's version 1.
func destroyFirst(c *client.Client) (*api.DestroyReply, error) {
	return c.Destroy(context.Background(), "web", api.DestroyRequest{Reason: "no longer needed", Version: 1})
}

// firstIs returns nil if web's version 1 is in a state.
func firstIs(c *client.Client, state string) error {
	set, err := c.KeySet(context.Background(), "web")
	if err != nil {
		return err
	}
	if s := set.Versions[0].State; s != state {
		return fmt.Errorf("it is %s", s)
	}
	return nil
}

// A key is destroyed when nothing it signed can be valid, and not before; what
// the log, the catalog and the token say of it agree. When a backup brings it
// back, its token signs nothing until it is gone again.
func TestDestroyARetiredKey(t *testing.T) {
	t.Parallel()
	needTool(t, "pkcs11-tool", "opensc")
	d := startDev(t, tempDir(t), "--fast")
	operator, issuer := d.client("operator"), d.client("issuer")
	first := d.sign(issuer, "web", `{}`)
	_, err := destroyFirst(operator)
	wantCode(t, err, api.CodeConflict)
	rotated, err := operator.Rotate(t.Context(), "web", rotateFor("a drill"))
	if err != nil {
		t.Fatal(err)
	}
	d.within(time.Until(rotated.SignsFrom)+10*time.Second, "version 1 is retiring", func() error { return firstIs(operator, "retiring") })
	_, err = destroyFirst(operator)
	if p := wantCode(t, err, api.CodeTooEarly); p.Rule != 2 || p.RetryAfter < 5 {
		t.Errorf("while its tokens live: %+v", p)
	}
	_, err = d.client("auditor").Destroy(t.Context(), "web", api.DestroyRequest{Reason: "r", Version: 1})
	wantCode(t, err, api.CodeForbidden)
	id := d.keyID("keyset = 'web' AND number = 1")
	backup := filepath.Join(tempDir(t), "tokens")
	if err := os.CopyFS(backup, os.DirFS(d.tokens())); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(d.pkcs11Tool("--list-objects"), id) {
		t.Error("its key is not there")
	}
	var done *api.DestroyReply
	d.within(40*time.Second, "version 1 is destroyed", func() (err error) {
		if done, err = destroyFirst(operator); err != nil {
			if p := problem(t, err); p.Code != api.CodeTooEarly {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
		}
		return err
	})
	if time.Now().Before(first.ExpiresAt) || done.State != "destroyed" || done.Entry == "" || done.KID != first.KID {
		t.Errorf("%+v, at %v", done, time.Now())
	}
	if said := d.pkcs11Tool("--list-objects"); strings.Contains(said, id) {
		t.Errorf("a half of it is there:\n%s", said)
	}
	if err := firstIs(operator, "destroyed"); err != nil {
		t.Error(err)
	}
	history, err := operator.History(t.Context(), "web")
	if err != nil || !slices.ContainsFunc(history.Events, func(e api.Event) bool {
		return e.Event == "destroy" && e.Version == 1 && e.Reason == "no longer needed" && e.Entry == done.Entry
	}) {
		t.Errorf("%+v, %v", history, err)
	}
	d.wantFindings(operator)
	d.sign(issuer, "web", `{}`)
	d.stop()
	d.proven()
	var outcomes []keystore.Outcome
	for _, e := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyDestroy}) {
		outcomes = append(outcomes, e.Outcome)
	}
	if !slices.Equal(outcomes, []keystore.Outcome{keystore.OutcomeIntent, keystore.OutcomeDone}) {
		t.Errorf("the log has %q", outcomes)
	}
	d.putBack(backup)
	wantStoppedToken(t, d.dir)
}

// tokens is where SoftHSM keeps the objects of its tokens.
func (d *chanceryd) tokens() string { return filepath.Join(d.dir, "softhsm", "tokens") }

// putBack puts back what a backup has and the token has no more.
func (d *chanceryd) putBack(backup string) {
	d.t.Helper()
	n := 0
	err := filepath.WalkDir(backup, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(backup, path)
		if err != nil {
			return err
		}
		to := filepath.Join(d.tokens(), rel)
		if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		return os.WriteFile(to, b, 0o600)
	})
	if err != nil || n < 2 {
		d.t.Fatalf("%d objects put back: %v", n, err)
	}
}

// wantFindings demands that the keystores are compared with exactly these kinds
// of finding, and that another comparison finds the same.
func (d *chanceryd) wantFindings(c *client.Client, kinds ...string) (found *api.Reconciliation) {
	d.t.Helper()
	d.within(20*time.Second, fmt.Sprintf("the findings are %q", kinds), func() (err error) {
		if found, err = c.Reconcile(d.t.Context(), ""); err != nil {
			return err
		}
		var got []string
		for _, f := range found.Findings {
			got = append(got, f.Kind)
		}
		slices.Sort(got)
		slices.Sort(kinds)
		if len(found.Keystores) != 1 || found.Keystores[0].Error != "" || !slices.Equal(got, kinds) {
			return fmt.Errorf("found %+v", found)
		}
		return nil
	})
	return found
}

// wantStoppedToken starts a daemon on a token to which a destroyed key has come
// back, and takes it away again.
func wantStoppedToken(t *testing.T, dir string) {
	d := startDev(t, dir)
	stopped := func() error {
		ok, text := d.readyz()
		if ok || !strings.Contains(text, "[-]keystore hsm failed: \"token "+devLabel+" is stopped") {
			return errors.New(text)
		}
		return nil
	}
	d.within(20*time.Second, "the token is stopped", stopped)
	refused := func() {
		_, err := d.client("issuer").SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
		wantCode(t, err, api.CodeBackendUnavailable)
	}
	refused()
	d.wantFindings(d.client("operator"), "resurrected")
	list, err := d.client("operator").TokenRetry(t.Context(), "hsm")
	if p := wantCode(t, err, api.CodeBackendUnavailable); !strings.Contains(p.Detail, "the destroyed key of web version 1 is there again") {
		t.Errorf("%+v, %+v", list, p)
	}
	d.stop()

	d = startDev(t, dir) // nothing is signed before the first comparison either
	refused()
	d.within(20*time.Second, "the token is stopped", stopped)
	operator := d.client("operator")
	list, err = operator.Tokens(t.Context())
	if err != nil || list.Tokens[0].State != "stopped" || !strings.Contains(list.Tokens[0].Hint, "keys reconcile") {
		t.Errorf("%+v, %v", list, err)
	}
	auditor := d.client("auditor")
	d.within(20*time.Second, "an auditor reads of it", func() error {
		last, err := auditor.Reconciled(t.Context())
		if err == nil && (len(last.Findings) != 1 || last.Findings[0].Kind != "resurrected" || last.Findings[0].Version != 1) {
			err = fmt.Errorf("found %+v", last)
		}
		return err
	})
	if _, err := destroyFirst(operator); err != nil {
		t.Fatal(err)
	}
	issuer := d.client("issuer")
	d.within(20*time.Second, "it signs again", func() error {
		_, err := issuer.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
		return err
	})
	d.wantFindings(operator)
	d.stop()
	d.proven()
	if n := len(d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyResurrected})); n != 1 {
		t.Errorf("it was entered %d times", n)
	}
	var states []string
	for _, e := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActTokenState}) {
		states = append(states, e.State)
	}
	if told := strings.Join(states, " "); !strings.Contains(told, "stopped") || !strings.HasSuffix(told, "ready") {
		t.Errorf("the log tells %s", told)
	}
}

// A destruction that a former process began, and of which it entered no outcome,
// is said to be unknown.
func TestAnIntentLeftOpenIsClosed(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.stop()
	c, err := catalog.Open(t.Context(), catalog.Config{Path: filepath.Join(d.dir, "catalog.db")})
	if err != nil {
		t.Fatal(err)
	}
	rec := keystore.Record{
		ID: keystore.NewKeyID().String(), Principal: "olga", Action: keystore.ActKeyDestroy, Outcome: keystore.OutcomeIntent,
		KeySet: "web", Version: 1, State: "retired", Reason: "a drill", Detail: map[string]string{"keystore": "hsm"},
	}
	_, err = c.Update(t.Context(), "web", -1, func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error) { return []keystore.Record{rec}, nil })
	if err := errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the intent is entered by the first start, and closed by the second
		startDev(t, d.dir).stop()
	}
	var outcomes []keystore.Outcome
	for _, e := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyDestroy}) {
		if e.ID == rec.ID {
			outcomes = append(outcomes, e.Outcome)
		}
	}
	if !slices.Equal(outcomes, []keystore.Outcome{keystore.OutcomeIntent, keystore.OutcomeUnknown}) {
		t.Errorf("the log has %q", outcomes)
	}
	d.proven()
}

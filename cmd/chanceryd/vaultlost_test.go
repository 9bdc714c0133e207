package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/transit/transittest"
	"chancery/signer/api"
)

// configured is what somebody else does to a key: its configuration is changed,
// after another version was made if latest is 2.
type configured struct {
	row    string
	latest int
	config map[string]any
	trim   int  // to this version
	delete bool // it is deleted
	says   string
}

// harm does it to the key of a name.
func (f *faked) harm(c configured, name string) {
	f.t.Helper()
	path := f.mount + "/keys/" + name
	if c.latest == 2 {
		f.fake.Rotate(f.t, f.mount, name)
	}
	if c.config != nil {
		f.fake.Call(f.t, "POST", path+"/config", c.config)
	}
	if c.trim != 0 {
		f.fake.Call(f.t, "POST", path+"/trim", map[string]any{"min_available_version": c.trim})
	}
	if c.delete {
		f.fake.Call(f.t, "DELETE", path, nil)
	}
}

// What somebody else does to the successor's key, for which it is refused.
var vaultSpoilt = []configured{
	{row: "V09 exportable", config: map[string]any{"exportable": true}, says: "exportable=false"},
	{row: "V09 in plaintext backups", config: map[string]any{"allow_plaintext_backup": true}, says: "allow_plaintext_backup=false"},
	{row: "V09 deletable", config: map[string]any{"deletion_allowed": true}, says: "deletion_allowed=false"},
	{row: "V05 rotating by itself", config: map[string]any{"auto_rotate_period": "24h"}, says: "auto_rotate_period=0"},
}

// V09, V05: a successor that is not as it has to be is never activated. Another one
// is made in its place.
func spoiltSuccessors(t *testing.T) {
	f := newManual(t)
	for _, c := range vaultSpoilt {
		t.Run(c.row, func(t *testing.T) {
			f.in(t)
			active := f.inState(keystore.Active)
			spoilt := f.awaitVersion(active, keystore.Published)
			f.harm(c, f.keyOf(spoilt))
			began := time.Now()
			reply, err := f.operator.Rotate(t.Context(), "vaulted", rotateFor("a drill"))
			if err != nil {
				t.Fatal(err)
			}
			if reply.To.Version != spoilt+1 {
				t.Errorf("the rotation is to version %d, and version %d is spoilt", reply.To.Version, spoilt)
			}
			f.within(5*time.Second, "it is said what it lacks", func() error {
				v := f.versions()[spoilt-1]
				if alarms := strings.Join(v.Alarms, ", "); v.State == keystore.Published.String() && !strings.Contains(alarms, c.says) {
					return fmt.Errorf("of version %d it is said: %q", spoilt, alarms)
				}
				return nil // or it has left the set by now
			})
			f.wantFinding("attributes", spoilt)
			if err := f.signs(); err != nil {
				t.Error(err)
			}
			f.awaitVersion(spoilt, keystore.Active)
			for _, e := range f.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyActivate}) {
				if e.KeySet == "vaulted" && e.Version == spoilt {
					t.Errorf("version %d was activated", spoilt)
				}
			}
			f.othersUnharmed(t, 0)
			t.Attr("provoked", fmt.Sprintf("config %v of the published successor, rotation now", c.config))
			t.Attr("seen", fmt.Sprintf("not activated: it should have %s; another one is", c.says))
			t.Attr("recovered", time.Since(began).Round(time.Millisecond).String())
			t.Attr("promises", "I8")
		})
	}
	f.end()
}

// alarms is what is said of a version of vaulted.
func (f *faked) alarms(version int) string {
	f.t.Helper()
	return strings.Join(f.versions()[version-1].Alarms, ", ")
}

// wantFinding demands that a comparison finds a version of vaulted wrong, and that
// the log has it.
func (f *faked) wantFinding(kind string, version int) (m api.Mismatch) {
	f.t.Helper()
	found, err := f.operator.Reconcile(f.t.Context(), "vault")
	if err != nil {
		f.t.Fatal(err)
	}
	i := slices.IndexFunc(found.Findings, func(m api.Mismatch) bool { return m.Kind == kind && m.Version == version })
	if i < 0 || found.Findings[i].Entry == "" {
		f.t.Errorf("no %s of version %d entered among %+v", kind, version, found.Findings)
		return m
	}
	return found.Findings[i]
}

// What somebody else does to the key that signs, after which it does no more.
var vaultLost = []configured{
	{row: "V08 min_encryption_version raised", latest: 2, config: map[string]any{"min_encryption_version": 2}, says: "min_encryption_version=0"},
	{row: "V08 trimmed", latest: 2, config: map[string]any{"min_encryption_version": 2, "min_decryption_version": 2}, trim: 2, says: "was trimmed and is gone for ever"},
	{row: "V08 deleted", config: map[string]any{"deletion_allowed": true}, delete: true, says: "not found"},
}

// V08: a key that was taken away signs no more, and nothing signs in its place
// until somebody says so.
func lostKeys(t *testing.T) {
	f := newManual(t)
	for _, c := range vaultLost {
		t.Run(c.row, func(t *testing.T) {
			f.in(t)
			active := f.inState(keystore.Active)
			f.awaitVersion(active, keystore.Published)
			name, from := f.keyOf(active), len(f.fake.Requests())
			f.harm(c, name)
			for range 10 {
				if p := wantCode(t, f.signs(), api.CodeBackendUnavailable); p.RetryAfter < 1 {
					t.Error("503 without Retry-After")
				}
			}
			if _, err := f.operator.Reconcile(t.Context(), "vault"); err != nil { // which takes nothing back
				t.Error(err)
			}
			if alarms := f.alarms(active); !strings.Contains(alarms, "its key cannot be used") || !strings.Contains(alarms, c.says) {
				t.Errorf("of version %d it is said: %q, want %q", active, alarms, c.says)
			}
			if ready, words := f.readyz(); ready || !strings.Contains(words, "[-]keyset vaulted") || !strings.Contains(words, "[+]keystore vault ok") {
				t.Errorf("I14: ready %v:\n%s", ready, words)
			}
			if s := f.status(); s.State != string(keystore.TokenReady) {
				t.Errorf("the mount is %s: %s", s.State, s.Error)
			}
			if asked := f.makings(from); len(asked) > 0 {
				t.Errorf("keys were made: %v", asked)
			}
			f.rotateNow()
			ended := time.Now()
			f.within(backWithin, "vaulted signs", f.signs)
			t.Attr("recovered", time.Since(ended).Round(time.Millisecond).String()+" after rotation now")
			f.othersUnharmed(t, 0)
			t.Attr("provoked", strings.TrimSpace(fmt.Sprintf("%s of the active key: config %v", strings.TrimPrefix(c.row, "V08 "), c.config)))
			t.Attr("seen", "503 backend_unavailable, nothing signed by another key; the key set says: "+c.says)
		})
	}
	f.end()
}

// V05: another version of the active key, made by somebody else, changes no
// signature, and is told.
func somebodyRotatesTheKey(t *testing.T) {
	f := newFaked(t)
	before := f.sign(f.issuer, "vaulted", `{}`)
	f.fake.Rotate(t, f.mount, f.keyOf(1))
	rotated := time.Now()
	f.within(15*time.Second, "the log has it", func() error {
		if now := f.sign(f.issuer, "vaulted", `{}`); now.KID != before.KID {
			t.Fatalf("kid %s, before %s", now.KID, before.KID)
		}
		if err := f.signs(); err != nil {
			t.Fatal(err)
		}
		for _, e := range f.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyAttributes}) {
			if e.KeySet == "vaulted" && e.Version == 1 && strings.Contains(e.Reason, "latest_version=1") {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
		return errors.New("it has not")
	})
	t.Attr("recovered", "told after "+time.Since(rotated).Round(time.Millisecond).String())
	if m := f.wantFinding("attributes", 1); !slices.Contains(m.Lacks, "latest_version=1") {
		t.Errorf("found %+v", m)
	}
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "keys/NAME/rotate by somebody else")
	t.Attr("seen", "signatures by version 1 and its kid; entered and found")
	t.Attr("promises", "I2")
	f.end()
}

// V13: while Vault's storage refuses another key, a rotation fails, and the key that
// signs goes on.
func noRoomForAnotherKey(t *testing.T) {
	f := newManual(t)
	f.fake.Script(transittest.Rule{Method: "PUT", Path: jwtKey.String(), Status: http.StatusRequestEntityTooLarge, Body: `{"errors":["request body too large"]}`})
	f.rotateNow()
	last := f.inState(keystore.Active)
	for range 2 {
		_, err := f.operator.Rotate(t.Context(), "vaulted", rotateFor("a drill"))
		if p := wantCode(t, err, api.CodeBackendUnavailable); p.RetryAfter < 1 {
			t.Error("503 without Retry-After")
		}
		if err := f.signs(); err != nil {
			t.Error(err)
		}
	}
	f.within(5*time.Second, "rotation why says it", func() error {
		plan, err := f.operator.Plan(t.Context(), "vaulted")
		if err == nil && !strings.Contains(plan.Held, "too large for its storage (413)") {
			err = errors.New(plan.Held)
		}
		return err
	})
	if s := f.status(); s.State != string(keystore.TokenReady) {
		t.Errorf("the mount is %s: %s", s.State, s.Error)
	}
	f.fake.Script()
	ended := time.Now()
	f.within(10*time.Second, "a rotation is taken", func() error {
		_, err := f.operator.Rotate(t.Context(), "vaulted", rotateFor("a drill"))
		return err
	})
	t.Attr("recovered", time.Since(ended).Round(time.Millisecond).String())
	f.awaitVersion(last, keystore.Active)
	if err := f.signs(); err != nil {
		t.Error(err)
	}
	f.wantNoStrays()
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "POST keys is answered 413; rotation now")
	t.Attr("seen", "503 backend_unavailable, the old key signs, rotation why says it")
	f.end()
}

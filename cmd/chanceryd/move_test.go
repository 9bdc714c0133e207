package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/client"
	"chancery/softhsm"
	"chancery/softhsm/softhsmtest"
)

// inKeystore is what the configuration says of web's next version.
func inKeystore(name string) string {
	return "algorithm: ES256\n    keystore: " + name + "\n    rotate_every"
}

// startWithTwoTokens starts chanceryd dev with a second keystore, other, that no
// key set is in.
func startWithTwoTokens(t *testing.T, args ...string) *chanceryd {
	t.Helper()
	dir := tempDir(t)
	startDev(t, dir, args...).stop()
	token, err := softhsm.Create(t.Context(), filepath.Join(dir, "second"), "second")
	if err != nil {
		t.Fatal(err)
	}
	softhsmtest.Watch(t, token)
	edit(t, filepath.Join(dir, "config.yaml"), "listeners:\n", fmt.Sprintf(`  other:
    pkcs11:
      module: '%s'
      token: '%s'
      env: {SOFTHSM2_CONF: '%s'}

listeners:
`, token.Module, token.URI(), token.Conf))
	return startDev(t, dir)
}

// A mover moves web from keystore to keystore while relying parties verify what
// is signed.
type mover struct {
	*chanceryd
	ops   *client.Client
	crowd *crowd
	party *relying
	given int // answers that the relying parties have been given
}

// verify has the relying parties look at everything that is valid.
func (m *mover) verify() {
	replies := m.crowd.replies()
	for _, a := range replies[m.given:] {
		m.party.live = append(m.party.live, a.reply)
	}
	m.given = len(replies)
	m.party.pass(m.t, "web")
}

// move has web's next version made in another keystore, and waits until that
// version signs.
func (m *mover) move(from, to string) {
	m.t.Helper()
	edit(m.t, m.configFile(), inKeystore(from), inKeystore(to))
	if e := m.reload(); e.Outcome != keystore.OutcomeDone {
		m.t.Fatalf("the reload: %q %s", e.Outcome, e.Reason)
	}
	began := time.Now()
	set := m.keySet(m.ops, "web")
	if set.Keystore != to || activeOf(set).Keystore != from {
		m.t.Errorf("after the reload it is %s's turn, and a version in %s signs", set.Keystore, activeOf(set).Keystore)
	}
	plan, err := m.ops.Plan(m.t.Context(), "web")
	if text := fmt.Sprint(plan); err != nil || !strings.Contains(text, " in "+to) {
		m.t.Errorf("the plan does not tell of %s: %s, %v", to, text, err)
	}
	reply, err := m.ops.Rotate(m.t.Context(), "web", rotateFor("to "+to))
	if err != nil {
		m.t.Fatalf("rotating to %s: %v", to, err)
	}
	m.within(30*time.Second, "a version in "+to+" signs", func() error {
		m.verify()
		if v := activeOf(m.keySet(m.ops, "web")); v.Keystore != to {
			return fmt.Errorf("version %d in %s signs", v.Version, v.Keystore)
		}
		return nil
	})
	if v := activeOf(m.keySet(m.ops, "web")); v.KID != reply.To.KID {
		m.t.Errorf("version %d signs, the answer was version %d", v.Version, reply.To.Version)
	}
	m.t.Logf("from %s to %s %v after the reload", from, to, time.Since(began).Round(time.Millisecond))
}

// A key set moves to another keystore and back by editing the configuration and
// SIGHUP. Nobody who signs or verifies meanwhile notices.
func TestAKeySetMovesToAnotherKeystore(t *testing.T) {
	t.Parallel()
	d := startWithTwoTokens(t, "--fast")
	d.movesThereAndBack(t, "other")
}

// movesThereAndBack moves web from hsm to another keystore and back, under load.
func (d *chanceryd) movesThereAndBack(t *testing.T, other string) {
	t.Helper()
	m := &mover{chanceryd: d, ops: d.client("operator"), party: &relying{fetching: d.verifier("web"), caching: &caching{
		url: d.issuer("web") + "/jwks.json", issuer: d.issuer("web"), algs: []jose.SignatureAlgorithm{jose.ES256},
	}}}
	m.crowd = d.crowd(4, 40*time.Millisecond, "web")
	m.crowd.atLeast(8)
	m.move("hsm", other)
	m.move(other, "hsm")
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); {
		m.verify()
	}
	m.crowd.stop()
	for len(m.party.live) > 0 || m.given < len(m.crowd.replies()) {
		m.verify()
	}
	for _, a := range m.crowd.all() {
		if a.err != nil {
			t.Errorf("a client, at %v: %v", a.sent, a.err)
		}
	}
	stores := make(map[string]bool)
	for _, a := range m.crowd.replies() {
		for _, v := range d.keySet(m.ops, "web").Versions {
			if v.KID == a.reply.KID {
				stores[v.Keystore] = true
			}
		}
		if len(stores) == 2 {
			break
		}
	}
	if !stores["hsm"] || !stores[other] {
		t.Errorf("tokens were signed in %v", stores)
	}
	var told []string
	for _, e := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeySetConfigure, KeySet: "web"}) {
		told = append(told, e.Detail["keystore"])
	}
	if fmt.Sprint(told) != "["+other+" hsm]" {
		t.Errorf("the log tells of moves to %v", told)
	}
	t.Logf("%d tokens, verified %d times", m.given, m.party.checks)
}

// A move is put in force with the rest of the file or not at all.
func TestAMoveThatIsRefused(t *testing.T) {
	t.Parallel()
	d := startWithTwoTokens(t)
	ops := d.client("operator")
	clean := readOrEmpty(d.configFile())
	wantUnmoved := func(t *testing.T) {
		t.Helper()
		if set := d.keySet(ops, "web"); set.Keystore != "hsm" {
			t.Errorf("it is in %s", set.Keystore)
		}
		d.sign(d.client("issuer"), "web", `{}`)
	}
	for _, c := range []struct {
		name   string
		oldnew []string
		want   string
	}{
		{"to a keystore there is not", []string{inKeystore("hsm"), inKeystore("another")}, `there is no keystore "another"`},
		{"with an algorithm", []string{inKeystore("hsm"), inKeystore("other"), "algorithm: RS256", "algorithm: PS256"}, "keysets changed, which needs a restart"},
		{"with a keystore", []string{inKeystore("hsm"), inKeystore("other"), "      env: {", "      workers: 1\n      env: {"}, "keystores changed, which needs a restart"},
		{"with a policy nobody can mean", []string{inKeystore("hsm"), inKeystore("other"), "[jwt.sign, keysets.read]", "[jwt.sing]"}, "is no action"},
	} {
		t.Run(c.name, func(t *testing.T) {
			edit(t, d.configFile(), c.oldnew...)
			if e := d.reload(); e.Outcome != keystore.OutcomeFailed || !strings.Contains(e.Reason, c.want) {
				t.Errorf("the log says %q, %q; want %q", e.Outcome, e.Reason, c.want)
			}
			wantUnmoved(t)
			if err := os.WriteFile(d.configFile(), []byte(clean), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("while the catalog cannot be written", func(t *testing.T) {
		edit(t, d.configFile(), inKeystore("hsm"), inKeystore("other"), "keysets: [web, legacy, edge]", "keysets: [web, legacy]")
		release := d.hold()
		before := d.reloads("failed")
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.within(40*time.Second, "the reload is refused", func() error {
			if d.reloads("failed") == before {
				return errors.New("not yet")
			}
			return nil
		})
		release()
		d.within(20*time.Second, "the refusal is in the log", func() error {
			entries := d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActReload})
			if last := entries[len(entries)-1]; last.Outcome != keystore.OutcomeFailed || !strings.Contains(last.Reason, "moving key sets to other keystores") {
				return fmt.Errorf("%q, %q", last.Outcome, last.Reason)
			}
			return nil
		})
		wantUnmoved(t)
		post(t, d.http("issuer"), "/v1/sign/jwt", `{"keyset":"edge","claims":{}}`).want(t, "by the old policy", "")
	})
	if e := d.reload(); e.Outcome != keystore.OutcomeDone {
		t.Errorf("once it can be written: %q, %q", e.Outcome, e.Reason)
	}
	if set := d.keySet(ops, "web"); set.Keystore != "other" {
		t.Errorf("it is in %s", set.Keystore)
	}
	post(t, d.http("issuer"), "/v1/sign/jwt", `{"keyset":"edge","claims":{}}`).want(t, "by the new policy", api.CodeForbidden)
}

package main

import (
	"context"
	"encoding/json"
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

// A restart continues keys, states and logs, and what was signed before still
// verifies.
func TestRestartContinues(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	d := startDev(t, dir)
	before := d.sign(d.client("issuer"), "web", `{"sub":"before"}`)
	sets := d.keySets()
	d.stop()
	entries := d.proven().Entries()

	d = startDev(t, dir)
	if now := d.keySets(); now != sets {
		t.Errorf("after the restart:\n%s\nbefore:\n%s", now, sets)
	}
	after := d.sign(d.client("issuer"), "web", `{"sub":"after"}`)
	if after.KID != before.KID {
		t.Errorf("another key signs after the restart: %s, before %s", after.KID, before.KID)
	}
	answers := []answer{{keyset: "web", reply: before, answered: time.Now()}, {keyset: "web", reply: after, answered: time.Now()}}
	d.wantVerified(answers)
	d.compared()
	d.stop()
	if now := d.proven().Entries(); now <= entries {
		t.Errorf("%d entries, before the restart %d", now, entries)
	}
	d.wantRecorded(answers)
	d.wantAccounted()
	for _, action := range []keystore.Action{keystore.ActStart, keystore.ActStop} {
		if n := len(d.logged(audit.Filter{Log: "lifecycle", Action: action})); n != 2 {
			t.Errorf("%d entries %s, want 2", n, action)
		}
	}
}

// A daemon that was killed while its worker logged in used to find its token no
// more: SoftHSM empties the token's object before it writes it anew.
func TestRestartAfterATornToken(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	before := d.sign(d.client("issuer"), "web", `{}`)
	d.kill()
	objects, err := filepath.Glob(filepath.Join(tokenHome(d.dir), "tokens", "*", "token.object"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("token objects: %v, %v", objects, err)
	}
	if err := os.Truncate(objects[0], 0); err != nil {
		t.Fatal(err)
	}
	d = startDev(t, d.dir)
	if after := d.sign(d.client("issuer"), "web", `{}`); after.KID != before.KID {
		t.Errorf("another key signs: %s, before %s", after.KID, before.KID)
	}
	if !strings.Contains(d.log.String(), "was put back") {
		t.Error("the daemon's output does not say so")
	}
	d.compared()
	d.stop()
	d.wantAccounted()
}

// keySets returns every version and its state, as text to compare.
func (d *chanceryd) keySets() string {
	d.t.Helper()
	var lines strings.Builder
	d.within(20*time.Second, "every successor is published", func() error {
		lines.Reset()
		list, err := d.client("operator").KeySets(d.t.Context())
		if err != nil {
			return err
		}
		for _, set := range list.KeySets {
			for _, v := range set.Versions {
				lines.WriteString(strings.Join([]string{set.Name, set.Algorithm, v.KID, v.State}, " ") + "\n")
				if v.PublishedAt == nil {
					return errNotYet
				}
			}
			if n := len(set.Versions); n < 2 && (set.Purpose == "jwt") {
				return errNotYet
			}
		}
		return nil
	})
	return lines.String()
}

// errNotYet keeps a poll going.
var errNotYet = errors.New("not yet")

// Another --fast or --module than at the first start is a wrong use.
func TestDevIsToldOnceWhatItIs(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	startDev(t, dir).stop()
	for _, args := range [][]string{{"--fast"}, {"--module", "/usr/lib/other.so"}} {
		out, status := chancerydSays(t, append([]string{"dev", "--dir", dir}, args...)...)
		if status != exitUsage {
			t.Errorf("dev %v: exit status %d, want %d\n%s", args, status, exitUsage, out)
		}
		if !strings.Contains(out, "error: ") || !strings.Contains(out, "hint: ") {
			t.Errorf("dev %v says\n%s", args, out)
		}
	}
}

// A directory whose sockets nobody could bind is refused before anything is
// made in it.
func TestDevRefusesALongDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), strings.Repeat("d", 90))
	out, status := chancerydSays(t, "dev", "--dir", dir)
	if status != exitUsage || !strings.Contains(out, "hint: use a shorter --dir") {
		t.Errorf("exit status %d\n%s", status, out)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

// Paths that SoftHSM's configuration cannot hold, and none at all, are refused
// before anything is made; an unset variable used to make keys where it stood.
func TestDevRefusesWhatIsNoDirectory(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"", filepath.Join(tempDir(t), "a#b"), filepath.Join(tempDir(t), "a\nb")} {
		out, status := chancerydSays(t, "dev", "--dir", dir)
		if status != exitUsage || !strings.Contains(out, "hint: ") {
			t.Errorf("%q: exit status %d\n%s", dir, status, out)
		}
		if _, err := os.Stat(dir); dir != "" && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: something was made: %v", dir, err)
		}
	}
}

// A directory that was moved names files where it was; that is what is said.
func TestDevWasMoved(t *testing.T) {
	t.Parallel()
	d := startDev(t, filepath.Join(tempDir(t), "here"))
	d.stop()
	there := filepath.Join(filepath.Dir(d.dir), "there")
	if err := os.Rename(d.dir, there); err != nil {
		t.Fatal(err)
	}
	out, status := chancerydSays(t, "dev", "--dir", there)
	if status != exitFailed || !strings.Contains(out, "was made as "+d.dir) || !strings.Contains(out, "hint: move it back") {
		t.Errorf("exit status %d\n%s", status, out)
	}
	if err := os.Rename(there, d.dir); err != nil {
		t.Fatal(err)
	}
	startDev(t, d.dir)
}

// A served directory that has lost its dev.json used to be given new ports, and
// was then refused by its own log, whose name holds the old one.
func TestDevMissesItsState(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.stop()
	state, before := filepath.Join(d.dir, "dev.json"), readOrEmpty(d.configFile())
	kept := readOrEmpty(state)
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	out, status := chancerydSays(t, "dev", "--dir", d.dir)
	if status != exitFailed || !strings.Contains(out, "dev.json is missing") || !strings.Contains(out, "hint: ") {
		t.Errorf("exit status %d\n%s", status, out)
	}
	if readOrEmpty(d.configFile()) != before {
		t.Error("the configuration was written anew")
	}
	if err := os.WriteFile(state, []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	again := startDev(t, d.dir)
	again.sign(again.client("issuer"), "web", `{}`)
}

// chancerydSays runs chanceryd to its end and returns its output and exit status.
func chancerydSays(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	out, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// SIGTERM lets requests in flight end: each is answered, in full, or was never
// taken.
func TestSIGTERMDrains(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.crowd(16, 0, "web", "edge") // legacy is the batch's alone
	c.atLeast(50)
	batch := make([]api.SignJWTRequest, api.MaxBatch)
	for i := range batch {
		batch[i] = api.SignJWTRequest{KeySet: "legacy", Claims: json.RawMessage(`{}`)}
	}
	type outcome struct {
		results []api.BatchResult
		err     error
	}
	long := make(chan outcome, 1)
	cl := d.client("issuer")
	d.sign(cl, "web", `{}`) // its connection is open
	acts := len(d.logged(audit.Filter{Log: "acts", KeySet: "legacy"}))
	go func() {
		results, err := cl.SignJWTBatch(context.Background(), batch)
		long <- outcome{results, err}
	}()
	d.within(20*time.Second, "the batch is in progress", func() error {
		if len(d.logged(audit.Filter{Log: "acts", KeySet: "legacy"})) < acts+20 {
			return errNotYet
		}
		return nil
	})
	d.stop() // fails the test unless the exit status is 0
	c.stop()
	got := <-long
	if got.err != nil {
		t.Errorf("the batch in flight: %v", got.err)
	}
	for i, r := range got.results {
		if r.Reply == nil {
			t.Fatalf("request %d of the batch in flight: %v", i, r.Problem)
		}
	}
	for _, a := range c.problems(true) {
		t.Errorf("a request that was taken was answered %v", a.err)
	}
	for _, r := range got.results {
		c.answers = append(c.answers, answer{keyset: "legacy", reply: r.Reply})
	}
	d.proven()
	d.wantRecorded(c.replies())
	t.Logf("%d tokens", len(c.replies()))
}

// Two daemons in one directory: the second gives up, says why, and harms
// nothing.
func TestOneDaemonOneDirectory(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	out, status := chancerydSays(t, "dev", "--dir", d.dir)
	if status != exitFailed {
		t.Errorf("exit status %d, want %d", status, exitFailed)
	}
	if !strings.Contains(out, "error: "+errLocked.Error()) {
		t.Errorf("it says\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "endpoints.json")); err != nil {
		t.Errorf("the first daemon's endpoints: %v", err)
	}
	d.sign(d.client("issuer"), "web", `{}`)
}

// The time from exec to the first signature, when keys exist, is told and not
// judged: this machine may be busy.
func TestTimeToTheFirstSignature(t *testing.T) {
	dir := tempDir(t)
	fresh := time.Now()
	d := startDev(t, dir)
	d.sign(d.client("issuer"), "web", `{}`)
	t.Logf("on a fresh directory: %v", time.Since(fresh).Round(time.Millisecond))
	for range 3 {
		d.stop()
		began := time.Now()
		endpoints := d.endpoints
		d = launch(t, dir, "dev", "--dir", dir)
		d.endpoints = endpoints // ports are in config.yaml
		c := d.client("issuer")
		var first *api.SignJWTReply
		d.within(30*time.Second, "the first signature", func() (err error) {
			first, err = c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
			return err
		})
		if !slices.Contains(d.published("web"), first.KID) {
			t.Errorf("%s signs and is not published", first.KID)
		}
		t.Logf("with keys: %v", time.Since(began).Round(time.Millisecond))
		d.awaitReady()
	}
}

package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// copyState copies what a backup has: catalog, logs and what belongs to them, of a
// daemon that is not running. The token is another device and is not in it.
func (d *chanceryd) copyState(to string) {
	d.t.Helper()
	for _, name := range stateFiles {
		from := filepath.Join(d.dir, name)
		info, err := os.Stat(from)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			d.t.Fatal(err)
		}
		if !info.IsDir() {
			copyFile(d.t, from, filepath.Join(to, name))
		} else if err := os.CopyFS(filepath.Join(to, name), os.DirFS(from)); err != nil {
			d.t.Fatal(err)
		}
	}
}

var stateFiles = []string{"audit", "catalog.db", "catalog.db-wal", "catalog.db-shm", "audit.vkey", "brake", "clock", "node.id"}

// restore puts a backup in the place of the state.
func (d *chanceryd) restore(backup string) {
	d.t.Helper()
	for _, name := range stateFiles {
		if err := os.RemoveAll(filepath.Join(d.dir, name)); err != nil {
			d.t.Fatal(err)
		}
	}
	restored := &chanceryd{t: d.t, dir: backup}
	restored.copyState(d.dir)
}

// awaitRemembered waits until the token remembers so many entries of the lifecycle.
func (d *chanceryd) awaitRemembered(entries int64) {
	d.t.Helper()
	d.within(30*time.Second, "the token remembers the log", func() error {
		_, text := d.get(d.endpoints.Admin + "/metrics")
		for line := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(line, `chancery_log_remembered_entries{keystore="hsm"} `); ok {
				if n, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && int64(n) >= entries {
					return nil
				}
			}
		}
		return errNotYet
	})
}

// indexOf returns the index in the name of an entry.
func indexOf(t *testing.T, entry string) int64 {
	t.Helper()
	_, text, _ := strings.Cut(entry, "#")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("entry %q: %v", entry, err)
	}
	return n
}

// S08, A26: yesterday's catalog and yesterday's log fit each other, and the token
// remembers today. Nothing is signed, the node says why, and what was there is as
// it was. The newest state put back, it goes on.
func TestS08CatalogAndLogRolledBackTogether(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.keySets() // so that what begins by itself is over
	d.stop()
	yesterday, today := t.TempDir(), t.TempDir()
	d.copyState(yesterday)
	d = startDev(t, d.dir)
	step, err := d.client("operator").Suspend(t.Context(), "web", api.OperateRequest{Reason: "a step that is to be forgotten"})
	if err != nil {
		t.Fatal(err)
	}
	d.awaitRemembered(indexOf(t, step.Entry) + 1)
	d.stop()
	d.copyState(today)

	d.restore(yesterday)
	d = launch(t, d.dir, "dev", "--dir", d.dir)
	d.within(60*time.Second, "the daemon says why it signs nothing", func() error {
		if !strings.Contains(d.log.String(), "audit log is not trusted") {
			return errNotYet
		}
		return nil
	})
	if text := d.log.String(); !strings.Contains(text, "the token of keystore hsm remembers") {
		t.Errorf("it says:\n%s", text)
	}
	d.kill()
	d.verifyLog() // what was there is as it was

	d.restore(today)
	d = startDev(t, d.dir)
	if _, err := d.client("operator").Resume(t.Context(), "web", api.OperateRequest{Reason: "the step was found again"}); err != nil {
		t.Fatal(err)
	}
	d.sign(d.client("issuer"), "web", `{}`)
	d.stop()
	d.wantAccounted()
	if n := len(d.logged(audit.Filter{Action: keystore.ActSuspend, Outcome: keystore.OutcomeDone})); n != 1 {
		t.Errorf("%d suspensions in the log", n)
	}
}

// What the token remembers and nobody has any more: the node goes on under another
// name, with logs of its own, and enters how long the lost one was. An auditor has
// the old log as far as it was saved, and sees that it once had more.
func TestANodeGoesOnUnderAnotherName(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.keySets()
	before := d.sign(d.client("issuer"), "web", `{"sub":"before"}`)
	d.stop()
	backup := t.TempDir()
	d.copyState(backup)
	d = startDev(t, d.dir)
	lost, err := d.client("operator").Suspend(t.Context(), "edge", api.OperateRequest{Reason: "a step that is lost"})
	if err != nil {
		t.Fatal(err)
	}
	d.awaitRemembered(indexOf(t, lost.Entry) + 1)
	d.stop()

	d.restore(backup)
	old := filepath.Join(d.dir, "audit.lost")
	if err := os.Rename(filepath.Join(d.dir, "audit"), old); err != nil {
		t.Fatal(err)
	}
	d.edit("node: dev #", "node: dev-2 #")
	d = startDev(t, d.dir)
	d.within(20*time.Second, "web is served, each of its keys having been seen signing into the new log", func() error {
		if status, body := d.get(d.endpoints.Public + "/issuers/web/jwks.json"); status != http.StatusOK {
			return errors.New(body)
		}
		return nil
	})
	answers := []answer{{keyset: "web", reply: before, answered: time.Now()}}
	after := d.sign(d.client("issuer"), "web", `{"sub":"after"}`)
	answers = append(answers, answer{keyset: "web", reply: after, answered: time.Now()})
	d.wantVerified(answers)
	if !strings.Contains(after.Entry, "/audit/dev-2/acts/") {
		t.Errorf("entered as %s", after.Entry)
	}
	origin, _, _ := strings.Cut(lost.Entry, "#")
	d.within(20*time.Second, "it is entered what the token remembers of the lost log", func() error {
		for _, e := range d.logged(audit.Filter{Action: keystore.ActAuditPeer}) {
			if size, err := strconv.ParseInt(e.Detail["size"], 10, 64); err == nil && e.Detail["origin"] == origin && size > indexOf(t, lost.Entry) {
				return nil
			}
		}
		return errNotYet
	})
	d.stop()
	d.proven()
	saved := &chanceryd{t: t, dir: tempDir(t)}
	if err := os.Rename(old, filepath.Join(saved.dir, "audit")); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(backup, "audit.vkey"), filepath.Join(saved.dir, "audit.vkey"))
	saved.proven()
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// smallFileSystem mounts a tmpfs of a few pages' room on dir for the length of
// the test.
func smallFileSystem(t *testing.T, dir, size string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
}

// fill takes all the room there is beside dir's files, and returns what gives it
// back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for page := make([]byte, 4096); err == nil; {
		_, err = f.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// S09: the log's file system is full. Nothing leaves, stopping works, what is
// published stays, and when there is room again everything goes on by itself.
func TestS09LogsFileSystemFull(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	smallFileSystem(t, filepath.Join(dir, "audit"), "32m") // room for a second journal of acts
	d := startDev(t, dir)
	c := d.crowd(4, 20*time.Millisecond, "web", "legacy")
	edge, operator := d.client("issuer"), d.client("operator")
	free := d.fillUnderLoad(c)

	_, err := edge.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "edge", Claims: json.RawMessage(`{}`)})
	if p := wantCode(t, err, api.CodeAuditUnavailable); p.RetryAfter < 1 {
		t.Errorf("Retry-After %d", p.RetryAfter)
	}
	if ready, words := d.readyz(); ready || !strings.Contains(words, "[-]log") {
		t.Errorf("ready %v:\n%s", ready, words)
	}
	for _, keyset := range []string{"web", "legacy", "edge"} {
		if len(d.published(keyset)) == 0 {
			t.Errorf("the key set of %s is empty", keyset)
		}
	}
	stopped, err := operator.Suspend(t.Context(), "edge", api.OperateRequest{Reason: "while the log is full"})
	if err != nil {
		t.Fatalf("suspending while the log is full: %v", err)
	}
	if !stopped.Suspended || !stopped.Durable {
		t.Errorf("%+v, want suspended and durable: the brake file is elsewhere", stopped)
	}
	_, err = edge.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "edge", Claims: json.RawMessage(`{}`)})
	if p := problem(t, err); p.Code != api.CodeKeySetSuspended && p.Code != api.CodeAuditUnavailable {
		t.Errorf("signing with a suspended key set: %v", p)
	}

	free()
	took := c.successAfter(time.Now(), 10*time.Second)
	t.Logf("from room to the next token: %v", took)
	if took > 5*time.Second {
		t.Errorf("signing went on after %v, want 5 s at most", took)
	}
	_, err = edge.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "edge", Claims: json.RawMessage(`{}`)})
	wantCode(t, err, api.CodeKeySetSuspended)
	d.within(10*time.Second, "the suspension's record follows", func() error {
		if n := len(d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActSuspend})); n != 1 {
			return fmt.Errorf("%d entries", n)
		}
		return nil
	})
	d.within(10*time.Second, "everything but the suspended key set is ready", func() error {
		if _, words := d.readyz(); strings.Count(words, "[-]") != 1 || !strings.Contains(words, "[-]keyset edge") {
			return errors.New(words)
		}
		return nil
	})
	if _, err := operator.Resume(t.Context(), "edge", api.OperateRequest{Reason: "there is room again"}); err != nil {
		t.Fatalf("resuming: %v", err)
	}
	d.sign(edge, "edge", `{}`)
	c.stop()
	wantUnavailable(t, c.problems(false), api.CodeAuditUnavailable)
	d.wantVerified(c.replies())
	d.compared()
	d.stop()
	d.proven()
	d.wantRecorded(c.replies())
	d.wantAccounted()
	t.Logf("%d tokens, %d refused", len(c.replies()), len(c.problems(false)))
}

// fillUnderLoad fills the log's file system and waits until nothing is signed
// any more: the room that was preallocated is used up first.
func (d *chanceryd) fillUnderLoad(c *crowd) (free func()) {
	d.t.Helper()
	free = fill(d.t, filepath.Join(d.dir, "audit"))
	d.within(60*time.Second, "the log is full", func() error {
		_, err := d.client("issuer").SignJWTBatch(d.t.Context(), make256("web"))
		if err != nil {
			return err
		}
		if _, words := d.readyz(); !strings.Contains(words, "[-]log") {
			return errNotYet
		}
		return nil
	})
	return free
}

func make256(keyset string) []api.SignJWTRequest {
	all := make([]api.SignJWTRequest, api.MaxBatch)
	for i := range all {
		all[i] = api.SignJWTRequest{KeySet: keyset, Claims: json.RawMessage(`{}`)}
	}
	return all
}

// S10: a sync that fails is a loss, and never tried again as if it were none:
// signing stops, the log is read again, and goes on. I1: what was released is
// recorded.
func TestS10SyncFailsUnderLoad(t *testing.T) {
	t.Parallel()
	needStrace(t)
	for _, when := range []int{9, 23} {
		dir := tempDir(t)
		startDev(t, dir).stop()
		// Each thread counts its own syncs, so the fault comes again now and then.
		d, _ := launchTraced(t, dir, fmt.Sprintf("fdatasync:error=EIO:when=%d", when), "dev", "--dir", dir)
		d.awaitServing()
		c := d.crowd(8, 0, "web", "edge")
		d.within(30*time.Second, "a sync fails", func() error {
			if !strings.Contains(d.log.String(), "the audit log cannot be written") {
				return errNotYet
			}
			return nil
		})
		took := c.successAfter(time.Now(), 20*time.Second)
		d.untrace() // a last sync that fails would leave the end of the log unsigned
		c.atLeast(len(c.replies()) + 50)
		c.stop()
		wantUnavailable(t, c.problems(false), api.CodeAuditUnavailable, api.CodeLeaseExpired)
		d.wantVerified(c.replies())
		d.stop()
		d.proven()
		d.wantRecorded(c.replies())
		n := len(d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActAuditResume}))
		if n == 0 {
			t.Error("the log does not tell of the failure")
		}
		t.Logf("fdatasync %d of a thread failed: %d tokens, %d refused, signing again after %v, %d resumptions",
			when, len(c.replies()), len(c.problems(false)), took, n)
	}
}

// untrace has strace let go of the daemon and its worker. One that does not do so in
// time, because it waits for a process that has ended, is ended itself, which lets go
// as well.
func (d *chanceryd) untrace() {
	d.t.Helper()
	pid := d.tracer()
	if pid == 0 {
		d.t.Fatal("nothing traces the daemon")
	}
	began := time.Now()
	signal := syscall.SIGTERM
	d.within(10*time.Second, "strace lets go", func() error {
		if d.tracer() == 0 && syscall.Kill(pid, 0) != nil { // of all, and is gone
			return nil
		}
		if time.Since(began) > 5*time.Second {
			signal = syscall.SIGKILL
		}
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			d.t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		return errNotYet
	})
	d.goOn()
}

// goOn continues the daemon and its workers. strace stops what runs to let go of it,
// and a stop may come after it has let go: then a daemon did not end by SIGTERM.
func (d *chanceryd) goOn() {
	d.t.Helper()
	for _, pid := range append(d.workers(), d.cmd.Process.Pid) {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			d.t.Error(err) // it may be asked beside the scenario
		}
	}
}

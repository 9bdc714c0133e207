package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
	"chancery/keystore/pkcs11"
	"chancery/signer/api"
)

// kill -9 of all workers while 16 clients sign: no wrong and no unrecorded
// signature, only requests in flight fail, and signing goes on at once.
func TestP13WorkersKilledUnderLoad(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.crowd(16, 0, "web", "legacy", "edge")
	c.atLeast(100)
	var recoveries []time.Duration
	for range 2 { // each after a good service: one that dies again at once is started with a pause
		d.within(10*time.Second, "the worker has served for a while", d.servedFor(1200*time.Millisecond))
		at := d.killWorkers()
		recoveries = append(recoveries, c.successAfter(at, 2*time.Second))
		c.atLeast(len(c.replies()) + 100)
	}
	c.stop()
	replies, problems := c.replies(), c.problems(false)
	t.Logf("%d tokens, %d problems; from kill -9 to the next token: %v", len(replies), len(problems), recoveries)
	wantUnavailable(t, problems, api.CodeBackendUnavailable)
	if most := 2 * 16; len(problems) > most {
		t.Errorf("%d requests failed, and at most %d were in flight", len(problems), most)
	}
	d.wantVerified(replies)
	d.stop()
	d.proven()
	d.wantRecorded(replies)
}

// servedFor is a condition: the token has been ready for that long.
func (d *chanceryd) servedFor(long time.Duration) func() error {
	operator := d.client("operator")
	return func() error {
		list, err := operator.Tokens(d.t.Context())
		if err != nil {
			return err
		}
		if s := list.Tokens[0]; s.State != string(keystore.TokenReady) || time.Since(s.Since) < long {
			return fmt.Errorf("%s since %v", s.State, s.Since)
		}
		return nil
	}
}

// killWorkers kills all workers, those that sign and the clerk, and returns when.
func (d *chanceryd) killWorkers() time.Time {
	d.t.Helper()
	at := time.Now()
	d.signalWorkers(syscall.SIGKILL)
	return at
}

// calmWorkers waits until the workers have been the same for a second.
func (d *chanceryd) calmWorkers() {
	d.t.Helper()
	var before []int
	since := time.Now()
	d.within(20*time.Second, "no worker comes or goes", func() error {
		if now := d.workers(); !slices.Equal(now, before) {
			before, since = now, time.Now()
		}
		if time.Since(since) < time.Second {
			return errNotYet
		}
		return nil
	})
}

// signalWorkers sends a signal to all workers, of which there is one at least.
func (d *chanceryd) signalWorkers(signal syscall.Signal) {
	d.t.Helper()
	d.within(10*time.Second, "there are workers", func() error {
		sent := 0
		for _, pid := range d.workers() {
			if err := syscall.Kill(pid, signal); err == nil {
				sent++
			} else if !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		if sent == 0 {
			return errors.New("none")
		}
		return nil
	})
}

// However often the workers are killed, the daemon keeps no descriptor, thread or
// goroutine of it, and offers the PIN no more often than it has to.
func TestS20WorkersKilledTwentyTimes(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	cl := d.client("issuer")
	signs := func() error {
		_, err := cl.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
		return err
	}
	for range 3 { // what is made once has been made
		d.killWorkers()
		d.within(10*time.Second, "signing goes on", signs)
	}
	before := d.usage()
	// The catalog opens up to four connections for readers as they come, each
	// with two files; a descriptor kept of each worker would be twenty.
	const readers = 8
	for range 20 {
		d.killWorkers()
		d.within(10*time.Second, "signing goes on", signs)
	}
	d.within(10*time.Second, "nothing of the workers is left", func() error {
		now := d.usage()
		if now.files > before.files+readers || now.goroutines > before.goroutines+2 {
			return fmt.Errorf("after 20 kills %+v, before %+v", now, before)
		}
		return nil
	})
	t.Logf("before 20 kills %+v, after %+v", before, d.usage())
	tokens, err := d.client("operator").Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s := tokens.Tokens[0]; s.State != string(keystore.TokenReady) || s.Restarts < 20 {
		t.Errorf("the token's state after 23 kills: %+v", s)
	}
}

type usage struct{ files, threads, goroutines int }

func (d *chanceryd) usage() (u usage) {
	d.t.Helper()
	for dir, n := range map[string]*int{"fd": &u.files, "task": &u.threads} {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", d.cmd.Process.Pid, dir))
		if err != nil {
			d.t.Fatal(err)
		}
		*n = len(list)
	}
	_, metrics := d.get(d.endpoints.Admin + "/metrics")
	for line := range strings.Lines(metrics) {
		if n, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			u.goroutines, _ = strconv.Atoi(strings.TrimSpace(n))
		}
	}
	return u
}

// kill -9 of the daemon at any moment of rotations leaves the old state or the
// new one.
func TestS01KilledWhileRotating(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	rounds := soak(t, 3, 100, "rounds")
	var kept []answer
	for range rounds {
		d := startDev(t, dir, "--fast")
		d.wantSound()
		d.wantVerified(kept) // what was signed before the kill still verifies, or has expired
		c := d.crowd(4, 50*time.Millisecond, "web", "legacy", "edge")
		operator := d.client("operator")
		for _, keyset := range []string{"web", "legacy", "edge"} { // something is always about to happen
			operator.Rotate(t.Context(), keyset, api.OperateRequest{Reason: "to be interrupted"})
		}
		time.Sleep(time.Duration(rand.Int64N(int64(3 * time.Second))))
		d.kill()
		c.stop()
		kept = append(kept, c.replies()...)
	}
	d := startDev(t, dir, "--fast")
	d.wantSound()
	d.wantVerified(kept)
	d.stop()
	d.wantAccounted()
	d.wantRecorded(kept)
	t.Logf("%d tokens, %d entries", len(kept), d.proven().Entries())
}

// kill -9 at any moment of the first start leaves something a second start
// continues with.
func TestS01KilledDuringTheFirstStart(t *testing.T) {
	t.Parallel()
	rounds := soak(t, 3, 100, "moments")
	for range rounds {
		dir := tempDir(t)
		d := launch(t, dir, "dev", "--dir", dir, "--fast")
		time.Sleep(time.Duration(rand.Int64N(int64(1200 * time.Millisecond))))
		d.kill()
		d = startDev(t, dir, "--fast")
		d.wantSound()
		d.sign(d.client("issuer"), "web", `{}`)
		d.stop()
		d.wantAccounted()
	}
}

// S01: kill -9 at a durable point: when the daemon, its worker, or what it runs
// at its first start, has returned from the n-th fsync or fdatasync of them all.
func TestS01KilledAtADurablePoint(t *testing.T) {
	t.Parallel()
	needStrace(t)
	points := []int{4, 25, 60, 90, 110, 130}
	if soak(t, len(points), 60, "durable points") == 60 {
		points = nil
		for n := 1; n <= 60; n++ {
			points = append(points, 3*n)
		}
	}
	killed := 0
	for _, n := range points {
		dir := tempDir(t)
		d, synced := launchTraced(t, dir, "fsync,fdatasync:delay_exit=2000", "dev", "--dir", dir, "--fast")
		if await(synced, n, 20*time.Second) {
			killed++
		}
		d.kill()
		d = startDev(t, dir, "--fast")
		d.wantSound()
		d.stop()
		d.wantAccounted()
	}
	t.Logf("%d of %d ended at their durable point", killed, len(points))
	if killed < len(points)/2 {
		t.Error("most did not come that far: little was shown")
	}
}

func needStrace(t *testing.T) {
	t.Helper()
	needTool(t, "strace", "strace")
}

// launchTraced starts chanceryd under strace, which is its child, with a fault
// for some calls: their names, a colon, and what befalls them. It returns a
// channel that receives each of these calls when it has returned.
func launchTraced(t *testing.T, dir, inject string, args ...string) (*chanceryd, <-chan string) {
	t.Helper()
	needSoftHSM(t)
	pipe := filepath.Join(tempDir(t), "strace")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 4096)
	go func() { // until the test ends and closes the pipe
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if strings.Contains(sc.Text(), "= ") { // a call that has returned
				select {
				case lines <- sc.Text():
				default:
				}
			}
		}
	}()
	calls, _, _ := strings.Cut(inject, ":")
	strace := []string{"-D", "-f", "-y", "-I2", "-qqq", "-o", pipe, "-e", "trace=" + calls, "-e", "inject=" + inject, "--", os.Args[0]}
	d := launchCommand(t, dir, exec.Command("strace", append(strace, args...)...))
	t.Cleanup(func() { // before the daemon is stopped
		out.Close()
		for range lines {
		}
	})
	return d, lines
}

// await reports whether n lines come within limit.
func await(lines <-chan string, n int, limit time.Duration) bool {
	timeout := time.After(limit)
	for range n {
		select {
		case <-lines:
		case <-timeout:
			return false
		}
	}
	return true
}

// wantSound checks what has to be true of a daemon that is ready: each key set
// has one active version, which relying parties know and which signs.
func (d *chanceryd) wantSound() {
	d.t.Helper()
	d.compared()
	list, err := d.client("operator").KeySets(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	if len(list.KeySets) < 5 {
		d.t.Errorf("%d key sets", len(list.KeySets))
	}
	for _, set := range list.KeySets {
		var active []string
		for _, v := range set.Versions {
			if v.State == keystore.Active.String() {
				active = append(active, v.KID)
			}
		}
		if len(active) != 1 {
			d.t.Errorf("key set %s has %d active versions", set.Name, len(active))
			continue
		}
		if set.Purpose != string(keystore.PurposeJWT) {
			continue
		}
		reply := d.sign(d.client("issuer"), set.Name, `{}`)
		if !slices.Contains(d.published(set.Name), reply.KID) {
			d.t.Errorf("key set %s: %s signs and is not published", set.Name, reply.KID)
		}
		d.wantVerified([]answer{{keyset: set.Name, reply: reply, answered: time.Now()}})
	}
}

// wantAccounted checks, of a daemon that has ended well, that its log is proven and
// tells of no rule that was broken, that every version's state is the one its log
// tells last and its key is on the token, and that every key there is a version's,
// the probe's, or reported.
func (d *chanceryd) wantAccounted() {
	d.t.Helper()
	d.proven()
	wantByTheRules(d.t, d.dir)
	ctx := context.Background()
	c, err := catalog.Open(ctx, catalog.Config{Path: filepath.Join(d.dir, "catalog.db")})
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	view, err := c.View(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	if rows, err := c.Outbox(ctx); err != nil || len(rows) > 0 {
		d.t.Errorf("%d steps wait to be entered: %v", len(rows), err)
	}
	told, orphans := d.toldStates(), make(map[string]bool)
	for _, e := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyOrphan}) {
		orphans[e.Detail["key_id"]+" "+e.Detail["label"]] = true
	}
	held := make(map[string]keystore.State)
	for _, set := range view.KeySets() {
		for _, v := range set.Versions {
			held[v.KeyID.String()] = v.State
			if state := told[fmt.Sprint(set.Name, " ", v.Number)]; state != v.State.String() {
				d.t.Errorf("%s version %d is %v, and the log says %q", set.Name, v.Number, v.State, state)
			}
		}
	}
	there := make(map[string]bool)
	for _, o := range d.onToken() {
		there[o.ID] = true
		state, ours := held[o.ID]
		probe := strings.HasPrefix(o.Label, "chancery/"+string(keystore.PurposeProbe)+"/")
		if !probe && (!ours || state == keystore.Abandoned) && !orphans[o.ID+" "+o.Label] {
			d.t.Errorf("a key on the token is no version's and was not reported: %+v", o)
		}
	}
	for id, state := range held {
		if (state.Known() || state == keystore.Retired) && !there[id] {
			d.t.Errorf("key %s of a version that is %v is not on the token", id, state)
		}
	}
}

// compared waits until what a crash left has been finished and the catalog
// compared with the token, which a daemon that is ready may still be at.
func (d *chanceryd) compared() {
	d.t.Helper()
	d.within(30*time.Second, "the token has been compared", func() error {
		if _, metrics := d.get(d.endpoints.Admin + "/metrics"); !strings.Contains(metrics, "\nchancery_orphan_keys ") || strings.Contains(metrics, "\nchancery_orphan_keys NaN") {
			return errNotYet
		}
		return nil
	})
}

// toldStates returns the last state of each version that the lifecycle log tells.
func (d *chanceryd) toldStates() map[string]string {
	told := make(map[string]string)
	for _, e := range d.logged(audit.Filter{Log: "lifecycle"}) {
		if e.Version > 0 && e.State != "" && e.Outcome != keystore.OutcomeFailed && e.Action != keystore.ActKeyProven && e.Action != keystore.ActKeyServed {
			told[fmt.Sprint(e.KeySet, " ", e.Version)] = e.State
		}
	}
	return told
}

// onToken enumerates the private keys of the token of a daemon that has ended.
func (d *chanceryd) onToken() []keystore.Object {
	d.t.Helper()
	cfg, findings := config.Load(filepath.Join(d.dir, "config.yaml"))
	if cfg == nil {
		d.t.Fatal(findings)
	}
	ks := cfg.Keystores["hsm"].PKCS11
	p, err := pkcs11.Open(pkcs11.Config{Name: "hsm", Module: ks.Module, URI: ks.Token, Env: ks.Env, StateDir: filepath.Join(cfg.Data, "tokens")})
	if err != nil {
		d.t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	list, err := p.List(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	return list
}

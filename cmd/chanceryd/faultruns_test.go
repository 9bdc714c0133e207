package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
)

// done stops the daemon and verifies the whole log.
func (f *faulty) done() {
	f.t.Helper()
	f.others.stop()
	f.stop()
	f.proven()
	f.wantRecorded(f.others.replies())
}

// P13, I2: a module that crashes at every fiftieth signature, under sixteen
// clients. What is released verifies and is recorded, and everybody is answered.
func TestP13EveryFiftiethSignatureCrashes(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	span := time.Duration(soak(t, 5, 60, "seconds")) * time.Second
	rate := func() (*crowd, float64) {
		c, began := f.crowd(16, 0, "remote"), time.Now()
		time.Sleep(span)
		c.stop()
		return c, float64(len(c.replies())) / time.Since(began).Seconds()
	}
	calm, undisturbed := rate()
	f.order("C_Sign segv every=50")
	rough, disturbed := rate()
	f.order()
	ended := time.Now()
	f.within(10*time.Second, "remote signs", f.signs)
	recovered := time.Since(ended)
	problems := rough.problems(false)
	wantUnavailable(t, problems, api.CodeBackendUnavailable)
	for _, a := range rough.all() {
		if took := a.answered.Sub(a.sent); took > requestWithin {
			t.Errorf("I6: a request took %v", took)
		}
	}
	if len(rough.replies()) < 100 {
		t.Errorf("%d tokens in %v", len(rough.replies()), span)
	}
	crashes := f.module.Count("C_Sign:ordered")
	if crashes < 3 {
		t.Errorf("%d crashes", crashes)
	}
	f.wantVerified(calm.replies())
	f.wantVerified(rough.replies())
	t.Logf("%.0f tokens a second undisturbed, %.0f with %d crashes: %.0f %%", undisturbed, disturbed, crashes, 100*disturbed/undisturbed)
	t.Attr("provoked", "C_Sign segv every=50, 16 clients, "+span.String())
	t.Attr("seen", fmt.Sprintf("%d crashes, %d × 200, %d × 503, all verified and recorded, %.0f %% of the undisturbed rate",
		crashes, len(rough.replies()), len(problems), 100*disturbed/undisturbed))
	t.Attr("recovered", recovered.Round(time.Millisecond).String())
	t.Attr("promises", "I2 I6 I16")
	f.others.stop()
	f.stop()
	f.proven()
	f.wantRecorded(append(append(calm.replies(), rough.replies()...), f.others.replies()...))
}

// P09: a device that has no session more for another worker. The one that is
// left signs, and the other one is back when there are sessions.
func TestP09OneWorkerIsLeft(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	f.within(10*time.Second, "two workers", f.haveWorkers(2))
	f.order("C_OpenSession rv CKR_SESSION_COUNT")
	killAll(f.remoteWorkers()[:1])
	c := f.crowd(4, 5*time.Millisecond, "remote")
	before := f.module.Count("C_OpenSession")
	time.Sleep(3 * time.Second)
	if n := f.module.Count("C_OpenSession") - before; n > 30 {
		t.Errorf("%d sessions were asked for in three seconds", n)
	}
	f.order()
	ended := time.Now()
	f.within(15*time.Second, "two workers", f.haveWorkers(2))
	t.Attr("provoked", "C_OpenSession rv CKR_SESSION_COUNT; one of two workers killed")
	t.Attr("recovered", time.Since(ended).Round(time.Millisecond).String())
	c.stop()
	for _, a := range c.all() {
		if a.err != nil {
			t.Errorf("the worker that is left: %v", a.err)
		}
	}
	t.Attr("seen", fmt.Sprintf("%d × 200 by the other worker", len(c.replies())))
	f.othersUnharmed(t, 0)
	f.done()
}

// haveWorkers is a condition: so many workers serve the broken token.
func (f *faulty) haveWorkers(n int) func() error {
	operator := f.client("operator")
	return func() error {
		list, err := operator.Tokens(f.t.Context())
		if err != nil {
			return err
		}
		for _, token := range list.Tokens {
			if token.Keystore == "other" && token.Workers != n {
				return fmt.Errorf("%d workers", token.Workers)
			}
		}
		return nil
	}
}

// P15: the daemon never forks but to execute at once, with the memory shared
// until then: nothing runs in a copy of a process that has loaded something.
func TestP15WorkersAreExecuted(t *testing.T) {
	t.Parallel()
	needStrace(t)
	dir := tempDir(t)
	startDev(t, dir).stop()
	out := dir + "/strace.log"
	strace := []string{"-D", "-f", "-I2", "-qqq", "-o", out, "-e", "trace=fork,vfork,clone,clone3,execve", "--", os.Args[0], "dev", "--dir", dir}
	d := launchCommand(t, dir, exec.Command("strace", strace...))
	d.awaitReady()
	d.sign(d.client("issuer"), "web", `{}`)
	d.killWorkers()
	d.within(10*time.Second, "another worker signs", func() error {
		_, err := d.client("issuer").SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
		return err
	})
	d.kill()                // strace writes each call when it is made
	startDev(t, dir).stop() // signs what that left in the log
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	executed := strings.Count(string(b), `execve("/proc/self/exe"`)
	if executed < 2 {
		t.Errorf("%d workers were executed", executed)
	}
	forked := 0
	for line := range strings.Lines(string(b)) {
		if !regexp.MustCompile(`\b(fork|vfork|clone3?)\(`).MatchString(line) || strings.Contains(line, "CLONE_THREAD") || strings.Contains(line, "resumed>") {
			continue
		}
		forked++
		if !strings.Contains(line, "CLONE_VM") || !strings.Contains(line, "CLONE_VFORK") {
			t.Errorf("a process was copied: %s", line)
		}
	}
	if forked == 0 {
		t.Error("no process was begun")
	}
	t.Attr("provoked", "strace -e trace=fork,vfork,clone,clone3,execve")
	t.Attr("seen", fmt.Sprintf("%d processes begun, each executed at once", forked))
}

// P16: other slots do not matter to a token that is named by its serial number.
func TestP16SlotsChangeTheirNumbers(t *testing.T) {
	t.Parallel()
	util := needTool(t, "softhsm2-util", "softhsm2")
	f := newFaulty(t)
	for i := range 3 {
		cmd := exec.Command(util, "--init-token", "--free", "--label", fmt.Sprint("more-", i), "--pin", "13572468", "--so-pin", "13572468")
		cmd.Env = []string{"SOFTHSM2_CONF=" + f.token.Conf}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		killAll(f.remoteWorkers())
		f.within(5*time.Second, "remote signs", f.signs)
	}
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "softhsm2-util --init-token --free, three times; workers killed")
	t.Attr("seen", "the token is found by its serial number")
	f.done()
}

// P29: other programs use the token all the while.
func TestP29OthersUseTheToken(t *testing.T) {
	t.Parallel()
	util := needTool(t, "softhsm2-util", "softhsm2")
	f := newFaulty(t)
	c := f.crowd(4, 0, "remote")
	operator := f.client("operator")
	ended := time.Now().Add(time.Duration(soak(t, 4, 60, "seconds")) * time.Second)
	looks, rotations := 0, 0
	for time.Now().Before(ended) {
		cmd := exec.Command(util, "--show-slots")
		cmd.Env = []string{"SOFTHSM2_CONF=" + f.token.Conf}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if looks++; looks%20 == 0 && rotations < 3 {
			if _, err := operator.Rotate(t.Context(), "remote", rotateFor("P29")); err == nil {
				rotations++
			}
		}
	}
	c.stop()
	problems := c.problems(false)
	wantUnavailable(t, problems, api.CodeBackendUnavailable)
	if len(problems) > len(c.replies())/100 {
		t.Errorf("%d problems beside %d tokens", len(problems), len(c.replies()))
	}
	f.wantVerified(c.replies())
	t.Attr("provoked", fmt.Sprintf("softhsm2-util --show-slots, %d times, beside two workers", looks))
	t.Attr("seen", fmt.Sprintf("%d × 200, %d × 503", len(c.replies()), len(problems)))
	f.done()
}

// P30: the token is deleted under the daemon. Its session copies would sign on;
// it is noticed all the same, and no key is made on whatever comes in its place.
func TestP30TheTokenIsDeleted(t *testing.T) {
	t.Parallel()
	util := needTool(t, "softhsm2-util", "softhsm2")
	f := newFaulty(t)
	made := f.module.Count("C_GenerateKeyPair")
	cmd := exec.Command(util, "--delete-token", "--serial", f.token.Serial)
	cmd.Env = []string{"SOFTHSM2_CONF=" + f.token.Conf}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	deleted := time.Now()
	f.within(15*time.Second, "remote signs no more", func() error {
		if err, s := f.signs(), f.state(); err == nil || s == keystore.TokenReady {
			return fmt.Errorf("it is %s, and signs: %v", s, err == nil)
		}
		return nil
	})
	noticed := time.Since(deleted)
	wantCode(t, f.signs(), api.CodeBackendUnavailable)
	if n := f.module.Count("C_GenerateKeyPair"); n != made {
		t.Errorf("%d keys were made", n-made)
	}
	if len(f.published("remote")) == 0 {
		t.Error("its key set is empty")
	}
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "softhsm2-util --delete-token")
	t.Attr("seen", "503 within "+noticed.Round(time.Millisecond).String()+", no key made")
	f.done()
}

// S19: restarts while the token fails make no keys.
func TestS19ARestartStormMakesNoKeys(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	f.others.stop()
	f.stop()
	made := f.module.Count("C_GenerateKeyPair")
	rounds := soak(t, 5, 50, "restarts")
	for i := range rounds {
		f.order([]string{"C_Sign rv CKR_DEVICE_ERROR", "C_GenerateKeyPair rv CKR_DEVICE_ERROR", "C_FindObjects segv", "C_Login rv CKR_DEVICE_REMOVED times=1"}[i%4])
		f.chanceryd = launch(t, f.dir, "dev", "--dir", f.dir)
		f.awaitServing()
		time.Sleep(100 * time.Millisecond)
		f.kill()
	}
	f.order()
	f.chanceryd = launch(t, f.dir, "dev", "--dir", f.dir)
	f.awaitServing()
	f.issuer = f.client("issuer")
	if f.state() == keystore.TokenPINRejected { // a login that failed counts as a wrong PIN
		if _, err := f.client("operator").TokenRetry(t.Context(), "other"); err != nil {
			t.Log(err)
		}
	}
	f.within(15*time.Second, "remote signs", func() error {
		if f.state() == keystore.TokenPINRejected {
			return nil
		}
		return f.signs()
	})
	if n := f.module.Count("C_GenerateKeyPair") - f.module.Count("C_GenerateKeyPair:ordered"); n != made {
		t.Errorf("%d keys were made", n-made)
	}
	t.Attr("provoked", fmt.Sprintf("%d starts and kills with a failing token", rounds))
	t.Attr("promises", "I5")
	t.Attr("seen", "no key made")
	f.stop()
	f.proven()
}

package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/pkcs11"
	"chancery/softhsm/softhsmtest"
)

// newKey makes a key of purpose jwt.
func newKey(t testing.TB, p *pkcs11.Provider, alg keystore.Algorithm) (keystore.KeyRef, keystore.Key) {
	t.Helper()
	ref := keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: alg}
	var err error
	if ref.SPKI, err = p.Generate(t.Context(), ref.ID, keystore.PurposeJWT, alg); err != nil {
		t.Fatal(err)
	}
	k, err := p.Open(t.Context(), ref, keystore.PurposeJWT)
	if err != nil {
		t.Fatal(err)
	}
	return ref, k
}

var message = keystoretest.Message(keystore.PurposeJWT, keystore.ES256)

// kill kills the worker and returns when another one serves.
func kill(t *testing.T, p *pkcs11.Provider) {
	t.Helper()
	old := p.WorkerPID()
	if err := p.SignalWorker(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another worker serves", func() bool { pid := p.WorkerPID(); return pid != 0 && pid != old })
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// halt stops the worker, which to its daemon is then what a module that hangs is.
func halt(t *testing.T, p *pkcs11.Provider) {
	t.Helper()
	pid := p.WorkerPID()
	if err := p.SignalWorker(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker has stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
}

// The worker is killed while 16 sign: every signature that comes verifies under
// its key, and signing goes on within 100 ms (here with allowance for a loaded
// machine and the race detector).
func TestP13KilledWhileSixteenSign(t *testing.T) {
	p := open(t, config(t, softhsmtest.New(t)))
	_, one := newKey(t, p, keystore.ES256)
	_, two := newKey(t, p, keystore.ES256)
	var stop atomic.Bool
	var signed, failed atomic.Int64
	var all sync.WaitGroup
	for i := range 16 {
		k := []keystore.Key{one, two}[i%2]
		all.Go(func() {
			for n := 0; !stop.Load(); n++ {
				m := fmt.Appendf(nil, "e%d.e%d", i, n)
				sig, err := k.Sign(t.Context(), m)
				if err != nil {
					if !errors.Is(err, keystore.ErrUnavailable) {
						t.Errorf("%v, want %v", err, keystore.ErrUnavailable)
					}
					failed.Add(1)
					continue
				}
				signed.Add(1)
				if err := keystore.Verify(keystore.ES256, k.Public(), m, sig); err != nil {
					t.Error(err)
				}
			}
		})
	}
	eventually(t, "signing", func() bool { return signed.Load() > 100 })
	var worst time.Duration
	for range 2 {
		if err := p.SignalWorker(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		// What was answered before the kill is verified by now.
		time.Sleep(5 * time.Millisecond)
		before := signed.Load()
		eventually(t, "signing again", func() bool { return signed.Load() > before+16 })
		worst = max(worst, time.Since(began))
		time.Sleep(1100 * time.Millisecond) // a good while of service
	}
	stop.Store(true)
	all.Wait()
	t.Logf("%d signed, %d failed, signing again after %v at worst", signed.Load(), failed.Load(), worst)
	if worst > 2*time.Second {
		t.Errorf("signing again only after %v", worst)
	}
}

func TestS20KilledTwentyTimes(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	p, r := withReserves(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	kill(t, p)
	r.await(t, p) // neither the clerk, nor a reserve that is being made
	fds, goroutines := countFDs(t), runtime.NumGoroutine()
	for range 20 {
		if err := p.SignalWorker(syscall.SIGKILL); err != nil && p.WorkerPID() != 0 {
			t.Fatal(err)
		}
		eventually(t, "a signature", func() bool {
			_, err := k.Sign(t.Context(), message)
			return err == nil
		})
	}
	r.await(t, p)
	eventually(t, "no goroutine more", func() bool { return runtime.NumGoroutine() <= goroutines })
	if n := countFDs(t); n > fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
	if s := p.Status()[0]; s.Restarts < 20 || s.State != keystore.TokenReady {
		t.Errorf("afterwards: %+v", s)
	}
	p.Close()
	eventually(t, "no goroutine of a closed provider", func() bool {
		buf := make([]byte, 1<<20)
		return !strings.Contains(string(buf[:runtime.Stack(buf, true)]), "pkcs11.(*")
	})
}

func countFDs(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// The worker's deadline kills it, and the request succeeds on the next one.
func TestP12ModuleHangs(t *testing.T) {
	p := open(t, config(t, softhsmtest.New(t))) // two seconds for a signature
	_, k := newKey(t, p, keystore.ES256)
	halt(t, p)
	began := time.Now()
	if _, err := k.Sign(t.Context(), message); err != nil {
		t.Error(err)
	}
	t.Logf("signed again after %v", time.Since(began))
	if s := p.Status()[0]; s.Restarts != 1 {
		t.Errorf("afterwards: %+v", s)
	}
}

// A caller's deadline ends its wait, and nothing else.
func TestP12ACallerDoesNotWaitForAModuleThatHangs(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	cfg.Deadlines.Sign = 10 * time.Minute // longer than a test may take
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	pid := p.WorkerPID()
	halt(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := k.Sign(ctx, message); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("the caller's deadline: %v", err)
	}
	t.Logf("the caller waited %v for its 50 ms", time.Since(began))
	if p.WorkerPID() != pid {
		t.Error("the worker has ended")
	}
}

func TestP31CloseDoesNotWaitForAModuleThatHangs(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	cfg.Deadlines.Close = 50 * time.Millisecond
	p := open(t, cfg)
	if err := p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	halt(t, p)
	began := time.Now()
	p.Close() // or it waits for ever
	t.Logf("closing took %v", time.Since(began))
}

func TestInspectDoesNotLogIn(t *testing.T) {
	cfg, calls := spied(t, softhsmtest.New(t))
	algs, err := pkcs11.Inspect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(algs) != len(keystore.Algorithms()) {
		t.Errorf("SoftHSM has %v", algs)
	}
	if strings.Contains(calls(), "C_Login\n") {
		t.Error("it logged in")
	}
	cfg.URI = "pkcs11:token=nobody?pin-source=/nowhere"
	if _, err := pkcs11.Inspect(t.Context(), cfg); err == nil {
		t.Error("a token that is not there was inspected")
	}
}

// A key generation that is cut off is uncertain, and is never done twice.
func TestP18KilledWhileGenerating(t *testing.T) {
	p := open(t, config(t, softhsmtest.New(t)))
	newKey(t, p, keystore.ES256)
	for range 5 {
		id := keystore.NewKeyID()
		outcome := make(chan error, 1)
		pid := p.WorkerPID()
		go func() {
			_, err := p.Generate(t.Context(), id, keystore.PurposeCA, keystore.RS256)
			outcome <- err
		}()
		time.Sleep(10 * time.Millisecond)
		syscall.Kill(pid, syscall.SIGKILL)
		err := <-outcome
		if err == nil {
			continue // it was quick
		}
		if !errors.Is(err, keystore.ErrUncertain) {
			t.Fatalf("%v, want %v", err, keystore.ErrUncertain)
		}
		_, err = p.Find(t.Context(), id, keystore.PurposeCA, keystore.RS256)
		if err != nil && !errors.Is(err, keystore.ErrNotFound) && !errors.Is(err, keystore.ErrAttributes) {
			t.Errorf("what became of it: %v", err)
		}
	}
	if _, err := p.List(t.Context()); err != nil { // whatever SoftHSM left
		t.Error(err)
	}
}

func TestWorkerIsConfined(t *testing.T) {
	t.Setenv("CANARY", "canary-in-the-environment")
	leak, err := os.Open("/proc/self/exe") // a descriptor without close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, leak.Fd(), syscall.F_SETFD, 0); errno != 0 {
		t.Fatal(errno)
	}
	token := softhsmtest.New(t)
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	p := open(t, config(t, token))
	if err := p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	proc := filepath.Join("/proc", strconv.Itoa(p.WorkerPID()))
	for _, name := range []string{"environ", "cmdline"} {
		b, err := os.ReadFile(filepath.Join(proc, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{strings.TrimSpace(string(pin)), "canary"} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s shows %s", name, secret)
			}
		}
	}
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if strings.HasSuffix(target, ".test") {
			t.Errorf("descriptor %s is %s", fd.Name(), target)
		}
	}
	limits, err := os.ReadFile(filepath.Join(proc, "limits"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && f[4] != "0" {
			t.Errorf("core limit: %s", line)
		}
	}
}

// TestMain runs this binary as a parent that opens a provider and is killed.
const parentEnv = "CHANCERY_TEST_PARENT"

func parent() {
	cfg := pkcs11.Config{Name: "test", Module: os.Getenv("MODULE"), URI: os.Getenv("URI"),
		Env: map[string]string{"SOFTHSM2_CONF": os.Getenv("CONF")}, StateDir: os.Getenv("STATE")}
	p, err := pkcs11.Open(cfg)
	if err == nil {
		err = p.Probe(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.WorkerPID())
	select {}
}

func TestWorkerEndsWithItsParent(t *testing.T) {
	token := softhsmtest.New(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{parentEnv + "=1", "MODULE=" + token.Module, "URI=" + token.URI(), "CONF=" + token.Conf, "STATE=" + t.TempDir()}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var worker int
	if _, err := fmt.Fscan(out, &worker); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "the worker is gone", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", worker))
		return err != nil || strings.Contains(string(stat), ") Z ") // nobody may be there to reap it
	})
}

// What a worker costs: how soon it signs, and how much memory it takes.
func TestWorkerIsSmallAndQuick(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	p := open(t, cfg)
	ref, _ := newKey(t, p, keystore.ES256)
	p.Close()
	began := time.Now()
	p = open(t, cfg)
	k, err := p.Open(t.Context(), ref, keystore.PurposeJWT)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	pss := 0
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.WorkerPID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(rollup)) {
		if strings.HasPrefix(line, "Pss:") {
			fmt.Sscanf(line, "Pss: %d kB", &pss)
		}
	}
	t.Logf("first signature after %v, worker's PSS %d kB", took, pss)
}

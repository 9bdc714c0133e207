package pkcs11_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
	"chancery/softhsm/softhsmtest"
)

// two returns a provider of two workers, both of which serve.
func two(t *testing.T, cfg pkcs11.Config) *pkcs11.Provider {
	t.Helper()
	cfg.Workers = 2
	p := open(t, cfg)
	both(t, p)
	return p
}

func both(t *testing.T, p *pkcs11.Provider) []int {
	t.Helper()
	eventually(t, "two workers serve", func() bool { return len(p.WorkerPIDs()) == 2 })
	return p.WorkerPIDs()
}

// signing has callers sign until stop is called, which returns how many
// signatures they had and how many failed.
func signing(t *testing.T, k keystore.Key, callers int) (stop func() (signed, failed int64)) {
	var all sync.WaitGroup
	var signed, failed atomic.Int64
	done := make(chan struct{})
	for range callers {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := k.Sign(t.Context(), message); err != nil {
					failed.Add(1)
					if !errors.Is(err, keystore.ErrUnavailable) {
						t.Error(err)
					}
				} else {
					signed.Add(1)
				}
			}
		})
	}
	return func() (int64, int64) {
		close(done)
		all.Wait()
		return signed.Load(), failed.Load()
	}
}

func TestContractWithTwoWorkers(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	p := two(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	stop := signing(t, k, 16)
	time.Sleep(200 * time.Millisecond)
	signed, failed := stop()
	if signed == 0 || failed != 0 {
		t.Errorf("%d signed, %d failed", signed, failed)
	}
	if s := p.Status()[0]; s.Workers != 2 || s.Restarts != 0 {
		t.Errorf("status: %+v", s)
	}
	for i, n := range pkcs11.Signed(p) {
		if n == 0 {
			t.Errorf("worker %d of two has signed nothing of %d", i, signed)
		}
	}
}

// When a key leaves active, every worker that held it ends, and with it its
// session copy. Nobody who signs with another key notices.
func TestDropEndsEveryWorkerThatHeldTheKey(t *testing.T) {
	p := two(t, config(t, softhsmtest.New(t)))
	ref, k := newKey(t, p, keystore.ES256)
	_, other := newKey(t, p, keystore.ES256)
	stop := signing(t, k, 8) // so that both hold it
	eventually(t, "both have signed", func() bool { n := pkcs11.Signed(p); return len(n) == 2 && n[0] > 0 && n[1] > 0 })
	stop()
	before := both(t, p)
	stop = signing(t, other, 8)
	if err := p.Drop(t.Context(), ref.ID); err != nil {
		t.Fatal(err)
	}
	for _, pid := range before {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("worker %d lives after Drop returned: %v", pid, err)
		}
	}
	after := both(t, p)
	if signed, failed := stop(); failed != 0 || signed == 0 {
		t.Errorf("meanwhile %d signed, %d failed", signed, failed)
	}
	if err := p.Drop(t.Context(), ref.ID); err != nil {
		t.Fatal(err)
	}
	if now := both(t, p); !slices.Equal(now, after) {
		t.Errorf("dropping what nobody holds replaced workers: %v, then %v", after, now)
	}
}

// A worker that stops answering costs what it was asked one wait, and the other
// signs on.
func TestP12OneOfTwoWorkersHangs(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	cfg.Deadlines.Sign = 300 * time.Millisecond
	p := two(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	stop := signing(t, k, 16)
	pids := both(t, p)
	if err := syscall.Kill(pids[0], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	before := pkcs11.Signed(p)
	eventually(t, "the other signs on", func() bool { n := pkcs11.Signed(p); return len(n) == 2 && n[1] > before[1] })
	eventually(t, "it is replaced", func() bool { n := p.WorkerPIDs(); return len(n) == 2 && !slices.Contains(n, pids[0]) })
	if signed, failed := stop(); failed != 0 || signed == 0 {
		t.Errorf("%d signed, %d failed", signed, failed)
	}
}

// The clerk has a lane of its own: while it hangs over a key, signatures go on.
func TestAKeyThatTakesLongToMakeKeepsNoSignatureWaiting(t *testing.T) {
	p := two(t, config(t, softhsmtest.New(t)))
	_, k := newKey(t, p, keystore.ES256)
	clerk := pkcs11.ClerkPID(p)
	if clerk == 0 {
		t.Fatal("there is no clerk after a key was made")
	}
	if err := syscall.Kill(clerk, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() {
		_, err := p.Generate(t.Context(), keystore.NewKeyID(), keystore.PurposeJWT, keystore.RS256)
		made <- err
	}()
	stop := signing(t, k, 4)
	time.Sleep(300 * time.Millisecond)
	if signed, failed := stop(); failed != 0 || signed < 10 {
		t.Errorf("beside it %d signed, %d failed", signed, failed)
	}
	if err := syscall.Kill(clerk, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err != nil {
		t.Error(err)
	}
	eventually(t, "the clerk has gone", func() bool { return errors.Is(syscall.Kill(clerk, 0), syscall.ESRCH) })
}

// Both workers die again and again and in any order.
func TestS20BothWorkersAreKilledAgainAndAgain(t *testing.T) {
	p := two(t, config(t, softhsmtest.New(t)))
	_, k := newKey(t, p, keystore.ES256)
	descriptors, threads := count(t, "fd"), count(t, "task")
	stop := signing(t, k, 8)
	for i := range 20 {
		pids := p.WorkerPIDs()
		if len(pids) > 0 {
			syscall.Kill(pids[i%len(pids)], syscall.SIGKILL)
		}
		time.Sleep(30 * time.Millisecond)
	}
	both(t, p)
	signed, failed := stop()
	t.Logf("%d signed, %d failed", signed, failed)
	if signed < 100 || failed > signed/4 {
		t.Errorf("%d signed, %d failed", signed, failed)
	}
	eventually(t, "nothing is left behind", func() bool { return count(t, "fd") <= descriptors+2 && count(t, "task") <= threads+4 })
}

// count returns how many descriptors or threads this process has.
func count(t *testing.T, of string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/" + of)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestTheNumberOfWorkersIsChecked(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	for _, n := range []int{-1, pkcs11.MaxWorkers + 1} {
		cfg.Workers = n
		if _, err := pkcs11.Open(cfg); err == nil || !strings.Contains(err.Error(), fmt.Sprint(n, " workers")) {
			t.Errorf("%d: %v", n, err)
		}
	}
}

package pkcs11_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
	"chancery/softhsm/softhsmtest"
)

// What it was: the two seconds of a signature began when it was asked for, and
// their end is SIGKILL. 4096 callers at once had a healthy worker killed, and
// 513 of them failed.
func TestManyCallersAreNotAModuleThatHangs(t *testing.T) {
	const callers = 4096
	p := open(t, config(t, softhsmtest.New(t)))
	ref, k := newKey(t, p, keystore.RS256)
	pid := p.WorkerPID()
	var signed, overloaded atomic.Int64
	var start, all sync.WaitGroup
	start.Add(1)
	for range callers {
		all.Go(func() {
			start.Wait()
			_, err := k.Sign(t.Context(), message)
			switch {
			case err == nil:
				signed.Add(1)
			case errors.Is(err, keystore.ErrOverloaded) && !errors.Is(err, keystore.ErrUnavailable):
				overloaded.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	start.Done()
	eventually(t, "most are served or wait", func() bool { return p.Waiting() > 1000 })
	// Nothing else starves behind them.
	began := time.Now()
	if err := p.Probe(t.Context()); err != nil {
		t.Errorf("probe: %v", err)
	}
	if _, err := p.Find(t.Context(), ref.ID, keystore.PurposeJWT, keystore.RS256); err != nil {
		t.Errorf("find: %v", err)
	}
	if took, n := time.Since(began), p.Waiting(); n < 100 {
		t.Errorf("probed and found after %v, when only %d were left waiting", took, n)
	}
	all.Wait()
	t.Logf("%d signed, %d overloaded, in %v", signed.Load(), overloaded.Load(), time.Since(began))
	if signed.Load() < 2048 || signed.Load()+overloaded.Load() != callers {
		t.Errorf("%d signed, %d overloaded, of %d", signed.Load(), overloaded.Load(), callers)
	}
	if s := p.Status()[0]; s.Restarts != 0 || p.WorkerPID() != pid {
		t.Errorf("the worker was replaced: %+v", s)
	}
}

// What it was: everybody who waited was at the worker, so that its death cost
// each of them one of two tries, and a second one soon after failed them all.
// Now it costs those at the worker, and the others do not notice.
func TestP13KilledTwiceWhileHundredsWait(t *testing.T) {
	const callers, places = 500, pkcs11.PlacesPerSigner
	cfg := config(t, softhsmtest.New(t))
	cfg.Deadlines.Sign = time.Minute // it is the test that kills, when all have lined up
	stopped := make(chan struct{})
	var p *pkcs11.Provider
	cfg.OnState = func(s keystore.TokenStatus) {
		if s.State == keystore.TokenReady && s.Restarts == 1 {
			p.SignalWorker(syscall.SIGSTOP) // it had no time to sign for many
			close(stopped)
		}
	}
	p = open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	halt(t, p)
	var all sync.WaitGroup
	var failed, returned atomic.Int64
	for range callers {
		all.Go(func() {
			defer returned.Add(1)
			if _, err := k.Sign(t.Context(), message); err != nil {
				failed.Add(1)
				if !errors.Is(err, keystore.ErrUnavailable) {
					t.Error(err)
				}
			}
		})
	}
	// A thread of the worker may have stopped a little after the first.
	eventually(t, "all wait that are not at the worker", func() bool { return p.Waiting() == callers-places-int(returned.Load()) })
	if err := p.SignalWorker(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-stopped
	t.Logf("%d wait for the second worker", p.Waiting())
	kill(t, p)
	all.Wait()
	if n := failed.Load(); n > places {
		t.Errorf("%d failed, and only %d were at a worker", n, places)
	}
	if s := p.Status()[0]; s.Restarts != 2 || p.Waiting() != 0 {
		t.Errorf("afterwards: %+v, %d wait", s, p.Waiting())
	}
}

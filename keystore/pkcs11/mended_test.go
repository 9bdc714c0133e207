package pkcs11_test

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
)

// What it was: only a caller who still waited could tell of a fault, so that a
// client with little patience kept a broken worker at work.
func TestP03AFaultIsSeenThoughItsCallerHasGone(t *testing.T) {
	cfg, _, m := faulty(t)
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	pid := p.WorkerPID()
	order(t, m, "C_SignInit delay 200", "C_Sign rv CKR_DEVICE_ERROR")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := k.Sign(ctx, message); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller who waits 100 ms: %v", err)
	}
	eventually(t, "the worker has ended", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

// What it was: a leader that waited for an operator, while another worker served,
// could not be told to try again, and was forgotten when that one came up anew.
func TestP11ALeaderThatWaitsHearsARetry(t *testing.T) {
	cfg, token, m := faulty(t)
	p := two(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	order(t, m, "flags "+token.Serial+" +CKF_USER_PIN_LOCKED")
	leader := p.WorkerPIDs()[0]
	if err := syscall.Kill(leader, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one is left", func() bool { return len(p.WorkerPIDs()) == 1 && pkcs11.HasTrouble(p) })
	if _, err := k.Sign(t.Context(), message); err != nil {
		t.Errorf("the other worker: %v", err)
	}
	order(t, m)
	if err := p.Retry(t.Context(), token.Serial); err != nil {
		t.Errorf("retry: %v", err)
	}
	both(t, p)
}

// What it was: each of many who missed a key replaced all workers.
func TestManyWhoMissAKeyReplaceNothing(t *testing.T) {
	cfg, _, m := faulty(t)
	p := two(t, cfg)
	ref, k := newKey(t, p, keystore.ES256)
	if err := p.Drop(t.Context(), ref.ID); err != nil {
		t.Fatal(err)
	}
	both(t, p)
	if err := p.Destroy(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	both(t, p)
	before := m.Count("C_Initialize")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := k.Sign(t.Context(), message); !errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("a key that is not there: %v", err)
			}
		})
	}
	all.Wait()
	if n := m.Count("C_Initialize") - before; n > 4 {
		t.Errorf("%d processes were started to look for it", n)
	}
}

// What it was: each errand that was given up began another clerk.
func TestClerksDoNotPileUp(t *testing.T) {
	cfg, _, m := faulty(t)
	p, r := withReserves(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	r.await(t, p) // when the clerk has gone
	order(t, m, "C_Initialize hang")
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := p.List(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a list that hangs: %v", err)
		}
		cancel()
	}
	if n := len(children(t)); n != 2 {
		t.Errorf("%d processes, want a worker, and the reserve as the clerk", n)
	}
	if _, err := k.Sign(t.Context(), message); err != nil {
		t.Error(err)
	}
}

// What it was: a key could not be looked at, and so not be activated, while
// another one took long to make.
func TestAKeyIsFoundWhileAnotherOneIsMade(t *testing.T) {
	cfg, _, m := faulty(t)
	p := open(t, cfg)
	ref, _ := newKey(t, p, keystore.ES256)
	order(t, m, "C_GenerateKeyPair hang")
	ctx, cancel := context.WithCancel(t.Context())
	made := make(chan struct{})
	go func() {
		defer close(made)
		p.Generate(ctx, keystore.NewKeyID(), keystore.PurposeJWT, keystore.ES256)
	}()
	eventually(t, "it is being made", func() bool { return m.Count("C_GenerateKeyPair:ordered") > 0 })
	within, done := context.WithTimeout(t.Context(), 5*time.Second)
	defer done()
	if spki, err := p.Find(within, ref.ID, keystore.PurposeJWT, ref.Algorithm); err != nil || string(spki) != string(ref.SPKI) {
		t.Errorf("find: %v", err)
	}
	cancel()
	<-made
}

// What it was: Drop looked at the workers that take signatures, and returned
// while one that was on its way out held the key.
func TestDropWaitsForWorkersThatGo(t *testing.T) {
	cfg, _, m := faulty(t)
	cfg.Deadlines.Sign = 2 * time.Second
	p := two(t, cfg)
	one, k := newKey(t, p, keystore.ES256)
	other, l := newKey(t, p, keystore.ES256)
	for range 20 {
		for _, key := range []keystore.Key{k, l} {
			if _, err := key.Sign(t.Context(), message); err != nil {
				t.Fatal(err)
			}
		}
	}
	held := pkcs11.Holding(p, other.ID)
	if len(held) == 0 {
		t.Fatal("no worker holds the key")
	}
	order(t, m, "C_Sign delay 1000 times=1")
	signed := make(chan struct{})
	go func() {
		defer close(signed)
		k.Sign(t.Context(), message)
	}()
	eventually(t, "a signature takes long", func() bool { return m.Count("C_Sign:ordered") > 0 })
	dropped := make(chan error, 1)
	go func() { dropped <- p.Drop(t.Context(), one.ID) }()
	time.Sleep(50 * time.Millisecond)
	if err := p.Drop(t.Context(), other.ID); err != nil {
		t.Fatal(err)
	}
	for _, pid := range held {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("worker %d lives after the key was dropped", pid)
		}
	}
	<-signed
	if err := <-dropped; err != nil {
		t.Error(err)
	}
}

// What it was: callers of a provider that closes asked again and again, without a
// pause.
func TestP31NobodyWaitsForAProviderThatCloses(t *testing.T) {
	cfg, _, m := faulty(t)
	cfg.Deadlines.Close = 2 * time.Second
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	order(t, m, "C_Finalize hang")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.Close()
	}()
	eventually(t, "it closes", func() bool { return p.Status()[0].State == keystore.TokenUnavailable })
	began := time.Now()
	if _, err := k.Sign(t.Context(), message); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("sign: %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v to be refused", took)
	}
	<-closed
}

// What it was: a probe ran out of time behind a search that had more, and the
// worker was killed though it was within its time.
func TestAProbeWaitsForASearch(t *testing.T) {
	cfg, _, m := faulty(t)
	cfg.Deadlines.Sign = 500 * time.Millisecond
	p := open(t, cfg)
	ref, _ := newKey(t, p, keystore.ES256)
	order(t, m, "C_FindObjectsInit delay 1000")
	var found sync.WaitGroup
	found.Go(func() {
		if _, err := p.Open(t.Context(), ref, keystore.PurposeJWT); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "it is searched", func() bool { return m.Count("C_FindObjectsInit:ordered") > 0 })
	if err := p.Probe(t.Context()); err != nil {
		t.Errorf("probe: %v", err)
	}
	found.Wait()
	if n := p.Status()[0].Restarts; n != 0 {
		t.Errorf("%d restarts", n)
	}
}

// What it was: a worker that logged in while another daemon did so to the same SoftHSM
// token found its object half written, took that for a PIN that was refused, and
// waited for an operator.
func TestP10ALoginMeetsAnotherDaemons(t *testing.T) {
	for _, answer := range []string{"CKR_GENERAL_ERROR", "CKR_USER_PIN_NOT_INITIALIZED"} {
		cfg, _, m := faulty(t)
		p := open(t, cfg)
		_, k := newKey(t, p, keystore.ES256)
		order(t, m, "C_Login rv "+answer+" times=2")
		if err := syscall.Kill(p.WorkerPID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it signs again", func() bool {
			if s := p.Status()[0]; s.State == keystore.TokenPINRejected {
				t.Fatalf("%s: %+v", answer, s)
			}
			_, err := k.Sign(t.Context(), message)
			return err == nil
		})
		if n := m.Count("C_Login"); n < 4 {
			t.Errorf("%s: C_Login was called %d times: the fault was not met", answer, n)
		}
	}
}

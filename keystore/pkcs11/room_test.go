package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

func TestARoomIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &room{free: 1, limit: 100}
		var order []int // guarded by the one place
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				at, err := r.enter(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				defer at.leave()
				order = append(order, i)
				time.Sleep(time.Second)
			})
			synctest.Wait()
		}
		all.Wait()
		if !slices.IsSorted(order) || len(order) != 50 {
			t.Errorf("served in the order %v", order)
		}
		if r.free != 1 || r.line.Len() != 0 {
			t.Errorf("afterwards %d free, %d waiting", r.free, r.line.Len())
		}
	})
}

func TestARoomIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &room{free: 1, limit: 3}
		at, err := r.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if _, err := r.enter(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, keystore.ErrUnavailable) {
					t.Errorf("one that waited: %v", err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		_, err = r.enter(ctx)
		if !errors.Is(err, keystore.ErrOverloaded) || errors.Is(err, keystore.ErrUnavailable) || time.Since(began) != 0 {
			t.Errorf("one too many: %v after %v", err, time.Since(began))
		}
		all.Wait()
		at.leave()
		if _, err := r.enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that came too late: %v", err)
		}
		if r.free != 1 || r.line.Len() != 0 {
			t.Errorf("afterwards %d free, %d waiting", r.free, r.line.Len())
		}
	})
}

// slowly returns a provider with one signing thread, whose worker answers each
// signature only when it is let, and a key of it. signed says what the worker
// was asked to sign, in that order.
func slowly(t *testing.T) (k *key, g *generation, let chan struct{}, signed func() []string) {
	t.Helper()
	priv, spki := pair(t)
	let = make(chan struct{})
	var mu sync.Mutex
	var asked []string
	g = impostor(t, 7, func(f frame) []byte {
		message := f.body[nameSize:]
		mu.Lock()
		asked = append(asked, string(message))
		mu.Unlock()
		select {
		case <-let:
		case <-t.Context().Done():
		}
		return appendAnswer(nil, 7, f.id, signature(t, priv, message), nil)
	})
	p := &Provider{
		cfg:  Config{Name: "test", Log: slog.New(slog.DiscardHandler), Deadlines: Deadlines{Sign: time.Minute}.withDefaults()},
		hall: hall{limit: DefaultWaiting}, ctx: t.Context(),
		status: keystore.TokenStatus{State: keystore.TokenReady},
	}
	g.view = 1
	p.hall.add(g, placesPerSigner)
	k, err := p.newKey(keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: keystore.ES256, SPKI: spki}, keystore.PurposeJWT)
	if err != nil {
		t.Fatal(err)
	}
	k.slots[g.slot].by.Store(7)
	return k, g, let, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
}

// inLine starts n signatures, one after the other, and returns when all but
// those that have a place wait.
func inLine(t *testing.T, k *key, all *sync.WaitGroup, from, n int, sign func(m []byte)) {
	t.Helper()
	for i := range n {
		want := k.p.Waiting() + 1
		if from+i < placesPerSigner {
			want = 0
		}
		all.Go(func() { sign(fmt.Appendf(nil, "e%d.e%d", from+i, from+i)) })
		for end := time.Now().Add(10 * time.Second); k.p.Waiting() != want || k.p.hall.taken() < min(from+i+1, placesPerSigner); time.Sleep(10 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatalf("%d wait, want %d", k.p.Waiting(), want)
			}
		}
	}
}

// A caller that gives up before its turn is never seen by the worker; one that
// gives up after it keeps its place until the answer comes.
func TestACancelledWaiterCostsNoSignature(t *testing.T) {
	k, g, let, signed := slowly(t)
	var all sync.WaitGroup
	inLine(t, k, &all, 0, placesPerSigner, func(m []byte) {
		if _, err := k.Sign(t.Context(), m); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	inLine(t, k, &all, placesPerSigner, 100, func(m []byte) {
		if _, err := k.Sign(ctx, m); !errors.Is(err, context.Canceled) || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("a waiter that was cancelled: %v", err)
		}
	})
	cancel()
	for range placesPerSigner {
		let <- struct{}{}
	}
	all.Wait()
	if n := len(signed()); n != placesPerSigner || g.isEnded() {
		t.Errorf("the worker was asked for %d signatures, want %d", n, placesPerSigner)
	}
	ctx, cancel = context.WithCancel(t.Context())
	all.Go(func() {
		if _, err := k.Sign(ctx, message30); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that has gone: %v", err)
		}
	})
	for len(signed()) == placesPerSigner {
		time.Sleep(time.Millisecond)
	}
	cancel()
	all.Wait()
	if n := k.p.hall.taken(); n != 1 {
		t.Errorf("%d places taken while the worker signs for a caller that has gone", n)
	}
	let <- struct{}{}
	for k.p.hall.taken() != 0 {
		time.Sleep(time.Millisecond)
	}
}

var message30 = []byte("e30.e30")

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// Those who wait reach the worker in the order they came, give or take those
// who are there at once, and their worker's deadline does not run meanwhile.
func TestSignersAreServedInOrder(t *testing.T) {
	const callers = 10 * placesPerSigner
	k, g, let, signed := slowly(t)
	var all sync.WaitGroup
	inLine(t, k, &all, 0, callers, func(m []byte) {
		if _, err := k.Sign(t.Context(), m); err != nil {
			t.Error(err)
		}
	})
	served := time.Now()
	for range callers - placesPerSigner {
		let <- struct{}{}
	}
	until(t, "the last are at the worker", func() bool { return len(g.deadlines()) == placesPerSigner && k.p.Waiting() == 0 })
	for _, d := range g.deadlines() {
		if d.Before(served.Add(k.p.cfg.Deadlines.Sign)) {
			t.Errorf("a deadline had begun %v before anyone was served", served.Add(k.p.cfg.Deadlines.Sign).Sub(d))
		}
	}
	for range placesPerSigner {
		let <- struct{}{}
	}
	all.Wait()
	for i, m := range signed() {
		var n int
		if _, err := fmt.Sscanf(m, "e%d.", &n); err != nil || max(i-n, n-i) > 2*placesPerSigner {
			t.Errorf("number %d came as number %d (%v)", n, i, err)
		}
	}
}

// What it was: what waited behind a key generation at the worker's desk waited
// on its own shorter deadline, whose end was the end of that generation.
func TestTheClerkIsAskedOneThingAtATime(t *testing.T) {
	const others = 20
	var p *Provider
	var g *generation
	first, asked := true, 0
	g = impostor(t, 7, func(f frame) []byte {
		if verb(f.code) == verbGenerate && first {
			first = false
			for p.errands.waiting() < others+1 {
				time.Sleep(time.Millisecond)
			}
			asked = len(g.deadlines())
		}
		if verb(f.code) == verbGenerate {
			return appendAnswer(nil, 7, f.id, nil, keystore.ErrExists)
		}
		return appendAnswer(nil, 7, f.id, []byte("[]"), nil)
	})
	p = &Provider{
		cfg:  Config{Name: "test", Log: slog.New(slog.DiscardHandler), Deadlines: Deadlines{}.withDefaults()},
		hall: hall{limit: DefaultWaiting}, errands: room{free: 1, limit: DefaultWaiting}, ctx: t.Context(),
		status: keystore.TokenStatus{State: keystore.TokenReady}, clerk: clerk{worker: g},
	}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			_, err := p.Generate(t.Context(), keystore.NewKeyID(), keystore.PurposeJWT, keystore.RS256)
			if !errors.Is(err, keystore.ErrExists) {
				t.Errorf("generate: %v", err)
			}
		})
		for p.errands.isFree() {
			time.Sleep(time.Millisecond) // the first one has the place
		}
	}
	for range others {
		all.Go(func() {
			if _, err := p.Generate(t.Context(), keystore.NewKeyID(), keystore.PurposeJWT, keystore.RS256); !errors.Is(err, keystore.ErrExists) {
				t.Errorf("generate: %v", err)
			}
		})
	}
	all.Wait()
	if asked != 1 || g.isEnded() {
		t.Errorf("the clerk had %d requests before it while it made a key, want 1 (ended: %v)", asked, g.isEnded())
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
)

// slowOpening is a keystore whose every opening takes a minute, or the time its caller
// has; err is of those that come to an end, by number.
type slowOpening struct {
	keystore.Provider
	key    keystore.Key
	err    map[int32]error
	opened atomic.Int32
}

func (p *slowOpening) Open(ctx context.Context, _ keystore.KeyRef, _ keystore.Purpose) (keystore.Key, error) {
	n := p.opened.Add(1)
	select {
	case <-time.After(time.Minute):
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", keystore.ErrUnavailable, context.Cause(ctx))
	}
	return p.key, p.err[n]
}

// ring is a keyring with one proven version, whose key is in p, and what opens it.
func (p *slowOpening) ring(lost func(keystore.KID, error), found func(keystore.KID)) func(context.Context) (keystore.Key, error) {
	k := &keyring{
		await:     func(context.Context, string) error { return nil },
		providers: map[string]keystore.Provider{"vault": p}, proven: map[keystore.KID]bool{"kid": true},
		open: make(map[keystore.KID]keystore.Key), opening: make(map[keystore.KID]*opening), lost: lost, found: found,
	}
	set, version := &keystore.KeySet{Purpose: keystore.PurposeJWT}, &keystore.Version{KID: "kid", Keystore: "vault"}
	return func(ctx context.Context) (keystore.Key, error) { return k.Open(ctx, set, version) }
}

// A key that 64 requests wanted open was opened 64 times, of which each is a request
// for a signature.
func TestAKeyIsOpenedOnceForAll(t *testing.T) {
	errGone := fmt.Errorf("%w: a hiccup", keystore.ErrUnavailable)
	for _, v := range []struct {
		name   string
		err    map[int32]error
		first  time.Duration // how long the first has time; 0: enough
		opened int32
		failed int32
		took   time.Duration
	}{
		{"it opens", nil, 0, 1, 0, time.Minute},
		{"it does not open, for all who wait", map[int32]error{1: errGone}, 0, 1, 64, time.Minute},
		{"who opened it had no time left, which is not the others' trouble", nil, 10 * time.Second, 2, 1, 70 * time.Second},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &slowOpening{key: keystoretest.NewKey(t, keystore.PurposeJWT, keystore.ES256), err: v.err}
				var lost, found, failed atomic.Int32
				open := p.ring(func(keystore.KID, error) { lost.Add(1) }, func(keystore.KID) { found.Add(1) })
				began := time.Now()
				var all sync.WaitGroup
				for n := range 64 {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if n == 0 && v.first > 0 {
						ctx, cancel = context.WithTimeout(ctx, v.first)
						defer cancel()
					}
					all.Go(func() {
						key, err := open(ctx)
						if err != nil {
							failed.Add(1)
						}
						if err == nil && key == nil || err != nil && ctx.Err() == nil && !errors.Is(err, errGone) {
							t.Errorf("caller %d: %v, %v", n, key, err)
						}
					})
					synctest.Wait() // the first opens it
				}
				if n := p.opened.Load(); n != 1 {
					t.Errorf("it is being opened %d times at once", n)
				}
				all.Wait()
				if took := time.Since(began); took != v.took || p.opened.Load() != v.opened || failed.Load() != v.failed {
					t.Errorf("after %v: opened %d times, %d callers failed; want %v, %d, %d", took, p.opened.Load(), failed.Load(), v.took, v.opened, v.failed)
				}
				if l, f := lost.Load(), found.Load(); l+f != v.opened {
					t.Errorf("told %d times that it is lost, %d that it is found; it was opened %d times", l, f, v.opened)
				}
				if _, err := open(t.Context()); err != nil {
					t.Errorf("afterwards: %v", err)
				}
			})
		})
	}
}

// Who waits for another's opening waits no longer than its own time.
func TestWhoWaitsForAnOpeningHasItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &slowOpening{key: keystoretest.NewKey(t, keystore.PurposeJWT, keystore.ES256)}
		open := p.ring(func(keystore.KID, error) {}, func(keystore.KID) {})
		var opener sync.WaitGroup
		opener.Go(func() {
			if _, err := open(t.Context()); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := open(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		opener.Wait()
	})
}

package transit_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chancery/keystore"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

// input is a JWT's signing input, of its own for each n.
func input(n int) []byte {
	return []byte("eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"n":%d}`, n)))
}

const signing = "/sign/chancery-jwt"

// What many callers want signed at the same time travels in a few requests, and
// everyone gets the signature of what was theirs.
func TestACrowdSharesRequests(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		p := open(t, config(t, s, s.Mount(t), s.RootToken()))
		for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.EdDSA, keystore.PS256} {
			_, k := signer(t, p, alg)
			var all sync.WaitGroup
			for n := range 200 {
				all.Go(func() {
					sig, err := k.Sign(t.Context(), input(n))
					if err == nil {
						err = keystore.Verify(alg, k.Public(), input(n), sig)
					}
					if err != nil {
						t.Errorf("%s, caller %d: %v", alg, n, err)
					}
				})
			}
			all.Wait()
		}
	})
}

func TestHowManyRequestsACrowdTakes(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{})
	_, k := signer(t, p, keystore.EdDSA)
	f.Script(transittest.Rule{Path: signing, Delay: 300 * time.Millisecond})
	before := f.Count("", signing)
	var all sync.WaitGroup
	for n := range 400 {
		all.Go(func() {
			if _, err := k.Sign(t.Context(), input(n)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := f.Count("", signing) - before; n > 3+400/64+2 {
		t.Errorf("400 callers took %d requests", n)
	}
}

func TestHowManyMayWait(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{}, func(c *transit.Config) { c.Waiting = 5 })
	_, k := signer(t, p, keystore.ES256)
	f.Script(transittest.Rule{Path: signing, Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	var refused, late atomic.Int32
	var all sync.WaitGroup
	for n := range 40 {
		all.Go(func() {
			began := time.Now()
			_, err := k.Sign(ctx, input(n))
			switch {
			case errors.Is(err, keystore.ErrOverloaded):
				refused.Add(1)
				if time.Since(began) > time.Second {
					t.Errorf("refused after %v", time.Since(began))
				}
			case errors.Is(err, keystore.ErrUnavailable) && errors.Is(err, context.DeadlineExceeded):
				late.Add(1)
			default:
				t.Error(err)
			}
		})
		if n < 3 {
			before := n + 1 // each of the first three flies alone
			eventually(t, time.Second, func() error {
				if got := f.Count("", signing) - 2; got < before { // Generate and Open have had it sign
					return fmt.Errorf("%d requests", got)
				}
				return nil
			})
		}
	}
	all.Wait()
	if refused.Load() != 32 || late.Load() != 8 {
		t.Errorf("%d refused, %d late; want three on their way, five waiting and the rest refused", refused.Load(), late.Load())
	}
	f.Script()
	eventually(t, 5*time.Second, func() error { return signs(t, k, time.Second) })
}

// The end of one caller's time ends nothing for those who share its request.
func TestOneCallerGoes(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{})
	_, k := signer(t, p, keystore.EdDSA)
	f.Script(transittest.Rule{Path: signing, Delay: 400 * time.Millisecond})
	var all sync.WaitGroup
	for n := range 60 {
		all.Go(func() {
			wait := 5 * time.Second
			if n%3 == 0 {
				wait = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			message := input(n)
			_, err := k.Sign(ctx, message)
			if n%3 == 0 {
				clear(message) // it is its caller's again; the race detector looks on
				if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, keystore.ErrUnavailable) {
					t.Errorf("caller %d, who has gone: %v", n, err)
				}
			} else if err != nil {
				t.Errorf("caller %d: %v", n, err)
			}
		})
	}
	all.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Sign(ctx, input(0)); !errors.Is(err, context.Canceled) || !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("whose time was over before: %v", err)
	}
}

// A call in a batch that its caller left alone is read no more either.
func TestACallerOfABatchGoes(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{})
	_, k := signer(t, p, keystore.EdDSA)
	f.Script(transittest.Rule{Path: signing, Delay: 300 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	messages := [][]byte{input(1), input(2)}
	_, errs := k.SignBatch(ctx, messages)
	for i := range messages {
		clear(messages[i])
		messages[i] = nil
		if !errors.Is(errs[i], context.DeadlineExceeded) {
			t.Error(errs[i])
		}
	}
}

func TestABatchIsOneRequest(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{})
	for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.EdDSA} {
		_, k := signer(t, p, alg)
		for _, n := range []int{0, 1, 65, keystore.MaxBatch, keystore.MaxBatch + 1} {
			messages := make([][]byte, n)
			for i := range messages {
				messages[i] = input(i)
			}
			before, want := f.Count("", signing), 1
			sigs, errs := k.SignBatch(t.Context(), messages)
			if n == 0 || n > keystore.MaxBatch {
				want = 0
			}
			if got := f.Count("", signing) - before; got != want {
				t.Errorf("%d messages: %d requests, want %d", n, got, want)
			}
			for i := range messages {
				err := errs[i]
				if n > keystore.MaxBatch {
					if err == nil || sigs[i] != nil {
						t.Errorf("%d messages are signed", n)
					}
					continue
				}
				if err == nil {
					err = keystore.Verify(alg, k.Public(), messages[i], sigs[i])
				}
				if err != nil {
					t.Errorf("message %d of %d: %v", i, n, err)
				}
			}
		}
	}
}

// V14: what Vault says of one message is that one's.
func TestOneOfABatchIsRefused(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{})
	_, k := signer(t, p, keystore.ES256)
	f.Script(transittest.Rule{Path: signing, Mangle: func(r map[string]any) {
		results := r["data"].(map[string]any)["batch_results"].([]any)
		if len(results) == 4 {
			results[1] = map[string]any{"error": "no\x1b[31m luck", "key_version": 0}
			results[2], results[3] = results[3], results[2] // each is another's
		}
	}})
	sigs, errs := k.SignBatch(t.Context(), [][]byte{input(0), input(1), input(2), input(3)})
	if errs[0] != nil || keystore.Verify(keystore.ES256, k.Public(), input(0), sigs[0]) != nil {
		t.Errorf("the first: %v", errs[0])
	}
	if !errors.Is(errs[1], keystore.ErrUnavailable) || !strings.Contains(errs[1].Error(), "no [31m luck") || sigs[1] != nil {
		t.Errorf("the second: %v", errs[1])
	}
	for i := 2; i < 4; i++ {
		if !errors.Is(errs[i], keystore.ErrSignature) || sigs[i] != nil {
			t.Errorf("one that was another's: %v", errs[i])
		}
	}
}

func TestMessagesThatDoNotFit(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{})
	_, k := signer(t, p, keystore.ES256)
	before := f.Count("", signing)
	sigs, errs := k.SignBatch(t.Context(), [][]byte{nil, []byte("no JWT"), make([]byte, keystore.MaxMessage+1)})
	for i := range errs {
		if !errors.Is(errs[i], keystore.ErrMessage) || sigs[i] != nil {
			t.Errorf("%d: %v", i, errs[i])
		}
	}
	if n := f.Count("", signing) - before; n != 0 {
		t.Errorf("%d requests for nothing", n)
	}
}

// Close ends what is under way, with whatever hangs, and leaves nothing behind.
func TestCloseWhileManySign(t *testing.T) {
	for _, rule := range []transittest.Rule{{Path: signing, Hang: true}, {Path: signing, Delay: 200 * time.Millisecond}, {Path: "none"}} {
		f, p, _ := fake(t, transittest.RoleTTL{TTL: time.Hour})
		_, k := signer(t, p, keystore.ES256)
		before := goleak.IgnoreCurrent()
		f.Script(rule)
		var all sync.WaitGroup
		ended := make([]time.Time, 100)
		errs := make([]error, 100)
		for n := range errs {
			all.Go(func() {
				for errs[n] == nil {
					_, errs[n] = k.Sign(t.Context(), input(n))
				}
				ended[n] = time.Now()
			})
		}
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		for n, err := range errs {
			if !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), "closed") {
				t.Errorf("caller %d: %v, want it to say closed", n, err)
			}
		}
		if err := signs(t, k, time.Second); !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("afterwards: %v", err)
		}
		if _, errs := k.SignBatch(t.Context(), [][]byte{input(0)}); !errors.Is(errs[0], keystore.ErrUnavailable) {
			t.Errorf("a batch afterwards: %v", errs[0])
		}
		if s := p.Status()[0]; s.State != keystore.TokenUnavailable || !strings.Contains(s.Err, "closed") {
			t.Errorf("%+v", s)
		}
		f.Script()
		f.Close()
		if err := goleak.Find(before); err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("closing twice: %v", err)
		}
	}
}

// Everything that waits for a keystore that starts ends with Close, too.
func TestCloseWhileItStarts(t *testing.T) {
	f, p, _ := fake(t, transittest.RoleTTL{})
	f.Script(transittest.Rule{Path: "login|lookup", Hang: true})
	ended := make(chan error, 3)
	go func() { _, err := p.List(t.Context()); ended <- err }()
	go func() { _, err := p.Generate(t.Context(), keystore.NewKeyID(), jwt, keystore.ES256); ended <- err }()
	go func() { ended <- p.Probe(t.Context()) }()
	time.Sleep(50 * time.Millisecond)
	p.Close()
	for range 3 {
		select {
		case err := <-ended:
			if !errors.Is(err, keystore.ErrUnavailable) {
				t.Error(err)
			}
		case <-time.After(2 * time.Second):
			t.Fatal("somebody waits still")
		}
	}
}

// A key signs on through everything that comes and goes.
func TestAKeyStaysGood(t *testing.T) {
	t.Parallel()
	if _, ok := transittest.FindVault(); !ok {
		t.Skip("no Vault: scripts/vault/build makes one")
	}
	v := transittest.Vault(t)
	mount := v.Mount(t)
	p := open(t, config(t, v.Server, mount, v.RootToken()))
	_, k := signer(t, p, keystore.ES256)
	for _, fault := range []struct {
		name     string
		down, up func()
	}{
		{"sealed", v.Seal, v.Unseal}, {"stopped", v.Stop, v.Start}, {"killed", v.Kill, v.Start}, {"standing still", v.Pause, v.Resume},
	} {
		fault.down()
		if err := signs(t, k, 3*time.Second); !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("%s: %v", fault.name, err)
		}
		fault.up()
		eventually(t, 4*time.Second, func() error { return signs(t, k, time.Second) })
	}
}

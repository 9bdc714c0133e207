package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
)

// impostor returns a generation whose worker is answer, which is given each
// request and writes what it likes.
func impostor(t *testing.T, number uint32, answer func(f frame) []byte) *generation {
	t.Helper()
	ours, theirs, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	g := newGeneration(number, ours)
	g.cmd = exec.Command("sleep", "60") // something to kill
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		var in inbox
		for {
			f, err := in.next()
			if errors.Is(err, errPartial) {
				if in.fill(theirs.Read) != nil {
					return
				}
				continue
			}
			if b := answer(f); b != nil {
				theirs.Write(b)
			}
		}
	}()
	g.run()
	t.Cleanup(func() {
		g.end(errClosed)
		g.reap()
		<-done
	})
	return g
}

func pair(t *testing.T) (priv *ecdsa.PrivateKey, spki []byte) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if spki, err = keystore.MarshalPublic(priv.Public()); err != nil {
		t.Fatal(err)
	}
	return priv, spki
}

func signature(t *testing.T, k *ecdsa.PrivateKey, message []byte) []byte {
	r, s, err := ecdsa.Sign(rand.Reader, k, keystore.Digest(keystore.ES256, message))
	if err != nil {
		t.Error(err)
		return nil
	}
	return keystoretest.JOSE(keystore.ES256, r, s)
}

func TestP22P23WhatDoesNotVerifyIsNotReleased(t *testing.T) {
	priv, spki := pair(t)
	other, _ := pair(t)
	raw := func(k *ecdsa.PrivateKey, message []byte) []byte { return signature(t, k, message) }
	message := []byte("e30.e30")
	for name, v := range map[string]struct {
		sign func() []byte
		ok   bool
	}{
		"right":             {func() []byte { return raw(priv, message) }, true},
		"one bit flipped":   {func() []byte { s := raw(priv, message); s[40] ^= 1; return s }, false},
		"another key's":     {func() []byte { return raw(other, message) }, false},
		"another message's": {func() []byte { return raw(priv, []byte("e30.e31")) }, false},
		"short":             {func() []byte { return raw(priv, message)[:63] }, false},
		"DER": {func() []byte {
			s, err := priv.Sign(rand.Reader, keystore.Digest(keystore.ES256, message), crypto.SHA256)
			if err != nil {
				t.Error(err)
			}
			return s
		}, false},
		"zeros":   {func() []byte { return make([]byte, 64) }, false},
		"nothing": {func() []byte { return nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Provider{cfg: Config{Log: slog.New(slog.DiscardHandler), Deadlines: Deadlines{}.withDefaults()}}
			k, err := p.newKey(keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: keystore.ES256, SPKI: spki}, keystore.PurposeJWT)
			if err != nil {
				t.Fatal(err)
			}
			g := impostor(t, 7, func(f frame) []byte { return appendAnswer(nil, 7, f.id, v.sign(), nil) })
			sig, err := k.ask(t.Context(), g, nil, message, nil, k.check)
			if v.ok != (err == nil) || !v.ok && (!errors.Is(err, keystore.ErrSignature) || sig != nil) {
				t.Errorf("%x, %v", sig, err)
			}
			if g.isEnded() == v.ok {
				t.Errorf("the generation ended: %v", g.isEnded())
			}
		})
	}
}

// Whatever is wrong with an answer ends the generation, and every request that
// waits fails at once.
func TestAGenerationBelievesNothingOdd(t *testing.T) {
	for name, v := range map[string]struct {
		answer func(f frame) []byte
		want   error
	}{
		"a late answer of the generation before": {func(f frame) []byte { return appendAnswer(nil, 6, f.id, nil, nil) }, errEnded},
		"an answer to nothing":                   {func(f frame) []byte { return appendAnswer(nil, 7, f.id+1, nil, nil) }, errEnded},
		"an answer that is no frame":             {func(frame) []byte { return []byte{0xff, 0xff, 0xff, 0xff} }, errEnded},
		"a token fault":                          {func(f frame) []byte { return appendAnswer(nil, 7, f.id, nil, errors.New("CKR_DEVICE_ERROR")) }, errEnded},
		"no answer":                              {func(frame) []byte { return nil }, errEnded},
		"an argument error":                      {func(f frame) []byte { return appendAnswer(nil, 7, f.id, nil, keystore.ErrMessage) }, keystore.ErrMessage},
	} {
		t.Run(name, func(t *testing.T) {
			g := impostor(t, 7, v.answer)
			began := time.Now()
			_, err := g.ask(t.Context(), nil, verbSign, 50*time.Millisecond, []byte("request"))
			if !errors.Is(err, v.want) {
				t.Errorf("%v, want %v", err, v.want)
			}
			if ended := errors.Is(v.want, errEnded); ended != g.isEnded() {
				t.Errorf("the generation ended: %v", g.isEnded())
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("after %v", took)
			}
			if _, err := g.ask(t.Context(), nil, verbSign, time.Second); g.isEnded() && !errors.Is(err, errEnded) {
				t.Errorf("asked afterwards: %v", err)
			}
		})
	}
}

// A caller that gives up does not end the worker others are using.
func TestACallersDeadlineIsItsOwn(t *testing.T) {
	release := make(chan struct{})
	g := impostor(t, 7, func(f frame) []byte {
		if string(f.body) == "slow" {
			<-release
		}
		return appendAnswer(nil, 7, f.id, f.body, nil)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := g.ask(ctx, nil, verbSign, time.Minute, []byte("slow"))
	close(release)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, keystore.ErrUnavailable) {
		t.Error(err)
	}
	for range 3 {
		if body, err := g.ask(t.Context(), nil, verbSign, time.Minute, []byte("quick")); err != nil || string(body) != "quick" {
			t.Errorf("the next one: %q, %v", body, err)
		}
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var tl tail
	for range 1000 {
		tl.Write([]byte("a line of a crash\n"))
	}
	tl.Write([]byte("the last line\n"))
	if s := tl.String(); s != ": the last line" || len(tl.text) > maxTail {
		t.Errorf("%q, %d bytes", s, len(tl.text))
	}
	if os.Getenv(workerEnv) != "" {
		t.Error("the tests run as a worker")
	}
}

// What it was: for a moment a generation refused what it was asked and was still
// the worker with least to do, so that callers used up all their tries on it.
func TestAGenerationIsGivenNothingBeforeItRefuses(t *testing.T) {
	g := impostor(t, 7, func(frame) []byte { return nil })
	var refused []bool
	g.onEnd = func(g *generation) {
		g.mu.Lock()
		defer g.mu.Unlock()
		refused = append(refused, g.cause != nil)
	}
	g.end(errLate)
	g.mu.Lock() // what reads from it may end it, too
	defer g.mu.Unlock()
	if len(refused) == 0 || refused[0] {
		t.Errorf("when it is taken from the hall it refuses already: %v", refused)
	}
}

// What it was: the request with number 0, which comes after four thousand million
// others, was taken for one that is overdue.
func TestARequestWithNumberZeroHasItsTime(t *testing.T) {
	g := impostor(t, 7, func(f frame) []byte {
		time.Sleep(4 * patrol)
		return appendFrame(nil, frame{7, f.id, byte(statusOK), nil})
	})
	g.mu.Lock()
	g.next = math.MaxUint32
	g.mu.Unlock()
	if _, err := g.ask(t.Context(), nil, verbHello, time.Minute); err != nil {
		t.Error(err)
	}
}

// What it was: a worker that was about to be sent away for want of work could be
// given some, and was killed with it.
func TestAWorkerThatRetiresIsGivenNothing(t *testing.T) {
	g := impostor(t, 7, func(frame) []byte { return nil })
	if g.retire(time.Hour) {
		t.Error("one that was just started retires")
	}
	go g.ask(t.Context(), nil, verbHello, time.Minute)
	until(t, "it is asked", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.calls) > 0
	})
	if g.retire(0) {
		t.Error("one that was asked something retires")
	}
	idle := impostor(t, 8, func(frame) []byte { return nil })
	if !idle.retire(0) {
		t.Error("one with nothing to do does not retire")
	}
	if _, err := idle.ask(t.Context(), nil, verbHello, time.Minute); !errors.Is(err, errNotAsked) {
		t.Errorf("one that retires was asked: %v", err)
	}
}

// What it was: what a module had started lived on when its worker had ended, and
// with it the worker's end of the socket.
func TestWhatAWorkerStartedEndsWithIt(t *testing.T) {
	g := impostor(t, 7, func(frame) []byte { return nil })
	own := g.cmd
	t.Cleanup(func() { own.Process.Kill(); own.Wait() })
	g.cmd = exec.Command("sh", "-c", "sleep 60 & echo $!; wait")
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var helper int
	if _, err := fmt.Fscan(out, &helper); err != nil {
		t.Fatal(err)
	}
	g.end(errLate)
	until(t, "the helper has ended", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", helper))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

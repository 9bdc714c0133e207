package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit/transittest"
	"chancery/signer/api"
)

// A gate stands before a Vault and counts the connections made to it, also while
// nobody is behind it. TLS passes through.
type gate struct {
	net.Listener
	to string

	mu    sync.Mutex // guards opens
	opens []time.Time
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: l, to: strings.TrimPrefix(to, "https://")}
	go g.serve()
	t.Cleanup(func() { l.Close() })
	return g
}

func (g *gate) serve() {
	for {
		in, err := g.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		g.opens = append(g.opens, time.Now())
		g.mu.Unlock()
		go func() {
			defer in.Close()
			out, err := net.Dial("tcp", g.to)
			if err != nil {
				return
			}
			defer out.Close()
			go func() {
				io.Copy(out, in)
				out.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(in, out)
		}()
	}
}

// between counts the connections made in a time.
func (g *gate) between(from, to time.Time) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, at := range g.opens {
		if at.After(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// A watchman asks for what must answer whatever a keystore does, and keeps the
// worst of it.
type watchman struct {
	stop   func()
	mu     sync.Mutex // guards what follows
	asked  int
	worst  time.Duration
	failed []string
}

func (d *chanceryd) watchman(urls ...string) *watchman {
	ctx, cancel := context.WithCancel(d.t.Context())
	w := &watchman{}
	var wg sync.WaitGroup
	w.stop = func() { cancel(); wg.Wait() }
	d.t.Cleanup(w.stop)
	client := &http.Client{Timeout: 5 * time.Second}
	wg.Go(func() {
		for ctx.Err() == nil {
			for _, url := range urls {
				began := time.Now()
				err := fetch(ctx, client, url)
				if ctx.Err() != nil {
					return
				}
				w.mu.Lock()
				w.asked++
				w.worst = max(w.worst, time.Since(began))
				if err != nil {
					w.failed = append(w.failed, err.Error())
				}
				w.mu.Unlock()
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return w
}

func fetch(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d", url, resp.StatusCode)
	}
	return err
}

// stopsUnderLoad takes the Vault away and gives it back, under load: meanwhile
// nothing else is affected and it is let alone, and afterwards it signs by itself.
func (v *vaulted) stopsUnderLoad(t *testing.T, g *gate, what string, d time.Duration, state keystore.TokenState, take, give func()) {
	t.Helper()
	load := v.crowd(8, 20*time.Millisecond, "vaulted")
	load.atLeast(100)
	began := time.Now()
	take()
	gone := time.Now()
	v.awaitState(state)
	time.Sleep(time.Until(gone.Add(d)))
	asked := time.Now()
	opens := g.between(gone.Add(time.Second), asked)
	give()
	back := time.Now()
	v.within(10*time.Second, "vaulted signs again", v.signs)
	took := time.Since(back)
	load.atLeast(len(load.replies()) + 100)
	load.stop()
	v.awaitState(keystore.TokenReady)
	if took > 2*time.Second {
		t.Errorf("%s: it signed %v after its return, want 2 s at most", what, took)
	}
	if most := int(asked.Sub(gone)/time.Second) + 1; opens > most {
		t.Errorf("%s: %d connections towards it within %v", what, opens, asked.Sub(gone).Round(time.Millisecond))
	}
	refused := 0
	for _, a := range load.problems(false) {
		refused++
		p, _ := errors.AsType[*api.Problem](a.err)
		if p.Code != api.CodeBackendUnavailable || p.RetryAfter == 0 {
			t.Errorf("%s: a refusal with %s, Retry-After %d", what, p.Code, p.RetryAfter)
		}
		if late := a.answered.Sub(a.sent); late > requestWithin {
			t.Errorf("%s: a refusal took %v", what, late)
		}
	}
	if refused == 0 {
		t.Errorf("%s: nothing was refused, so nothing was shown", what)
	}
	v.wantVerified(load.replies())
	v.loads = append(v.loads, load)
	t.Logf("%s for %v: %d tokens, %d refusals, %d connections towards it, signing %v after its return",
		what, gone.Sub(began)+d, len(load.replies()), refused, opens, took.Round(time.Millisecond))
}

// A Vault that is stopped, sealed or hangs under load takes its key sets with it
// and nothing else, is not stormed, and needs no restart of the daemon.
func TestVaultStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	s := transittest.Vault(t)
	g := newGate(t, s.Address())
	v := newVaultedAt(t, s.Server, "https://"+g.Addr().String())
	w := v.watchman(v.chanceryd.issuer("vaulted")+"/jwks.json", v.endpoints.Admin+"/livez")
	seconds := time.Duration(soak(t, 20, 300, "seconds without Vault")) * time.Second
	v.stopsUnderLoad(t, g, "stopped", seconds, keystore.TokenUnavailable, s.Kill, s.Start)
	v.stopsUnderLoad(t, g, "sealed", 4*time.Second, keystore.TokenSealed, s.Seal, s.Unseal)
	v.stopsUnderLoad(t, g, "hanging", 6*time.Second, keystore.TokenUnavailable, s.Pause, s.Resume)
	w.stop()
	if len(w.failed) > 0 {
		t.Errorf("%d of %d requests for the JWKS and livez failed: %s", len(w.failed), w.asked, w.failed[0])
	}
	t.Logf("JWKS and livez: asked %d times, the slowest took %v", w.asked, w.worst.Round(time.Millisecond))
	v.end()
}

// A token that is revoked under load is replaced by one that an agent writes: no
// answer is wrong, and signing goes on by itself.
func TestVaultTokenRevokedUnderLoad(t *testing.T) {
	t.Parallel()
	s := transittest.Vault(t)
	v := newVaulted(t, s.Server)
	g := newGate(t, s.Address()) // stands before nothing
	old := v.token
	v.stopsUnderLoad(t, g, "revoked", 3*time.Second, keystore.TokenAuthRejected,
		func() { s.Call(t, "POST", "auth/token/revoke", map[string]string{"token": old}) },
		func() { v.giveToken(t, leastToken(t, s.Server, v.mount, nil)) })
	v.end()
}

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/client"
)

// clientAs returns a client at the signing socket with a certificate of its own.
func (d *chanceryd) clientAs(name string) *client.Client {
	d.t.Helper()
	cert := d.identity(func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "chancery.dev", Path: "/" + name}}
	})
	c, err := client.New(client.Config{Endpoint: "unix:" + d.endpoints.Socket, Certificate: cert, Roots: d.roots(), Connections: 128})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(c.Close)
	return c
}

// metric reads a counter or gauge of the daemon's; without one of the name, 0.
func (d *chanceryd) metric(name string) float64 {
	d.t.Helper()
	_, body := d.get(d.endpoints.Admin + "/metrics")
	_, rest, found := strings.Cut(body, "\n"+name+" ")
	if !found {
		return 0
	}
	text, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

// TestA15A33ALoudPrincipal: a principal whose certificate was stolen asks for all
// it can get, with RSA, by a hundred callers at once. Its neighbour gets each of its
// tokens, and is refused nothing; the loud one is told to come back, the log says once
// that its quota is full, and a reload ends its signing.
func TestA15A33ALoudPrincipal(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	const loudly = "dev:spiffe:spiffe://chancery.dev/loud"
	d.edit("principals: ['dev:spiffe:spiffe://chancery.dev/issuer']", "principals: ['dev:spiffe:spiffe://chancery.dev/issuer', '"+loudly+"']")
	d.edit("\nclients:\n", "\nlimits:\n  principals:\n    - {principal: '"+loudly+"', concurrent: 60, quota: {signatures: 200, per: 24h}}\nclients:\n")
	if e := d.reload(); e.Outcome != keystore.OutcomeDone {
		t.Fatalf("the reload: %+v", e)
	}
	loud, quiet := d.clientAs("loud"), d.client("issuer")
	var stop atomic.Bool
	var signed, refused atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for !stop.Load() {
				_, err := loud.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "legacy", Claims: json.RawMessage(`{}`)})
				if err == nil {
					signed.Add(1)
					continue
				}
				if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != api.CodeOverloaded || p.RetryAfter < 1 {
					t.Errorf("the loud one: %v", err)
					return
				}
				refused.Add(1)
				time.Sleep(5 * time.Millisecond) // which is not what it was told
			}
		})
	}
	for n := 0; n < 30 || signed.Load() < 250 || refused.Load() < 100; n++ {
		d.sign(quiet, []string{"legacy", "web"}[n%2], fmt.Sprintf(`{"n":%d}`, n))
		if t.Failed() {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
	if n := d.metric(`chancery_requests_limited_total{limit="concurrent"}`); n < 100 {
		t.Errorf("%v were refused", n)
	}
	if n := d.metric("chancery_quota_alerts_total"); n != 1 {
		t.Errorf("%v alerts", n)
	}
	if n := d.metric(`chancery_queue_turns_total{keystore="hsm",waited="yes"}`); n < 1 {
		t.Errorf("%v requests waited for a turn", n)
	}
	for _, name := range []string{"waiting", "inside", "principals"} {
		if n := d.metric("chancery_queue_" + name + `{keystore="hsm"}`); n != 0 {
			t.Errorf("nobody asks, and %s is %v", name, n)
		}
	}
	alerts := d.logged(audit.Filter{Log: "acts", Action: keystore.ActQuota})
	if len(alerts) != 1 || alerts[0].Principal != loudly || alerts[0].Detail["signatures"] != "200" || alerts[0].Detail["then"] != "signed" {
		t.Errorf("%+v", alerts)
	}
	d.edit("per: 24h}", "per: 24h, refuse: true}")
	if e := d.reload(); e.Outcome != keystore.OutcomeDone {
		t.Fatalf("the reload: %+v", e)
	}
	_, err := loud.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
	if p := wantCode(t, err, api.CodeOverloaded); p.RetryAfter < 1 || p.RetryAfter > 24*3600 || !strings.Contains(p.Detail, "200 signatures") {
		t.Errorf("%+v", p)
	}
	d.sign(quiet, "web", `{}`)
}

// TestA13IdleClients: by the hundred they are cut, those beyond what the listener is
// to have are cut at once, and descriptors stay bounded; a caller elsewhere signs all
// the time.
func TestA13IdleClients(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	d := startDev(t, dir)
	d.keySets() // no key is being made when it stops
	d.stop()
	const connections, perPeer = 150, 120
	d.edit("    server_name: localhost\n", fmt.Sprintf("    server_name: localhost\n    limits: {idle: 3s, handshake: 3s, connections: %d, per_peer: %d}\n", connections, perPeer))
	d = startDev(t, dir)
	before, pair := d.descriptors(), d.pair("issuer")
	endpoint, err := url.Parse(d.endpoints.API)
	if err != nil {
		t.Fatal(err)
	}
	c := d.client("issuer") // at the socket: another peer
	d.sign(c, "edge", `{}`)
	var served, refused, cut atomic.Int64
	var wg sync.WaitGroup
	for i := range 300 {
		raw, err := net.Dial("tcp", "127.0.0.1:"+endpoint.Port())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { raw.Close() })
		wg.Go(func() {
			if i%3 == 0 { // never says a word
				raw.SetReadDeadline(time.Now().Add(30 * time.Second))
				if _, err := io.Copy(io.Discard, raw); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("a silent client is not cut")
					return
				}
				cut.Add(1)
				return
			}
			conn := tls.Client(raw, &tls.Config{RootCAs: d.roots(), ServerName: "localhost", Certificates: []tls.Certificate{pair}})
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.WriteString(conn, "GET /v1/keysets HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
				refused.Add(1)
				return
			}
			reply, err := io.ReadAll(conn)
			switch {
			case len(reply) == 0:
				refused.Add(1)
			case errors.Is(err, os.ErrDeadlineExceeded):
				t.Error("an idle client is not cut")
			default:
				served.Add(1)
			}
		})
	}
	most := 0
	for cut.Load()+served.Load()+refused.Load() < 300 && !t.Failed() {
		d.sign(c, "edge", `{}`)
		most = max(most, d.descriptors())
	}
	wg.Wait()
	t.Logf("%d served and then cut, %d silent ones cut, %d refused; %d descriptors at most, %d before", served.Load(), cut.Load(), refused.Load(), most, before)
	if served.Load() == 0 || refused.Load() == 0 || cut.Load() != 100 {
		t.Errorf("%d served, %d refused, %d of 100 silent ones cut", served.Load(), refused.Load(), cut.Load())
	}
	if n := d.metric(`chancery_connections_refused_total{door="signing",limit="per_peer"}`); n < float64(refused.Load())/2 { // some were cut in their handshake
		t.Errorf("%v connections are counted that were refused, of %d", n, refused.Load())
	}
	if n := strings.Count(d.log.String(), "too many are open"); n < 1 || n > 2 {
		t.Errorf("%d lines tell of a full door", n)
	}
	if most > before+connections+20 { // files of the log come and go
		t.Errorf("%d descriptors, %d before, and %d connections may be open", most, before, connections)
	}
}

// descriptors returns how many the daemon has open.
func (d *chanceryd) descriptors() int {
	d.t.Helper()
	open, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid), "fd"))
	if err != nil {
		d.t.Fatal(err)
	}
	return len(open)
}

// TestI6AGoneCallerCostsNothing: a token that hangs keeps callers waiting. Those
// whose time ends, and those who hang up, are answered or gone at once, and what
// waited for its turn takes no number: the log's uses are those of the others.
func TestI6AGoneCallerCostsNothing(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	d := startDev(t, dir)
	d.keySets() // no key is being made when it stops
	d.stop()
	const window, callers = 4, 60
	d.edit("\nclients:\n", fmt.Sprintf("\nlimits: {queue: {window: %d}}\nclients:\n", window))
	d = startDev(t, dir)
	web := d.http("issuer")
	web.Transport.(*http.Transport).MaxIdleConnsPerHost = 256
	post := func(timeout string) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://localhost/v1/sign/jwt", strings.NewReader(`{"keyset":"web","claims":{}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(api.RequestTimeout, timeout)
		resp, err := web.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, nil
	}
	for timeout, want := range map[string]int{"5": 200, "99999": 200, "0": 400, "now": 400} {
		if status, err := post(timeout); err != nil || status != want {
			t.Errorf("Request-Timeout %s: %d, %v, want %d", timeout, status, err, want)
		}
	}
	d.calmWorkers()
	var wg sync.WaitGroup
	for range callers + window + 5 { // their connections are open: what follows is to take less than 1.8 s
		wg.Go(func() {
			if resp, err := web.Get("https://localhost/v1/keysets"); err != nil {
				t.Error(err)
			} else {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	d.signalWorkers(syscall.SIGSTOP)
	hang := func(n int, timeout string) {
		for range n {
			wg.Go(func() {
				if status, err := post(timeout); err != nil || status != http.StatusGatewayTimeout {
					t.Errorf("while the token hangs: %d, %v", status, err)
				}
			})
		}
	}
	hang(window, "1.8")
	d.within(time.Second, "the window is full", func() error {
		if d.metric(`chancery_queue_inside{keystore="hsm"}`) < window {
			return errors.New("not yet")
		}
		return nil
	})
	const hungUp = 5
	ctx, hangUp := context.WithCancel(t.Context())
	defer wg.Wait()
	defer hangUp()
	for range hungUp {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://localhost/v1/sign/jwt", strings.NewReader(`{"keyset":"web","claims":{}}`))
			if err == nil {
				_, err = web.Do(req)
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("who hangs up: %v", err)
			}
		})
	}
	d.within(time.Second, "they wait for their turn", func() error { // who went before it came has asked for nothing
		if d.metric(`chancery_queue_waiting{keystore="hsm"}`) < hungUp {
			return errors.New("not yet")
		}
		return nil
	})
	hangUp()
	hang(callers, "0.3")
	wg.Wait()
	d.within(10*time.Second, "those who hung up are counted apart", func() error {
		_, body := d.get(d.endpoints.Admin + "/metrics")
		if !strings.Contains(body, fmt.Sprintf(`chancery_request_duration_seconds_count{code="canceled",route="POST /v1/sign/jwt"} %d`, hungUp)) {
			return errors.New("not yet")
		}
		if strings.Contains(body, `code="backend_unavailable"`) || strings.Contains(body, `code="overloaded"`) {
			t.Error("who does not wait counts as what is down, or as too much")
		}
		return nil
	})
	if left := d.metric(`chancery_queue_left_total{keystore="hsm"}`); left != callers+hungUp {
		t.Errorf("%v of %d left before their turn", left, callers+hungUp)
	}
	d.signalWorkers(syscall.SIGCONT) // those that are not replaced yet
	entry := d.sign(d.client("issuer").Patient(30*time.Second), "web", `{}`).Entry
	for at, err := range audit.Entries(filepath.Join(d.dir, "audit"), audit.Filter{Log: "acts", Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone}) {
		if err != nil {
			t.Fatal(err)
		}
		if at.Name() == entry && at.Entry.Use != 2+window+1 {
			t.Errorf("the next use has number %d: two signed, and %d were let in while the token hung", at.Entry.Use, window)
		}
	}
}

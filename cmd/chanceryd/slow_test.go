package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/signer/api"
)

// TestA13SlowClients: 480 clients, about as many as one uid and one address may
// have, that stall in the handshake, in the header or in the body do not keep
// others from signing, and are cut.
func TestA13SlowClients(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.client("issuer")
	d.sign(c, "edge", `{}`)
	pair := d.pair("issuer")
	usual := d.signNow(20) // how long it takes here, whatever else is going on
	slices.Sort(usual)
	const each = 160
	endpoint, err := url.Parse(d.endpoints.API)
	if err != nil {
		t.Fatal(err)
	}
	slow := make(map[string][]net.Conn)
	connected := 0
	connect := func() net.Conn {
		network, address := "unix", d.endpoints.Socket
		if connected++; connected%2 == 0 {
			network, address = "tcp", "127.0.0.1:"+endpoint.Port()
		}
		conn, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	begun := time.Now()
	for range each {
		stalled := connect()
		stalled.Write([]byte{22, 3, 1}) // the beginning of a record
		slow["handshake"] = append(slow["handshake"], stalled)
		for kind, text := range map[string]string{
			"header": "POST /v1/sign/jwt HTTP/1.1\r\nHost: loc",
			"body":   "POST /v1/sign/jwt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\n\r\n{",
		} {
			conn := tls.Client(connect(), &tls.Config{RootCAs: d.roots(), ServerName: "localhost", Certificates: []tls.Certificate{pair}})
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			slow[kind] = append(slow[kind], conn)
		}
	}
	var took []time.Duration
	var cut atomic.Int64
	for _, conns := range slow {
		for _, conn := range conns {
			go func() { // ends when the connection does, at the latest by Cleanup
				conn.SetReadDeadline(time.Now().Add(30 * time.Second))
				_, err := io.Copy(io.Discard, conn) // a 408 or 400 may come first
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					cut.Add(1)
				}
			}()
		}
	}
	for cut.Load() < 3*each && time.Since(begun) < 25*time.Second {
		took = append(took, d.signNow(1)...)
		time.Sleep(50 * time.Millisecond) // a client now and then, each on a new connection
	}
	slices.Sort(took)
	t.Logf("%d of %d slow clients cut after %v; %d tokens meanwhile on connections of their own, p50 %v, p99 %v",
		cut.Load(), 3*each, time.Since(begun).Round(time.Second/10), len(took), took[len(took)/2], took[len(took)*99/100])
	if cut.Load() < 3*each {
		t.Errorf("%d of %d slow clients cut", cut.Load(), 3*each)
	}
	if p99, most := took[len(took)*99/100], max(2*time.Second, 10*usual[len(usual)/2]); p99 > most {
		t.Errorf("p99 of signing is %v; half took %v at most before", p99, usual[len(usual)/2])
	}
}

// signNow signs n times, each on a connection of its own, and returns how long
// each took.
func (d *chanceryd) signNow(n int) (took []time.Duration) {
	d.t.Helper()
	for range n {
		start := time.Now()
		c := d.client("issuer")
		d.sign(c, "edge", `{}`)
		c.Close()
		took = append(took, time.Since(start))
	}
	return took
}

// TestA16ExpiryOnAnOpenConnection: a certificate that expires under a kept-alive
// connection is told so and cut; one that resumes a session is no better off;
// an idle one is cut by itself.
func TestA16ExpiryOnAnOpenConnection(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	end := time.Now().Add(8 * time.Second).Truncate(time.Second)
	cert := d.identity(func(c *x509.Certificate) { c.NotAfter = end })
	client := d.httpWith(d.endpoints.Socket, cert)
	client.Transport.(*http.Transport).TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	idle, err := net.Dial("unix", d.endpoints.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	idling := tls.Client(idle, &tls.Config{RootCAs: d.roots(), ServerName: "localhost", Certificates: []tls.Certificate{cert}})
	if _, err := io.WriteString(idling, "GET /v1/keysets HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err) // after one request, only its certificate's end can end it
	}
	sign := func() (r result, reused bool, err error) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://localhost/v1/sign/jwt", strings.NewReader(`{"keyset":"edge","claims":{}}`))
		if err != nil {
			return r, reused, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return r, reused, err
		}
		defer resp.Body.Close()
		var p api.Problem
		if resp.StatusCode != http.StatusOK {
			if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
				return r, reused, err
			}
		}
		io.Copy(io.Discard, resp.Body)
		return result{status: resp.StatusCode, header: resp.Header, code: p.Code}, reused, nil
	}
	refused := false
	for n := 0; !refused; n++ {
		asked := time.Now()
		r, reused, err := sign()
		switch {
		case err != nil:
			t.Fatalf("request %d, %v before the end: %v", n, end.Sub(asked), err)
		case n > 0 && !reused:
			t.Fatalf("request %d came on a new connection", n)
		case r.status == http.StatusOK && asked.After(end.Add(time.Second)):
			t.Fatalf("signed %v after the certificate's end", asked.Sub(end))
		case r.status == http.StatusUnauthorized:
			refused = true
			r.want(t, "after the end", api.CodeCertificateExpired)
			if time.Now().Before(end) {
				t.Error("refused before the end")
			}
		case r.status != http.StatusOK:
			t.Fatalf("request %d: %d %s", n, r.status, r.code)
		}
		time.Sleep(50 * time.Millisecond) // keeps the connection in use
	}
	err = d.handshake(func(c *tls.Config) {
		c.ClientSessionCache = client.Transport.(*http.Transport).TLSClientConfig.ClientSessionCache
	}, cert)
	if alertOf(err) != 45 {
		t.Errorf("after the refusal, with a session to resume: %v", err)
	}
	idle.SetReadDeadline(end.Add(15 * time.Second))
	_, err = io.Copy(io.Discard, idling)
	if since := time.Since(end); errors.Is(err, os.ErrDeadlineExceeded) || since < 0 {
		t.Errorf("an idle connection ended %v after its certificate: %v", since, err)
	} else {
		t.Logf("an idle connection was cut %v after its certificate's end", since.Round(time.Second/10))
	}
}

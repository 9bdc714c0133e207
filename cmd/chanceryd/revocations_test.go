package main

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/renameio/v2"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// promised is how soon a revoked client has lost its access, also on an open
// connection (I10).
const promised = 5 * time.Second

// revoke puts a revocation list of the development root where the daemon finds it.
func (d *chanceryd) revoke(made, until time.Time, revoked ...tls.Certificate) {
	d.t.Helper()
	root, err := tls.LoadX509KeyPair(filepath.Join(d.dir, "ca.crt"), filepath.Join(d.dir, "pki", "root.key"))
	if err != nil {
		d.t.Fatal(err)
	}
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: made, NextUpdate: until}
	for _, c := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: made})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, root.Leaf, root.PrivateKey.(crypto.Signer))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := renameio.WriteFile(d.crl(), der, 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func (d *chanceryd) crl() string { return filepath.Join(d.dir, "clients.crl") }

// gauge reads a metric that has one value.
func (d *chanceryd) gauge(name string) float64 {
	d.t.Helper()
	_, body := d.get(d.endpoints.Admin + "/metrics")
	_, rest, _ := strings.Cut(body, "\n"+name+" ")
	text, _, _ := strings.Cut(rest, "\n")
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		d.t.Fatalf("the metric %s: %v", name, err)
	}
	return v
}

// idle returns a connection that has made one request and makes no other.
func (d *chanceryd) idle(cert tls.Certificate) (ended func() bool) {
	d.t.Helper()
	raw, err := net.Dial("unix", d.endpoints.Socket)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { raw.Close() })
	conn := tls.Client(raw, &tls.Config{RootCAs: d.roots(), ServerName: "localhost", Certificates: []tls.Certificate{cert}})
	if _, err := io.WriteString(conn, "GET /v1/keysets HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		d.t.Fatal(err)
	}
	return func() bool {
		raw.SetReadDeadline(time.Now().Add(promised))
		_, err := io.Copy(io.Discard, conn)
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
}

// TestA17S21RevocationLists: whom a revocation list names loses access within
// five seconds, on the connection it has, on a resumed session, and without a
// request; others go on. A list that is broken or older than the one in force
// changes nothing. Without a list that counts everyone under the anchor is
// refused, and log, readiness and metrics say so, once.
func TestA17S21RevocationLists(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	revoked, other := d.identity(func(*x509.Certificate) {}), d.identity(func(c *x509.Certificate) { c.SerialNumber = big.NewInt(77) })
	kept, others := d.httpWith(d.endpoints.Socket, revoked), d.httpWith(d.endpoints.Socket, other)
	kept.Transport.(*http.Transport).TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	asks := func(c *http.Client) (result, error) {
		return send(t, c, http.MethodPost, "/v1/sign/jwt", strings.NewReader(`{"keyset":"edge","claims":{}}`))
	}
	// becomes waits until a client is answered with code, "" for a signature.
	becomes := func(what string, c *http.Client, code api.Code) {
		t.Helper()
		d.within(promised, what, func() error {
			r, err := asks(c)
			if err == nil && r.code == code {
				return nil
			}
			return fmt.Errorf("%d %s, %v", r.status, r.code, err)
		})
	}
	readiness := func() string {
		_, body := d.get(d.endpoints.Admin + "/readyz?verbose")
		return body
	}
	states := func() (all []string) {
		for _, e := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActRevocation}) {
			if e.Detail["anchor"] != "dev" || e.Reason == "" {
				t.Errorf("the entry %+v", e)
			}
			all = append(all, string(e.Outcome))
		}
		return all
	}
	if r, err := asks(kept); err != nil || r.status != http.StatusOK {
		t.Fatalf("before any list is asked for: %v %d", err, r.status)
	}

	// A list is asked for, and there is none.
	edit(t, d.configFile(), "    ca: ca.crt\n", "    ca: ca.crt\n    crl: [clients.crl]\n    crl_max_age: 1h\n")
	if e := d.reload(); e.Outcome != keystore.OutcomeDone {
		t.Fatalf("the reload: %s %s", e.Outcome, e.Reason)
	}
	for what, c := range map[string]*http.Client{"on its connection": kept, "on a new one": d.httpWith(d.endpoints.Socket, other)} {
		r, err := asks(c)
		if err != nil {
			t.Fatal(err)
		}
		if r.want(t, "without a list, "+what, api.CodeRevocationUnknown); r.header.Get("Retry-After") == "" {
			t.Errorf("%s: when to come back is not said", what)
		}
	}
	if s := readiness(); !strings.Contains(s, "[!]revocation lists warning") || !strings.Contains(s, "no revocation list of CN=Chancery development root") {
		t.Errorf("readiness says\n%s", s)
	}
	d.within(promised, "the log says that clients are refused", func() error {
		if s := states(); len(s) != 1 || s[0] != "failed" {
			return fmt.Errorf("%q", s)
		}
		return nil
	})

	// There is one, and one is on it.
	made := time.Now().Truncate(time.Second)
	d.revoke(made.Add(-time.Minute), made.Add(time.Hour))
	becomes("a list without anyone on it", kept, "")
	becomes("a list without anyone on it, another client", others, "")
	if s := readiness(); !strings.Contains(s, "[+]revocation lists ok") {
		t.Errorf("readiness says\n%s", s)
	}
	// Until crl_max_age, which comes before the list's own end.
	if s := d.gauge(`chancery_client_crl_seconds{anchor="dev"}`); s < 3000 || s > 3600-60 {
		t.Errorf("the list counts for %v s more", s)
	}
	ended, stays := d.idle(revoked), d.idle(other)
	start := time.Now()
	d.revoke(made, made.Add(time.Hour), revoked)
	d.within(promised, "the revoked client is refused on its connection", func() error {
		r, err := asks(kept)
		if err == nil && r.code != api.CodeCertificateRevoked {
			return fmt.Errorf("%d %s", r.status, r.code)
		}
		return nil // refused, or the connection is closed
	})
	t.Logf("refused %v after the list was there", time.Since(start).Round(time.Millisecond))
	if !ended() {
		t.Error("the idle connection of the revoked client is open")
	}
	if since := time.Since(start); since > promised {
		t.Errorf("it was cut %v after the list was there", since)
	} else {
		t.Logf("an idle connection was cut after %v", since.Round(time.Millisecond))
	}
	r, err := asks(kept) // a new connection, of the session before
	if err != nil {
		t.Fatal(err)
	}
	if r.want(t, "a resumed session", api.CodeCertificateRevoked); !r.closes {
		t.Error("the connection is not closed after 401")
	}
	becomes("who is not on it", others, "")

	// S21: what is broken, or would take a revocation back, is not taken.
	failures := d.gauge("chancery_client_crl_failures_total")
	for n, breakIt := range []func(){
		func() { os.WriteFile(d.crl(), []byte("-----BEGIN X509 CRL-----\nMII"), 0o644) },
		func() { d.revoke(made.Add(-time.Minute), made.Add(time.Hour)) },
		func() { os.Remove(d.crl()) },
	} {
		breakIt()
		d.within(promised, "the file is not taken", func() error {
			if got := d.gauge("chancery_client_crl_failures_total"); got != failures+float64(n)+1 {
				return fmt.Errorf("%v failures are counted", got-failures)
			}
			return nil
		})
		if s := readiness(); !strings.Contains(s, "[!]revocation lists warning") || !strings.Contains(s, "stays") {
			t.Errorf("readiness says\n%s", s)
		}
		becomes("still revoked", d.httpWith(d.endpoints.Socket, revoked), api.CodeCertificateRevoked)
		becomes("still not revoked", others, "")
	}
	if s := d.log.String(); !strings.Contains(s, "is older than the one in force") || !strings.Contains(s, "no such file") {
		t.Error("the daemon's output does not say why files were not taken")
	}

	// A list ends.
	d.revoke(made.Add(time.Second), time.Now().Add(3*time.Second).Truncate(time.Second))
	becomes("taken back", d.httpWith(d.endpoints.Socket, revoked), "")
	d.within(2*promised, "the list has passed", func() error {
		if r, err := asks(others); err != nil || r.code != api.CodeRevocationUnknown {
			return fmt.Errorf("%v, %d %s", err, r.status, r.code)
		}
		return nil
	})
	d.within(promised, "the log says that clients are refused again", func() error {
		if s := states(); len(s) != 3 {
			return fmt.Errorf("%q", s)
		}
		return nil
	})
	d.revoke(made.Add(2*time.Second), made.Add(time.Hour))
	becomes("a new list", others, "")
	if stays() {
		t.Error("the idle connection of who was never revoked has been cut")
	}
	d.within(promised, "the log has each change once", func() error {
		if s := states(); strings.Join(s, " ") != "failed done failed done" {
			return fmt.Errorf("%q", s)
		}
		return nil
	})
}

// TestA20AllowedUsers: a list of users that is put in force counts at once, on
// connections that are open too, and for the listener it is given to alone.
func TestA20AllowedUsers(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	kept, ended := d.http("issuer"), d.idle(d.pair("issuer"))
	post(t, kept, "/v1/sign/jwt", `{"keyset":"edge","claims":{}}`).want(t, "before", "")
	allow := func(list string) string { return "  signing:\n    allow_uids: " + list + "\n" }
	edit(t, d.configFile(), "  signing:\n", allow("[4294967294]"))
	if e := d.reload(); e.Outcome != keystore.OutcomeDone {
		t.Fatalf("the reload: %s %s", e.Outcome, e.Reason)
	}
	post(t, kept, "/v1/sign/jwt", `{"keyset":"edge","claims":{}}`).want(t, "on its connection", api.CodeForbidden)
	if r, err := send(t, d.http("issuer"), http.MethodGet, "/v1/keysets", nil); err == nil {
		t.Errorf("a new connection: %d", r.status)
	}
	who := fmt.Sprintf("uid %d", os.Getuid())
	d.wantHandshakeEntry(fmt.Sprintf("%s with gid %d may not connect", who, os.Getgid()), who)
	if !ended() {
		t.Error("an idle connection is open")
	}
	d.keySets() // the ops listener has no list
	edit(t, d.configFile(), allow("[4294967294]"), allow(fmt.Sprintf("[%d]", os.Getuid())))
	if e := d.reload(); e.Outcome != keystore.OutcomeDone {
		t.Fatalf("the reload: %s %s", e.Outcome, e.Reason)
	}
	post(t, d.http("issuer"), "/v1/sign/jwt", `{"keyset":"edge","claims":{}}`).want(t, "when the list has us", "")
}

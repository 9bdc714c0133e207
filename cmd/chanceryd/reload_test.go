package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// reload sends SIGHUP and returns the entry of the reload, once it has been
// carried out or refused as well: the entry of a policy comes before the policy.
func (d *chanceryd) reload() audit.Entry {
	d.t.Helper()
	filter := audit.Filter{Log: "lifecycle", Action: keystore.ActReload}
	before, counted := len(d.logged(filter)), d.reloads("ok")+d.reloads("failed")
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		d.t.Fatal(err)
	}
	var entries []audit.Entry
	d.within(10*time.Second, "the reload is in the log and was carried out or refused", func() error {
		if entries = d.logged(filter); len(entries) == before {
			return errors.New("no new entry")
		}
		if n := d.reloads("ok") + d.reloads("failed"); n == counted {
			return errors.New("neither carried out nor refused")
		}
		return nil
	})
	return entries[len(entries)-1]
}

func (d *chanceryd) configFile() string { return filepath.Join(d.dir, "config.yaml") }

// reloads reads the metric of reloads.
func (d *chanceryd) reloads(outcome string) int {
	d.t.Helper()
	_, body := d.get(d.endpoints.Admin + "/metrics")
	_, rest, found := strings.Cut(body, `chancery_reloads_total{outcome="`+outcome+`"} `)
	if !found {
		return 0 // none yet
	}
	text, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(text)
	if err != nil {
		d.t.Fatalf("the metric of reloads: %v", err)
	}
	return n
}

// inForceAsLast checks that metric and readiness say whether the last reload took. The
// node is ready either way.
func (d *chanceryd) inForceAsLast(took bool) {
	d.t.Helper()
	want, status := 0.0, "[!]configuration warning"
	if took {
		want, status = 1, "[+]configuration ok"
	}
	if n := d.metric("chancery_config_last_reload_successful"); n != want {
		d.t.Errorf("the last reload counts as %v, want %v", n, want)
	}
	if code, body := d.get(d.endpoints.Admin + "/readyz?verbose"); code != http.StatusOK || !strings.Contains(body, status) {
		d.t.Errorf("%d %s: no %s", code, body, status)
	}
}

// TestS21BrokenReload: what cannot be put in force whole is not put in force at
// all; what was stays, and log, metric and output say so.
func TestS21BrokenReload(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.client("issuer")
	first := d.sign(c, "web", `{}`)
	crt, key := filepath.Join(d.dir, "pki", "server.crt"), filepath.Join(d.dir, "pki", "server.key")
	halve := func(path string) func() {
		return func() {
			if info, err := os.Stat(path); err != nil || os.Truncate(path, info.Size()/2) != nil {
				t.Fatal(err)
			}
		}
	}
	edited := func(oldnew ...string) func() { return func() { edit(t, d.configFile(), oldnew...) } }
	for i, c := range []struct {
		name, file string
		breakIt    func()
	}{
		{"half a certificate", crt, halve(crt)},
		{"half a key", key, halve(key)},
		{"half an anchor", filepath.Join(d.dir, "ca.crt"), halve(filepath.Join(d.dir, "ca.crt"))},
		{"YAML that is none", d.configFile(), edited("keysets:\n", "keysets:\n\t- {\n")},
		{"a policy nobody can mean", d.configFile(), edited("[jwt.sign, keysets.read]", "[jwt.sing]")},
		{"what needs a restart", d.configFile(), edited("algorithm: RS256", "algorithm: PS256")},
		{"policy together with a mistake elsewhere", d.configFile(), edited("keysets: [web, legacy, edge]", "keysets: [web]", "node: dev #", "nodes: dev #")},
		{"no file", d.configFile(), func() { os.Remove(d.configFile()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole, err := os.ReadFile(c.file)
			if err != nil {
				t.Fatal(err)
			}
			c.breakIt()
			e := d.reload()
			if err := os.WriteFile(c.file, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			if e.Outcome != keystore.OutcomeFailed || e.Reason == "" {
				t.Errorf("the log says %q, %q", e.Outcome, e.Reason)
			}
			if n := d.reloads("failed"); n != i+1 {
				t.Errorf("%d refused reloads are counted, want %d", n, i+1)
			}
			d.inForceAsLast(false)
			d.sign(d.client("issuer"), "edge", `{}`) // on a new connection, by the old policy
		})
	}
	if second := d.sign(c, "web", `{}`); second.KID != first.KID {
		t.Errorf("kid %s became %s", first.KID, second.KID)
	}
	if e := d.reload(); e.Outcome != keystore.OutcomeDone {
		t.Errorf("a whole configuration: %q %q", e.Outcome, e.Reason)
	}
	if n := d.reloads("ok"); n != 1 {
		t.Errorf("%d good reloads are counted", n)
	}
	d.inForceAsLast(true)
	if !strings.Contains(d.log.String(), "reload refused") {
		t.Error("the daemon's output does not say that a reload was refused")
	}
}

// TestS21A16Revocation: a revoked certificate is refused within five seconds of
// SIGHUP: on the connection it has, on one that resumes a session, on a new one.
func TestS21A16Revocation(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	leaf := func(role string) string {
		spki := sha256.Sum256(readCertificate(t, d.cert(role)).RawSubjectPublicKeyInfo)
		return hex.EncodeToString(spki[:])
	}
	serial := hex.EncodeToString(readCertificate(t, d.cert("ca")).SerialNumber.Bytes())
	sign := func(c *http.Client, role string) (result, error) {
		if role == "ca" {
			return send(t, c, http.MethodPost, "/v1/sign/csr", strings.NewReader(`{"authority":"devices","profile":"tls","csr":""}`))
		}
		return send(t, c, http.MethodPost, "/v1/sign/jwt", strings.NewReader(`{"keyset":"web","claims":{}}`))
	}
	for _, c := range []struct{ role, none, revoked string }{
		{"issuer", "spki: []", "spki: ['" + leaf("issuer") + "']"},
		{"ca", "serials: []", "serials: ['" + serial + "']"},
	} {
		t.Run(c.role, func(t *testing.T) {
			kept := d.http(c.role)
			kept.Transport.(*http.Transport).TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			idle := d.http(c.role)
			for _, client := range []*http.Client{kept, idle} {
				if r, err := sign(client, c.role); err != nil || r.status == http.StatusUnauthorized {
					t.Fatalf("before: %v %d", err, r.status)
				}
			}
			edit(t, d.configFile(), c.none, c.revoked)
			start := time.Now()
			if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			d.within(5*time.Second, "the certificate is refused on its connection", func() error {
				r, err := sign(kept, c.role)
				if err == nil && r.code != api.CodeCertificateRevoked {
					return fmt.Errorf("%d %s", r.status, r.code)
				}
				return nil // refused, or the connection is closed
			})
			t.Logf("%s refused %v after SIGHUP", c.role, time.Since(start).Round(time.Millisecond))
			for _, client := range []*http.Client{kept, d.http(c.role)} { // a resumed session, and a new one
				r, err := sign(client, c.role)
				if err != nil {
					t.Fatal(err)
				}
				r.want(t, "a new connection", api.CodeCertificateRevoked)
				if !r.closes {
					t.Error("the connection is not closed after 401")
				}
			}
			edit(t, d.configFile(), c.revoked, c.none)
			d.reload()
			if r, err := sign(d.http(c.role), c.role); err != nil || r.status == http.StatusUnauthorized {
				t.Errorf("after the revocation was taken back: %v %d", err, r.status)
			}
		})
	}
	edit(t, d.configFile(), "keysets: [web, legacy, edge]", "keysets: [web, legacy]")
	kept := d.http("issuer")
	if r := post(t, kept, "/v1/sign/jwt", `{"keyset":"edge","claims":{}}`); r.status != http.StatusOK {
		t.Fatalf("before the policy changed: %d", r.status)
	}
	if e := d.reload(); e.Outcome != keystore.OutcomeDone || e.Policy == "" {
		t.Errorf("the reload: %+v", e)
	}
	post(t, kept, "/v1/sign/jwt", `{"keyset":"edge","claims":{}}`).want(t, "after the policy changed", api.CodeForbidden)
	post(t, kept, "/v1/sign/jwt", `{"keyset":"web","claims":{}}`).want(t, "what is still allowed", "")
}

// A revocation takes power away: it is in force though neither log nor catalog
// can be written, and entered when they can. Another client CA gives power: it
// is refused then, whatever else the file says. It used to be the other way
// round for a CA in the same file.
func TestReloadWhileTheLogIsDown(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.keySets() // nothing is about to be entered
	c := d.http("issuer")
	post(t, c, "/v1/sign/jwt", `{"keyset":"web","claims":{}}`).want(t, "before", "")
	journal := filepath.Join(d.dir, "audit", "lifecycle", "journal-1")
	if err := os.Rename(journal, journal+".away"); err != nil {
		t.Fatal(err)
	}
	hangUp := func(outcome string) {
		t.Helper()
		before := d.reloads(outcome)
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.within(10*time.Second, "the reload was "+outcome, func() error {
			if d.reloads(outcome) == before {
				return errors.New(d.log.String())
			}
			return nil
		})
	}
	anchor := filepath.Join(d.dir, "ca.crt")
	whole := readOrEmpty(anchor)
	if err := os.WriteFile(anchor, anotherRoot(t), 0o600); err != nil {
		t.Fatal(err)
	}
	hangUp("failed")
	if !strings.Contains(d.log.String(), "entering the new policy") {
		t.Errorf("another CA was refused for another reason:\n%s", d.log)
	}
	if err := os.WriteFile(anchor, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	spki := sha256.Sum256(readCertificate(t, d.cert("issuer")).RawSubjectPublicKeyInfo)
	edit(t, d.configFile(), "spki: []", "spki: ['"+hex.EncodeToString(spki[:])+"']")
	release := d.hold()
	hangUp("ok")
	release()
	post(t, d.http("issuer"), "/v1/sign/jwt", `{"keyset":"web","claims":{}}`).want(t, "revoked", api.CodeCertificateRevoked)
	if err := os.Rename(journal+".away", journal); err != nil {
		t.Fatal(err)
	}
	d.within(20*time.Second, "both reloads are in the log", func() error {
		var told []string
		for _, e := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActReload}) {
			told = append(told, string(e.Outcome))
		}
		if slices.Sort(told); !slices.Equal(told, []string{"done", "failed"}) {
			return fmt.Errorf("it tells of %v", told)
		}
		return nil
	})
}

// TestS22Sockets: a socket that a dead daemon left is replaced; one of a living
// daemon is not stolen, whatever data directory the second one has.
func TestS22Sockets(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.kill()
	for _, socket := range []string{d.endpoints.Socket, d.endpoints.Ops} {
		if _, err := os.Stat(socket); err != nil {
			t.Fatalf("kill -9 leaves the socket: %v", err)
		}
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			t.Fatal("somebody serves the socket of a dead daemon")
		}
	}
	first := startDev(t, d.dir)
	c := first.client("issuer")
	first.sign(c, "web", `{}`)

	second := startDev(t, tempDir(t))
	second.stop()
	edit(t, second.configFile(), "socket: run/sign/sign.sock", "socket: "+first.endpoints.Socket)
	thief := launch(t, second.dir, "dev", "--dir", second.dir)
	select {
	case err := <-thief.exited:
		if err == nil || !strings.Contains(thief.log.String(), "another process serves this socket") {
			t.Errorf("the second daemon ended with %v\n%s", err, thief.log)
		}
	case <-time.After(20 * time.Second):
		t.Error("a second daemon goes on with the socket of the first")
		thief.kill()
	}
	first.sign(c, "web", `{}`)
	first.sign(first.client("issuer"), "web", `{}`) // on a new connection through the path
}

// TestS23DescriptorsRunOut: with more connections than descriptors, those that
// are open are served, the others wait, and all is well when they have gone.
func TestS23DescriptorsRunOut(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.client("issuer")
	d.sign(c, "web", `{}`)
	limit := unix.Rlimit{Cur: 64, Max: 64}
	if err := unix.Prlimit(d.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range 100 {
		conn, err := net.DialTimeout("unix", d.endpoints.Socket, time.Second)
		if err != nil {
			break // the backlog is full as well
		}
		conns = append(conns, conn)
	}
	served := 0
	for start := time.Now(); time.Since(start) < time.Second; served++ {
		d.sign(c, "web", `{}`)
	}
	if err := d.cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the daemon: %v", err)
	}
	for _, conn := range conns {
		conn.Close()
	}
	gone := time.Now()
	d.within(10*time.Second, "new connections are served again", func() error {
		_, err := d.client("issuer").SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
		return err
	})
	t.Logf("%d connections on 64 descriptors; %d tokens in a second on the one that was open; new ones served %v after they went",
		len(conns), served, time.Since(gone).Round(time.Millisecond))
	d.within(10*time.Second, "it is ready", func() error {
		if ok, text := d.readyz(); !ok {
			return errors.New(text)
		}
		return nil
	})
}

// TestS12JournalTaken: a journal of acts that is removed or renamed under the
// daemon is noticed before the next release: nothing is signed unrecorded.
func TestS12JournalTaken(t *testing.T) {
	for name, take := range map[string]func(path string) error{
		"removed": os.Remove,
		"renamed": func(path string) error { return os.Rename(path, path+".old") },
		"replaced by a copy": func(path string) error {
			b, err := os.ReadFile(path)
			return errors.Join(err, os.Remove(path), os.WriteFile(path, b, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDev(t, tempDir(t))
			c := d.client("issuer")
			d.sign(c, "web", `{}`)
			d.sign(c, "edge", `{}`)
			journals, err := filepath.Glob(filepath.Join(d.dir, "audit", "acts", "*", "journal-1"))
			if err != nil || len(journals) != 1 {
				t.Fatalf("journals %v, %v", journals, err)
			}
			kept := readProc(t, journals[0])
			if err := take(journals[0]); err != nil {
				t.Fatal(err)
			}
			var answers []answer
			for _, keyset := range []string{"web", "edge", "web"} {
				reply, err := c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: keyset, Claims: json.RawMessage(`{}`)})
				answers = append(answers, answer{keyset: keyset, reply: reply, err: err})
			}
			wantUnavailable(t, answers, api.CodeAuditUnavailable)
			d.within(5*time.Second, "readyz says so", func() error {
				if ok, text := d.readyz(); ok || !strings.Contains(text, "[-]log") {
					return errors.New(text)
				}
				return nil
			})
			if name == "renamed" {
				if err := os.Rename(journals[0]+".old", journals[0]); err != nil {
					t.Fatal(err)
				}
				d.within(10*time.Second, "it signs again with the journal put back", func() error {
					_, err := c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
					return err
				})
				return
			}
			d.kill()
			if err := os.WriteFile(journals[0], []byte(kept), 0o600); err != nil {
				t.Fatal(err)
			}
			again := startDev(t, d.dir)
			again.sign(again.client("issuer"), "web", `{}`)
		})
	}
}

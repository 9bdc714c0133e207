package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

func asItIs(*tls.Config) {}

// A client that cannot show who it is fails in the handshake, with the alert
// that fits, and the log says why.
func TestHandshakeRefusals(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	expired := d.identity(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	early := d.identity(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour / 2) })
	server := d.identity(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	good := d.pair("issuer")
	for _, c := range []struct {
		name   string
		change func(*tls.Config)
		certs  []tls.Certificate
		alert  uint64
		logged string // a part of the reason
	}{
		{"no certificate", asItIs, nil, 116, "no client certificate"},
		{"another CA's", asItIs, []tls.Certificate{strangers(t)}, 48, "unknown authority"},
		{"expired", asItIs, []tls.Certificate{expired}, 45, "expired"},
		{"not yet valid", asItIs, []tls.Certificate{early}, 45, "not yet valid"},
		{"for servers", asItIs, []tls.Certificate{server}, 42, "not acceptable"},
		{"A35 TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, []tls.Certificate{good}, 70, "unsupported versions"},
		{"A35 TLS 1.0", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, []tls.Certificate{good}, 70, "unsupported versions"},
		{"an unknown protocol", func(c *tls.Config) { c.NextProtos = []string{"h3"} }, []tls.Certificate{good}, 120, "application protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := d.handshake(func(cfg *tls.Config) {
				c.change(cfg)
				if len(c.certs) > 0 { // Go's client would keep back what the server's list of CAs lacks
					cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.certs[0], nil }
				}
			})
			if alertOf(err) != c.alert {
				t.Errorf("alert %d, want %d: %v", alertOf(err), c.alert, err)
			}
			if first := strings.Contains(fmt.Sprint(err), "at the first read"); c.alert < 70 && !first {
				t.Errorf("TLS 1.3 refuses a client certificate after the client is done: %v", err)
			}
			d.within(5*time.Second, "the log says why", func() error {
				entries := d.logged(audit.Filter{Log: "acts", Action: keystore.ActHandshake})
				if !slices.ContainsFunc(entries, func(e audit.Entry) bool {
					return strings.Contains(e.Reason, c.logged) && e.Outcome == keystore.OutcomeRefused && e.Principal == "" && e.Detail["door"] == "signing" &&
						(e.Detail["certificate"] != "none") == (c.alert >= 42 && c.alert <= 48)
				}) {
					return fmt.Errorf("no entry says %q among %v", c.logged, entries)
				}
				return nil
			})
		})
	}
	for name, protocols := range map[string][]string{"no ALPN": nil, "h2 and http/1.1": {"h2", "http/1.1"}, "http/1.1": {"http/1.1"}} {
		if err := d.handshake(func(c *tls.Config) { c.NextProtos = protocols }, good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Unauthenticated peers share one small budget of entries: a flood of them
// neither fills the log nor is forgotten.
func TestHandshakeFloodHasABudget(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	const flood = 60
	start := time.Now()
	for range flood {
		if err := d.handshake(asItIs); alertOf(err) != 116 {
			t.Fatal(err)
		}
	}
	took := time.Since(start)
	d.stop() // what was counted is entered at the latest now
	entries, counted := d.logged(audit.Filter{Action: keystore.ActHandshake}), 0
	for _, e := range entries {
		counted += max(1, int(e.Count))
	}
	most := 20 + int(took.Seconds()) + 2 // burst, one a second, and the counts
	if len(entries) > most || counted != flood {
		t.Errorf("%d refused handshakes in %v have %d entries that count %d; want at most %d", flood, took, len(entries), counted, most)
	}
}

// A certificate of a trusted CA that names nobody, or more than one, shakes
// hands and is nobody: 403.
func TestNobodies(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	for name, change := range map[string]func(*x509.Certificate){
		"no usage at all":     func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"two URIs":            func(c *x509.Certificate) { c.URIs = append(c.URIs, spiffe("operator")) },
		"a URI and a DNS":     func(c *x509.Certificate) { c.DNSNames = []string{"issuer.test"} },
		"common name only":    func(c *x509.Certificate) { c.URIs = nil },
		"another domain":      func(c *x509.Certificate) { c.URIs[0] = &url.URL{Scheme: "spiffe", Host: "other.dev", Path: "/issuer"} },
		"upper case":          func(c *x509.Certificate) { c.URIs[0].Host = "Chancery.dev" },
		"a slash at the end":  func(c *x509.Certificate) { c.URIs[0].Path = "/issuer/" },
		"a name without rule": func(c *x509.Certificate) { c.URIs[0] = spiffe("stranger") },
		"a CA's": func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := post(t, d.httpWith(d.endpoints.Socket, d.identity(change)), "/v1/sign/jwt", `{"keyset":"web","claims":{}}`)
			r.want(t, name, api.CodeForbidden)
		})
	}
	d.within(5*time.Second, "the log names each", func() error {
		if n := len(d.logged(audit.Filter{Outcome: keystore.OutcomeRefused})); n < 9 {
			return fmt.Errorf("%d refusals in the log, want 9", n)
		}
		return nil
	})
}

// The documented commands, as a person types them.
func TestCurlAndOpenSSL(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	for _, program := range []string{"curl", "openssl"} {
		needTool(t, program, program)
	}
	identity := []string{"--cert", d.cert("issuer"), "--key", d.key("issuer"), "--cacert", filepath.Join(d.dir, "ca.crt")}
	request := `{"keyset":"web","claims":{"sub":"alice"}}`
	for _, c := range []struct {
		name string
		args []string
	}{
		{"socket, --json", []string{"--unix-socket", d.endpoints.Socket, "https://localhost/v1/sign/jwt", "--json", request}},
		{"socket, -d", []string{"--unix-socket", d.endpoints.Socket, "https://localhost/v1/sign/jwt", "-d", request}},
		{"TCP", []string{d.endpoints.API + "/v1/sign/jwt", "--json", request}},
	} {
		out, err := exec.Command("curl", append(append([]string{"-sS", "--fail-with-body", "-m", "20"}, identity...), c.args...)...).CombinedOutput()
		var reply api.SignJWTReply
		if err != nil || json.Unmarshal(out, &reply) != nil {
			t.Errorf("%s: %v: %s", c.name, err, out)
			continue
		}
		if _, err := d.verifier("web").Verify(t.Context(), reply.Token); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	out, err := exec.Command("curl", "-sS", "-m", "20", "--cacert", filepath.Join(d.dir, "ca.crt"), d.endpoints.API+"/v1/keysets").CombinedOutput()
	if err == nil {
		t.Errorf("curl without a certificate: %s", out)
	}
	t.Logf("curl without a certificate: %s", out) // the alert, or that it could write no more
	d.wantHandshakeEntry("no client certificate", "")
}

// A35: TLS 1.3 alone, so without renegotiation, and none but its good suites.
func TestA35OldTLSIsRefused(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	_, port, err := net.SplitHostPort(strings.TrimPrefix(d.endpoints.API, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, alert string
		args        []string
	}{
		{"TLS 1.2", "alert number 70", []string{"-tls1_2", "-cipher", "ALL:@SECLEVEL=0"}},
		{"TLS 1.1", "alert number 70", []string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}},
		{"a suite with a short tag", "alert number 40", []string{"-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256"}},
	} {
		args := append([]string{"s_client", "-connect", "127.0.0.1:" + port, "-cert", d.cert("issuer"), "-key", d.key("issuer")}, c.args...)
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.alert) {
			t.Errorf("%s: %v: %s", c.name, err, out)
		}
	}
}

// wantHandshakeEntry waits for the entry of a refused handshake that gives the
// reason and names the peer; any peer if that is empty.
func (d *chanceryd) wantHandshakeEntry(reason, peer string) {
	d.t.Helper()
	d.within(5*time.Second, "the log says why", func() error {
		entries := d.logged(audit.Filter{Log: "acts", Action: keystore.ActHandshake})
		if !slices.ContainsFunc(entries, func(e audit.Entry) bool {
			return strings.Contains(e.Reason, reason) && (peer == "" || e.Detail["peer"] == peer)
		}) {
			return fmt.Errorf("no entry says %q of peer %q among %v", reason, peer, entries)
		}
		return nil
	})
}

// A client that had begun to write its request used to get a broken pipe
// instead of the alert.
func TestCurlSeesTheAlert(t *testing.T) {
	t.Parallel()
	needTool(t, "curl", "curl")
	dir := tempDir(t)
	d := startDev(t, dir)
	for range 10 {
		out, err := exec.Command("curl", "-sS", "--unix-socket", d.endpoints.Socket, "--cacert", filepath.Join(dir, "ca.crt"),
			"--json", `{"keyset":"web","claims":{}}`, "https://localhost/v1/sign/jwt").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "certificate required") {
			t.Fatalf("without a certificate: %v: %s", err, out)
		}
	}
}

package main

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAProofIsCheckedByAPublishedKeySet: the key set is fetched over TLS, from the URL
// as it stands, and from whom --ca knows only.
func TestAProofIsCheckedByAPublishedKeySet(t *testing.T) {
	dir := t.TempDir()
	if err := writeActs(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	proof := in("made.tlog-proof")
	if status, out := typed(t, "--dir", dir, "audit", "prove", "made", "--out", proof); status != exitDone {
		t.Fatalf("prove: %d %s", status, out)
	}
	certFile, keyFile, _ := newCertificate(t)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	published := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.RequestURI() {
		case "/issuers/web/jwks.json", "/a%2Fb/keys?of=web":
			http.ServeFile(w, r, in("jwks.json"))
		case "/issuers/other/jwks.json":
			http.ServeFile(w, r, in("stranger.json"))
		default:
			http.NotFound(w, r)
		}
	}))
	published.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	published.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // of who does not know it
	published.StartTLS()
	defer published.Close()

	for _, c := range []struct {
		token, path string
		roots       bool
		status      int
		out, errs   string
	}{
		{"made.jwt", "/issuers/web/jwks.json", true, exitDone, "\njti made: made\n", ""},
		{"made.jwt", "/a%2Fb/keys?of=web", true, exitDone, "\njti made: made\n", ""},
		{"forged.jwt", "/issuers/web/jwks.json", true, exitFailed, "\njti made: counterfeit: ", ""},
		{"made.jwt", "/issuers/other/jwks.json", true, exitFailed, "\njti made: named by this entry: ", "hint: give the key set "},
		{"made.jwt", "/issuers/none/jwks.json", true, exitFailed, "", "/issuers/none/jwks.json: file does not exist"},
		{"made.jwt", "/issuers/web/jwks.json", false, exitFailed, "", "hint: the daemon's certificate is not from the roots given: check --ca"},
	} {
		args := []string{"audit", "check-proof", proof, "--key", in("audit.vkey"), "--token", "@" + in(c.token), "--jwks", published.URL + c.path}
		if c.roots {
			args = append(args, "--ca", certFile)
		}
		var out, errs bytes.Buffer
		a := &app{in: strings.NewReader(""), out: &out, err: &errs, getenv: func(string) string { return "" }}
		if status := a.run(t.Context(), args); status != c.status || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.errs) {
			t.Errorf("%s by %s, roots given: %v: exit status %d, want %d\n%s%s", c.token, c.path, c.roots, status, c.status, out.String(), errs.String())
		}
	}
}

// TestWhatIsPublishedIsReadOverTLS12 at least, whether roots are given or not.
func TestWhatIsPublishedIsReadOverTLS12(t *testing.T) {
	cert, _, _ := newCertificate(t)
	for _, roots := range []string{"", cert} {
		transport, err := (&app{ca: roots}).publicTransport()
		if err != nil {
			t.Fatal(err)
		}
		cfg := transport.TLSClientConfig
		if cfg == nil || cfg.MinVersion < tls.VersionTLS12 || (cfg.RootCAs != nil) != (roots != "") {
			t.Errorf("--ca %q: %+v", roots, cfg)
		}
	}
	empty := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(empty, []byte("none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, roots := range []string{empty, empty + ".not"} {
		if _, err := (&app{ca: roots}).publicTransport(); err == nil || !strings.HasPrefix(err.Error(), "reading the roots: ") {
			t.Errorf("--ca %s: %v", roots, err)
		}
	}
}

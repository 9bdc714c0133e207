package config

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// list writes a revocation list of the development root, of an hour ago.
func list(t *testing.T, dir, name string, nextUpdate time.Time) {
	t.Helper()
	root, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "pki", "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: nextUpdate.Add(-2 * time.Hour), NextUpdate: nextUpdate,
	}, root.Leaf, root.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, name), string(der), 0o644)
}

// withMembers returns the development configuration with more of its first
// client and of its signing listener.
func withMembers(t *testing.T, dir, client, listener string) string {
	text := devText(t, dir, false)
	const ca = "    ca: ca.crt\n"
	if !strings.Contains(text, ca) {
		t.Fatalf("no client in\n%s", text)
	}
	text = strings.Replace(text, ca, ca+client, 1)
	return strings.Replace(text, "  signing:\n", "  signing:\n"+listener, 1)
}

func TestWhoMayConnect(t *testing.T) {
	dir := world(t)
	now := time.Now()
	list(t, dir, "good.crl", now.Add(time.Hour))
	list(t, dir, "old.crl", now.Add(-time.Minute))
	put(t, filepath.Join(dir, "half.crl"), "-----BEGIN X509 CRL-----\nMII", 0o644)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.crl"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		client, listener string
		want             []string // severity: path: what, of each finding
	}{
		{"    crl: [good.crl]\n", "", nil},
		{"    crl: [good.crl]\n    crl_max_age: 24h\n", "", nil},
		{"    crl: [good.crl]\n    crl_max_age: 30m\n", "", []string{"warning: clients[0].crl: the revocation list of CN=Chancery development root was good until"}},
		{"    crl: [old.crl]\n", "", []string{"warning: clients[0].crl: the revocation list of CN=Chancery development root was good until"}},
		{"    crl: [none.crl]\n", "", []string{"warning: clients[0].crl[0]: DIR/none.crl: no such file"}},
		{"    crl: [good.crl, half.crl]\n", "", []string{"warning: clients[0].crl[1]: DIR/half.crl: it holds something that is no revocation list"}},
		{"    crl: [pipe.crl]\n", "", []string{"warning: clients[0].crl[0]: DIR/pipe.crl is no file"}},
		{"    crl: [ca.crt]\n", "", []string{"warning: clients[0].crl[0]: DIR/ca.crt: it holds something"}},
		{"    crl: [good.crl, good.crl]\n", "", []string{"error: clients[0].crl[1]: DIR/good.crl is there twice"}},
		{"    crl: []\n", "", []string{"error: clients[0].crl: it is empty"}},
		{"    crl: good.crl\n", "", []string{"error: clients[0].crl: want a sequence"}},
		{"    crl_max_age: 1h\n", "", []string{"error: clients[0].crl_max_age: there is no revocation list"}},
		{"", "    allow_uids: [0, 4294967294]\n", []string{"warning: listeners.signing.allow_uids: whoever comes by TCP"}},
		{"", "    allow_gids: [7, 7]\n", []string{"warning: listeners.signing.allow_gids: whoever", "error: listeners.signing.allow_gids[1]: 7 is there twice"}},
		{"", "    allow_uids: []\n", []string{"error: listeners.signing.allow_uids: it is empty"}},
		{"", "    allow_uids: [-1]\n", []string{"warning: listeners.signing.allow_uids: whoever", "error: listeners.signing.allow_uids[0]: want a number from 0"}},
		{"", "    allow_uids: [4294967296]\n", []string{"warning: listeners.signing.allow_uids: whoever", "error: listeners.signing.allow_uids[0]: want a number from 0"}},
		{"", "    allow_uids: [4294967295]\n", []string{"warning: listeners.signing.allow_uids: whoever", "error: listeners.signing.allow_uids[0]: 4294967295 is nobody"}},
		{"", "    allow_uids: [root]\n", []string{"warning: listeners.signing.allow_uids: whoever", "error: listeners.signing.allow_uids[0]: want a number from 0"}},
		{"", "    allow_uids: [007]\n", []string{"warning: listeners.signing.allow_uids: whoever", "error: listeners.signing.allow_uids[0]: want a number from 0"}},
	} {
		_, findings := loadText(t, dir, withMembers(t, dir, c.client, c.listener))
		var got []string
		for _, f := range findings {
			_, text, _ := strings.Cut(strings.ReplaceAll(f.String(), dir, "DIR"), "config.yaml:")
			_, text, _ = strings.Cut(text, " ") // after line and column
			got = append(got, text)
		}
		if len(got) != len(c.want) || !slices.EqualFunc(got, c.want, strings.HasPrefix) {
			t.Errorf("%s%s: %q, want %q", c.client, c.listener, got, c.want)
		}
	}
	cfg, _ := loadText(t, dir, withMembers(t, dir, "    crl: [good.crl]\n    crl_max_age: 24h\n", "    allow_uids: [0, 4294967294]\n    allow_gids: [5]\n"))
	c, l := cfg.Clients[0], cfg.Listeners
	if !cmp.Equal(c.CRL, []string{filepath.Join(dir, "good.crl")}) || c.CRLMaxAge != 24*time.Hour || len(c.Certificates()) != 1 {
		t.Errorf("the client: %+v", c)
	}
	if !cmp.Equal(l.Signing.AllowUIDs, []uint32{0, 4294967294}) || !cmp.Equal(l.Signing.AllowGIDs, []uint32{5}) || l.Ops.AllowUIDs != nil {
		t.Errorf("the listeners: %+v", l)
	}
	plain, _ := loadText(t, dir, devText(t, dir, false))
	if what := cfg.NeedsRestart(plain); what != "" {
		t.Errorf("without them: %s needs a restart", what)
	}
	if err := os.Remove(filepath.Join(dir, "good.crl")); err != nil {
		t.Fatal(err)
	}
}

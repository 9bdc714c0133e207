package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/cmd/internal/config/document"
	"chancery/cmd/internal/devpki"
	"chancery/keystore"
)

var update = flag.Bool("update", false, "write what the findings are now into testdata")

// world makes what a configuration names: the development certificates, a
// module, a PIN file. It returns the directory.
func world(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := devpki.Ensure(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"module.so": 0o755, "pin": 0o600, "pin.open": 0o644} {
		put(t, filepath.Join(dir, name), "x", mode)
	}
	return dir
}

func put(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func devText(t testing.TB, dir string, fast bool) string {
	t.Helper()
	text, err := Dev(DevOptions{
		Dir: dir, Module: filepath.Join(dir, "module.so"), Token: "pkcs11:serial=0123456789abcdef;token=it's?pin-source=file:" + filepath.Join(dir, "pin"),
		Env: map[string]string{"SOFTHSM2_CONF": filepath.Join(dir, "softhsm2.conf")}, Fast: fast,
		APIPort: 8443, PublicPort: 8080, AdminPort: 9090,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// loadText loads text as DIR/config.yaml.
func loadText(t testing.TB, dir, text string) (*Config, []Finding) {
	t.Helper()
	path := filepath.Join(dir, "config.yaml")
	put(t, path, text, 0o600)
	return Load(path)
}

func TestDevLoadsWithoutFindings(t *testing.T) {
	for _, fast := range []bool{false, true} {
		dir := world(t)
		cfg, findings := loadText(t, dir, devText(t, dir, fast))
		for _, f := range findings {
			t.Errorf("fast %v: %v", fast, f)
		}
		if cfg == nil {
			t.Fatal("no configuration")
		}
		want := KeySet{
			Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.ES256, Keystore: "hsm", RotateEvery: 30 * 24 * time.Hour,
			MaxAge: 15 * time.Minute, CacheFor: 30 * time.Minute, Skew: 5 * time.Minute, MaxTTL: time.Hour, DefaultTTL: 5 * time.Minute,
		}
		if fast {
			want.RotateEvery, want.MaxAge, want.CacheFor, want.Skew = 20*time.Second, 2*time.Second, 4*time.Second, time.Second
			want.MaxTTL, want.DefaultTTL = 10*time.Second, 10*time.Second
		}
		if diff := cmp.Diff(want, cfg.KeySets["web"]); diff != "" {
			t.Errorf("web: %s", diff)
		}
		for name, ks := range cfg.KeySets {
			if rotates := ks.Purpose == keystore.PurposeJWT; (ks.RotateEvery > 0) != rotates {
				t.Errorf("%s rotates every %v", name, ks.RotateEvery)
			}
		}
		if got := cfg.KeySets["web"].IssuerURL(cfg.PublicURL); got != "http://127.0.0.1:8080/issuers/web" {
			t.Errorf("issuer %s", got)
		}
		a := cfg.Authorities["devices"]
		if p := a.Profiles["tls"]; p == nil || p.MaxTTL() != 24*time.Hour || a.Skew != cfg.KeySets["devices"].Skew || a.Name != "devices" {
			t.Errorf("authority %+v", a)
		}
		if cfg.KeySets["devices"].MaxTTL != 24*time.Hour {
			t.Errorf("L of the CA's key set is %v", cfg.KeySets["devices"].MaxTTL)
		}
		if anchors := cfg.Anchors(); len(anchors) != 1 || anchors[0].Name != "dev" || !devpki.IsDev(anchors[0].CA) {
			t.Errorf("anchors %v", anchors)
		}
		pairs := cfg.Certificates()
		if want := []Pair{{filepath.Join(dir, "pki/server.crt"), filepath.Join(dir, "pki/server.key")}}; !cmp.Equal(pairs, want) {
			t.Errorf("certificates %v", pairs)
		}
		if cfg.PublicHost() != "127.0.0.1:8080" || cfg.Data != dir || cfg.Listeners.Ops.Socket != filepath.Join(dir, "run/ops/ops.sock") {
			t.Errorf("host %s, data %s, ops %s", cfg.PublicHost(), cfg.Data, cfg.Listeners.Ops.Socket)
		}
	}
}

// Every mistake in a file is found at once, where it is. The golden files are
// testdata/NAME.yaml and NAME.txt; `go test -update` writes the latter.
func TestFindings(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := world(t)
			_, findings := loadText(t, dir, strings.ReplaceAll(string(text), "DIR", dir))
			var got strings.Builder
			for _, f := range findings {
				got.WriteString(strings.ReplaceAll(strings.TrimPrefix(f.String(), dir+"/"), dir, "DIR") + "\n")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				put(t, golden, got.String(), 0o644)
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// One change to a good file, and what is said of it.
func TestOneMistake(t *testing.T) {
	dir := world(t)
	good := devText(t, dir, false)
	if err := os.Symlink(filepath.Join(dir, "module.so"), filepath.Join(dir, "link.so")); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "open.so"), "x", 0o757)
	put(t, filepath.Join(dir, "open.key"), "x", 0o644)
	for _, c := range []struct {
		name     string
		old, new string
		want     string // part of the one finding; empty: there is none
	}{
		{"a tab", "node: dev", "\tnode: dev", "error: found a tab character where an indentation space is expected"},
		{"two documents", "node: dev", "node: dev\n---\na: 1", "error: expected single document, found multiple"},
		{"invalid UTF-8", "node: dev", "node: \xff", "invalid leading UTF-8 octet"},
		{"a link to a module", "module.so'", "link.so'", ""},
		{"A30: a module others can write", "module.so'", "open.so'", "can be changed by others (mode 0757)"},
		{"a module that is not there", "module.so'", "no.so'", "no.so: no such file or directory"},
		{"A30: a module that is a directory", "/module.so'", "/pki'", "is no file"},
		{"A23: a PIN in the URI", "?pin-source=file:" + filepath.Join(dir, "pin"), "?pin-value=1234", "keystores.hsm.pkcs11.token"},
		{"a PIN file others can read", "/pin'", "/pin.open'", "mode 0644: others can read or change it, chmod 0600 it"},
		{"P16: a slot number", "serial=0123456789abcdef;", "slot-id=3;", "keystores.hsm.pkcs11.token"},
		{"a name with a dot", "  edge:", "  ed.ge:", `error: keysets."ed.ge": "ed.ge" is no name`},
		{"no audit key", "purpose: audit", "purpose: jwt", "no key set is of purpose audit"},
		{"http for verifiers elsewhere", "public_url: http://127.0.0.1:8080", "public_url: http://keys.example.com", "warning: public_url: verifiers must fetch keys over https"},
		{"a trailing slash", "public_url: http://127.0.0.1:8080", "public_url: http://127.0.0.1:8080/", "does not end in a slash"},
		{"plain on the network", "tcp: 127.0.0.1:8080", "tcp: 0.0.0.0:8080", "without TLS it may only be on loopback"},
		{"admin on the network", "tcp: 127.0.0.1:9090", "tcp: '[::]:9090'", "it knows no principals"},
		{"one port twice", "tcp: 127.0.0.1:9090", "tcp: 127.0.0.1:8080", "listeners.admin.tcp: listeners.public.tcp has the same address"},
		{"another host's certificate", "server_name: localhost", "server_name: sign.example.com", `the certificate is not for "sign.example.com"`},
		{"a key that is no key", "key: pki/server.key", "key: pin", "failed to find any PEM data"},
		{"a key everyone can read", "key: pki/server.key", "key: open.key", "mode 0644"},
		{"an anchor that is no authority", "ca: ca.crt", "ca: clients/ca.crt", "certificate 1 is no authority's"},
		{"a token that outlives its key", "max_ttl: 1h\n  - rule: ca", "max_ttl: 2h\n  - rule: ca", "policy[0].max_ttl: 2h0m0s is more than max_ttl of key set edge"},
		{"a certificate beyond a day", "max_ttl: 24h\n        default", "max_ttl: 25h\n        default", "authorities.devices.profiles.tls.max_ttl: 25h0m0s is not between"},
		{"a rotation that does not fit", "rotate_every: 30d", "rotate_every: 30m", "(rule 1)"},
		{"a window short for verifiers", "cache_for: 30m", "cache_for: 15m", "warning: keysets.web.cache_for: 15m0s is less than twice max_age"},
		// These were refused only when somebody asked for a token or a certificate.
		{"a default no rule allows", "default_ttl: 5m", "default_ttl: 90m", "keysets.web.default_ttl: 1h30m0s is more than max_ttl"},
		{"a default over every rule", "max_ttl: 1h\n  - rule: ca", "max_ttl: 1m\n  - rule: ca", "warning: keysets.edge.default_ttl: 5m0s is more than any rule allows, 1m0s: a request without ttl is refused"},
		{"a profile's default over every rule", "names: [.devices.test]\n    max_ttl: 24h", "names: [.devices.test]\n    max_ttl: 1h", "warning: authorities.devices.profiles.tls.default_ttl: 24h0m0s is more than any rule allows, 1h0m0s"},
		{"conflicting roles", "actions: [csr.sign]", "actions: [csr.sign, token.manage]", "would both sign and operate"},
		{"a principal nobody vouches for", "dev:spiffe:spiffe://chancery.dev/ca", "ci:spiffe:spiffe://chancery.dev/ca", "policy[1].principals[0]"},
		{"a foreign trust domain", "spiffe://chancery.dev/ca", "spiffe://example.org/ca", "the anchor does not speak for this name"},
		{"an unknown action", "actions: [csr.sign]", "actions: [csr.sing]", "policy[1].actions[0]"},
		{"an unknown type of certificate", "usages: [server, client]", "usages: [server, code]", "profiles.tls.usages[1]"},
		{"an expression that is none", "  - rule: ca\n", "  - rule: ca\n    when: ttl <\n", "error: policy[1].when: Syntax error"},
		{"an expression over several lines", "  - rule: ca\n", "  - rule: ca\n    when: |\n      ttl < 60 &&\n      typ == 'JWT'\n", "policy[1].when: the expression reads typ, which csr.sign does not have"},
		{"a good expression", "  - rule: ca\n", "  - rule: ca\n    when: >\n      ttl < 60 &&\n      names.size() == 1\n    require: {uids: [1000, 4294967294], gids: [0]}\n    max_names: 3\n", ""},
		{"an expensive expression", "  - rule: ca\n", "  - rule: ca\n    when: names.all(a, names.all(b, names.all(c, a == b)))\n", "policy[1].when: the expression is estimated to cost up to"},
		{"a list of users with nobody in it", "  - rule: ca\n", "  - rule: ca\n    require: {uids: []}\n", "policy[1].require.uids: the list is empty"},
		{"a user by name", "  - rule: ca\n", "  - rule: ca\n    require: {uids: [root]}\n", `policy[1].require.uids[0]: want a whole number, not "root"`},
		{"another fact", "  - rule: ca\n", "  - rule: ca\n    require: {uid: [0]}\n", "policy[1].require.uid: there is no such member (hint: did you mean uids?)"},
		{"limits of the wrong action", "  - rule: ca\n", "  - rule: ca\n    audiences: [a]\n", "policy[1].audiences: only a rule for jwt.sign has this limit"},
		{"good limits", "actions: [jwt.sign, keysets.read]\n", "actions: [jwt.sign, keysets.read]\n    audiences: [a]\n    scopes: [read]\n    claims: {required: [sub], forbidden: [admin], forced: {tenant: a, level: 3, ok: true}}\n    max_claims: 5\n    max_bytes: 1000\n", ""},
		{"a forced claim that is no scalar", "actions: [jwt.sign, keysets.read]\n", "actions: [jwt.sign, keysets.read]\n    claims: {forced: {n: 1.5}}\n", `policy[0].claims.forced.n: want text, a whole number, true or false, not "1.5"`},
		{"a forced claim of ours", "actions: [jwt.sign, keysets.read]\n", "actions: [jwt.sign, keysets.read]\n    claims: {forced: {iss: me}}\n", "policy[0].claims.forced.iss: \"iss\": the claim is the signer's own"},
		{"control characters", "common_name: Chancery", `common_name: "a\e[31m" # `, "it holds a control character"},
		{"an anchor", "node: dev", "node: &n dev", "error: node: anchors and aliases are not used here"},
		{"a tag", "node: dev", "node: !!str dev", "error: node: tags are not used here"},
		{"a merge key", "  web:\n", "  web:\n    <<: {purpose: ca}\n", "a member's name is plain text"},
		{"yes", "accept_short_windows: false", "accept_short_windows: yes", `want true or false, not "yes"`},
		{"a number for a name", "node: dev", "node: 7", `want text, and YAML reads "7" as !!int`},
		{"two members of one name", "node: dev", "node: dev\nnode: dev", "config.yaml:6:1: error: node: it is there twice: first on line 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(good, c.old, c.new, 1)
			if text == good {
				t.Fatalf("%q is not in the file", c.old)
			}
			_, findings := loadText(t, dir, text)
			if c.want == "" && len(findings) == 0 {
				return
			}
			for _, f := range findings {
				if c.want != "" && strings.Contains(f.String(), c.want) && f.Line > 0 && f.Column > 0 {
					return
				}
			}
			t.Errorf("findings %v\nwant %q", findings, c.want)
		})
	}
}

func TestA30ConfigurationOthersCanWrite(t *testing.T) {
	dir := world(t)
	path := filepath.Join(dir, "config.yaml")
	put(t, path, devText(t, dir, false), 0o666)
	_, findings := Load(path)
	if len(findings) != 1 || !strings.Contains(findings[0].Message, "can be changed by others (mode 0666)") {
		t.Errorf("findings %v", findings)
	}
	put(t, path, devText(t, dir, false), 0o600)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, findings := Load(path); !Failed(findings) {
		t.Error("a directory in which everyone can put another file is accepted")
	}
}

func TestNoFile(t *testing.T) {
	cfg, findings := Load(filepath.Join(t.TempDir(), "config.yaml"))
	if cfg != nil || len(findings) != 1 || !Failed(findings) {
		t.Errorf("%v, findings %v", cfg, findings)
	}
	put(t, filepath.Join(t.TempDir(), "big"), strings.Repeat("#", document.MaxFile+1), 0o600)
}

func TestExpiry(t *testing.T) {
	dir := world(t)
	path := filepath.Join(dir, "config.yaml")
	put(t, path, devText(t, dir, false), 0o600)
	for _, c := range []struct {
		later time.Duration
		want  string
	}{
		{82 * 24 * time.Hour, ""},
		{84 * 24 * time.Hour, "warning: listeners.signing.certificate: the certificate expires on"},
		{91 * 24 * time.Hour, "error: listeners.signing.certificate: the certificate expired on"},
	} {
		_, findings := load(path, time.Now().Add(c.later))
		if c.want == "" && len(findings) == 0 {
			continue
		}
		if len(findings) != 1 || c.want == "" || !strings.Contains(findings[0].String(), c.want) {
			t.Errorf("after %v: %v", c.later, findings)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "250ms": 250 * time.Millisecond,
		"18250d": 50 * 365 * 24 * time.Hour,
	} {
		if got, err := ParseDuration(s); got != want || err != nil {
			t.Errorf("%s is %v, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{
		"": "positive", "0": "positive", "0s": "positive", "0d": "positive", "-5m": "sign", "+5m": "sign", "5d-1h": "sign", "300": "no unit", "5x": "no duration",
		"d": "no duration", "1.5d": "no duration", "18251d": "fifty years", "99999d": "fifty years", "2000000h": "fifty years", "99999999999h": "fifty years",
		"18250d2000000h": "fifty years",
		// What is too long was called no duration when it was far too long.
		"99999999d": "fifty years", "99999999999999999999d": "fifty years", "99999999d2000000h": "fifty years", "1h99999999999999999999s": "fifty years",
		"99999999d5x": "no duration", "1.2.3h": "no duration", "99999999999hh": "no duration",
	} {
		if got, err := ParseDuration(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is %v, error %v, want %q", s, got, err, want)
		}
	}
}

// FuzzLoad: any text gives findings or a configuration, never a panic, and
// every finding has a place in the file, or just behind it.
func FuzzLoad(f *testing.F) {
	dir := world(f)
	path := filepath.Join(dir, "config.yaml")
	f.Add(devText(f, dir, true))
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, s := range []string{"", "{}", "[]", "a", "node: {a: [1,", "policy: [{rule: a, keysets: ['*']}]", "a: &a [*a]", "? [a]\n: b", "keysets: {a: {rotate_every: 9999999999999999h}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found := &findings{document.New(path)}
		c := found.decode([]byte(text))
		if c == nil {
			if !Failed(found.List) {
				t.Fatal("no configuration, and no error")
			}
			return
		}
		c.fill(found, dir)
		check(c, found, time.Now())
		lines := strings.Count(text, "\n") + strings.Count(text, "\r") + strings.Count(text, "\u0085") + strings.Count(text, "\u2028") + strings.Count(text, "\u2029") + 1
		for _, x := range found.Sorted() {
			if x.Line < 1 || x.Column < 1 || x.Line > lines+1 || strings.ContainsAny(x.String(), "\n\x1b") {
				t.Fatalf("finding %q at %d:%d of %d lines", x, x.Line, x.Column, lines)
			}
		}
	})
}

// What a node is to do without a synchronised clock is said, or it is not ready.
func TestAnUnsynchronisedClockIsAcceptedOnRequestOnly(t *testing.T) {
	dir := world(t)
	text := devText(t, dir, false)
	for line, want := range map[string]bool{"accept_unsynchronised_clock: true": true, "accept_unsynchronised_clock: false": false, "": false} {
		cfg, findings := loadText(t, dir, strings.Replace(text, "accept_unsynchronised_clock: true", line, 1))
		if Failed(findings) {
			t.Fatal(findings)
		}
		if cfg.AcceptUnsynchronisedClock != want {
			t.Errorf("%q: %v", line, cfg.AcceptUnsynchronisedClock)
		}
	}
}

// The least that any verifier forgives is what the node's own clock may be off.
func TestTheSmallestSkew(t *testing.T) {
	dir := world(t)
	text := strings.Replace(devText(t, dir, false), "skew: 5m", "skew: 40s", 1)
	cfg, findings := loadText(t, dir, text)
	if Failed(findings) {
		t.Fatal(findings)
	}
	if got := cfg.SmallestSkew(); got != 40*time.Second {
		t.Errorf("%v, want 40s", got)
	}
}

package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore/transit"
)

// vaultWorld is world with what a keystore in a Vault names.
func vaultWorld(t testing.TB) string {
	t.Helper()
	dir := world(t)
	for name, mode := range map[string]os.FileMode{
		"token": 0o600, "secret": 0o400, "jwt": 0o644, "token.open": 0o640, "jwt.open": 0o664,
	} {
		put(t, filepath.Join(dir, name), "x", mode)
	}
	// As a kubelet projects them: links to what it replaces as a whole.
	if err := os.Symlink(filepath.Join(dir, "jwt"), filepath.Join(dir, "projected")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// vaulted puts a keystore in a Vault into the development configuration; more
// are further keystores.
func vaulted(t testing.TB, dir, members string, more ...string) string {
	t.Helper()
	text := "  vault:\n    transit:\n      " + strings.ReplaceAll(members, "\n", "\n      ") + "\n" + strings.Join(more, "")
	return strings.Replace(devText(t, dir, false), "\nlisteners:\n", "\n"+text+"\nlisteners:\n", 1)
}

const vaultMembers = `addresses: [https://vault.example.com:8200]
auth: {method: token, file: token}`

func TestATransitKeystoreOfEachMethodLoads(t *testing.T) {
	dir := vaultWorld(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	base := transit.Config{Name: "vault", Addresses: []string{"https://vault.example.com:8200"}, Mount: "transit"}
	with := func(change func(*transit.Config)) transit.Config {
		c := base
		change(&c)
		return c
	}
	for _, c := range []struct {
		members string
		want    transit.Config
	}{
		{vaultMembers, with(func(c *transit.Config) {
			c.Auth = transit.Auth{Method: transit.MethodToken, File: in("token")}
		})},
		{"addresses: ['http://127.0.0.1:8200', 'http://localhost:8201']\nmount: chancery/prod\nnamespace: team/prod\nserver_name: vault.test\nca: ca.crt\nrsa_bits: 3072\nauth: {method: approle, mount: roles, role_id: r, file: secret}",
			with(func(c *transit.Config) {
				c.Addresses, c.Mount, c.Namespace, c.RSABits = []string{"http://127.0.0.1:8200", "http://localhost:8201"}, "chancery/prod", "team/prod", 3072
				c.TLS = transit.TLS{CA: in("ca.crt"), ServerName: "vault.test"}
				c.Auth = transit.Auth{Method: transit.MethodAppRole, Mount: "roles", RoleID: "r", File: in("secret")}
			})},
		{"addresses: [https://vault.example.com:8200]\nauth: {method: approle, role_id: r}", with(func(c *transit.Config) {
			c.Auth = transit.Auth{Method: transit.MethodAppRole, RoleID: "r"}
		})},
		{"addresses: [https://vault.example.com:8200]\ncertificate: clients/ca.crt\nkey: clients/ca.key\nauth: {method: cert, role: chancery}", with(func(c *transit.Config) {
			c.TLS = transit.TLS{Certificate: in("clients/ca.crt"), Key: in("clients/ca.key")}
			c.Auth = transit.Auth{Method: transit.MethodCert, Role: "chancery"}
		})},
		{"addresses: [https://vault.example.com:8200]\nauth: {method: kubernetes, role: chancery, file: projected}", with(func(c *transit.Config) {
			c.Auth = transit.Auth{Method: transit.MethodKubernetes, Role: "chancery", File: in("projected")}
		})},
		{"addresses: [https://vault.example.com:8200]\nauth: {method: jwt, role: chancery, file: jwt}", with(func(c *transit.Config) {
			c.Auth = transit.Auth{Method: transit.MethodJWT, Role: "chancery", File: in("jwt")}
		})},
	} {
		cfg, findings := loadText(t, dir, vaulted(t, dir, c.members))
		for _, f := range findings {
			t.Errorf("%s: %v", c.members, f)
		}
		if cfg == nil {
			t.Fatal("no configuration")
		}
		if diff := cmp.Diff(c.want, cfg.Keystores["vault"].TransitConfig()); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.members, diff)
		}
		if cfg.Keystores["vault"].PKCS11 != nil || cfg.Keystores["hsm"].Transit != nil {
			t.Error("a keystore of two kinds")
		}
	}
}

// What is wrong with a keystore in a Vault is said once, where it is.
func TestTransitMistakes(t *testing.T) {
	dir := vaultWorld(t)
	const address = "addresses: [https://vault.example.com:8200]\n"
	const token = "\nauth: {method: token, file: token}"
	line := 1 + strings.Count(strings.SplitAfter(vaulted(t, dir, vaultMembers), "    transit:\n")[0], "\n")
	for _, c := range []struct {
		members string
		at      int      // the line of the first finding, from the first member; -1: transit itself
		want    []string // the findings
	}{
		{"{}", 0, []string{"keystores.vault.transit: addresses is missing", "keystores.vault.transit: auth is missing"}},
		{"addresses: []" + token, 0, []string{"transit.addresses: there is no address (hint: https://vault.example.com:8200)"}},
		{"addresses: [http://vault.example.com:8200]" + token, 0, []string{"transit.addresses[0]: a token would go over the network unprotected"}},
		{"addresses: [https://a:8200, https://a:8200]" + token, 0, []string{"transit.addresses[1]: it is there already"}},
		{"addresses: [https://a:8200,\n https://b:8200/]" + token, 1, []string{"transit.addresses[1]: the address is not in its canonical spelling"}},
		{"addresses: [12]" + token, 0, []string{`transit.addresses[0]: want text, and YAML reads "12" as !!int`}},
		{"addresses: https://a:8200" + token, 0, []string{"transit.addresses: want a sequence"}},
		{address + "mount: /transit/" + token, 1, []string{`transit.mount: "/transit/" is no mount (hint: the path it was enabled at, without slashes around it: transit)`}},
		{address + "namespace: team prod" + token, 1, []string{`transit.namespace: "team prod" is no namespace`}},
		{address + "rsa_bits: 1024" + token, 1, []string{"transit.rsa_bits: 1024 is no size of RSA keys (hint: 2048, 3072 or 4096)"}},
		{address + "mounts: x" + token, 1, []string{"transit.mounts: there is no such member (hint: did you mean mount?)"}},
		{address + "ca: none.pem" + token, 1, []string{"transit.ca: DIR/none.pem: no such file"}},
		{address + "ca: token" + token, 1, []string{"transit.ca: DIR/token holds something that is no PEM certificate"}},
		{address + "certificate: clients/ca.crt" + token, 1, []string{"transit.certificate: a certificate and its key belong together (hint: name both files)"}},
		{address + "certificate: clients/ca.crt\nkey: 7" + token, 2, []string{"transit.key: want text"}},
		{address + "certificate: clients/ca.crt\nkey: clients/issuer.key" + token, 1, []string{"transit.certificate: tls: private key does not match public key"}},
		{address + "certificate: clients/ca.crt\nkey: jwt.open" + token, 2, []string{"transit.key: DIR/jwt.open has mode 0664"}},
		{address + "certificate: pki/no.crt\nkey: pki/no.key" + token, 1, []string{"transit.certificate: DIR/pki/no.crt: no such file", "transit.key: DIR/pki/no.key: no such file"}},
		{address + "auth: {}", 1, []string{"transit.auth: method is missing"}},
		{address + "auth: token", 1, []string{"transit.auth: want a mapping"}},
		{address + "auth: {method: userpass}", 1, []string{`transit.auth.method: "userpass" is no way to log in (hint: token, approle, cert, kubernetes or jwt)`}},
		{address + "auth: {method: 7}", 1, []string{"transit.auth.method: want text"}},
		{address + "auth: {method: token}", 1, []string{"transit.auth.file: method token needs it"}},
		{address + "auth: {method: token, file: 7}", 1, []string{"transit.auth.file: want text"}},
		{address + "auth:\n  method: token\n  file: token\n  role: r", 4, []string{"transit.auth.role: method token has no use for it (hint: remove it)"}},
		{address + "auth: {method: token, file: none}", 1, []string{"transit.auth.file: DIR/none: no such file"}},
		{address + "auth: {method: token, file: token.open}", 1, []string{"transit.auth.file: DIR/token.open has mode 0640: others can read or change it, chmod 0600 it"}},
		{address + "auth: {method: approle, role_id: r, file: jwt}", 1, []string{"transit.auth.file: DIR/jwt has mode 0644"}},
		{address + "auth: {method: approle, file: secret}", 1, []string{"transit.auth.role_id: method approle needs it"}},
		{address + "auth: {method: approle, role_id: r, mount: /a}", 1, []string{`transit.auth.mount: "/a" is no mount`}},
		{address + "auth: {method: cert}", 1, []string{"transit.auth.method: method cert needs a client certificate (hint: say certificate and key)"}},
		{address + "certificate: 7\nkey: 7\nauth: {method: cert}", 1, []string{"transit.certificate: want text", "transit.key: want text"}},
		{address + "auth: {method: kubernetes, file: jwt}", 1, []string{"transit.auth.role: method kubernetes needs it"}},
		{address + "auth: {method: kubernetes, role: r, file: pki}", 1, []string{"transit.auth.file: DIR/pki is no file"}},
		{address + "auth: {method: jwt, role: r}", 1, []string{"transit.auth.file: method jwt needs it"}},
		{address + "auth: {method: jwt, role: r, file: jwt.open}", 1, []string{"transit.auth.file: DIR/jwt.open has mode 0664: others can read or change it, chmod 0644 it"}},
	} {
		text := vaulted(t, dir, c.members)
		if c.members == "{}" {
			text = strings.Replace(text, "    transit:\n      {}\n", "    transit: {}\n", 1)
			c.at = -1
		}
		_, findings := loadText(t, dir, text)
		if len(findings) != len(c.want) {
			t.Errorf("%s: %d findings, want %d: %v", c.members, len(findings), len(c.want), findings)
			continue
		}
		for i, want := range c.want {
			if got := strings.ReplaceAll(findings[i].String(), dir, "DIR"); !strings.Contains(got, want) {
				t.Errorf("%s: %s, want %q", c.members, got, want)
			}
		}
		if got := findings[0].Line; got != line+c.at {
			t.Errorf("%s: on line %d, want %d", c.members, got, line+c.at)
		}
	}
}

// Only a pod has the file that kubernetes logs in with where none is said.
func TestKubernetesOutsideOfAPod(t *testing.T) {
	if _, err := os.Stat(transit.KubernetesToken); err == nil {
		t.Skip("this is a pod")
	}
	dir := vaultWorld(t)
	_, findings := loadText(t, dir, vaulted(t, dir, "addresses: [https://a:8200]\nauth: {method: kubernetes, role: r}"))
	if len(findings) != 1 || findings[0].Path != "keystores.vault.transit.auth.file" || !strings.Contains(findings[0].String(), transit.KubernetesToken) || findings[0].Hint == "" {
		t.Error(findings)
	}
}

func TestAKeystoreIsOfOneKind(t *testing.T) {
	dir := vaultWorld(t)
	good := vaulted(t, dir, vaultMembers)
	for _, c := range []struct{ old, new, want string }{
		{"  vault:\n    transit:\n", "  vault:\n    pkcs11: {module: module.so, token: 'pkcs11:token=t?pin-source=file:" + filepath.Join(dir, "pin") + "'}\n    transit:\n",
			"keystores.vault: it is either a token, pkcs11, or in a Vault, transit (hint: make two keystores of it)"},
		{"\nlisteners:\n", "\n  none: {}\n\nlisteners:\n", "keystores.none: it has neither pkcs11 nor transit (hint: pkcs11: {"},
		{"\nlisteners:\n", "\n  none: {pkcs11: }\n\nlisteners:\n", "keystores.none.pkcs11: it has no value"},
		{"\nlisteners:\n", "\n  none: 7\n\nlisteners:\n", "keystores.none: want a mapping"},
		{"    transit:\n", "    vault:\n", "keystores.vault.vault: there is no such member (hint: one of pkcs11, transit)"},
	} {
		_, findings := loadText(t, dir, strings.Replace(good, c.old, c.new, 1))
		if len(findings) == 0 || !strings.Contains(findings[len(findings)-1].String(), c.want) && !strings.Contains(findings[0].String(), c.want) {
			t.Errorf("%v, want %q", findings, c.want)
		}
	}
}

func TestOneKeystoreForEachMount(t *testing.T) {
	dir := vaultWorld(t)
	for _, c := range []struct {
		more string
		same bool
	}{
		{"addresses: [https://vault.example.com:8200], mount: other", false},
		{"addresses: [https://another.example.com:8200]", false},
		{"addresses: [https://vault.example.com:8200], namespace: b", false},
		{"addresses: [https://another.example.com:8200, https://vault.example.com:8200], namespace: a", true}, // a server knows its whole cluster
		{"addresses: [https://vault.example.com:8200], namespace: a, mount: transit", true},
		{"addresses: [https://vault.example.com:8200], mount: a/transit", true}, // the same, as the root namespace sees it
	} {
		_, findings := loadText(t, dir, vaulted(t, dir, vaultMembers+"\nnamespace: a", "  zweite:\n    transit: {"+c.more+", auth: {method: token, file: token}}\n"))
		if !c.same && len(findings) == 0 {
			continue
		}
		if len(findings) != 1 || !c.same || !strings.Contains(findings[0].String(), "keystores.zweite.transit.mount: keystore vault has the same mount (hint: one keystore for each mount)") {
			t.Errorf("%s: %v", c.more, findings)
		}
	}
}

// A change of what a keystore's processes may do was taken for none: it was said
// to be reloaded, and was not.
func TestAnyChangeOfAKeystoreNeedsARestart(t *testing.T) {
	dir := vaultWorld(t)
	good := strings.Replace(vaulted(t, dir, vaultMembers), "    pkcs11:\n", "    pkcs11:\n      workers: 2\n      confine: {network: true}\n", 1)
	before, findings := loadText(t, dir, good)
	if Failed(findings) {
		t.Fatal(findings)
	}
	for _, c := range []struct{ old, new, want string }{
		{"addresses: [https://vault.example.com:8200]", "addresses: ['https://vault.example.com:8200'] # the same", ""},
		{"addresses: [https://vault.example.com:8200]", "mount: transit\n      addresses: [https://vault.example.com:8200]", ""},
		{"algorithm: ES256\n    keystore: hsm", "algorithm: ES256\n    keystore: vault", ""}, // of the next version
		{"workers: 2", "workers: 3", "keystores"},
		{"network: true", "network: false", "keystores"},
		{"file: token}", "file: secret}", "keystores"},
		{"vault.example.com", "vault.example.org", "keystores"},
	} {
		after, findings := loadText(t, dir, strings.Replace(good, c.old, c.new, 1))
		if Failed(findings) {
			t.Fatal(findings)
		}
		if got := before.NeedsRestart(after); got != c.want {
			t.Errorf("%s: %q needs a restart, want %q", c.new, got, c.want)
		}
	}
}

// A development configuration tells of a Vault only if there is one.
func TestDevWithAVaultLoads(t *testing.T) {
	dir := vaultWorld(t)
	o := DevOptions{
		Dir: dir, Module: filepath.Join(dir, "module.so"), Token: "pkcs11:token=t?pin-source=file:" + filepath.Join(dir, "pin"),
		APIPort: 8443, PublicPort: 8080, AdminPort: 9090,
	}
	without, err := Dev(o)
	if err != nil {
		t.Fatal(err)
	}
	o.Transit = &Transit{
		Addresses: []string{"https://vault.example.com:8200"}, Mount: "it", CA: filepath.Join(dir, "ca.crt"),
		Auth: Auth{Method: "token", File: filepath.Join(dir, "token")},
	}
	with, err := Dev(o)
	if err != nil {
		t.Fatal(err)
	}
	cfg, findings := loadText(t, dir, string(with))
	if cfg == nil || len(findings) > 0 {
		t.Fatal(findings)
	}
	if diff := cmp.Diff(o.Transit, cfg.Keystores["vault"].Transit); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if ks := cfg.KeySets["vaulted"]; ks.Keystore != "vault" || ks.RotateEvery != cfg.KeySets["web"].RotateEvery || !slices.Contains(cfg.Rules[0].KeySets, "vaulted") {
		t.Errorf("vaulted is %+v, the rule %+v", ks, cfg.Rules[0])
	}
	for _, word := range []string{"transit:", "vaulted", "\n  vault"} {
		if strings.Contains(string(without), word) {
			t.Errorf("without a Vault it says %q", word)
		}
	}
}

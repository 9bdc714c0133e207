package transit_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"chancery/keystore/transit"
)

// paths are the members that an error of Check is about.
func paths(t *testing.T, err error) []string {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if err != nil && !ok {
		t.Fatalf("%T: want faults joined", err)
	}
	if err == nil {
		return nil
	}
	var out []string
	for _, e := range joined.Unwrap() {
		f, ok := errors.AsType[*transit.Fault](e)
		if !ok {
			t.Fatalf("%T: want *Fault", e)
		}
		out = append(out, f.Path)
	}
	return out
}

func TestFaultsOfAConfiguration(t *testing.T) {
	good := func() transit.Config {
		return transit.Config{
			Name: "vault", Addresses: []string{"https://vault.example.com:8200"},
			Auth: transit.Auth{Method: transit.MethodToken, File: "/run/token"},
		}
	}
	auth := func(a transit.Auth) func(*transit.Config) { return func(c *transit.Config) { c.Auth = a } }
	certs := transit.TLS{Certificate: "c.pem", Key: "c.key"}
	for _, v := range []struct {
		name   string
		change func(*transit.Config)
		want   []string
	}{
		{"as it should be", func(*transit.Config) {}, nil},
		{"everything said", func(c *transit.Config) {
			c.Mount, c.Namespace, c.RSABits, c.TLS = "pki/transit-2", "team/prod", 4096, transit.TLS{CA: "ca.pem", ServerName: "vault", Certificate: "c.pem", Key: "c.key"}
		}, nil},
		{"no address", func(c *transit.Config) { c.Addresses = nil }, []string{"addresses"}},
		{"an address twice", func(c *transit.Config) { c.Addresses = append(c.Addresses, "https://b", c.Addresses[0]) }, []string{"addresses[2]"}},
		{"two wrong addresses", func(c *transit.Config) { c.Addresses = []string{"vault", "https://b", "ftp://c"} }, []string{"addresses[0]", "addresses[2]"}},
		{"a mount with slashes", func(c *transit.Config) { c.Mount = "/transit/" }, []string{"mount"}},
		{"a mount that climbs", func(c *transit.Config) { c.Mount = "transit/../sys" }, []string{"mount"}},
		{"a mount with a query", func(c *transit.Config) { c.Mount = "transit?list=true" }, []string{"mount"}},
		{"a mount with an escape", func(c *transit.Config) { c.Mount = "transit%2fx" }, []string{"mount"}},
		{"a mount with a line", func(c *transit.Config) { c.Mount = "transit\n" }, []string{"mount"}},
		{"a namespace with slashes", func(c *transit.Config) { c.Namespace = "team/" }, []string{"namespace"}},
		{"a certificate alone", func(c *transit.Config) { c.TLS.Certificate = "c.pem" }, []string{"certificate"}},
		{"a key alone", func(c *transit.Config) { c.TLS.Key = "c.key" }, []string{"certificate"}},
		{"small RSA", func(c *transit.Config) { c.RSABits = 1024 }, []string{"rsa_bits"}},
		{"no method", auth(transit.Auth{}), []string{"auth.method"}},
		{"a method in capitals", auth(transit.Auth{Method: "Token", File: "f"}), []string{"auth.method"}},
		{"token, nothing", auth(transit.Auth{Method: transit.MethodToken}), []string{"auth.file"}},
		{"token, too much", auth(transit.Auth{Method: transit.MethodToken, File: "f", Role: "r", RoleID: "i", Mount: "m"}), []string{"auth.role", "auth.role_id", "auth.mount"}},
		{"approle", auth(transit.Auth{Method: transit.MethodAppRole, RoleID: "i", File: "f", Mount: "corp/approle"}), nil},
		{"approle without a secret", auth(transit.Auth{Method: transit.MethodAppRole, RoleID: "i"}), nil},
		{"approle, wrong", auth(transit.Auth{Method: transit.MethodAppRole, Role: "r"}), []string{"auth.role_id", "auth.role"}},
		{"cert", func(c *transit.Config) { c.TLS, c.Auth = certs, transit.Auth{Method: transit.MethodCert, Role: "r"} }, nil},
		{"cert, wrong", auth(transit.Auth{Method: transit.MethodCert, RoleID: "i", File: "f"}), []string{"auth.method", "auth.role_id", "auth.file"}},
		{"kubernetes", auth(transit.Auth{Method: transit.MethodKubernetes, Role: "r"}), nil},
		{"kubernetes, wrong", auth(transit.Auth{Method: transit.MethodKubernetes, RoleID: "i"}), []string{"auth.role", "auth.role_id"}},
		{"jwt", auth(transit.Auth{Method: transit.MethodJWT, Role: "r", File: "f"}), nil},
		{"jwt, wrong", auth(transit.Auth{Method: transit.MethodJWT, RoleID: "i"}), []string{"auth.role", "auth.file", "auth.role_id"}},
		{"an auth mount with slashes", auth(transit.Auth{Method: transit.MethodJWT, Role: "r", File: "f", Mount: "auth/jwt/"}), []string{"auth.mount"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			c := good()
			v.change(&c)
			if got := paths(t, c.Check()); !slices.Equal(got, v.want) {
				t.Errorf("faults of %q, want %q: %v", got, v.want, c.Check())
			}
			if v.want == nil {
				return
			}
			if p, err := transit.Open(c); err == nil {
				p.Close()
				t.Error("it is opened all the same")
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{ // part of what is wrong
		"https://vault": "", "https://vault:8200": "", "https://[2001:db8::1]:8200": "", "https://vault/prefix": "", "https://vault.example.com.": "",
		"http://127.0.0.1:8200": "", "http://[::1]:8200": "", "http://localhost": "", "http://127.9.9.9": "",
		"": "no https URL", "vault:8200": "no https URL", "//vault": "no https URL", "https:vault": "no https URL", "https://": "no https URL",
		"unix:///run/vault": "no https URL", "https://vault:port": "no https URL", "https://:8200": "no https URL",
		"https://u:p@vault": "no user", "https://vault?a=b": "no user", "https://vault?": "no user", "https://vault#f": "no user", "https://vault#": "no user",
		"https://vault/": "canonical", "https://vault/a/../b": "canonical", "https://vault//a": "canonical", "HTTPS://vault": "canonical",
		"http://vault": "unprotected", "http://10.0.0.1": "unprotected", "http://localhost.example.com": "unprotected", "http://127.0.0.1.example.com": "unprotected",
		"http://0.0.0.0:8200": "unprotected",
	} {
		c := transit.Config{Addresses: []string{address}, Auth: transit.Auth{Method: transit.MethodToken, File: "f"}}
		err := c.Check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", address, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

// What stands in a configuration file may be long, and goes into a log.
func TestFaultsAreShort(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	c := transit.Config{Addresses: []string{long}, Mount: long + "/", Namespace: long + "/", Auth: transit.Auth{Method: transit.Method(long), Mount: long + "/"}}
	if err := c.Check(); err == nil || len(err.Error()) > 4096 {
		t.Errorf("%d bytes of faults", len(err.Error()))
	}
}

package transit_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

// hole accepts connections and never answers on them.
func hole(t *testing.T) (address string, accepted *atomic.Int32) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted = new(atomic.Int32)
	conns := make(chan net.Conn, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			conns <- c
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		for close(conns); ; {
			c, ok := <-conns
			if !ok {
				return
			}
			c.Close()
		}
	})
	return "https://" + ln.Addr().String(), accepted
}

// refusing is a port that nobody listens at.
func refusing(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return "https://" + ln.Addr().String()
}

func TestADeadFirstAddress(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"refuses", "black hole"} {
		t.Run(kind, func(t *testing.T) {
			dead := refusing(t)
			if kind != "refuses" {
				dead, _ = hole(t)
			}
			_, p, _ := fake(t, transittest.RoleTTL{TTL: time.Hour}, func(c *transit.Config) { c.Addresses = []string{dead, c.Addresses[0]} })
			_, k := signer(t, p, keystore.ES256)
			for range 20 {
				began := time.Now()
				if err := signs(t, k, 5*time.Second); err != nil || time.Since(began) > 500*time.Millisecond {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
			}
			if s := p.Status()[0]; s.State != keystore.TokenReady {
				t.Errorf("%+v", s)
			}
		})
	}
}

// V12: a server that accepts and is silent.
func TestABlackHole(t *testing.T) {
	t.Parallel()
	address, accepted := hole(t)
	_, p, _ := fake(t, transittest.RoleTTL{}, func(c *transit.Config) {
		c.Addresses, c.Deadlines = []string{address}, transit.Deadlines{Login: 200 * time.Millisecond, Health: 200 * time.Millisecond}
	})
	s := becomes(t, p, keystore.TokenUnavailable)
	if !strings.Contains(s.Err, "no answer in time") || !strings.Contains(s.Err, address) {
		t.Errorf("%q", s.Err)
	}
	before, began := accepted.Load(), time.Now()
	time.Sleep(4 * time.Second)
	if n := accepted.Load() - before; float64(n) > time.Since(began).Seconds()+1 || n == 0 {
		t.Errorf("%d connections in %v, want one a second", n, time.Since(began))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	began = time.Now()
	if _, err := p.Generate(ctx, keystore.NewKeyID(), jwt, keystore.ES256); !errors.Is(err, keystore.ErrUnavailable) || time.Since(began) > time.Second {
		t.Errorf("after %v: %v; want to be told at once", time.Since(began), err)
	}
}

func TestACertificateOfAnotherCA(t *testing.T) {
	t.Parallel()
	other := transittest.NewCA(t, t.TempDir())
	f, p, _ := fake(t, transittest.RoleTTL{}, func(c *transit.Config) { c.TLS.CA = other.File() })
	if s := becomes(t, p, keystore.TokenUnavailable); !strings.Contains(s.Err, "certificate") || !strings.Contains(s.Err, "unknown authority") {
		t.Errorf("%q", s.Err)
	}
	if n := len(f.Requests()); n != f.Count("", "^sys/(mounts|policies)") {
		t.Errorf("the server has seen requests: %+v", f.Requests())
	}
}

func TestAServerNameOfItsOwn(t *testing.T) {
	t.Parallel()
	_, p, _ := fake(t, transittest.RoleTTL{}, func(c *transit.Config) { c.TLS.ServerName = "localhost" })
	becomes(t, p, keystore.TokenReady)
	_, p, _ = fake(t, transittest.RoleTTL{}, func(c *transit.Config) { c.TLS.ServerName = "vault.example.com" })
	if s := becomes(t, p, keystore.TokenUnavailable); !strings.Contains(s.Err, "vault.example.com") {
		t.Errorf("%q", s.Err)
	}
}

func TestTLSFilesThatAreNone(t *testing.T) {
	for name, tls := range map[string]transit.TLS{
		"absent":  {CA: "/nonexistent/ca.pem"},
		"no PEM":  {CA: file(t, "not a certificate")},
		"a key's": {CA: file(t, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")},
	} {
		cfg := transit.Config{Name: "vault", Addresses: []string{"https://127.0.0.1:1"}, TLS: tls, Auth: transit.Auth{Method: transit.MethodToken, File: "f"}}
		if p, err := transit.Open(cfg); err == nil {
			p.Close()
			t.Errorf("%s: it is opened", name)
		}
	}
}

// A redirect would take the token to wherever it says.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var caught atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { caught.Add(1) }))
	defer elsewhere.Close()
	f, p, _ := fake(t, transittest.RoleTTL{TTL: time.Hour})
	_, k := signer(t, p, keystore.ES256)
	f.Redirect(elsewhere.URL)
	if err := signs(t, k, time.Second); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if s := becomes(t, p, keystore.TokenUnavailable); !strings.Contains(s.Err, "standby") {
		t.Errorf("%q", s.Err)
	}
	time.Sleep(1500 * time.Millisecond)
	if n := caught.Load(); n > 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
	f.Standby(0)
	becomes(t, p, keystore.TokenReady)
}

// README: back within two seconds.
func TestItComesBackByItself(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		name     string
		down, up func(t *testing.T, f *transittest.FakeServer)
		state    keystore.TokenState
	}{
		{"sealed", func(_ *testing.T, f *transittest.FakeServer) { f.Seal() }, func(_ *testing.T, f *transittest.FakeServer) { f.Unseal() }, keystore.TokenSealed},
		{"stopped", func(_ *testing.T, f *transittest.FakeServer) { f.Close() }, func(t *testing.T, f *transittest.FakeServer) { f.Restart(t) }, keystore.TokenUnavailable},
		{"on standby", func(_ *testing.T, f *transittest.FakeServer) { f.Standby(429) }, func(_ *testing.T, f *transittest.FakeServer) { f.Standby(0) }, keystore.TokenUnavailable},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			f, p, _ := fake(t, transittest.RoleTTL{TTL: time.Hour})
			_, k := signer(t, p, keystore.ES256)
			for range 2 {
				v.down(t, f)
				if err := signs(t, k, time.Second); !errors.Is(err, keystore.ErrUnavailable) {
					t.Fatalf("%v", err)
				}
				becomes(t, p, v.state)
				v.up(t, f)
				eventually(t, 2*time.Second, func() error { return signs(t, k, time.Second) })
				becomes(t, p, keystore.TokenReady)
			}
			if n := f.Count("", "approle/login"); n != 1 {
				t.Errorf("%d logins; the token was good all the time", n)
			}
		})
	}
}

// V16: the library reads its environment at every client it makes.
func TestTheEnvironmentChangesNothing(t *testing.T) {
	var caught atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { caught.Add(1) }))
	defer proxy.Close()
	f := transittest.Fake(t)
	f.Namespaces("team")
	mount := f.Mount(t)
	for name, value := range map[string]string{
		"VAULT_ADDR": proxy.URL, "VAULT_AGENT_ADDR": proxy.URL, "VAULT_PROXY_ADDR": proxy.URL, "VAULT_HTTP_PROXY": proxy.URL, "HTTPS_PROXY": proxy.URL, "HTTP_PROXY": proxy.URL,
		"VAULT_TOKEN": "s.environment", "VAULT_NAMESPACE": "other", "VAULT_SKIP_VERIFY": "true", "VAULT_TLS_SERVER_NAME": "vault.example.com",
		"VAULT_CLIENT_TIMEOUT": "1", "VAULT_MAX_RETRIES": "9", "VAULT_RATE_LIMIT": "1:1", "VAULT_SRV_LOOKUP": "true", "VAULT_WRAP_TTL": "60", "VAULT_HEADERS": `{"X-Other":"other"}`,
		"VAULT_DISABLE_REDIRECTS": "false", "VAULT_MFA": "m", "VAULT_CLI_NO_COLOR": "1",
	} {
		t.Setenv(name, value)
	}
	cfg := config(t, f.Server, mount, f.RootToken())
	p := open(t, cfg)
	_, k := signer(t, p, keystore.ES256)
	for range 20 { // VAULT_RATE_LIMIT
		if err := signs(t, k, 2*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if n := caught.Load(); n > 0 {
		t.Errorf("%d requests went to the environment's address", n)
	}
	f.Script(transittest.Rule{Path: "/sign/", Status: 500})
	before := f.Count("", "/sign/")
	if err := signs(t, k, 2*time.Second); err == nil {
		t.Error("it signs with a server that fails")
	}
	if n := f.Count("", "/sign/") - before; n != 2 {
		t.Errorf("%d tries, want 2: VAULT_MAX_RETRIES counts for nothing", n)
	}
	f.Script()
	cfg.TLS.CA = transittest.NewCA(t, t.TempDir()).File()
	if s := becomes(t, open(t, cfg), keystore.TokenUnavailable); !strings.Contains(s.Err, "certificate") {
		t.Errorf("VAULT_SKIP_VERIFY: %q", s.Err)
	}
}

// What the library cannot read of its environment is refused, not guessed.
func TestAnEnvironmentThatCannotBeRead(t *testing.T) {
	t.Setenv("VAULT_MAX_RETRIES", "many")
	cfg := transit.Config{Name: "vault", Addresses: []string{"https://127.0.0.1:1"}, Auth: transit.Auth{Method: transit.MethodToken, File: "f"}}
	p, err := transit.Open(cfg)
	if err == nil {
		p.Close()
		t.Fatal("it is opened")
	}
	if !strings.Contains(err.Error(), "unset the VAULT_ variables") {
		t.Error(err)
	}
}

func TestANamespace(t *testing.T) {
	f := transittest.Fake(t)
	f.Namespaces("team/prod")
	mount := f.Mount(t)
	cfg := config(t, f.Server, mount, f.RootToken())
	cfg.Namespace = "team/prod"
	if p := open(t, cfg); p != nil {
		becomes(t, p, keystore.TokenReady)
	}
	cfg.Namespace = "team/typo"
	s := becomes(t, open(t, cfg), keystore.TokenAuthRejected)
	if !strings.Contains(s.Err, "no such mount or namespace") {
		t.Errorf("%q", s.Err)
	}
}

// V15: a mount that was misspelt is not one without keys.
func TestAMountThatIsNotThere(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		mount := s.Mount(t)
		p := open(t, config(t, s, mount+"-typo", s.RootToken()))
		if st := becomes(t, p, keystore.TokenUnavailable); !strings.Contains(st.Err, "vault secrets enable") {
			t.Errorf("%q", st.Err)
		}
		ref := keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: keystore.ES256, SPKI: []byte{1}}
		_, err := p.Find(t.Context(), ref.ID, jwt, ref.Algorithm)
		if !errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("finding: %v", err)
		}
		if err := p.Destroy(t.Context(), ref); !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("destroying: %v; want it not to be taken for done", err)
		}
		p = open(t, config(t, s, "sys", s.RootToken()))
		if st := becomes(t, p, keystore.TokenUnavailable); !strings.Contains(st.Err, "engine of type") {
			t.Errorf("%q", st.Err)
		}
	})
}

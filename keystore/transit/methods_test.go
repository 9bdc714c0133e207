package transit_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

// enter makes what a method needs on a server, over HTTP, and returns how
// Chancery is to use it, and what must not be told.
func enter(t *testing.T, s *transittest.Server, method transit.Method, policy string) (auth transit.Auth, tls transit.TLS, canary string) {
	t.Helper()
	role := map[string]any{"token_policies": []string{policy}, "token_ttl": "1h"}
	tls.CA = s.CAFile()
	switch method {
	case transit.MethodToken:
		canary = s.Token(t, map[string]any{"policies": []string{policy}, "ttl": "1h"})
		return transit.Auth{Method: method, File: file(t, canary)}, tls, canary
	case transit.MethodAppRole:
		s.Call(t, "POST", "sys/auth/approle", map[string]any{"type": "approle"})
		s.Call(t, "POST", "auth/approle/role/chancery", role)
		id := s.Call(t, "GET", "auth/approle/role/chancery/role-id", nil)["data"].(map[string]any)["role_id"].(string)
		canary = s.Call(t, "POST", "auth/approle/role/chancery/secret-id", map[string]any{})["data"].(map[string]any)["secret_id"].(string)
		return transit.Auth{Method: method, RoleID: id, File: file(t, "\n"+canary+"\n")}, tls, canary
	default:
		ca := transittest.NewCA(t, t.TempDir())
		role["certificate"], role["display_name"] = ca.PEM(), "chancery"
		s.Call(t, "POST", "sys/auth/corp-cert", map[string]any{"type": "cert"})
		s.Call(t, "POST", "auth/corp-cert/certs/chancery", role)
		tls.Certificate, tls.Key = ca.ClientCert("chancery")
		return transit.Auth{Method: method, Mount: "corp-cert", Role: "chancery"}, tls, "PRIVATE KEY"
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		for _, method := range []transit.Method{transit.MethodToken, transit.MethodAppRole, transit.MethodCert} {
			t.Run(string(method), func(t *testing.T) {
				mount := s.Mount(t)
				var log journal
				auth, tls, canary := enter(t, s, method, s.Policy(t, policy(mount)))
				p := open(t, transit.Config{Name: "vault", Addresses: []string{s.Address()}, Mount: mount, TLS: tls, Auth: auth, Log: log.logger()})
				ref, k := signer(t, p, keystore.ES256)
				if err := signs(t, k, 5*time.Second); err != nil {
					t.Error(err)
				}
				if st := p.Status()[0]; st.State != keystore.TokenReady || st.Err != "" || st.Unconfined != "" {
					t.Errorf("%+v: want it to be ready, and README's policy to be the least", st)
				}
				if err := p.Destroy(t.Context(), ref); err != nil {
					t.Error(err)
				}
				if err := p.Close(); err != nil {
					t.Error(err)
				}
				if strings.Contains(log.String(), canary) {
					t.Error("a secret is in the log")
				}
				if status, _, err := s.CallAs(canary, "GET", "auth/token/lookup-self", nil); method == transit.MethodToken && (err != nil || status != 200) {
					t.Errorf("the token from the file: status %d, %v; it is not ours to revoke", status, err)
				}
			})
		}
	})
}

func TestMethodsWithAJWT(t *testing.T) {
	for _, method := range []transit.Method{transit.MethodKubernetes, transit.MethodJWT} {
		t.Run(string(method), func(t *testing.T) {
			f := transittest.Fake(t)
			mount := f.Mount(t)
			f.JWTRole("corp/"+string(method), string(method), "chancery", []string{"canary.jwt.1"}, []string{f.Policy(t, policy(mount))}, transittest.RoleTTL{TTL: time.Hour})
			cfg := transit.Config{
				Name: "vault", Addresses: []string{f.Address()}, Mount: mount, TLS: transit.TLS{CA: f.CAFile()},
				Auth: transit.Auth{Method: method, Mount: "corp/" + string(method), Role: "chancery", File: file(t, "canary.jwt.0")},
			}
			p := open(t, cfg)
			if s := becomes(t, p, keystore.TokenAuthRejected); strings.Contains(s.Err, "canary") || !strings.HasPrefix(s.Err, "login: ") {
				t.Errorf("%q", s.Err)
			}
			rewrite(t, cfg.Auth.File, "canary.jwt.1")
			becomes(t, p, keystore.TokenReady)
			if _, k := signer(t, p, keystore.EdDSA); k != nil {
				if err := signs(t, k, 5*time.Second); err != nil {
					t.Error(err)
				}
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if n := f.Count("", "auth/token/revoke-self"); n != 1 {
				t.Errorf("%d revocations at Close, want 1", n)
			}
		})
	}
}

// tokenOf returns the accessor of the token that signs.
func tokenOf(t *testing.T, f *transittest.FakeServer) string {
	t.Helper()
	last := ""
	for _, r := range f.Requests() {
		if strings.Contains(r.Path, "/sign/") {
			last = r.Token
		}
	}
	if last == "" {
		t.Fatal("nothing was signed")
	}
	return last
}

const invalidToken = `{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}`

// V10: a hundred requests that meet a revoked token cost one login.
func TestARevokedTokenCostsOneLogin(t *testing.T) {
	f, p, _ := fake(t, transittest.RoleTTL{TTL: time.Hour})
	_, k := signer(t, p, keystore.ES256)
	f.Script(transittest.Rule{Token: tokenOf(t, f), Status: 403, Body: invalidToken})
	errs := make([]error, 100)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = signs(t, k, 5*time.Second) })
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("caller %d: %v", i, err)
		}
	}
	if n := f.Count("", "auth/approle/login"); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
}

func TestATokenRunsOutOnTheServer(t *testing.T) {
	f, p, _ := fake(t, transittest.RoleTTL{TTL: time.Hour})
	_, k := signer(t, p, keystore.ES256)
	f.AdvanceTokens(2 * time.Hour) // its clock, and not ours
	if err := signs(t, k, 5*time.Second); err != nil {
		t.Error(err)
	}
	if n := f.Count("", "auth/approle/login"); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
}

func TestAShortTokenIsRenewedAndReplaced(t *testing.T) {
	t.Parallel()
	for name, ttl := range map[string]transittest.RoleTTL{
		"renewed for ever": {Period: 4 * time.Second},
		"replaced":         {TTL: 4 * time.Second, Max: 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, p, _ := fake(t, ttl)
			_, k := signer(t, p, keystore.ES256)
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if err := signs(t, k, 5*time.Second); err != nil {
					t.Fatal(err)
				}
			}
			if w := p.Status()[0].Err; w != "" {
				t.Errorf("it warns: %q", w)
			}
			logins, renewals := f.Count("", "approle/login"), f.Count("", "renew-self")
			if name == "replaced" && (logins < 2 || logins > 5) || name != "replaced" && (logins != 1 || renewals < 2 || renewals > 8) {
				t.Errorf("%d logins, %d renewals", logins, renewals)
			}
		})
	}
}

// A batch token can be neither renewed nor revoked.
func TestABatchToken(t *testing.T) {
	t.Parallel()
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		mount := s.Mount(t)
		s.Call(t, "POST", "sys/auth/approle", map[string]any{"type": "approle"})
		s.Call(t, "POST", "auth/approle/role/batch", map[string]any{"token_policies": []string{s.Policy(t, policy(mount))}, "token_ttl": "4s", "token_max_ttl": "4s", "token_type": "batch"})
		id := s.Call(t, "GET", "auth/approle/role/batch/role-id", nil)["data"].(map[string]any)["role_id"].(string)
		secret := s.Call(t, "POST", "auth/approle/role/batch/secret-id", map[string]any{})["data"].(map[string]any)["secret_id"].(string)
		var log journal
		p := open(t, transit.Config{
			Name: "vault", Addresses: []string{s.Address()}, Mount: mount, TLS: transit.TLS{CA: s.CAFile()}, Log: log.logger(),
			Auth: transit.Auth{Method: transit.MethodAppRole, RoleID: id, File: file(t, secret)},
		})
		_, k := signer(t, p, keystore.ES256)
		for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if err := signs(t, k, 5*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if strings.Contains(log.String(), "WARN") {
			t.Errorf("it warns:\n%s", log.String())
		}
	})
}

// A policy that does not let the token sign keeps the mount from serving; one that
// lacks what signing does not need is told of. Neither needs a restart when it has
// been mended.
func TestAPolicyThatLacksSomething(t *testing.T) {
	t.Parallel()
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		mount := s.Mount(t)
		noDelete := strings.Replace(policy(mount), `"update", "read", "delete"`, `"update", "read"`, 1)
		noSign := strings.Replace(policy(mount), "/sign/", "/sing/", 1)
		name := s.Policy(t, noSign)
		var log journal
		token := s.Token(t, map[string]any{"policies": []string{name}, "ttl": "1h"})
		p := open(t, transit.Config{
			Name: "vault", Addresses: []string{s.Address()}, Mount: mount, TLS: transit.TLS{CA: s.CAFile()}, Log: log.logger(),
			Auth: transit.Auth{Method: transit.MethodToken, File: file(t, token)},
		})
		says := func(state keystore.TokenState, want string) {
			t.Helper()
			eventually(t, 5*time.Second, func() error {
				p.Probe(t.Context())
				if st := p.Status()[0]; st.State != state || !strings.Contains(st.Err, want) || want == "" && st.Err != "" {
					return fmt.Errorf("it is %s (%s), want %s, saying %q", st.State, st.Err, state, want)
				}
				return nil
			})
		}
		says(keystore.TokenUnavailable, "may not: update "+mount+"/sign/NAME")
		s.Call(t, "PUT", "sys/policies/acl/"+name, map[string]any{"policy": noDelete})
		says(keystore.TokenReady, "may not: delete "+mount+"/keys/NAME")
		s.Call(t, "PUT", "sys/policies/acl/"+name, map[string]any{"policy": policy(mount)})
		says(keystore.TokenReady, "")
	})
}

func TestARequestThatThePolicyRefusesCostsNoLogin(t *testing.T) {
	t.Parallel()
	f, p, cfg := fake(t, transittest.RoleTTL{TTL: time.Hour})
	_, k := signer(t, p, keystore.ES256)
	f.Script(transittest.Rule{Path: cfg.Mount + "/sign/", Status: 403, Body: `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`})
	for range 50 {
		if err := signs(t, k, 5*time.Second); err == nil || !strings.Contains(err.Error(), "its policy does not allow this") {
			t.Fatalf("%v, want it to name the policy", err)
		}
	}
	if logins, looks := f.Count("", "approle/login"), f.Count("", "lookup-self"); logins != 1 || looks > 2 {
		t.Errorf("%d logins, %d looks at the token", logins, looks)
	}
}

// No secret is in anything that is written: errors, states, logs, or what a
// debugger's %#v shows of what is held.
func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	var log journal
	var states journal
	f, p, cfg := fake(t, transittest.RoleTTL{TTL: time.Hour}, func(c *transit.Config) {
		c.Log, c.OnState = log.logger(), func(s keystore.TokenStatus) { fmt.Fprintf(&states, "%+v\n", s) }
	})
	_, k := signer(t, p, keystore.ES256)
	show := func(v any) { fmt.Fprintf(&states, "%v %+v %#v\n", v, v, v) }
	show(p.Status())
	// What is refused, dropped, mangled and cut at login and at signing.
	for _, rule := range []transittest.Rule{
		{Path: "sign/|login|lookup", Status: 403, Body: invalidToken},
		{Path: "sign/", Drop: true},
		{Path: "sign/|login", Status: 500},
		{Path: "sign/", Status: 400, Body: `{"errors":["no"]}`},
	} {
		f.Script(rule)
		show(signs(t, k, time.Second))
		show(p.Retry(t.Context(), cfg.Mount))
		show(p.Status())
	}
	f.Script()
	rewrite(t, cfg.Auth.File, "canary-wrong-secret-id")
	show(p.Retry(t.Context(), cfg.Mount))
	rewrite(t, cfg.Auth.File, "canary two words")
	show(p.Retry(t.Context(), cfg.Mount))
	show(p.Status())
	p.Close()
	show(p)
	text := log.String() + states.String()
	for _, canary := range []string{"canary", "hvs.", f.RootToken()} {
		if strings.Contains(text, canary) {
			t.Errorf("%q is in:\n%s", canary, text)
		}
	}
}

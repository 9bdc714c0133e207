package transit_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

// Whatever is wrong, a keystore that is left to itself asks little: the login about
// once a second, and the look at the mount no more.
func TestWithNobodyAskingItIsCalm(t *testing.T) {
	t.Parallel()
	const refused = `{"errors":["invalid role or secret ID"]}`
	const denied = `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`
	var all sync.WaitGroup // they do nothing but wait
	for _, v := range []struct {
		name  string
		rules []transittest.Rule
		state keystore.TokenState
		says  string
		most  int // requests in five seconds
	}{
		{"all is well", nil, keystore.TokenReady, "", 0},
		{"the credentials are refused", []transittest.Rule{{Path: "approle/login", Status: 400, Body: refused}}, keystore.TokenAuthRejected, "invalid role", 0},
		{"the login is failing", []transittest.Rule{{Path: "approle/login", Status: 500}}, keystore.TokenUnavailable, "failing (500)", 10},
		{"the token may do nothing", []transittest.Rule{{Path: "internal|lookup|keys|sign|capabilities", Status: 403, Body: denied}}, keystore.TokenUnavailable, "policy", 12},
		{"the token may look at itself alone", []transittest.Rule{{Path: "internal|keys|sign|capabilities", Status: 403, Body: denied}}, keystore.TokenUnavailable, "policy", 12},
		{"the mount is failing", []transittest.Rule{{Path: "keys|sign", Status: 500}}, keystore.TokenUnavailable, "failing (500)", 16},
		{"there is no mount", []transittest.Rule{{Path: "internal|keys|sign", Status: 404, Body: `{"errors":["no handler for route"]}`}}, keystore.TokenUnavailable, "vault secrets enable", 8},
		{"the probe key does not sign", []transittest.Rule{{Path: "sign/", Status: 400}}, keystore.TokenUnavailable, "probe key", 24},
		{"the probe key's signatures are another's", []transittest.Rule{{Path: "sign/", Mangle: misprint}}, keystore.TokenUnavailable, "signature invalid", 20},
		{"the probe key is exportable", []transittest.Rule{{Method: "GET", Path: "keys/chancery-probe", Mangle: exportable}}, keystore.TokenUnavailable, "exportable=false", 15},
	} {
		all.Go(func() {
			t.Run(v.name, func(t *testing.T) {
				f := transittest.Fake(t)
				mount := f.Mount(t)
				f.AppRole("approle", "the-role", "", []string{f.Policy(t, policy(mount))}, transittest.RoleTTL{TTL: time.Hour})
				f.Script(v.rules...)
				p := open(t, transit.Config{
					Name: "vault", Addresses: []string{f.Address()}, Mount: mount, TLS: transit.TLS{CA: f.CAFile()},
					Auth: transit.Auth{Method: transit.MethodAppRole, RoleID: "the-role"},
				})
				becomes(t, p, v.state)
				time.Sleep(time.Second)
				before := len(f.Requests())
				time.Sleep(5 * time.Second)
				seen := f.Requests()[before:]
				if n := len(seen); n > v.most {
					t.Errorf("%d requests in five seconds, want %d at most: %+v", n, v.most, seen)
				}
				logins := 0
				for _, r := range seen {
					if strings.HasPrefix(r.Path, "auth/") {
						logins++
					}
				}
				if logins > 7 {
					t.Errorf("%d of the login's in five seconds", logins)
				}
				if s := p.Status()[0]; s.State != v.state && !strings.Contains(v.says, "failing") || v.says == "" && s.Err != "" {
					t.Errorf("%+v", s)
				}
				eventually(t, 3*time.Second, func() error { // a server that fails is down now and then
					if s := p.Status()[0]; !strings.Contains(s.Err, v.says) {
						return saying(s)
					}
					return nil
				})
				f.Script()
				becomes(t, p, map[bool]keystore.TokenState{true: keystore.TokenAuthRejected, false: keystore.TokenReady}[v.state == keystore.TokenAuthRejected])
			})
		})
	}
	all.Wait()
}

package transit

import (
	"strings"
	"testing"
	"time"
)

const (
	loginOK      = `{"auth":{"client_token":"s.made","lease_duration":3600,"renewable":true}}`
	loginShort   = `{"auth":{"client_token":"s.made","lease_duration":4,"renewable":true}}`
	lookupOK     = `{"data":{"ttl":3600,"creation_ttl":3600,"renewable":true,"expire_time":"2100-01-01T00:00:00Z"}}`
	lookupShort  = `{"data":{"ttl":4,"creation_ttl":4,"renewable":true,"expire_time":"2100-01-01T00:00:00Z"}}`
	notAllowed   = `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`
	wrongSecret  = `{"errors":["invalid role or secret ID"]}`
	notRenewable = `{"errors":["lease is not renewable"]}`
)

// canned answers by method and path; what is not in it is answered 200 with {}.
func canned(answers map[string]string) func(method, path, token string) (int, string) {
	status := map[string]int{notAllowed: 403, wrongSecret: 400, notRenewable: 400, "broken": 500, "cut": 0, "page": 200, "absent": 404}
	return func(method, path, token string) (int, string) {
		body, ok := answers[method+" "+path]
		if !ok {
			return 200, `{}`
		}
		s, ok := status[body]
		if !ok {
			s = 200
		}
		return s, body
	}
}

var (
	approle = Auth{Method: MethodAppRole, RoleID: "role"}
	byToken = Auth{Method: MethodToken}
)

// What bank-vaults#58, vault#20645 and consul#12607 were: whatever is wrong, the
// login asks about once a second, after a few at first, and again when a server comes back; and no more than
// twice a minute if it is refused.
func TestTheLoginNeverRuns(t *testing.T) {
	const login, lookup, renew, sign = "PUT auth/approle/login", "GET auth/token/lookup-self", "PUT auth/token/renew-self", "PUT transit/sign/k"
	for _, v := range []struct {
		name    string
		auth    Auth
		answers map[string]string
		logins  int // at most, in a minute; 0: as many as the pace allows
	}{
		{"all is well", approle, map[string]string{login: loginOK}, 1},
		{"the credentials are refused", approle, map[string]string{login: wrongSecret}, 3},
		{"there is no such auth mount", approle, map[string]string{login: "absent"}, 3},
		{"the login is failing", approle, map[string]string{login: "broken"}, 0},
		{"the login gives no answer", approle, map[string]string{login: "cut", "GET sys/health": "{}"}, 0},
		{"the login gives no token", approle, map[string]string{login: `{"auth":null}`}, 3},
		{"the login answers with a page", approle, map[string]string{login: "page"}, 0},
		{"nobody answers", approle, map[string]string{login: "cut", "GET sys/health": "cut"}, 0},
		{"the policy does not allow to sign", approle, map[string]string{login: loginOK, lookup: lookupOK, sign: notAllowed}, 1},
		{"nor to look at itself", approle, map[string]string{login: loginOK, lookup: notAllowed, sign: notAllowed}, 4},
		{"the look at itself is failing", approle, map[string]string{login: loginOK, lookup: "broken", sign: notAllowed}, 0},
		{"the look at itself gets no answer", approle, map[string]string{login: loginOK, lookup: "cut", sign: notAllowed}, 0},
		{"it cannot be renewed", approle, map[string]string{login: loginShort, renew: notRenewable}, 0},
		{"the renewal is not allowed", approle, map[string]string{login: loginShort, renew: notAllowed}, 0},
		{"the renewal is failing", approle, map[string]string{login: loginShort, renew: "broken"}, 0},
		{"the renewal gives nothing", approle, map[string]string{login: loginShort, renew: `{"auth":{"lease_duration":0}}`}, 0},
		{"a token from a file that is refused", byToken, map[string]string{lookup: notAllowed}, 3},
		{"a token from a file that cannot be renewed", byToken, map[string]string{lookup: lookupShort, renew: notRenewable}, 0},
		{"a token from a file that may not sign", byToken, map[string]string{lookup: lookupOK, sign: notAllowed}, 0},
		{"a token from a file of which nothing can be read", byToken, map[string]string{lookup: `{"data":[]}`}, 0},
	} {
		t.Run(v.name, func(t *testing.T) {
			vault := &stub{answer: canned(v.answers)}
			play(t, v.auth, []*stub{vault}, func(t *testing.T, s *stage) {
				s.traffic(t, time.Minute)
				enter := login
				if v.auth.Method == MethodToken {
					enter = lookup
				}
				if n := vault.count(enter); v.logins > 0 && n > v.logins {
					t.Errorf("%d logins in a minute, want %d at most", n, v.logins)
				}
				all := vault.all(" auth/")
				if n := len(all); n > 70 {
					t.Errorf("%d requests of the login's in a minute", n)
				}
				if n := busiest(all, 10*time.Second); n > 15 {
					t.Errorf("%d requests of the login's in ten seconds", n)
				}
				if n := vault.count("sys/health"); n > 60 {
					t.Errorf("%d looks at a server in a minute", n)
				}
				if strings.Contains(s.log.String(), "s.first") || strings.Contains(s.log.String(), "s.made") {
					t.Errorf("a secret is in the log:\n%s", s.log)
				}
			})
		})
	}
}

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit/transittest"
	"chancery/signer/api"
)

// The rows about tokens.
func TestVaultLogins(t *testing.T) {
	abreast(t, map[string]func(*testing.T){
		"dead":                        deadTokens,
		"V10 logins fail for a while": loginsFailForAWhile,
		"V10 the longest time of a token is over": theLongestTimeOfATokenIsOver,
		"V10 the token in the file is revoked":    theTokenInTheFileIsRevoked,
		"V11 down for longer than a token lives":  downForLongerThanATokenLives,
	})
}

// byAppRole has the daemon log in with an AppRole, whose tokens live as ttl says.
func byAppRole(ttl transittest.RoleTTL) func(*faked) []string {
	return func(f *faked) []string {
		f.fake.AppRole("approle", "role", "secret", []string{f.fake.Policy(f.t, leastPolicy(f.t, f.mount))}, ttl)
		secret := filepath.Join(f.dir, "secret-id")
		if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
			f.t.Fatal(err)
		}
		return []string{"method: token\n", "method: approle\n        role_id: role\n", "file: '" + f.file + "'", "file: '" + secret + "'"}
	}
}

const loginPath = "^auth/approle/login$"

// accessor returns the accessor of the token that the daemon uses.
func (f *faked) accessor() string {
	f.t.Helper()
	all := f.fake.Requests()
	for i := len(all) - 1; i >= 0; i-- {
		if strings.Contains(all[i].Path, "/sign/") && all[i].Token != "" {
			return all[i].Token
		}
	}
	f.t.Fatal("nothing was signed")
	return ""
}

// A vaultToken is one row of the fault matrix about a token that is good no more.
type vaultToken struct {
	row string
	end func(f *faked)
	how string
}

var vaultTokens = []vaultToken{
	{row: "V10 revoked", how: "every request with the token is answered 403", end: func(f *faked) {
		f.fake.Script(transittest.Rule{Token: f.accessor(), Status: 403, Body: `{"errors":["permission denied"]}`})
	}},
	{row: "V10 run out", how: "Vault's clock is two hours ahead", end: func(f *faked) { f.fake.AdvanceTokens(2 * time.Hour) }},
	{row: "V10 revoked once more", how: "every request with the token is answered 403", end: func(f *faked) {
		f.fake.Script(transittest.Rule{Token: f.accessor(), Status: 403, Body: `{"errors":["permission denied"]}`})
	}},
}

// V10: a token that a login made and that is good no more under load costs one more
// login, and hardly anybody notices: no client is refused twice.
func deadTokens(t *testing.T) {
	f := newFakedWith(t, byAppRole(transittest.RoleTTL{TTL: time.Hour}))
	for _, v := range vaultTokens {
		t.Run(v.row, func(t *testing.T) {
			f.in(t)
			c := f.crowd(16, 0, "vaulted")
			c.atLeast(200)
			time.Sleep(2500 * time.Millisecond) // for 2 s a token that was found good is believed to be: a 403 is the policy's
			logins := f.fake.Count("", loginPath)
			v.end(f)
			ended := time.Now()
			c.atLeast(len(c.replies()) + 50) // some of them were under way
			recovered := c.successAfter(ended.Add(100*time.Millisecond), 10*time.Second)
			c.atLeast(len(c.replies()) + 500)
			f.fake.Script()
			c.stop()
			if n := f.fake.Count("", loginPath) - logins; n != 1 {
				t.Errorf("%d logins, want one", n)
			}
			problems := c.problems(false)
			wantUnavailable(t, problems, api.CodeBackendUnavailable)
			if len(problems) > 16 {
				t.Errorf("%d of %d were refused, such as: %v", len(problems), len(c.all()), problems[0].err)
			}
			f.wantVerified(c.replies())
			f.loads = append(f.loads, c)
			f.othersUnharmed(t, 0)
			t.Attr("provoked", v.how+", 16 clients")
			t.Attr("seen", fmt.Sprintf("one login; %d × 200, %d × 503", len(c.replies()), len(problems)))
			t.Attr("recovered", recovered.Round(time.Millisecond).String())
			t.Attr("promises", "I2 I6 I16")
		})
	}
	f.end()
}

// V10: while logins fail, Vault is asked about once a second, however many wait;
// when they work, no restart is needed.
func loginsFailForAWhile(t *testing.T) {
	f := newFakedWith(t, byAppRole(transittest.RoleTTL{TTL: time.Hour}))
	dead := transittest.Rule{Token: f.accessor(), Status: 403, Body: `{"errors":["permission denied"]}`}
	from, began := len(f.fake.Requests()), time.Now()
	f.fake.Script(dead, transittest.Rule{Path: loginPath, Status: 502})
	c := f.crowd(16, 0, "vaulted")
	time.Sleep(4 * time.Second)
	logins, all := f.fake.Count("", loginPath)-1, len(f.fake.Requests())-from
	took := time.Since(began)
	f.fake.Script(dead)
	ended := time.Now()
	recovered := c.successAfter(ended, 10*time.Second)
	c.atLeast(100)
	c.stop()
	if recovered > backWithin+f.slowest(ended) {
		t.Errorf("the first token came %v after logins work", recovered)
	}
	if most := 2 * (int(took/time.Second) + 1); logins > most {
		t.Errorf("%d logins were tried in %v", logins, took)
	}
	if most := 4 * (int(took/time.Second) + 1); all > most {
		t.Errorf("%d requests in %v", all, took)
	}
	wantUnavailable(t, c.problems(false), api.CodeBackendUnavailable)
	f.wantVerified(c.replies())
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "403 with the token, and 502 to logins for 4 s, 16 clients")
	t.Attr("seen", fmt.Sprintf("%d logins tried, %d × 503", logins, len(c.problems(false))))
	t.Attr("recovered", recovered.Round(time.Millisecond).String())
	f.end()
}

// V10: tokens that live for seconds are renewed and replaced in time. Each look at
// the state finds it ready.
func theLongestTimeOfATokenIsOver(t *testing.T) {
	f := newFakedWith(t, byAppRole(transittest.RoleTTL{TTL: 3 * time.Second, Max: 6 * time.Second}))
	began := time.Now()
	logins, renewals := f.fake.Count("", loginPath), f.fake.Count("", "renew-self$")
	c := f.crowd(8, time.Millisecond, "vaulted")
	span := time.Duration(soak(t, 9, 120, "seconds with tokens of 6 s")) * time.Second
	time.Sleep(span)
	c.stop()
	if problems := c.problems(false); len(problems) > 0 {
		t.Errorf("%d of %d were refused, such as: %v", len(problems), len(c.all()), problems[0].err)
	}
	logins, renewals = f.fake.Count("", loginPath)-logins, f.fake.Count("", "renew-self$")-renewals
	if fewest, most := int(span/(6*time.Second))-1, int(span/(2*time.Second)); logins < fewest || logins > most || renewals == 0 || renewals > int(span/time.Second) {
		t.Errorf("%d logins and %d renewals in %v", logins, renewals, span)
	}
	for _, state := range f.states(began) {
		if state != string(keystore.TokenReady) {
			t.Errorf("the mount was %s", state)
		}
	}
	f.wantVerified(c.replies())
	f.loads = append(f.loads, c)
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "tokens with a TTL of 3 s and a longest of 6 s, 8 clients, "+span.String())
	t.Attr("seen", fmt.Sprintf("%d logins, %d renewals, %d × 200, nobody refused", logins, renewals, len(c.replies())))
	f.end()
}

// V10: a token in a file that is revoked is told, is asked about once, and is
// replaced when another one is in the file.
func theTokenInTheFileIsRevoked(t *testing.T) {
	f := newFaked(t)
	began := time.Now()
	f.fake.Revoke(f.token)
	f.within(5*time.Second, "vaulted does not sign", func() error {
		if err := f.signs(); err == nil {
			return errors.New("it does")
		}
		return nil
	})
	f.awaitState(keystore.TokenAuthRejected)
	if s := f.status(); !strings.Contains(s.Error, "permission denied (403)") || s.Hint == "" {
		t.Errorf("the mount is %+v", s)
	}
	from, at := len(f.fake.Requests()), time.Now()
	c := f.crowd(8, 0, "vaulted")
	time.Sleep(3 * time.Second)
	c.stop()
	if len(c.replies()) > 0 {
		t.Error("something was signed with a token that was revoked")
	}
	wantUnavailable(t, c.problems(false), api.CodeBackendUnavailable)
	if n := len(f.fake.Requests()) - from; n > int(time.Since(at)/time.Second)+1 {
		t.Errorf("%d requests in %v with a token that was revoked", n, time.Since(at))
	}
	if ready, words := f.readyz(); ready || !strings.Contains(words, "[-]keystore vault") {
		t.Errorf("I14: ready %v:\n%s", ready, words)
	}
	f.giveToken(t, leastToken(t, f.vault, f.mount, nil))
	given := time.Now()
	f.within(backWithin, "vaulted signs", f.signs)
	t.Attr("recovered", time.Since(given).Round(time.Millisecond).String())
	f.within(5*time.Second, "the log has it", func() error {
		if states := f.states(began); len(states) < 2 || states[0] != "auth_rejected" || states[len(states)-1] != "ready" {
			return fmt.Errorf("it has %q", states)
		}
		return nil
	})
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "the token is revoked; another one in its file")
	t.Attr("seen", fmt.Sprintf("auth_rejected, %d × 503, no more than a request a second", len(c.problems(false))))
	f.end()
}

// V11: while Vault is down for longer than its tokens live, nothing makes more than
// a connection a second towards it; when it is back, one login does.
func downForLongerThanATokenLives(t *testing.T) {
	var g *gate
	f := newFakedWith(t, func(f *faked) []string {
		g = newGate(t, f.fake.Address())
		return append(byAppRole(transittest.RoleTTL{TTL: 6 * time.Second})(f), "addresses: ['"+f.fake.Address(), "addresses: ['https://"+g.Addr().String())
	})
	span := time.Duration(soak(t, 10, 300, "seconds without Vault")) * time.Second
	began := time.Now()
	f.fake.Close()
	c := f.crowd(8, 5*time.Millisecond, "vaulted")
	f.awaitState(keystore.TokenUnavailable)
	from := time.Now()
	time.Sleep(span)
	to := time.Now()
	logins := f.fake.Count("", loginPath)
	f.fake.Restart(t)
	recovered := c.successAfter(to, 20*time.Second)
	c.stop()
	if recovered > backWithin+f.slowest(to) {
		t.Errorf("the first token came %v after its return, want %v", recovered, backWithin)
	}
	n := g.between(from, to)
	if most := int(to.Sub(from)/time.Second) + 1; n > most {
		t.Errorf("%d connections towards it in %v", n, to.Sub(from))
	}
	if logins = f.fake.Count("", loginPath) - logins; logins != 1 {
		t.Errorf("%d logins when it is back, want one", logins)
	}
	f.wantStates(began, "unavailable", "ready")
	wantUnavailable(t, c.problems(false), api.CodeBackendUnavailable)
	f.wantVerified(c.replies())
	f.loads = append(f.loads, c)
	f.othersUnharmed(t, 0)
	t.Attr("provoked", fmt.Sprintf("stopped for %v, tokens of 6 s, 8 clients", span))
	t.Attr("seen", fmt.Sprintf("%d connections towards it, one login when it is back, %d × 503", n, len(c.problems(false))))
	t.Attr("recovered", recovered.Round(time.Millisecond).String())
	t.Attr("promises", "I2 I6 I14 I16")
	f.end()
}

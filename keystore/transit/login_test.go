package transit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

// A lifeline is a Vault that makes tokens, each good for ttl, renewed up to most.
type lifeline struct {
	stub
	ttl, most time.Duration
	issued    map[string]time.Time
	until     map[string]time.Time
	met       int // requests that met a token that was no good
}

func newLifeline(ttl, most time.Duration) *lifeline {
	l := &lifeline{ttl: ttl, most: most, issued: map[string]time.Time{}, until: map[string]time.Time{}}
	l.answer = l.reply
	return l
}

// make makes a token with this name.
func (l *lifeline) make(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(name)
}

func (l *lifeline) add(name string) {
	l.issued[name], l.until[name] = time.Now(), time.Now().Add(min(l.ttl, l.most))
}

func (l *lifeline) reply(method, path, token string) (int, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.HasSuffix(path, "/login") {
		name := fmt.Sprint("s.made", len(l.issued))
		l.add(name)
		return 200, fmt.Sprintf(`{"auth":{"client_token":%q,"lease_duration":%d,"renewable":true}}`, name, int(min(l.ttl, l.most).Seconds()))
	}
	now := time.Now()
	if strings.HasPrefix(path, "sys/") {
		return 200, `{}`
	}
	if !now.Before(l.until[token]) {
		if token != "" {
			l.met++
		}
		return 403, notAllowed
	}
	left := l.until[token].Sub(now)
	switch path {
	case "auth/token/renew-self":
		if end := l.issued[token].Add(l.most); now.Add(l.ttl).Before(end) {
			l.until[token] = now.Add(l.ttl)
		} else {
			l.until[token] = end
		}
		return 200, fmt.Sprintf(`{"auth":{"client_token":%q,"lease_duration":%d,"renewable":true}}`, token, int(l.until[token].Sub(now).Seconds()))
	case "auth/token/lookup-self":
		return 200, fmt.Sprintf(`{"data":{"ttl":%d,"creation_ttl":%d,"renewable":true,"expire_time":%q}}`, int(left.Seconds()), int(l.ttl.Seconds()), l.until[token].Format(time.RFC3339))
	}
	return 200, `{}`
}

func TestATokenIsRenewedAndReplacedInTime(t *testing.T) {
	for _, v := range []struct {
		name                    string
		ttl, most, length       time.Duration
		leastLogins, logins     int
		leastRenewals, renewals int
	}{
		{"an hour, for ever", time.Hour, 1e6 * time.Hour, 24 * time.Hour, 1, 1, 40, 55},
		{"an hour, three at most", time.Hour, 3 * time.Hour, 24 * time.Hour, 8, 13, 30, 60},
		{"an hour and no more", time.Hour, time.Hour, 24 * time.Hour, 24, 50, 0, 50},
		{"ten seconds", 10 * time.Second, 10 * time.Minute, time.Hour, 6, 10, 3600 / 7, 3600 / 4},
	} {
		t.Run(v.name, func(t *testing.T) {
			vault := newLifeline(v.ttl, v.most)
			play(t, approle, []*stub{&vault.stub}, func(t *testing.T, s *stage) {
				for end := time.Now().Add(v.length); time.Now().Before(end); time.Sleep(v.ttl / 100) {
					if _, ok := s.problem(); !ok {
						continue
					}
					if _, err := s.cluster.do(t.Context(), &request{method: "POST", path: "transit/sign/k", body: struct{}{}, within: time.Second}); err != nil {
						t.Fatal(err)
					}
				}
				if vault.met > 0 {
					t.Errorf("%d requests met a token that had run out", vault.met)
				}
				logins, renewals := vault.count("/login"), vault.count("renew-self")
				if logins < v.leastLogins || logins > v.logins || renewals < v.leastRenewals || renewals > v.renewals {
					t.Errorf("%d logins and %d renewals", logins, renewals)
				}
			})
			if n := vault.count("revoke-self"); n != 1 {
				t.Errorf("%d revocations at the end, want that of the token that the login made", n)
			}
		})
	}
}

// Credentials that Vault refused were left for a number of wakings in place of a
// time: a server that came and went had them tried again and again.
func TestRefusedCredentialsAreLeft(t *testing.T) {
	vault := &stub{answer: canned(map[string]string{"PUT auth/approle/login": wrongSecret})}
	play(t, approle, []*stub{vault}, func(t *testing.T, s *stage) {
		for range 29 * 10 {
			time.Sleep(100 * time.Millisecond)
			s.wake()
		}
		if n := vault.count("/login"); n != 1 {
			t.Errorf("%d logins in 29 seconds, want 1", n)
		}
		time.Sleep(3 * time.Second)
		if n := vault.count("/login"); n != 2 {
			t.Errorf("%d logins after half a minute, want 2", n)
		}
		s.write(t, "s.second")
		time.Sleep(1100 * time.Millisecond)
		if n := vault.count("/login"); n != 3 {
			t.Errorf("%d logins a second after the file has changed, want 3", n)
		}
		began := time.Now()
		if err := s.retry(t.Context()); !isKind(err, refused) || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("retry: %v, want what Vault said", err)
		}
		if n := vault.count("/login"); n != 4 || time.Since(began) > 0 {
			t.Errorf("%d logins after a retry, which took %v; want 4, at once", n, time.Since(began))
		}
		vault.set(canned(map[string]string{"PUT auth/approle/login": loginOK}))
		if err := s.retry(t.Context()); err != nil {
			t.Error(err)
		}
		if err, ok := s.problem(); err != nil || !ok {
			t.Errorf("logged in: %v, %v", err, ok)
		}
	})
}

// A login that failed for any other reason than a refusal was never told of: the
// keystore was starting for ever, and a retry had no outcome.
func TestALoginThatFailsIsToldOf(t *testing.T) {
	vault := &stub{answer: canned(map[string]string{"PUT auth/approle/login": "broken"})}
	play(t, approle, []*stub{vault}, func(t *testing.T, s *stage) {
		time.Sleep(100 * time.Millisecond)
		if err, ok := s.problem(); !ok || !isKind(err, broken) || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("%v, %v", err, ok)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.retry(ctx); !isKind(err, broken) {
			t.Errorf("retry: %v", err)
		}
		vault.set(canned(map[string]string{"PUT auth/approle/login": loginOK}))
		time.Sleep(2 * time.Second)
		if err, ok := s.problem(); err != nil || !ok {
			t.Errorf("%v, %v", err, ok)
		}
	})
}

// A token that may be used for half an hour more was given up when the secret ID
// for the next one was gone or refused.
func TestAGoodTokenIsUsedUntilItRunsOut(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, s *stage, vault *lifeline){
		"the file is gone": func(t *testing.T, s *stage, _ *lifeline) {
			if err := os.Remove(s.file); err != nil {
				t.Fatal(err)
			}
		},
		"the login is refused": func(t *testing.T, s *stage, vault *lifeline) {
			vault.set(func(method, path, token string) (int, string) {
				if strings.HasSuffix(path, "/login") {
					return 400, wrongSecret
				}
				return vault.reply(method, path, token)
			})
		},
		"the login is failing": func(t *testing.T, s *stage, vault *lifeline) {
			vault.set(func(method, path, token string) (int, string) {
				if strings.HasSuffix(path, "/login") {
					return 500, `{}`
				}
				return vault.reply(method, path, token)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newLifeline(time.Hour, time.Hour)
			play(t, approle, []*stub{&vault.stub}, func(t *testing.T, s *stage) {
				time.Sleep(time.Second)
				spoil(t, s, vault)
				time.Sleep(50 * time.Minute)
				if err, ok := s.problem(); err != nil || !ok {
					t.Fatalf("ten minutes before it runs out: %v, %v", err, ok)
				}
				if w := s.told(); !strings.Contains(w, "login") {
					t.Errorf("nobody is told: %q", w)
				}
				if n := strings.Count(s.log.String(), "a Vault token runs out"); n != 1 {
					t.Errorf("it is logged %d times:\n%s", n, s.log)
				}
				time.Sleep(11 * time.Minute)
				if err, ok := s.problem(); err == nil || !ok {
					t.Errorf("after it has run out: %v, %v", err, ok)
				}
				s.write(t, "s.second")
				vault.set(vault.reply)
				time.Sleep(3 * time.Second)
				if err, ok := s.problem(); err != nil || !ok || s.told() != "" {
					t.Errorf("with credentials again: %v, %v, %q", err, ok, s.told())
				}
				if vault.met > 0 {
					t.Errorf("%d requests with a token that had run out", vault.met)
				}
				if n := busiest(vault.all(" auth/"), 10*time.Second); n > 15 {
					t.Errorf("%d requests of the login's in ten seconds", n)
				}
			})
		})
	}
}

// A file was read only when the token in it was at its end or refused.
func TestATokenThatAnAgentReplacesIsTakenUp(t *testing.T) {
	vault := newLifeline(time.Hour, 1e6*time.Hour)
	play(t, byToken, []*stub{&vault.stub}, func(t *testing.T, s *stage) {
		vault.make("s.first")
		s.again() // it may have been refused by now
		time.Sleep(2 * time.Second)
		if err, ok := s.problem(); err != nil || !ok || s.using() != "s.first" {
			t.Fatalf("%v, %v", err, ok)
		}
		before := vault.count("lookup-self")
		s.write(t, "s.wrong")
		time.Sleep(5 * time.Second)
		if err, ok := s.problem(); err != nil || !ok || s.using() != "s.first" || !strings.Contains(s.told(), "denied") {
			t.Errorf("a token that is no good is in the file: %v, %v, %q; want the first one used, and a warning", err, ok, s.told())
		}
		if n := vault.count("lookup-self") - before; n != 1 {
			t.Errorf("%d looks, want 1", n)
		}
		vault.make("s.second")
		s.write(t, "s.second\n")
		time.Sleep(1100 * time.Millisecond)
		if err, ok := s.problem(); err != nil || !ok || s.using() != "s.second" || s.told() != "" {
			t.Errorf("a second after it was replaced: %v, %v, %q", err, ok, s.told())
		}
		if err := os.Remove(s.file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		if err, ok := s.problem(); err != nil || !ok || vault.count("renew-self") < 3 {
			t.Errorf("without a file: %v, %v, %d renewals", err, ok, vault.count("renew-self"))
		}
	})
	if n := vault.count("revoke-self"); n != 0 {
		t.Error("a token from a file was revoked, which is not ours")
	}
}

// A token with less than half a second to live has a TTL of 0, as one that never
// runs out has.
func TestATokenAtItsEndIsNotForEver(t *testing.T) {
	vault := &stub{answer: canned(map[string]string{
		"GET auth/token/lookup-self": `{"data":{"ttl":0,"creation_ttl":3600,"renewable":true,"expire_time":"2000-01-01T00:00:00Z"}}`,
	})}
	play(t, byToken, []*stub{vault}, func(t *testing.T, s *stage) {
		time.Sleep(100 * time.Millisecond)
		if err, ok := s.problem(); !ok || !isKind(err, denied) {
			t.Errorf("%v, %v", err, ok)
		}
		vault.set(canned(map[string]string{"GET auth/token/lookup-self": `{"data":{"ttl":0,"creation_ttl":0,"expire_time":null}}`}))
		s.write(t, "s.root")
		time.Sleep(1100 * time.Millisecond)
		if err, ok := s.problem(); err != nil || !ok {
			t.Errorf("a root token: %v, %v", err, ok)
		}
		time.Sleep(2 * time.Hour)
		if n := vault.count("auth/"); n != 2 {
			t.Errorf("%d requests for a token that lives for ever, want the two looks", n)
		}
	})
}

func TestAWarningOfATokenThatCannotBeRenewedInFull(t *testing.T) {
	vault := newLifeline(time.Hour, 90*time.Minute)
	play(t, byToken, []*stub{&vault.stub}, func(t *testing.T, s *stage) {
		vault.make("s.first")
		s.again() // it may have been refused by now
		time.Sleep(20 * time.Minute)
		if w := s.told(); w != "" {
			t.Errorf("a young token: %q", w)
		}
		time.Sleep(60 * time.Minute)
		if w := s.told(); !strings.Contains(w, "runs out at 2000-01-01T01:30:00Z") && !strings.Contains(w, "runs out at 2000-01-01T01:2") {
			t.Errorf("ten minutes before its end: %q", w)
		}
		if n := strings.Count(s.log.String(), "a Vault token runs out"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, s.log)
		}
		vault.make("s.second")
		s.write(t, "s.second")
		time.Sleep(2 * time.Second)
		if w := s.told(); w != "" {
			t.Errorf("another one: %q", w)
		}
	})
}

// Of many requests that meet a token that was revoked, one login comes.
func TestOneLoginForAll(t *testing.T) {
	vault := newLifeline(time.Hour, 1e6*time.Hour)
	play(t, approle, []*stub{&vault.stub}, func(t *testing.T, s *stage) {
		time.Sleep(time.Second)
		vault.mu.Lock()
		clear(vault.until)
		vault.mu.Unlock()
		errs := make(chan error)
		for range 100 {
			go func() {
				_, err := s.cluster.do(t.Context(), &request{method: "POST", path: "transit/sign/k", body: struct{}{}, within: time.Second})
				errs <- err
			}()
		}
		for range 100 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if logins, looks := vault.count("/login"), vault.count("lookup-self"); logins != 2 || looks != 1 {
			t.Errorf("%d logins, %d looks; want one after the first, and one look", logins, looks)
		}
	})
}

package transit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

const (
	signPath  = "PUT transit/sign/k"
	trialPath = "PUT transit/sign/probe"
)

var toSign = &request{method: "POST", path: "transit/sign/k", body: struct{}{}, within: time.Second}

// statuses answers with a status by method and path; "": whatever else is not
// about a login. What is not said is 200.
func statuses(by map[string]int) func(method, path, token string) (int, string) {
	return func(method, path, token string) (int, string) {
		what := method + " " + path
		status, said := by[what]
		if !said && !strings.Contains(path, "auth/") {
			status, said = by[""]
		}
		switch {
		case said && status != 200:
			return status, `{"errors":["scripted"]}`
		case path == "auth/approle/login":
			return 200, loginOK
		case path == "auth/token/lookup-self":
			return 200, lookupOK
		}
		return 200, `{}`
	}
}

// do asks once, with a second of time.
func (s *stage) do(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := s.cluster.do(ctx, toSign)
	return err
}

func TestAnotherServerServesAtOnce(t *testing.T) {
	for name, status := range map[string]int{"refuses connections": nowhere, "is sealed": 503, "is on standby": 474, "cuts connections": cut} {
		t.Run(name, func(t *testing.T) {
			body := `{"errors":["Vault is sealed"]}`
			dead := func(string, string, string) (int, string) { return status, body }
			first, second := &stub{answer: dead}, &stub{answer: statuses(nil)}
			play(t, approle, []*stub{first, second}, func(t *testing.T, s *stage) {
				began := time.Now()
				for range 600 {
					if err, ok := s.problem(); err != nil || !ok {
						time.Sleep(time.Millisecond)
						continue
					}
					if err := s.do(t); err != nil {
						t.Fatal(err)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if n := second.count(signPath); n < 598 {
					t.Errorf("the second has signed %d times of 600: it was not asked at once", n)
				}
				n, most := len(first.all("")), int(time.Since(began)/time.Second)+2
				if looked := status != cut; n > most || looked && n < most/2 { // one whose connections are cut is left for the other
					t.Errorf("the first was asked %d times in %v, want about once a second", n, time.Since(began))
				}
				if n := second.count("sys/health"); n > 0 {
					t.Errorf("the second was looked at %d times, which serves", n)
				}
				first.set(statuses(nil))
				time.Sleep(2 * time.Second)
				if err := s.cluster.servers[0].state.down(); err != nil {
					t.Fatalf("two seconds after it serves again, the first is %v", err)
				}
				second.set(dead)
				for range 10 {
					if err := s.do(t); err != nil {
						t.Errorf("the second is dead: %v", err)
					}
				}
				if n := first.count(signPath); n < 9 {
					t.Errorf("the first has signed %d times of 10", n)
				}
			})
		})
	}
}

// While no server serves, each is asked once a second, and nothing else is sent.
func TestADeadClusterIsLeftAlone(t *testing.T) {
	for name, answer := range map[string]func(string, string, string) (int, string){
		"no connection": func(string, string, string) (int, string) { return nowhere, "" },
		"no answer":     func(string, string, string) (int, string) { return silent, "" },
		"sealed":        func(string, string, string) (int, string) { return 503, `{"errors":["Vault is sealed"]}` },
		"standby": func(_, path, _ string) (int, string) {
			if path == "sys/health" {
				return 429, `{"standby":true}`
			}
			return 500, `{"errors":["local node not active but active cluster node not found"]}`
		},
		"a page": func(string, string, string) (int, string) { return 302, proxyPage },
	} {
		t.Run(name, func(t *testing.T) {
			vault := &stub{answer: statuses(nil)}
			play(t, approle, []*stub{vault}, func(t *testing.T, s *stage) {
				time.Sleep(time.Second)
				if err := s.do(t); err != nil {
					t.Fatal(err)
				}
				vault.set(answer)
				s.do(t)
				time.Sleep(3 * time.Second)
				before := len(vault.all(""))
				s.traffic(t, time.Minute)
				if n := len(vault.all("")) - before; n > 61 {
					t.Errorf("%d requests in a minute", n)
				}
				began := time.Now()
				err := s.do(t)
				if !errors.Is(err, keystore.ErrUnavailable) || time.Since(began) > 0 || !strings.Contains(err.Error(), "https://a is ") {
					t.Errorf("after %v: %v; want to be told at once", time.Since(began), err)
				}
				if got, want := isKind(err, sealed), name == "sealed"; got != want {
					t.Errorf("sealed: %v, want %v", got, want)
				}
				vault.set(statuses(nil))
				time.Sleep(2 * time.Second)
				if name == "no answer" {
					time.Sleep(time.Second) // the look that was under way
				}
				if err := s.do(t); err != nil {
					t.Errorf("two seconds after it serves again: %v", err)
				}
			})
		})
	}
}

// A standby passes requests on to the active node, which health does not tell; and
// a server that is healthy may sign nothing. Both are for a signature to show.
func TestAStandbyIsTried(t *testing.T) {
	for _, v := range []struct {
		name          string
		health, trial int
		up            bool
		trials        bool
	}{
		{"active", 200, 200, true, true},
		{"active, and signs nothing", 200, 500, false, true},
		{"active, and gives no signature", 200, silent, false, true},
		{"a standby that passes on", 429, 200, true, true},
		{"a performance standby", 473, 200, true, true},
		{"a standby that passes on, where the token is refused", 429, 403, true, true},
		{"a standby that passes nothing on", 429, 500, false, true},
		{"sealed", 503, 200, false, false},
		{"a disaster recovery secondary", 472, 200, false, false},
		{"one that was removed", 530, 200, false, false},
		{"not initialised", 501, 200, false, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			vault := &stub{answer: statuses(nil)}
			play(t, approle, []*stub{vault}, func(t *testing.T, s *stage) {
				time.Sleep(time.Second)
				vault.set(statuses(map[string]int{signPath: nowhere, "GET sys/health": v.health, trialPath: v.trial}))
				s.do(t)
				time.Sleep(5 * time.Second)
				if up := s.cluster.servers[0].state.down() == nil; up != v.up {
					t.Errorf("up: %v, want %v", up, v.up)
				}
				if n := vault.count(trialPath); (n > 0) != v.trials {
					t.Errorf("%d trials", n)
				}
				for _, a := range vault.all("sys/health") {
					if a.token != "" {
						t.Error("health was asked with a token")
					}
				}
			})
		})
	}
}

func TestWhatTakesAServerDown(t *testing.T) {
	for _, v := range []struct {
		name     string
		statuses []int // of requests, one after the other
		trial    int   // of the probe key's signature
		down     bool
	}{
		{"two that fail", []int{500, 500}, 500, false},
		{"three that fail in a row, and so does the probe key", []int{500, 502, 503}, 500, true},
		{"three that fail in a row, and the probe key signs", []int{500, 502, 503}, 200, false},
		{"three that fail in a row, and the probe key is gone", []int{500, 502, 503}, 400, false},
		{"two, a good one, two", []int{500, 500, 200, 500, 500}, 500, false},
		{"two, a refusal, two", []int{500, 500, 400, 500, 500}, 500, false},
		{"refusals", []int{400, 403, 404, 405, 412, 413, 429}, 500, false},
		{"a standby", []int{474}, 500, true},
		{"no connection", []int{nowhere}, 500, true},
		{"a connection that was cut", []int{cut}, cut, false},
		{"three that were cut, and so is the probe key's", []int{cut, cut, cut}, cut, true},
		{"no answer", []int{silent}, 500, true},
	} {
		t.Run(v.name, func(t *testing.T) {
			vault := &stub{answer: statuses(nil)}
			play(t, approle, []*stub{vault}, func(t *testing.T, s *stage) {
				time.Sleep(100 * time.Millisecond)
				server := s.cluster.servers[0]
				for _, status := range v.statuses {
					vault.set(statuses(map[string]int{signPath: status, trialPath: v.trial}))
					server.send(t.Context(), toSign)
				}
				synctest.Wait()
				if down := server.state.down(); (down != nil) != v.down {
					t.Errorf("down: %v, want %v", down, v.down)
				}
			})
		})
	}
}

// One request that is slow, or whose caller has less time than Vault takes, says
// nothing of the server while others are answered.
func TestOneSlowRequestAmongGoodOnes(t *testing.T) {
	vault := &stub{answer: statuses(map[string]int{"PUT slow": silent})}
	play(t, approle, []*stub{vault}, func(t *testing.T, s *stage) {
		time.Sleep(100 * time.Millisecond)
		slow := *toSign
		slow.path = "slow"
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := s.cluster.do(t.Context(), &slow); !isKind(err, unreachable) {
				t.Errorf("the slow one: %v", err)
			}
		})
		for range 30 {
			if err := s.do(t); err != nil {
				t.Error(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		all.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := s.cluster.do(ctx, &slow); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("whose time is over: %v; want it to be of both kinds", err)
		}
		if n := vault.count("sys/health"); n > 0 {
			t.Errorf("the server was taken for dead: %d looks", n)
		}
	})
}

// What may not be repeated is sent once, and to another server only if nothing
// of it was sent.
func TestOnceIsOnce(t *testing.T) {
	for _, status := range []int{nowhere, cut, silent, 302, 307, 400, 403, 404, 412, 413, 429, 472, 500, 501, 502, 503, 504, 530} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			first, second := &stub{answer: statuses(nil)}, &stub{answer: statuses(nil)}
			play(t, approle, []*stub{first, second}, func(t *testing.T, s *stage) {
				time.Sleep(100 * time.Millisecond)
				first.set(statuses(map[string]int{signPath: status}))
				_, err := s.cluster.once(t.Context(), toSign)
				time.Sleep(5 * time.Second)
				want, also := 1, 0
				if status == nowhere {
					also = 1
				}
				if n, m := first.count(signPath), second.count(signPath); n != want || m != also || (err == nil) != (status == nowhere) {
					t.Errorf("sent %d and %d times, want %d and %d (%v)", n, m, want, also, err)
				}
			})
		})
	}
}

// What may be repeated is repeated as far as its caller's time goes.
func TestWhatIsTriedAgain(t *testing.T) {
	for _, v := range []struct {
		name    string
		answers func(n int) (int, string) // to the n-th request
		within  time.Duration
		tries   int
		ok      bool
		takes   time.Duration // at most
	}{
		{"a node that is behind for a moment", func(n int) (int, string) { return []int{412, 412, 200}[n], `{}` }, time.Second, 3, true, 230 * time.Millisecond},
		{"a node that stays behind", func(n int) (int, string) { return 412, `{}` }, time.Minute, staleMost + 1, false, 5 * time.Second},
		{"a node that stays behind, a short time", func(n int) (int, string) { return 412, `{}` }, 250 * time.Millisecond, 3, false, 250 * time.Millisecond},
		{"a quota that lets in later", func(n int) (int, string) { return []int{429, 200}[n], []string{"after 2", "{}"}[n] }, 3 * time.Second, 2, true, 2 * time.Second},
		{"a quota that lets in too late", func(n int) (int, string) { return 429, "after 2" }, 2 * time.Second, 1, false, 0},
		{"a quota that says no time", func(n int) (int, string) { return 429, "{}" }, 2 * time.Second, 1, false, 0},
		{"a quota that says nonsense", func(n int) (int, string) { return 429, "after -1" }, 2 * time.Second, 1, false, 0},
		{"a failure", func(n int) (int, string) { return []int{500, 200}[n], `{}` }, time.Second, 2, true, 150 * time.Millisecond},
		{"a failure that stays", func(n int) (int, string) { return 500, `{}` }, time.Minute, 2, false, 150 * time.Millisecond},
		{"a refusal", func(n int) (int, string) { return 400, `{}` }, time.Minute, 1, false, 0},
		{"what the policy does not allow", func(n int) (int, string) { return 403, `{}` }, time.Minute, 1, false, 0},
	} {
		t.Run(v.name, func(t *testing.T) {
			vault := &stub{answer: statuses(nil)}
			play(t, approle, []*stub{vault}, func(t *testing.T, s *stage) {
				time.Sleep(100 * time.Millisecond)
				n := -1
				vault.set(func(method, path, token string) (int, string) {
					if strings.HasSuffix(path, "sign/k") {
						n++
						return v.answers(n)
					}
					return statuses(nil)(method, path, token)
				})
				ctx, cancel := context.WithTimeout(t.Context(), v.within)
				defer cancel()
				began := time.Now()
				_, err := s.cluster.do(ctx, toSign)
				if n := vault.count(signPath); n != v.tries || (err == nil) != v.ok || time.Since(began) > v.takes {
					t.Errorf("sent %d times in %v: %v; want %d times in %v", n, time.Since(began), err, v.tries, v.takes)
				}
			})
		})
	}
}

// A server that answers nothing was taken for one that serves as long as all
// callers had less time than a request may take, and no other server was asked.
func TestCallersInAHurryNoticeASilentServer(t *testing.T) {
	first, second := &stub{answer: statuses(nil)}, &stub{answer: statuses(nil)}
	play(t, approle, []*stub{first, second}, func(t *testing.T, s *stage) {
		time.Sleep(100 * time.Millisecond)
		first.set(statuses(map[string]int{"": silent}))
		hurry := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			_, err := s.cluster.do(ctx, toSign)
			return err
		}
		for range 20 { // too short to tell anything
			if err := hurry(10 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if down := s.cluster.servers[0].state.down(); down != nil {
			t.Errorf("it was taken down by callers that did not wait: %v", down)
		}
		if err := hurry(600 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := hurry(600 * time.Millisecond); err != nil {
			t.Errorf("the second caller: %v; want the other server's answer", err)
		}
	})
}

// A server that came back, or went, between being picked and being asked why it is
// down was answered for with nothing, neither an answer nor an error, and that took
// the daemon along.
func TestAServerThatComesAndGoesIsAnAnswerOrAnError(t *testing.T) {
	cfg := &Config{Name: "vault", Auth: Auth{Method: "token", File: "/nowhere"}}
	cfg.fill()
	s, err := newServer(cfg, "https://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	l := newLogin(cfg, func() {})
	c := &cluster{login: l, servers: []*server{s}, changed: func() {}}
	l.cluster = c
	over, end := context.WithCancel(t.Context())
	end() // nothing is sent
	var all sync.WaitGroup
	stop := make(chan struct{})
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			s.state.mu.Lock()
			s.state.why = nil
			if i%2 == 0 {
				s.state.why = &trouble{kind: sealed}
			}
			s.state.mu.Unlock()
		}
	})
	defer all.Wait()
	defer close(stop)
	for range 30_000 {
		for what, ask := range map[string]func() (*answer, error){
			"repeated": func() (*answer, error) { return c.do(over, toSign) },
			"once":     func() (*answer, error) { return c.once(over, toSign) },
			"a login":  func() (*answer, error) { r := *toSign; return l.ask(over, "t", &r) },
		} {
			if a, err := ask(); a == nil && err == nil {
				t.Fatalf("%s: neither an answer nor an error", what)
			}
		}
	}
}

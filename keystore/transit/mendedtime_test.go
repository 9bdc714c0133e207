package transit

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit/transittest"
)

// bubble has act use a keystore at a test server that answers without a network, in
// a bubble. Each test here is of something that was wrong once.
func bubble(t *testing.T, change func(cfg *Config, f *transittest.FakeServer), act func(t *testing.T, f *transittest.FakeServer, p *Provider)) {
	t.Helper()
	f := transittest.Fake(t)
	mount, s := f.Mount(t), stage{file: t.TempDir() + "/token"}
	s.write(t, f.RootToken())
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Name: "vault", Addresses: []string{f.Address()}, Mount: mount, Auth: Auth{Method: MethodToken, File: s.file}}
		change(&cfg, f)
		p, err := prepare(cfg)
		if err != nil {
			t.Fatal(err)
		}
		p.cluster.servers[0].transport.RegisterProtocol("https", f)
		p.crew.Go(func() { p.cluster.watch(p.ctx, p.cfg.Deadlines.Health) })
		p.crew.Go(func() { p.login.run(p.ctx) })
		p.crew.Go(p.keep)
		act(t, f, p)
		f.Script()
		p.Close()
	})
}

func unchanged(*Config, *transittest.FakeServer) {}

// made makes a key and opens it.
func made(t *testing.T, p *Provider) (keystore.KeyRef, *key) {
	t.Helper()
	ref := keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: keystore.ES256}
	var err error
	if ref.SPKI, err = p.Generate(t.Context(), ref.ID, keystore.PurposeJWT, ref.Algorithm); err != nil {
		t.Fatal(err)
	}
	k, err := p.Open(t.Context(), ref, keystore.PurposeJWT)
	if err != nil {
		t.Fatal(err)
	}
	return ref, k.(*key)
}

var token = []byte("e30.e30")

// Callers who had gone were signed for. A live one waited behind 900 of them, or was
// refused because they were so many.
func TestNobodyWaitsBehindThoseWhoAreGone(t *testing.T) {
	for _, most := range []int{800, 2000} {
		bubble(t, func(cfg *Config, _ *transittest.FakeServer) { cfg.Waiting = most }, func(t *testing.T, f *transittest.FakeServer, p *Provider) {
			_, k := made(t, p)
			const delay = time.Second
			f.Reset()
			f.Script(transittest.Rule{Path: "/sign/", Delay: delay})
			ctx, leave := context.WithCancel(t.Context())
			var all sync.WaitGroup
			for range 1100 {
				all.Go(func() { k.Sign(ctx, token) })
			}
			synctest.Wait()
			k.mu.Lock()
			waiting := len(k.waiting)
			k.mu.Unlock()
			if waiting < 800 {
				t.Errorf("%d are waiting: nothing is shown", waiting)
			}
			leave()
			all.Wait()
			began := time.Now()
			if _, err := k.Sign(t.Context(), token); err != nil || time.Since(began) > 2*delay {
				t.Errorf("up to %d may wait: a live one, after %v: %v", most, time.Since(began), err)
			}
			if n := f.Count("", "/sign/"); n > flights+1 {
				t.Errorf("%d requests, want those under way and one more", n)
			}
		})
	}
}

// A caller without a deadline whose turn did not come in time was taken out of the
// line and not told: it waited for ever.
func TestWhoWaitedTooLongIsTold(t *testing.T) {
	for _, most := range []int{1, 100} { // found by who comes and finds the line full, and by who sends
		bubble(t, func(cfg *Config, _ *transittest.FakeServer) { cfg.Waiting = most }, func(t *testing.T, f *transittest.FakeServer, p *Provider) {
			_, k := made(t, p)
			f.Script(transittest.Rule{Path: "/sign/", Delay: time.Second})
			late := k.call(context.Background(), token)
			time.Sleep(patience + 1)
			k.mu.Lock()
			k.waiting = append(k.waiting, []*call{late})
			k.mu.Unlock()
			if _, err := k.Sign(t.Context(), token); err != nil {
				t.Errorf("who came after it: %v", err)
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("it was not told"))
			defer cancel()
			if _, err := k.collect(ctx, late); !errors.Is(err, keystore.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
}

// Each batch was a request of its own: 200 of them were 200 requests at once,
// however few might wait.
func TestBatchesWaitInTheLine(t *testing.T) {
	bubble(t, func(cfg *Config, _ *transittest.FakeServer) { cfg.Waiting = 10 }, func(t *testing.T, f *transittest.FakeServer, p *Provider) {
		_, k := made(t, p)
		f.Reset()
		f.Script(transittest.Rule{Path: "/sign/", Delay: time.Second})
		var all sync.WaitGroup
		var done, overloaded atomic.Int32
		for range 200 {
			all.Go(func() {
				sigs, errs := k.SignBatch(t.Context(), [][]byte{token, []byte("e30.e31")})
				switch {
				case errors.Is(errs[0], keystore.ErrOverloaded) && errors.Is(errs[1], keystore.ErrOverloaded):
					overloaded.Add(1)
				case errs[0] == nil && errs[1] == nil && len(sigs[1]) > 0:
					done.Add(1)
				default:
					t.Error(errs)
				}
			})
		}
		synctest.Wait()
		if n := f.Count("", "/sign/"); n != flights {
			t.Errorf("%d requests are under way, want %d", n, flights)
		}
		all.Wait()
		if d := done.Load(); d < 10 || d > 10+flights || d+overloaded.Load() != 200 {
			t.Errorf("%d were signed, %d refused; want those who fly and ten who wait", d, overloaded.Load())
		}
	})
}

// The end of its caller's time was not heard while a key that was opened had to sign.
func TestOpeningEndsWithItsCaller(t *testing.T) {
	bubble(t, unchanged, func(t *testing.T, f *transittest.FakeServer, p *Provider) {
		ref, _ := made(t, p)
		f.Script(transittest.Rule{Path: "/sign/", Hang: true})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, cancel)
		began := time.Now()
		_, err := p.Open(ctx, ref, keystore.PurposeJWT)
		if took := time.Since(began); !errors.Is(err, context.Canceled) || took > 200*time.Millisecond {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// What each of 256 messages was refused for was looked up 256 times.
func TestARefusedBatchIsExplainedOnce(t *testing.T) {
	bubble(t, unchanged, func(t *testing.T, f *transittest.FakeServer, p *Provider) {
		_, k := made(t, p)
		f.Reset()
		f.Script(transittest.Rule{Path: "/sign/", Mangle: func(r map[string]any) {
			for _, one := range r["data"].(map[string]any)["batch_results"].([]any) {
				clear(one.(map[string]any))
				one.(map[string]any)["error"] = "no"
			}
		}}, transittest.Rule{Method: "GET", Path: "/keys/", Status: 429})
		messages := make([][]byte, keystore.MaxBatch)
		for i := range messages {
			messages[i] = token
		}
		_, errs := k.SignBatch(t.Context(), messages)
		for _, err := range errs {
			if !errors.Is(err, keystore.ErrOverloaded) {
				t.Fatal(err)
			}
		}
		if n := f.Count("GET", "/keys/"); n != 1 {
			t.Errorf("the key was read %d times", n)
		}
	})
}

// A Vault that took 1.4 s for each answer was never ready: a look had to be done in
// the time of one reading and one signature, and began anew.
func TestASlowVaultBecomesReady(t *testing.T) {
	for _, delay := range []time.Duration{1400 * time.Millisecond, 1900 * time.Millisecond} {
		bubble(t, func(_ *Config, f *transittest.FakeServer) { f.Script(transittest.Rule{Delay: delay}) }, func(t *testing.T, f *transittest.FakeServer, p *Provider) {
			time.Sleep(20 * time.Second)
			if s := p.Status()[0]; s.State != keystore.TokenReady {
				t.Errorf("%v for each answer, after 20 s: %s, %s", delay, s.State, s.Err)
			}
		})
	}
}

// An operation for which its caller left too little time failed with %!w(<nil>).
func TestTooLittleTimeIsSaid(t *testing.T) {
	bubble(t, unchanged, func(t *testing.T, _ *transittest.FakeServer, p *Provider) {
		if err := p.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Millisecond)
		defer cancel()
		_, err := p.Find(ctx, keystore.NewKeyID(), keystore.PurposeJWT, keystore.ES256)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, keystore.ErrUnavailable) || strings.Contains(err.Error(), "%!") {
			t.Error(err)
		}
	})
}

// A destruction whose caller went while Vault was asked to allow it was no uncertain
// one, though the key may be deletable from then on.
func TestADestructionThatIsLeftIsUncertain(t *testing.T) {
	bubble(t, unchanged, func(t *testing.T, f *transittest.FakeServer, p *Provider) {
		ref, _ := made(t, p)
		f.Script(transittest.Rule{Path: "/config$", Delay: 500 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := p.Destroy(ctx, ref); !errors.Is(err, keystore.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want ErrUncertain", err)
		}
	})
}

// A token that was found with a minute left, and renewed to a day, was renewed next
// half a minute before its end.
func TestARenewedTokenIsRenewedInTime(t *testing.T) {
	vault := newLifeline(24*time.Hour, 1e6*time.Hour)
	found := sync.OnceFunc(func() { // at the first request, by the bubble's clock
		vault.mu.Lock()
		defer vault.mu.Unlock()
		vault.issued["s.first"], vault.until["s.first"] = time.Now(), time.Now().Add(time.Minute)
	})
	vault.answer = func(method, path, token string) (int, string) {
		found()
		return vault.reply(method, path, token)
	}
	play(t, byToken, []*stub{&vault.stub}, func(t *testing.T, s *stage) {
		for range 3 {
			time.Sleep(13 * time.Hour)
			vault.mu.Lock()
			left := time.Until(vault.until["s.first"])
			vault.mu.Unlock()
			if left < 10*time.Hour {
				t.Errorf("it has %v left", left)
			}
		}
	})
}

// hot is a Vault whose policy allows neither to look at a token nor to sign with
// "other"; its tokens are those of a lifeline.
func hot() *lifeline {
	vault := newLifeline(time.Hour, 1e6*time.Hour)
	vault.answer = func(method, path, token string) (int, string) {
		if strings.HasSuffix(path, "lookup-self") || strings.HasSuffix(path, "sign/other") {
			return 403, notAllowed
		}
		return vault.reply(method, path, token)
	}
	return vault
}

// sign has a key sign.
func (s *stage) sign(t *testing.T, key string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := s.cluster.do(ctx, &request{method: "POST", path: "transit/sign/" + key, body: struct{}{}, within: 5 * time.Second})
	return err
}

// With a policy that allowed neither lookup-self nor one of two keys, each request
// for that one brought a login, as the other had signed with the token: one a second.
func TestAPolicyWithoutLookupSelfMakesNoRunOfLogins(t *testing.T) {
	vault := hot()
	play(t, approle, []*stub{&vault.stub}, func(t *testing.T, s *stage) {
		time.Sleep(time.Second)
		for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if err := s.sign(t, "k"); err != nil {
				t.Fatal(err)
			}
			if err := s.sign(t, "other"); err == nil {
				t.Fatal("it signed")
			}
		}
		if n := busiest(vault.all("/login"), time.Minute); n > 9 {
			t.Errorf("%d logins in a minute", n)
		}
	})
}

// Tokens die one after the other, and each is replaced. A signature by the first
// that came late, after one by the second, had the second taken for one that had not
// signed, and of which nothing can be said: it was used for half a minute.
func TestTokensThatDieOneAfterTheOther(t *testing.T) {
	vault := hot()
	allow := vault.answer
	vault.answer = func(method, path, token string) (int, string) {
		status, body := allow(method, path, token)
		if strings.HasSuffix(path, "/slow") {
			time.Sleep(3 * time.Second)
		}
		return status, body
	}
	play(t, approle, []*stub{&vault.stub}, func(t *testing.T, s *stage) {
		time.Sleep(time.Second)
		go s.sign(t, "slow")
		synctest.Wait()
		for range 3 {
			vault.mu.Lock()
			clear(vault.until)
			vault.mu.Unlock()
			began := time.Now()
			for s.sign(t, "k") != nil && time.Since(began) < time.Minute {
				time.Sleep(100 * time.Millisecond)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("signing again took %v", took)
			}
			time.Sleep(5 * time.Second)
		}
	})
}

// A server that answered logins with 500 was asked again and again, and the one
// beside it never.
func TestAServerThatFailsLoginsIsLeft(t *testing.T) {
	failing := &stub{answer: canned(map[string]string{"PUT auth/approle/login": "broken"})}
	good := &stub{answer: canned(map[string]string{"PUT auth/approle/login": loginOK})}
	play(t, approle, []*stub{failing, good}, func(t *testing.T, s *stage) {
		time.Sleep(5 * time.Second)
		if err, ok := s.problem(); err != nil || !ok {
			t.Errorf("%v, %v", err, ok)
		}
		if a, b := failing.count("/login"), good.count("/login"); a != 1 || b != 1 {
			t.Errorf("%d logins at the first, %d at the second", a, b)
		}
	})
}

// A quota that asked for an hour's patience had a caller without a deadline wait six.
func TestAQuotaForHoursIsNotWaitedFor(t *testing.T) {
	vault := newLifeline(100*time.Hour, 1e6*time.Hour)
	play(t, approle, []*stub{&vault.stub}, func(t *testing.T, s *stage) {
		time.Sleep(time.Second)
		for _, v := range []struct {
			after  string
			signed bool
			took   time.Duration
		}{{"2", true, 2 * time.Second}, {"3600", false, 0}, {"6", false, 0}} {
			first := true
			vault.set(func(method, path, token string) (int, string) {
				if strings.Contains(path, "/sign/") && first {
					first = false
					return 429, "after " + v.after
				}
				return vault.reply(method, path, token)
			})
			began := time.Now()
			_, err := s.cluster.do(t.Context(), &request{method: "POST", path: "transit/sign/k", body: struct{}{}, within: time.Second})
			if took := time.Since(began); (err == nil) != v.signed || took != v.took || err != nil && !errors.Is(err, keystore.ErrOverloaded) {
				t.Errorf("Retry-After %s: after %v: %v", v.after, took, err)
			}
		}
	})
}

// Words of a refusal took the whole server down.
func TestARefusalTakesNoServerDown(t *testing.T) {
	for status, want := range map[int]kind{400: refused, 403: denied, 404: noRoute, 500: blank, 503: blank} {
		body := []byte(`{"errors":["the key is not initialized"]}`)
		if got := readTrouble(status, nil, body); got.kind != want {
			t.Errorf("%d: %s, want %s", status, kindNames[got.kind], kindNames[want])
		}
	}
}

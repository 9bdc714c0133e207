package transit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

// Each test here is of something that was wrong once, as is each in mendedtime_test.go.

// alarmed is a keystore at f that counts its alarms.
func alarmed(t *testing.T, s *transittest.Server) (*transit.Provider, *atomic.Int32) {
	t.Helper()
	told := new(atomic.Int32)
	cfg := config(t, s, s.Mount(t), s.RootToken())
	cfg.OnChange = func() { told.Add(1) }
	return open(t, cfg), told
}

// probed has p look at its keys, and compares how many alarms there were.
func probed(t *testing.T, p *transit.Provider, told *atomic.Int32, what string, want int32) {
	t.Helper()
	if err := p.Probe(t.Context()); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if n := told.Load(); n != want {
		t.Errorf("%s: told %d times, want %d", what, n, want)
	}
}

// A key was seen to be changed, the next one could not be read, and nobody was told,
// then or later.
func TestAnAlarmIsNotLostForAnotherKey(t *testing.T) {
	t.Parallel()
	f := transittest.Fake(t)
	p, told := alarmed(t, f.Server)
	var paths []string
	for range 3 {
		ref, _ := signer(t, p, keystore.ES256)
		paths = append(paths, path(p, ref))
	}
	slices.Sort(paths) // as they are looked at
	f.Call(t, "POST", paths[0]+"/rotate", nil)
	f.Script(transittest.Rule{Method: "GET", Path: aKey, Skip: 1, Times: 1, Status: 429})
	probed(t, p, told, "the second cannot be read", 1)
	f.Call(t, "POST", paths[2]+"/rotate", nil)
	probed(t, p, told, "another one was rotated", 2)
	probed(t, p, told, "as it was", 2)
}

// A key in whose place there was another, and one that Vault was told to show no
// more, were what they had been.
func TestKeysThatWereReplacedAreNoticed(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		p, told := alarmed(t, s)
		ref, _ := signer(t, p, keystore.ES256)
		key := path(p, ref)
		s.Call(t, "POST", key+"/rotate", nil)
		probed(t, p, told, "rotated", 1)
		s.Call(t, "POST", key+"/config", map[string]any{"min_decryption_version": 2})
		probed(t, p, told, "min_decryption_version raised", 2)
		s.Call(t, "POST", key+"/config", map[string]any{"min_decryption_version": 1})
		probed(t, p, told, "and lowered again", 3)
		ref, _ = signer(t, p, keystore.ES256)
		key = path(p, ref)
		probed(t, p, told, "another key", 3)
		s.Call(t, "POST", key+"/config", map[string]any{"deletion_allowed": true})
		s.Call(t, "DELETE", key, nil)
		s.Call(t, "POST", key, map[string]any{"type": "ecdsa-p256"})
		probed(t, p, told, "made anew", 4)
	})
}

// Whoever had a login tried again, for whatever reason, took the mount that was there
// at the next look, though they had not seen that it was another.
func TestARetryForAnotherReasonTakesNoOtherMount(t *testing.T) {
	t.Parallel()
	f := transittest.Fake(t)
	for name, before := range map[string]func(t *testing.T, p *transit.Provider, mount string){
		"it was not known to be another": func(t *testing.T, p *transit.Provider, mount string) {
			anew(t, f.Server, mount)
			if err := p.Retry(t.Context(), mount); !errors.Is(err, keystore.ErrTokenChanged) {
				t.Errorf("the first retry: %v, want ErrTokenChanged", err)
			}
		},
		"the look failed, and it became another": func(t *testing.T, p *transit.Provider, mount string) {
			f.Script(transittest.Rule{Path: "sys/internal/ui/mounts/" + mount, Status: 403})
			if err := p.Retry(t.Context(), mount); !errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, keystore.ErrTokenChanged) {
				t.Errorf("a retry while the mount cannot be looked at: %v", err)
			}
			anew(t, f.Server, mount)
			f.Script()
		},
	} {
		t.Run(name, func(t *testing.T) {
			mount := f.Mount(t)
			p := open(t, config(t, f.Server, mount, f.RootToken()))
			serial := becomes(t, p, keystore.TokenReady).Serial
			before(t, p, mount)
			if err := p.Probe(t.Context()); !errors.Is(err, keystore.ErrTokenChanged) {
				t.Errorf("%v, want ErrTokenChanged", err)
			}
			if s := becomes(t, p, keystore.TokenChanged); s.Serial != serial {
				t.Errorf("it is %s, and was %s", s.Serial, serial)
			}
			if err := p.Retry(t.Context(), mount); err != nil {
				t.Errorf("a retry by who has seen it: %v", err)
			}
			if s := becomes(t, p, keystore.TokenReady); s.Serial == serial {
				t.Error("it is the old one still")
			}
		})
	}
}

// A mount that could not be written down was the mount all the same at the next look,
// and was never written: after a restart any other would have been taken.
func TestAMountIsWrittenDownLater(t *testing.T) {
	t.Parallel()
	f := transittest.Fake(t)
	cfg := config(t, f.Server, f.Mount(t), f.RootToken())
	cfg.StateDir = filepath.Join(t.TempDir(), "state")
	f.Script(transittest.Rule{Path: "sys/internal", Hang: true})
	p := open(t, cfg)
	if err := errors.Join(os.Remove(cfg.StateDir), os.WriteFile(cfg.StateDir, nil, 0o600)); err != nil { // as a disk that is full
		t.Fatal(err)
	}
	f.Script()
	s := becomes(t, p, keystore.TokenUnavailable)
	if !strings.Contains(s.Err, "remembering the mount") || s.Serial != "" {
		t.Errorf("%+v", s)
	}
	if err := errors.Join(os.Remove(cfg.StateDir), os.Mkdir(cfg.StateDir, 0o700)); err != nil {
		t.Fatal(err)
	}
	s = becomes(t, p, keystore.TokenReady)
	if b, err := os.ReadFile(filepath.Join(cfg.StateDir, "vault.mount.json")); err != nil || !strings.Contains(string(b), s.Serial) {
		t.Errorf("%q, %v; want %s in it", b, err, s.Serial)
	}
}

// VAULT_WRAP_TTL, which the library reads at each request, had each answer replaced by
// a token for it.
func TestNoAnswerIsWrapped(t *testing.T) {
	t.Setenv("VAULT_WRAP_TTL", "60s")
	f, p, _ := fake(t, transittest.RoleTTL{})
	becomes(t, p, keystore.TokenReady)
	ref, k := signer(t, p, keystore.ES256)
	if err := errors.Join(signs(t, k, 5*time.Second), p.Destroy(t.Context(), ref)); err != nil {
		t.Error(err)
	}
	if n := creations(f); n != 1 {
		t.Errorf("%d keys were asked for", n)
	}
}

// A key of which nothing was left, as it had been trimmed, could not be destroyed: it
// was another pair's for ever.
func TestATrimmedKeyIsDestroyed(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		p := open(t, config(t, s, s.Mount(t), s.RootToken()))
		ref, _ := signer(t, p, keystore.ES256)
		key := path(p, ref)
		s.Call(t, "POST", key+"/rotate", nil)
		s.Call(t, "POST", key+"/config", map[string]any{"min_encryption_version": 2, "min_decryption_version": 2})
		s.Call(t, "POST", key+"/trim", map[string]any{"min_available_version": 2})
		if err := p.Destroy(t.Context(), ref); err != nil {
			t.Error(err)
		}
		if status, _, err := s.CallAs(s.RootToken(), "GET", key, nil); err != nil || status != 404 {
			t.Errorf("its status is %d, %v", status, err)
		}
	})
}

// A quota that a login met was taken for a fault of the configuration.
func TestWhatPassesIsNoFaultOfTheConfiguration(t *testing.T) {
	t.Parallel()
	f := transittest.Fake(t)
	cfg := config(t, f.Server, f.Mount(t), f.RootToken())
	const login, mount = "auth/token/lookup-self", "sys/internal"
	for _, v := range []struct {
		name  string
		rule  transittest.Rule
		wrong bool
	}{
		{"all is well", transittest.Rule{Path: "none"}, false},
		{"a quota", transittest.Rule{Path: login, Status: 429}, false},
		{"a quota at the mount", transittest.Rule{Path: mount, Status: 429}, false},
		{"a node that is behind", transittest.Rule{Path: login, Status: 412}, false},
		{"a failing login", transittest.Rule{Path: login, Status: 500}, false},
		{"a failing mount", transittest.Rule{Path: mount, Status: 502}, false},
		{"sealed", transittest.Rule{Path: mount, Status: 503, Body: `{"errors":["Vault is sealed"]}`}, false},
		{"a token that is refused", transittest.Rule{Path: login, Status: 403}, true},
		{"a mount that is not there", transittest.Rule{Path: mount, Status: 403}, true},
	} {
		t.Run(v.name, func(t *testing.T) {
			f.Script(v.rule)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			found, err := transit.Inspect(ctx, cfg)
			well := v.rule.Status == 0
			if (found.Wrong != nil) != v.wrong || (err != nil) != (!well && !v.wrong) {
				t.Errorf("wrong: %v; error: %v", found.Wrong, err)
			}
		})
	}
}

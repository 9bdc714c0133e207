package transit_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

// anew disables a mount and enables another engine in its place.
func anew(t *testing.T, s *transittest.Server, mount string) {
	t.Helper()
	s.Call(t, "DELETE", "sys/mounts/"+mount, nil)
	s.Call(t, "POST", "sys/mounts/"+mount, map[string]any{"type": "transit"})
}

// Between two probes a mount that was disabled and enabled anew was taken for the
// one that held the keys: keys were made in it, those that were in the other were
// not found, and their destruction was done.
func TestAMountThatWasEnabledAnew(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		mount := s.Mount(t)
		cfg := config(t, s, mount, s.RootToken())
		cfg.StateDir = filepath.Join(t.TempDir(), "state")
		p := open(t, cfg)
		ref, k := signer(t, p, keystore.ES256)
		serial := p.Status()[0].Serial
		anew(t, s, mount)

		changed := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, keystore.ErrTokenChanged) || errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("%s: %v, want ErrTokenChanged", what, err)
			}
		}
		changed("signing", signs(t, k, 5*time.Second))
		if st := becomes(t, p, keystore.TokenChanged); !strings.Contains(st.Err, serial) || st.Serial != serial {
			t.Errorf("%+v", st)
		}
		for _, when := range []string{"at once", "with a probe", "opened again"} {
			switch when {
			case "with a probe":
				changed("probing", p.Probe(t.Context()))
			case "opened again":
				p.Close()
				p = open(t, cfg)
				becomes(t, p, keystore.TokenChanged)
			}
			_, err := p.Generate(t.Context(), keystore.NewKeyID(), jwt, keystore.ES256)
			changed(when+", generating", err)
			_, err = p.Find(t.Context(), ref.ID, jwt, ref.Algorithm)
			changed(when+", finding", err)
			_, err = p.Open(t.Context(), ref, jwt)
			changed(when+", opening", err)
			changed(when+", destroying", p.Destroy(t.Context(), ref))
		}
		if _, reply, err := s.CallAs(s.RootToken(), "LIST", mount+"/keys", nil); err != nil || reply["data"] != nil {
			t.Errorf("something was made in the new mount: %v, %v", reply["data"], err)
		}
		if err := p.Retry(t.Context(), "nonsense"); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("a retry of another token: %v", err)
		}
		if err := p.Retry(t.Context(), mount); err != nil {
			t.Fatal(err)
		}
		if st := becomes(t, p, keystore.TokenReady); st.Serial == serial || st.Serial == "" {
			t.Errorf("%+v", st)
		}
		if _, err := p.Open(t.Context(), ref, jwt); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("a key of the mount that is gone: %v, want ErrNotFound", err)
		}
		signer(t, p, keystore.ES256)
		p.Close()
		p = open(t, cfg)
		becomes(t, p, keystore.TokenReady)
	})
}

// Each of these is the first that is done after the mount was enabled anew.
func TestTheFirstThingDoneInAnotherMount(t *testing.T) {
	f := transittest.Fake(t)
	for what, do := range map[string]func(p *transit.Provider, ref keystore.KeyRef) error{
		"generate": func(p *transit.Provider, ref keystore.KeyRef) error {
			_, err := p.Generate(t.Context(), keystore.NewKeyID(), jwt, keystore.ES256)
			return err
		},
		"find": func(p *transit.Provider, ref keystore.KeyRef) error {
			_, err := p.Find(t.Context(), ref.ID, jwt, ref.Algorithm)
			return err
		},
		"open": func(p *transit.Provider, ref keystore.KeyRef) error {
			_, err := p.Open(t.Context(), ref, jwt)
			return err
		},
		"destroy": func(p *transit.Provider, ref keystore.KeyRef) error { return p.Destroy(t.Context(), ref) },
		"probe":   func(p *transit.Provider, ref keystore.KeyRef) error { return p.Probe(t.Context()) },
	} {
		t.Run(what, func(t *testing.T) {
			mount := f.Mount(t)
			p := open(t, config(t, f.Server, mount, f.RootToken()))
			ref, _ := signer(t, p, keystore.ES256)
			anew(t, f.Server, mount)
			if err := do(p, ref); !errors.Is(err, keystore.ErrTokenChanged) {
				t.Errorf("%v, want ErrTokenChanged", err)
			}
			becomes(t, p, keystore.TokenChanged)
		})
	}
}

// A mount that was disabled was noticed by the next probe only.
func TestAMountThatWasDisabled(t *testing.T) {
	f := transittest.Fake(t)
	mount := f.Mount(t)
	p := open(t, config(t, f.Server, mount, f.RootToken()))
	_, k := signer(t, p, keystore.ES256)
	f.Call(t, "DELETE", "sys/mounts/"+mount, nil)
	if err := signs(t, k, 5*time.Second); !errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("%v", err)
	}
	becomes(t, p, keystore.TokenUnavailable)
	before := f.Count("", "^sys/internal/ui/mounts")
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		signs(t, k, time.Second)
	}
	if n := f.Count("", "^sys/internal/ui/mounts") - before; n > 4 {
		t.Errorf("the mount was looked at %d times in three seconds", n)
	}
}

func TestWhatStateDirKeeps(t *testing.T) {
	f := transittest.Fake(t)
	mount, other := f.Mount(t), f.Mount(t)
	cfg := config(t, f.Server, mount, f.RootToken())
	cfg.StateDir = filepath.Join(t.TempDir(), "state")
	becomes(t, open(t, cfg), keystore.TokenReady)
	path := filepath.Join(cfg.StateDir, "vault.mount.json")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	moved := cfg
	moved.Mount = other // another mount in the configuration is another mount
	becomes(t, open(t, moved), keystore.TokenReady)
	becomes(t, open(t, moved), keystore.TokenReady)
	for _, text := range []string{"", "{", `[]`, "null garbage"} {
		rewrite(t, path, text)
		if p, err := transit.Open(cfg); err == nil {
			p.Close()
			t.Errorf("%q is taken for the mount's identity", text)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%v: want the file named", err)
		}
	}
}

package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"chancery/keystore"
)

// A keyRig is a rig whose log keys come and go.
type keyRig struct {
	*rig
	mu   sync.Mutex
	keys Keys
}

// newKeyRig opens a log that first signs, whose key is announced and has signed that.
func newKeyRig(t testing.TB, first *softKey, change ...func(*Config)) *keyRig {
	t.Helper()
	k := &keyRig{keys: Keys{Active: first}}
	k.rig = newRig(t, append(change, func(c *Config) {
		c.Keys = func(context.Context) (Keys, error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.keys, nil
		}
	})...)
	k.announce(first)
	k.checkpoint()
	return k
}

// use has the log signed by these keys from now on, and makes its checkpoints.
func (k *keyRig) use(active keystore.Key, former ...keystore.Key) {
	k.Helper()
	k.set(active, former...)
	k.checkpoint()
}

func (k *keyRig) set(active keystore.Key, former ...keystore.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = Keys{active, former}
}

func (k *keyRig) checkpoint() {
	k.Helper()
	if err := k.log.Checkpoint(k.Context()); err != nil {
		k.Fatalf("checkpoint: %v", err)
	}
}

// announcing is the entry that makes a log key known.
func announcing(t testing.TB, key *softKey) keystore.Record {
	t.Helper()
	spki, err := keystore.MarshalPublic(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return keystore.Record{
		Principal: self, Action: keystore.ActKeyPublish, Outcome: keystore.OutcomeDone, KeySet: "log", KID: kid(t, key),
		Detail: Announcement(keystore.PurposeAudit, &keystore.Version{Algorithm: key.alg, SPKI: spki}),
	}
}

func kid(t testing.TB, key *softKey) keystore.KID {
	t.Helper()
	id, err := keystore.Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (k *keyRig) announce(key *softKey) Receipt {
	k.Helper()
	return k.lifecycle(announcing(k, key))
}

func (k *keyRig) compromise(key *softKey) Receipt {
	k.Helper()
	return k.lifecycle(keystore.Record{Action: keystore.ActCompromise, Outcome: keystore.OutcomeDone, KID: kid(k, key)})
}

// verifyBy verifies with the one key that the auditor kept.
func (k *keyRig) verifyBy(key *softKey) *Report {
	k.Helper()
	return verifyDir(k, k.cfg.Dir, key)
}

func verifyDir(t testing.TB, dir string, key *softKey) *Report {
	t.Helper()
	rep, err := Verify(t.Context(), dir, Options{Keys: []string{key.vkey(t)}})
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	return rep
}

// soundBy fails the test unless the log verifies with the key kept.
func (k *keyRig) soundBy(key *softKey) *Report {
	k.Helper()
	rep := k.verifyBy(key)
	if !rep.OK() {
		k.Fatalf("it does not verify: key verified %v, %v", rep.KeyVerified, rep.Problems)
	}
	return rep
}

// signersOf returns who signed a file of lifecycle.
func (k *keyRig) signersOf(file string) []string {
	k.Helper()
	b, err := os.ReadFile(filepath.Join(k.cfg.Dir, lifecycleName, file))
	if err != nil {
		k.Fatal(err)
	}
	_, by, err := signers(b)
	if err != nil {
		k.Fatal(err)
	}
	return by
}

func (k *keyRig) handovers() []int64 {
	k.Helper()
	sizes, err := listHandovers(filepath.Join(k.cfg.Dir, lifecycleName))
	if err != nil {
		k.Fatal(err)
	}
	return sizes
}

func idOf(t testing.TB, key *softKey) string {
	t.Helper()
	v, err := ParseVKey(key.vkey(t))
	if err != nil {
		t.Fatal(err)
	}
	return keyID(v)
}

func eddsa(t testing.TB) *softKey { return newSoftKey(t, keystore.EdDSA) }

func TestOverlapIsSignedByBoth(t *testing.T) {
	old, next := eddsa(t), newSoftKey(t, keystore.ES256)
	k := newKeyRig(t, old)
	k.act(1)
	k.announce(next)
	k.use(next, old)
	both := []string{idOf(t, next), idOf(t, old)}
	if by := k.signersOf("checkpoint"); !slices.Equal(by, both) {
		t.Errorf("signed by %v, want %v", by, both)
	}
	if h := k.handovers(); len(h) != 0 {
		t.Errorf("handed over to a key that signs beside it: %v", h)
	}
	for _, key := range []*softKey{old, next} {
		for _, l := range k.soundBy(key).Logs {
			if l.Key != idOf(t, key) || l.Announced != "" {
				t.Errorf("%s rests on %+v, and not on the key given", l.Name, l)
			}
		}
	}
}

func TestKeysThatChangeSignWithoutANewEntry(t *testing.T) {
	old, next := eddsa(t), eddsa(t)
	k := newKeyRig(t, old)
	k.act(1)
	k.monthBegan()
	k.announce(next)
	k.checkpoint()
	for _, step := range []struct {
		keys []keystore.Key
		want []string
	}{
		{[]keystore.Key{next, old}, []string{idOf(t, next), idOf(t, old)}},
		{[]keystore.Key{next}, []string{idOf(t, next)}},
	} {
		k.use(step.keys[0], step.keys[1:]...)
		for _, file := range []string{"checkpoint", "../acts/" + k.log.acts.current().begins().Format(monthLayout) + "/checkpoint"} {
			if by := k.signersOf(file); !slices.Equal(by, step.want) {
				t.Errorf("%s is signed by %v, want %v", file, by, step.want)
			}
		}
	}
	k.soundBy(old)
}

func TestFormerKeyThatCannotSignKeepsNothingBack(t *testing.T) {
	old, next := eddsa(t), eddsa(t)
	k := newKeyRig(t, old)
	k.announce(next)
	k.use(next, old)
	for range 5 { // it fails, and can again
		k.announce(next)
		k.use(next, sleeping{old})
		if by := k.signersOf("checkpoint"); !slices.Equal(by, []string{idOf(t, next)}) {
			t.Errorf("signed by %v", by)
		}
		k.announce(next)
		k.use(next, old)
	}
	if h := k.handovers(); len(h) != 1 {
		t.Errorf("handovers %v, want one", h)
	}
	if err := k.log.Unsigned(); err != nil {
		t.Errorf("unsigned: %v", err)
	}
	k.soundBy(old)
}

// sleeping is a key whose token does not answer.
type sleeping struct{ *softKey }

func (sleeping) Sign(context.Context, []byte) ([]byte, error) {
	return nil, errors.New("the token sleeps")
}

func TestHandoverIsThereBeforeTheCheckpointThatNeedsIt(t *testing.T) {
	for name, lost := range map[string]bool{"as it was": false, "the handover is lost": true} {
		t.Run(name, func(t *testing.T) {
			old, next := eddsa(t), eddsa(t)
			k := newKeyRig(t, old)
			k.announce(next)
			k.checkpoint()
			signed := k.log.lifecycle.current().length()
			unfinished := filepath.Join(k.cfg.Dir, lifecycleName, "checkpoint"+newSuffix)
			if err := os.MkdirAll(filepath.Join(unfinished, "in the way"), 0o750); err != nil {
				t.Fatal(err)
			}
			k.set(next)
			if err := k.log.Checkpoint(t.Context()); err == nil {
				t.Fatal("a checkpoint was made over a directory")
			}
			if h := k.handovers(); !slices.Equal(h, []int64{signed}) {
				t.Fatalf("handovers %v, want %d", h, signed)
			}
			k.crash()
			if err := os.RemoveAll(unfinished); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(k.cfg.Dir, lifecycleName, handoverName(signed))
			if lost {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			k.open()
			k.checkpoint()
			if by := k.signersOf("checkpoint"); !slices.Equal(by, []string{idOf(t, next)}) {
				t.Errorf("signed by %v", by)
			}
			if by := k.signersOf(handoverName(signed)); !slices.Equal(by, []string{idOf(t, old)}) {
				t.Errorf("handed over by %v", by)
			}
			k.soundBy(old)
		})
	}
}

func TestHandoversOfOneSizeKeepAllSignatures(t *testing.T) {
	a, b, c := eddsa(t), eddsa(t), eddsa(t)
	k := newKeyRig(t, a)
	k.announce(b)
	k.announce(c)
	k.checkpoint()
	k.use(b)
	k.use(c)
	h := k.handovers()
	if len(h) != 1 {
		t.Fatalf("handovers %v", h)
	}
	if by := k.signersOf(handoverName(h[0])); !slices.Equal(by, []string{idOf(t, a), idOf(t, b)}) {
		t.Errorf("handed over by %v", by)
	}
	for _, key := range []*softKey{a, b, c} {
		k.soundBy(key)
	}
}

func TestForeignHandoverStays(t *testing.T) {
	old, next := eddsa(t), eddsa(t)
	k := newKeyRig(t, old)
	k.announce(next)
	k.checkpoint()
	path := filepath.Join(k.cfg.Dir, lifecycleName, handoverName(k.log.lifecycle.current().length()))
	foreign := signedBy(t, Checkpoint{Origin: k.log.lifecycle.current().origin, Size: 2}, old)
	if err := os.WriteFile(path, foreign, 0o640); err != nil {
		t.Fatal(err)
	}
	k.set(next)
	if err := k.log.Checkpoint(t.Context()); err == nil || !strings.Contains(err.Error(), "another tree") {
		t.Errorf("it says %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != string(foreign) {
		t.Errorf("it was changed (%v)", err)
	}
	if by := k.signersOf("checkpoint"); !slices.Equal(by, []string{idOf(t, old)}) {
		t.Errorf("signed by %v", by)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyHandoversOfLifecycleArePublic(t *testing.T) {
	for name, want := range map[string]bool{
		"lifecycle/handover-12": true, "lifecycle/handover-0": false, "lifecycle/handover-012": false, "lifecycle/handover-": false,
		"lifecycle/handover--1": false, "lifecycle/handover-12.new": false, "lifecycle/handover-12/": false,
		"lifecycle/handover-99999999999999999999": false, "acts/2026-11/handover-12": false,
	} {
		if IsPublic(name) != want {
			t.Errorf("%q: public %v, want %v", name, !want, want)
		}
	}
}

package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chancery/keystore"
)

// What is wrong with a log is one thing, and that nobody can tell another.
func TestChangedOrNotJudged(t *testing.T) {
	tests := map[string]struct {
		give func(t *testing.T, k *keyRig) (vkey string)
		tell string
		kind Kind
	}{
		"no key of the node": {func(t *testing.T, _ *keyRig) string {
			vkey, err := VKeyFor("elsewhere/audit/other", "EdDSA", eddsa(t).Public())
			works(t, err)
			return vkey
		}, "lifecycle: no key of localhost:8443/audit/dev was given, and its checkpoint is signed by localhost:8443/audit/dev+", KeyUnknown},
		"another key of the node": {func(t *testing.T, _ *keyRig) string { return eddsa(t).vkey(t) },
			"no key that is trusted signed that entry (hint: ", KeyUnknown},
		"a byte was flipped": {func(t *testing.T, k *keyRig) string {
			k.flip(lifecycleName, "key.publish")
			return k.keys.Active.(*softKey).vkey(t)
		}, "lifecycle: entry 0: ", Changed},
		"a byte was flipped, and no key is given": {func(t *testing.T, k *keyRig) string {
			k.flip(lifecycleName, "key.publish")
			return eddsa(t).vkey(t)
		}, "lifecycle: entry 0: ", Changed},
		"a month signed by a key that lifecycle does not announce": {func(t *testing.T, k *keyRig) string {
			path := filepath.Join(k.cfg.Dir, filepath.FromSlash(actsOf(k.rig)), checkpointFile)
			b, err := os.ReadFile(path)
			works(t, err)
			c, _, err := OpenCheckpoint(b, nil)
			works(t, err)
			works(t, os.WriteFile(path, signedBy(t, c, eddsa(t)), 0o640))
			return k.keys.Active.(*softKey).vkey(t)
		}, "not one that lifecycle announces", Changed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			k := newKeyRig(t, eddsa(t))
			k.act(0)
			k.monthBegan()
			k.checkpoint()
			rep, err := Verify(t.Context(), k.cfg.Dir, Options{Keys: []string{test.give(t, k)}})
			works(t, err)
			if rep.OK() || !tells(rep, test.tell) || (len(rep.Changed()) > 0) != (test.kind == Changed) {
				t.Errorf("%+v, want %q, %s", rep.Problems, test.tell, test.kind)
			}
			if len(rep.Changed())+len(rep.Unjudged()) != len(rep.Problems) || test.kind != Changed && len(rep.Unjudged()) == 0 {
				t.Errorf("changed %v, not judged %v, of %v", rep.Changed(), rep.Unjudged(), rep.Problems)
			}
		})
	}
}

// What is published under an unknown key is not judged either.
func TestPublishedUnderAnUnknownKey(t *testing.T) {
	r := newRig(t)
	r.act(0)
	r.monthBegan()
	r.checkpoint()
	rep, err := VerifyPublished(t.Context(), publish(t, r.cfg.Dir).fetch, Options{Keys: []string{eddsa(t).vkey(t)}}, r.log.cfg.Now())
	works(t, err)
	if rep.OK() || len(rep.Changed()) > 0 || len(rep.Unjudged()) != 2 || !tells(rep, "which is none of the keys given") {
		t.Errorf("%+v", rep.Problems)
	}
}

// A month that is elsewhere is not judged.
func TestAMonthThatIsAwayIsNotJudged(t *testing.T) {
	c := newClock(october)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	for use := range int64(6) { // the last three in November
		if use == 3 {
			c.set(november)
		}
		r.enterUse(used(webKey, use+1, keystore.OutcomeDone))
	}
	c.set(november.Add(inFlight))
	r.enterUse(used(edgeKey, 1, keystore.OutcomeDone))
	r.checkpoint()
	elsewhere := filepath.Join(t.TempDir(), "moved")
	works(t, os.Rename(r.october(), elsewhere))
	works(t, os.Symlink(elsewhere, r.october()))
	works(t, os.Rename(elsewhere, elsewhere+".away"))
	rep := r.verify()
	if rep.OK() || len(rep.Changed()) > 0 || !slices.ContainsFunc(rep.Problems, func(p Problem) bool { return p.Kind == Away }) {
		t.Errorf("%+v", rep.Problems)
	}
}

// flip changes a byte of the first entry of a log that has text in it.
func (r *rig) flip(log, text string) {
	r.Helper()
	path := journalPath(filepath.Join(r.cfg.Dir, filepath.FromSlash(log)), 1)
	b, err := os.ReadFile(path)
	works(r, err)
	b[bytes.Index(b, []byte(text))] ^= 1
	works(r, os.WriteFile(path, b, 0o640))
}

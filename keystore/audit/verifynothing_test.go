package audit

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery/keystore"
)

// aClosedLog returns a log of a start and some acts, which is not written any more.
func aClosedLog(t *testing.T, options ...func(*Config)) *rig {
	c := newClock(noon)
	r := newRig(t, append(options, func(cfg *Config) { cfg.Now = c.Now })...)
	r.lifecycle(started())
	for i := range 9 {
		r.act(i)
		c.set(c.Now().Add(tendEvery))
	}
	r.monthBegan()
	r.checkpoint()
	r.close()
	return r
}

// only returns the one problem of a verification.
func only(t *testing.T, r *rig, opt Options) Problem {
	t.Helper()
	rep, err := Verify(t.Context(), r.cfg.Dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Problems) != 1 {
		t.Fatalf("%d problems: %v", len(rep.Problems), rep.Problems)
	}
	return rep.Problems[0]
}

// What it was: a log that somebody had emptied verified, since nothing was wrong in
// it.
func TestAnEmptyLogIsNotVerified(t *testing.T) {
	r := aClosedLog(t)
	for _, dir := range []string{lifecycleName, actsName} {
		at := filepath.Join(r.cfg.Dir, dir)
		if err := os.RemoveAll(at); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(at, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if p := only(t, r, r.trusted()); p.Kind != Nothing || p.Log != lifecycleName || !strings.HasPrefix(p.What, "it has no entries") {
		t.Errorf("%+v", p)
	}
}

// What it was: with an emptied lifecycle, or one that was put back to a time before
// them, months verified that no entry opens.
func TestMonthsAreOpenedByLifecycle(t *testing.T) {
	t.Run("emptied", func(t *testing.T) {
		r := aClosedLog(t)
		at := filepath.Join(r.cfg.Dir, lifecycleName)
		if err := os.RemoveAll(at); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(at, 0o750); err != nil {
			t.Fatal(err)
		}
		rep, err := Verify(t.Context(), r.cfg.Dir, r.trusted())
		if err != nil || rep.OK() || !slices.ContainsFunc(rep.Problems, func(p Problem) bool { return p.Kind == Nothing && p.Log == lifecycleName }) {
			t.Errorf("%+v, %v", rep.Problems, err)
		}
	})
	t.Run("put back", func(t *testing.T) {
		r := newRig(t)
		r.lifecycle(started())
		r.checkpoint()
		earlier := filepath.Join(t.TempDir(), lifecycleName)
		if err := os.CopyFS(earlier, os.DirFS(filepath.Join(r.cfg.Dir, lifecycleName))); err != nil {
			t.Fatal(err)
		}
		r.close()
		key, mem := r.key, newMemory()
		r = aClosedLog(t, func(cfg *Config) { cfg.Memory = mem })
		at := filepath.Join(r.cfg.Dir, lifecycleName)
		if err := os.RemoveAll(at); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(at, os.DirFS(earlier)); err != nil {
			t.Fatal(err)
		}
		rep, err := Verify(t.Context(), r.cfg.Dir, Options{Keys: []string{key.vkey(r), r.key.vkey(r)}})
		if err != nil || !slices.ContainsFunc(rep.Problems, func(p Problem) bool { return strings.Contains(p.What, "does not say that it began") }) {
			t.Errorf("%+v, %v", rep.Problems, err)
		}
	})
}

// What it was: a log that has nothing to do with this one was compared, by its name.
func TestAPeerThatSaysNothingIsNotCompared(t *testing.T) {
	r, other := aClosedLog(t), aClosedLog(t, func(c *Config) { c.Node = "other" })
	opt := r.trusted()
	opt.Peers = []string{other.cfg.Dir}
	if p := only(t, r, opt); p.Kind != Nothing || !strings.Contains(p.What, "nothing was compared") {
		t.Errorf("%+v", p)
	}
	opt.Peers = append(opt.Peers, other.cfg.Dir)
	if _, err := Verify(t.Context(), r.cfg.Dir, opt); err == nil || !strings.Contains(err.Error(), "are both of localhost:8443/audit/other/lifecycle: give one") {
		t.Errorf("the same twice: %v", err)
	}
}

// What it was: another copy of the same log, given as a peer's, was not looked at,
// though the two were forks.
func TestACopyOfTheLogIsComparedWithIt(t *testing.T) {
	r := aClosedLog(t)
	opt := r.trusted()
	opt.Peers = []string{r.cfg.Dir}
	if rep, err := Verify(t.Context(), r.cfg.Dir, opt); err != nil || !rep.OK() {
		t.Errorf("with itself: %+v, %v", rep, err)
	}
	fork := newRig(t)
	for range 2 {
		fork.lifecycle(keystore.Record{Principal: self, Action: keystore.ActStop, Outcome: keystore.OutcomeDone})
	}
	fork.close()
	opt.Peers = []string{fork.cfg.Dir}
	if p := only(t, r, opt); p.Judged() == false || !strings.Contains(p.What, "are not the ones that the copy in "+fork.cfg.Dir+" tells of") {
		t.Errorf("%+v", p)
	}
	longer := newRig(t)
	for range 20 {
		longer.lifecycle(started())
	}
	longer.close()
	opt.Peers = []string{longer.cfg.Dir}
	if p := only(t, r, opt); !strings.Contains(p.What, "it was cut, or is an older copy than that log") {
		t.Errorf("%+v", p)
	}
}

// What it was: nothing of a state of another node's log fits, and that was told as
// if this one was rewritten.
func TestAStateOfAnotherLogIsRefused(t *testing.T) {
	w := newReview(aClosedLog(t, func(c *Config) { c.Node = "other" }))
	w.opt.Keys = w.trusted().Keys
	w.sound()
	opt := w.options()
	r := aClosedLog(t)
	opt.Keys = r.trusted().Keys
	if _, err := Verify(t.Context(), r.cfg.Dir, opt); err == nil || !strings.Contains(err.Error(), "the state is of localhost:8443/audit/other/lifecycle, and this log is") {
		t.Errorf("%v", err)
	}
}

// What it was: times of the year 1, which no reader takes for none.
func TestAnEmptyMonthHasNoTimes(t *testing.T) {
	r := aClosedLog(t)
	if err := os.Mkdir(filepath.Join(r.cfg.Dir, actsName, "2031-12"), 0o750); err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(t.Context(), r.cfg.Dir, r.trusted())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(rep.Logs, func(l LogReport) bool { return l.Name == actsName+"/2031-12" })
	if i < 0 {
		t.Fatalf("%+v", rep.Logs)
	}
	text, err := json.Marshal(rep.Logs[i])
	if err != nil || strings.Contains(string(text), "0001-01-01") || !strings.Contains(string(text), `"entries":0`) {
		t.Errorf("%s, %v", text, err)
	}
}

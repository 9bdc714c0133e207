package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

// A review is an auditor who keeps how far the log was verified.
type review struct {
	*rig
	opt   Options
	state []byte   // nil: none yet
	kept  [][]byte // of the last run, in the order they were kept
	pause time.Duration
}

func newReview(r *rig) *review {
	return &review{rig: r, opt: Options{Keys: []string{r.key.vkey(r)}, keepEvery: 1}, pause: tornPause}
}

// options returns those of a run that goes on from the state.
func (w *review) options() Options {
	w.Helper()
	w.kept = nil
	opt := w.opt
	if w.state != nil {
		s, err := ParseState(w.state)
		if err != nil {
			w.Fatalf("the state is read: %v", err)
		}
		opt.State = s
	}
	opt.Keep = func(s *State) error {
		b, err := s.Encode()
		w.kept = append(w.kept, b)
		return err
	}
	return opt
}

// run verifies from the state on, and keeps the new one.
func (w *review) run() *Report {
	w.Helper()
	rep, err := verify(w.Context(), w.cfg.Dir, w.options(), w.pause)
	if err != nil {
		w.Fatal(err)
	}
	if n := len(w.kept); n > 0 {
		w.state = w.kept[n-1]
	}
	return rep
}

func (w *review) sound() *Report {
	w.Helper()
	rep := w.run()
	if !rep.OK() {
		w.Fatalf("it does not verify: %v", rep.Problems)
	}
	return rep
}

// tells fails the test unless the next run tells that.
func (w *review) tells(want string) {
	w.Helper()
	rep := w.run()
	if rep.OK() || !tells(rep, want) {
		w.Errorf("%v, want %q", rep.Problems, want)
	}
}

// alike is sound, and fails the test unless the report, but for what it says of
// before, is that of a run from the beginning.
func (w *review) alike() *Report {
	w.Helper()
	state := w.state
	for look := 0; ; look++ {
		rep := w.sound()
		whole, err := verify(w.Context(), w.cfg.Dir, w.opt, w.pause)
		if err != nil {
			w.Fatal(err)
		}
		a, b := spelled(w, rep, len(whole.Pruned) == 0), spelled(w, whole, len(whole.Pruned) == 0)
		if a == b {
			return rep
		}
		if look == 5 { // the log may have made a checkpoint between the two
			w.Fatalf("resumed %s\nwhole   %s", a, b)
		}
		w.state = state
	}
}

// spelled returns a report without what it says of before. Of acts that were
// verified before they were removed the uses are known still.
func spelled(t testing.TB, rep *Report, uses bool) string {
	t.Helper()
	r := *rep
	r.Before, r.Logs = nil, slices.Clone(rep.Logs)
	for i := range r.Logs {
		r.Logs[i].Before = 0
	}
	if !uses {
		r.Uses = nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestASecondReviewReadsWhatIsNew(t *testing.T) {
	r := closedRig(t, 400)
	w := newReview(r)
	if rep := w.sound(); rep.Before != nil {
		t.Errorf("the first run: %+v", rep.Before)
	}
	first, err := ParseState(w.state)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		r.act(i)
	}
	r.checkpoint()
	rep := w.alike()
	if b := rep.Before; b == nil || b.Entries != first.Entries() || !b.Time.Equal(first.Time) {
		t.Errorf("%+v, want %d entries at %v", b, first.Entries(), first.Time)
	}
	if l := rep.Logs[1]; l.Before != 400 || l.Entries != 400 || !l.Verified {
		t.Errorf("October: %+v", l)
	}
	if l := rep.Logs[2]; l.Before != 1 || l.Entries != 301 {
		t.Errorf("November: %+v", l)
	}
	r.tend() // a pack takes the journals' place
	r.act(1)
	w.alike()
}

// What no checkpoint signs a power cut may take back, and so no state has it.
func TestAStateEndsWithWhatIsSigned(t *testing.T) {
	r := newRig(t)
	w := newReview(r)
	r.act(1)
	r.monthBegan()
	r.checkpoint()
	r.log.publishing <- struct{}{} // the keeper, too, looks at a month that began
	r.act(2)
	w.alike()
	s, err := ParseState(w.state)
	if err != nil || len(s.Logs) != 2 || s.Logs[1].Size != 1 {
		t.Errorf("%+v, %v", s.Logs, err)
	}
	w.alike()
	<-r.log.publishing
	r.checkpoint()
	if rep := w.sound(); rep.Logs[1].Before != 1 || rep.Logs[1].Proven != 2 {
		t.Errorf("%+v", rep.Logs[1])
	}
}

// A state believes itself: below it only what is opened is looked at.
func TestWhatWasVerifiedBeforeIsNotReadAgain(t *testing.T) {
	r := closedRig(t, 400)
	w := newReview(r)
	w.sound()
	path := journalPath(r.october(), 1)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("jti-00000003"))
	b[at] ^= 1
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	w.sound()
	w.state = nil
	w.tells("entry 3: ")
}

func TestALogThatIsNoContinuation(t *testing.T) {
	tests := map[string]struct {
		signed bool // lifecycle is a continuation
		change func(t *testing.T, w *review)
		want   string
	}{
		"rewritten and longer": {true, func(t *testing.T, w *review) {
			w.forged(w.key, func(f *rig) {
				for i := range 100 {
					f.act(1000 + i)
				}
			})
		}, "acts/2026-10: the 100 entries that are signed do not go on from the 10 that were verified before: it was rewritten"},
		"rewritten, of the same length": {true, func(t *testing.T, w *review) {
			w.forged(w.key, func(f *rig) {
				for i := range 10 {
					f.act(1000 + i)
				}
			})
		}, "acts/2026-10: its first 10 entries are not the ones that were verified before"},
		"cut": {true, func(t *testing.T, w *review) { w.forged(w.key, func(f *rig) { f.act(0) }) },
			"acts/2026-10: 1 of its entries are signed, and 10 were verified before: it was cut, is an older copy, or an older checkpoint was put back"},
		"of another key": {false, func(t *testing.T, w *review) { w.forged(eddsa(t), func(f *rig) { f.act(0) }) }, "which is none of the keys given"},
		"without a checkpoint": {false, func(t *testing.T, w *review) {
			if err := os.Remove(filepath.Join(w.cfg.Dir, lifecycleName, checkpointFile)); err != nil {
				t.Fatal(err)
			}
			w.pause = time.Microsecond
		}, "lifecycle: 0 of its entries are signed, and"},
		"without a month": {false, func(t *testing.T, w *review) {
			if err := os.RemoveAll(w.october()); err != nil {
				t.Fatal(err)
			}
		}, "acts/2026-10: it is not there, and 10 entries of localhost:8443/audit/dev/acts/2026-10 were verified before"},
		"without journals": {false, func(t *testing.T, w *review) {
			if err := os.Remove(journalPath(w.october(), 1)); err != nil {
				t.Fatal(err)
			}
		}, "acts/2026-10: it has 0 entries, and 10 were signed: the others are gone"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := newClock(october)
			r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
			w := newReview(r)
			for i := range 10 {
				r.act(i)
			}
			r.monthBegan()
			r.checkpoint()
			w.sound()
			r.close()
			sound := filepath.Join(t.TempDir(), "audit")
			if err := os.CopyFS(sound, os.DirFS(w.cfg.Dir)); err != nil {
				t.Fatal(err)
			}
			test.change(t, w)
			w.tells(test.want)
			w.tells(test.want) // found again
			if !test.signed {  // and the state is one to go on from still
				w.cfg.Dir = sound
				w.alike()
			}
		})
	}
}

// forged puts another log in the place of w's.
func (w *review) forged(key *softKey, enter func(*rig), change ...func(*Config)) {
	w.Helper()
	at := newClock(october)
	f := newRig(w.TB, append(change, func(c *Config) {
		c.Keys = func(context.Context) (Keys, error) { return Keys{Active: key}, nil }
		c.Now = at.Now
	})...)
	enter(f)
	f.monthBegan()
	f.close()
	w.cfg.Dir = f.cfg.Dir
}

// What is given to a later run counts for what was verified before as well.
func TestACheckpointOfWhatWasVerifiedBefore(t *testing.T) {
	r := newRig(t)
	w := newReview(r)
	var kept []Checkpoint
	for i := range 700 {
		r.act(i)
		if i == 5 || i == 300 || i == 512 {
			r.checkpoint()
			newest, err := Newest(r.cfg.Dir)
			if err != nil || len(newest) != 2 {
				t.Fatal(newest, err)
			}
			kept = append(kept, newest[1].Checkpoint)
		}
	}
	r.checkpoint()
	w.sound()
	w.opt.Kept = kept
	w.sound()
	for i := range kept {
		w.opt.Kept = slices.Clone(kept)
		w.opt.Kept[i].Root[7] ^= 1
		w.tells("entries are not the ones of the checkpoint kept")
	}
	w.opt.Kept = kept
	if err := os.RemoveAll(filepath.Join(r.cfg.Dir, filepath.FromSlash(NameOf(kept[0].Origin)), "tile")); err != nil {
		t.Fatal(err)
	}
	w.tells("its tiles do not tell what its first 6 entries were, 700 of which were verified before")
}

func TestWhatWasCosignedBeforeTheState(t *testing.T) {
	r := closedRig(t, 300)
	who := &witnessRig{rig: r, quorum: fewest{n: 1}, who: []*Cosigner{newTestCosigner(t, "w1")}}
	who.quorum.keys = []WitnessKey{who.who[0].Key}
	early := who.cosign(who.published("acts/2026-11"), 0)
	for i := range 300 {
		r.act(i)
	}
	r.checkpoint()
	w := newReview(r)
	w.sound()
	w.opt.Witnesses, w.opt.Cosigned = who.quorum, [][]byte{early}
	if l := w.alike().Logs[2]; l.Witnessed == nil || l.Witnessed.Size != 1 || l.Before != 301 {
		t.Errorf("%+v", l)
	}
	c, _, err := OpenCosigned(early, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Root[0] ^= 1
	w.opt.Cosigned = [][]byte{who.cosign(signedBy(t, c, r.key), 0)}
	w.tells("its first 1 entries are not the ones that ")
}

func TestALogKeyThatCameBeforeTheState(t *testing.T) {
	first, next, last := eddsa(t), eddsa(t), eddsa(t)
	k := newKeyRig(t, first)
	w := newReview(k.rig)
	w.opt.Keys = []string{first.vkey(t)}
	rotate := func(to *softKey) {
		k.announce(to)
		k.checkpoint()
		k.act(1)
		k.use(to)
		w.alike()
	}
	rotate(next)
	rotate(last)
	handover := filepath.Join(k.cfg.Dir, lifecycleName, handoverName(k.handovers()[0]))
	b, err := os.ReadFile(handover)
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := OpenCheckpoint(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Root[3] ^= 1
	if err := os.WriteFile(handover, signedBy(t, c, first), 0o640); err != nil {
		t.Fatal(err)
	}
	w.tells("entries are not the ones that were signed")
	// The other problems said that a handover was missing, which was there.
	for _, p := range w.run().Problems {
		if strings.Contains(p.What, "hint: restore") {
			t.Errorf("%v", p)
		}
	}
}

// A state that was kept with other logs to compare with does not have what they
// are compared with.
func TestAStateOfOtherPeers(t *testing.T) {
	other := newRig(t, func(c *Config) { c.Node = "other" })
	other.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	r := newRig(t)
	r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	head := Checkpoint{other.log.lifecycle.current().origin, 1, [32]byte(other.log.lifecycle.current().head().Root)}
	r.lifecycle(headRecord(keystore.ActAuditPeer, head))
	r.checkpoint()
	w := newReview(r)
	w.sound()
	w.opt.Peers = []string{other.cfg.Dir}
	if _, err := Verify(t.Context(), r.cfg.Dir, w.options()); err == nil || !strings.Contains(err.Error(), "begin anew") {
		t.Errorf("%v", err)
	}
	w.state = nil
	w.sound()
	w.sound()
}

// What is wrong is found again, whether or not it has been mended meanwhile in
// what the state has.
func TestAStateDoesNotGoBeyondAProblem(t *testing.T) {
	r := newRig(t)
	w := newReview(r)
	r.act(0)
	r.monthBegan()
	r.checkpoint()
	w.sound()
	for i := range 20 {
		r.act(i)
	}
	r.checkpoint()
	path := r.journals()[0]
	for _, j := range r.journals() {
		if strings.Contains(j, actsName) {
			path = j
		}
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.Clone(sound)
	b[bytes.Index(b, []byte("jti-00000009"))] ^= 1
	for range 2 {
		if err := os.WriteFile(path, b, 0o640); err != nil {
			t.Fatal(err)
		}
		w.run() // and keeps what is before it
		w.tells("it cannot be read")
	}
	if err := os.WriteFile(path, sound, 0o640); err != nil {
		t.Fatal(err)
	}
	w.alike()
}

// A run that is ended keeps how far it was.
func TestAReviewThatIsInterrupted(t *testing.T) {
	r := closedRig(t, 400)
	w := newReview(r)
	w.opt.keepEvery = 0
	ctx, stop := context.WithCancel(t.Context())
	opt, calls := w.options(), 0
	opt.Progress = func(int64, int64) {
		if calls++; calls == 3 {
			stop()
		}
	}
	if _, err := Verify(ctx, r.cfg.Dir, opt); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	w.state = w.kept[len(w.kept)-1]
	s, err := ParseState(w.state)
	if err != nil || len(s.Logs) != 2 || s.Logs[1].Size < 100 || s.Logs[1].Size >= 400 {
		t.Fatalf("%+v, %v", s, err)
	}
	rep := w.alike()
	if rep.Logs[1].Before != s.Logs[1].Size {
		t.Errorf("%+v", rep.Logs[1])
	}
}

func TestAStateThatCannotBeKept(t *testing.T) {
	r := closedRig(t, 10)
	full := errors.New("no space")
	for _, every := range []int64{0, 1} {
		opt := newReview(r).options()
		opt.keepEvery, opt.Keep = every, func(*State) error { return full }
		if _, err := Verify(t.Context(), r.cfg.Dir, opt); !errors.Is(err, full) {
			t.Errorf("%v", err)
		}
	}
}

// A run without a trusted key knows nothing that could be kept.
func TestWithoutAKeyNothingIsKept(t *testing.T) {
	w := newReview(closedRig(t, 10))
	for _, keys := range [][]string{nil, {eddsa(t).vkey(t)}} {
		w.opt.Keys = keys
		w.run()
		for _, b := range w.kept {
			if s, err := ParseState(b); err != nil || len(s.Logs) > 1 {
				t.Errorf("%+v, %v", s, err)
			}
		}
	}
}

// A writer that is faster than the reader is not followed for ever.
func TestVerifyEndsBesideAFasterWriter(t *testing.T) {
	r := newRig(t)
	r.act(0)
	r.monthBegan()
	r.checkpoint()
	opt, calls := Options{Keys: []string{r.key.vkey(t)}}, 0
	opt.Progress = func(int64, int64) {
		if calls++; calls > 50 {
			t.Fatal("it goes on and on")
		}
		for i := range 300 { // more than a journal takes
			r.act(i)
		}
	}
	rep, err := Verify(t.Context(), r.cfg.Dir, opt)
	if err != nil || !rep.OK() {
		t.Fatalf("%v, %v", rep.Problems, err)
	}
}

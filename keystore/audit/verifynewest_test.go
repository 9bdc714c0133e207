package audit

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"chancery/keystore"
)

// A putBackRig is a log whose checkpoints can be put back to older ones.
type putBackRig struct {
	*witnessRig
	clock *clock
	old   map[string][]byte // checkpoints as they were
}

// newPutBackRig has a lifecycle and a month of n acts, under checkpoints that are
// kept, and then n more acts, and an entry in lifecycle, a second later, unsigned.
func newPutBackRig(t *testing.T, n int) *putBackRig {
	c := newClock(noon)
	r := &putBackRig{newWitnessRig(t, func(cfg *Config) { cfg.Now = c.Now }), c, map[string][]byte{}}
	for i := range n {
		r.act(i)
	}
	for _, name := range []string{lifecycleName, actsOf(r.rig)} {
		r.old[name] = r.published(name)
	}
	c.set(c.Now().Add(time.Second))
	for i := range n {
		r.act(n + i)
	}
	r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	return r
}

// putBack puts the older checkpoints back.
func (r *putBackRig) putBack(names ...string) {
	r.Helper()
	for _, name := range names {
		works(r, os.WriteFile(filepath.Join(r.cfg.Dir, filepath.FromSlash(name), checkpointFile), r.old[name], 0o640))
	}
}

// After a crash, or where a checkpoint has just been made, the tail is unsigned, and
// an older checkpoint of moments ago can be told by nothing.
func TestAnUnsignedTailOfMoments(t *testing.T) {
	r := newPutBackRig(t, 5)
	rep := r.sound()
	if l := rep.of(actsOf(r.rig)); l.Unsigned != 5 || !l.UnsignedSince.Equal(noon.Add(time.Second)) || !l.ProvenUntil.Equal(noon) {
		t.Errorf("%+v", l)
	}
	r.checkpoint()
	if l := r.sound().of(actsOf(r.rig)); l.Unsigned != 0 || !l.UnsignedSince.IsZero() {
		t.Errorf("%+v", l)
	}
}

// A tail that a log has gone on behind for long is told, whatever its reason.
func TestATailThatNobodySigned(t *testing.T) {
	r := newPutBackRig(t, 5)
	r.clock.set(noon.Add(time.Second + longestUnsigned))
	r.act(11)
	r.sound()
	r.clock.set(noon.Add(2*time.Second + longestUnsigned))
	r.act(12)
	rep, err := verify(t.Context(), r.cfg.Dir, Options{Keys: []string{r.key.vkey(t)}}, time.Microsecond)
	works(t, err)
	if rep.OK() || len(rep.Changed()) > 0 || len(rep.Unjudged()) != 2 ||
		!tells(rep, "acts/2026-11: 7 of its entries are after the newest checkpoint, which is of the first 5, up to 2026-11-22T12:00:00Z, and the log went on until ") {
		t.Errorf("%v", rep.Problems)
	}
	r.checkpoint()
	r.sound()
}

// What proves that there was a newer checkpoint, wherever it is.
func TestACheckpointThatWasPutBack(t *testing.T) {
	month := "acts/" + noon.Format(monthLayout)
	tests := map[string]struct {
		acts int
		prep func(r *putBackRig) Options // the checkpoints are new
		back []string
		want string
	}{
		"the tiles, where the log goes on": {5, func(r *putBackRig) Options {
			r.checkpoint()
			r.clock.set(noon.Add(time.Hour))
			r.act(20)
			return Options{}
		}, []string{month, lifecycleName}, month + ": 6 of its entries are after the newest checkpoint, which is of the first 5, up to 2026-11-22T12:00:00Z, " +
			"and the log went on until 2026-11-22T13:00:00Z; its tiles are of a checkpoint of 10 entries: an older one was put back"},
		"full tiles between": {300, func(r *putBackRig) Options {
			r.checkpoint()
			r.clock.set(noon.Add(time.Hour))
			r.act(1000)
			return Options{}
		}, []string{month}, "its tiles are of a checkpoint of 600 entries: an older one was put back"},
		"one that was kept": {5, func(r *putBackRig) Options {
			r.checkpoint()
			newest, err := Newest(r.cfg.Dir)
			works(r, err)
			return Options{Kept: []Checkpoint{newest[1].Checkpoint}}
		}, []string{month, lifecycleName}, month + ": its checkpoint is of 5 entries, up to 2026-11-22T12:00:00Z, and the one kept is of 10: an older one was put back"},
		"one that was cosigned": {5, func(r *putBackRig) Options {
			signed := r.cosign(r.published(month), 0, 1)
			return Options{Witnesses: r.quorum, Cosigned: [][]byte{signed}}
		}, []string{month}, " cosigned is of 10: an older one was put back"},
		"one that was cosigned, to who names no witness": {5, func(r *putBackRig) Options {
			r.keep(month, r.cosign(r.published(month), 0, 1))
			return Options{}
		}, []string{month}, "and the one in witnessed is of 10: an older one was put back"},
		"a signed entry of lifecycle": {5, func(r *putBackRig) Options {
			r.clock.set(noon.Add(headEvery))
			r.log.keepOnce(r.Context())
			return Options{}
		}, []string{month}, "signed since, is of 10: an older one was put back"},
		"the end of a month": {5, func(r *putBackRig) Options {
			r.clock.set(noon.AddDate(0, 1, 0))
			r.act(99)
			r.log.keepOnce(r.Context())
			r.log.keepOnce(r.Context())
			return Options{}
		}, []string{month}, month + ": its checkpoint is of 5 entries, up to "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newPutBackRig(t, test.acts)
			opt := test.prep(r)
			opt.Keys = []string{r.key.vkey(t)}
			rep, err := verify(t.Context(), r.cfg.Dir, opt, time.Microsecond)
			works(t, err)
			if !rep.OK() {
				t.Fatalf("before: %v", rep.Problems)
			}
			r.putBack(test.back...)
			rep, err = verify(t.Context(), r.cfg.Dir, opt, time.Microsecond)
			works(t, err)
			if rep.OK() || len(rep.Changed()) == 0 || !tells(rep, test.want) {
				t.Errorf("%v, want %q", rep.Problems, test.want)
			}
		})
	}
}

// The last checkpoint of a log key that signs no more is never newer than the log's.
func TestACheckpointFromBeforeAHandover(t *testing.T) {
	old, next := eddsa(t), eddsa(t)
	k := newKeyRig(t, old)
	path := filepath.Join(k.cfg.Dir, lifecycleName, checkpointFile)
	early, err := os.ReadFile(path)
	works(t, err)
	k.announce(next)
	k.checkpoint()
	k.use(next)
	k.soundBy(old)
	works(t, os.WriteFile(path, early, 0o640))
	if rep := k.verifyBy(old); rep.OK() || !tells(rep, "lifecycle: its checkpoint is of 1 entries, up to ") || !tells(rep, "and handover-2 is of 2: an older one was put back") {
		t.Errorf("%v", rep.Problems)
	}
}

// A review that is resumed knows of the newer one by its state.
func TestACheckpointFromBeforeAState(t *testing.T) {
	r := newPutBackRig(t, 5)
	r.checkpoint()
	w := newReview(r.rig)
	w.sound()
	r.putBack(actsOf(r.rig))
	w.tells("5 of its entries are signed, and 10 were verified before: it was cut, is an older copy, or an older checkpoint was put back")
}

// What is published is whole under an older checkpoint too: only one that was kept,
// or cosigned, tells.
func TestAnOlderCheckpointIsPublished(t *testing.T) {
	r := newPutBackRig(t, 5)
	month := actsOf(r.rig)
	newer := r.published(month)
	kept, _, err := OpenCheckpoint(newer, nil)
	works(t, err)
	r.putBack(month, lifecycleName)
	shelf := publish(t, r.cfg.Dir)
	opt := Options{Keys: []string{r.key.vkey(t)}}
	rep, err := VerifyPublished(t.Context(), shelf.fetch, opt, noon)
	works(t, err)
	if !rep.OK() {
		t.Errorf("without anything kept: %v", rep.Problems)
	}
	opt.Kept = []Checkpoint{kept}
	rep, err = VerifyPublished(t.Context(), shelf.fetch, opt, noon)
	works(t, err)
	if rep.OK() || !tells(rep, month+": it has 5 entries, and the checkpoint kept of "+kept.Origin+" has 10") {
		t.Errorf("kept: %v", rep.Problems)
	}
	opt.Kept, opt.Witnesses, opt.Cosigned = nil, r.quorum, [][]byte{r.cosign(newer, 0, 1)}
	rep, err = VerifyPublished(t.Context(), shelf.fetch, opt, noon)
	works(t, err)
	if rep.OK() || !tells(rep, "it does not go on from the 10 entries of ") {
		t.Errorf("cosigned: %v", rep.Problems)
	}
}

// A daemon that starts goes on from its entries and its memory, and signs them all.
func TestAStartWithAnOlderCheckpoint(t *testing.T) {
	r := newPutBackRig(t, 300)
	r.checkpoint()
	month := actsOf(r.rig)
	r.close()
	r.putBack(month, lifecycleName)
	r.open()
	r.checkpoint()
	if l := r.sound().of(month); l.Proven != 600 {
		t.Errorf("%+v", l)
	}
	r.crash()
	r.putBack(month)
	journals, err := listJournals(filepath.Join(r.cfg.Dir, month))
	works(t, err)
	works(t, os.Remove(journalPath(filepath.Join(r.cfg.Dir, month), len(journals))))
	if _, err := Open(t.Context(), r.cfg); err == nil {
		t.Error("it starts without entries that the memory has")
	}
}

package audit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

// heads returns the sizes that lifecycle tells of the acts, each "month size".
func (r *rig) heads() (all []string) {
	r.Helper()
	for _, e := range r.all(Filter{Action: keystore.ActAuditHead}) {
		origin := e.Entry.Detail["origin"]
		all = append(all, origin[strings.LastIndex(origin, "/")+1:]+" "+e.Entry.Detail["size"])
	}
	return all
}

func TestHeadsOfActsAreEntered(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	after := func(d time.Duration, want ...string) {
		t.Helper()
		c.set(c.Now().Add(d))
		r.log.keepOnce(t.Context())
		if got := r.heads(); !slices.Equal(got, want) {
			t.Errorf("heads %q, want %q", got, want)
		}
	}
	after(2 * headEvery) // there are no acts
	r.act(1)
	after(headEvery-1, []string{}...)
	after(1, "2026-11 1")
	r.act(2)
	r.act(3)
	after(headEvery/2, "2026-11 1")
	after(headEvery/2, "2026-11 1", "2026-11 3")
	after(headEvery, "2026-11 1", "2026-11 3") // it has not grown
	r.act(4)
	r.crash()
	r.open() // the hour goes on
	after(headEvery, "2026-11 1", "2026-11 3", "2026-11 4")
	r.act(5)
	r.close()
	r.open()
	r.close() // nothing is new
	if got, want := r.heads(), []string{"2026-11 1", "2026-11 3", "2026-11 4", "2026-11 5"}; !slices.Equal(got, want) {
		t.Errorf("heads %q, want %q", got, want)
	}
	r.open()
	c.set(c.Now().AddDate(0, 1, 0))
	r.act(6)
	r.close()
	if got := r.heads(); got[len(got)-1] != "2026-12 1" {
		t.Errorf("heads %q", got)
	}
	r.sound()
}

// A log of acts that was made anew, with checkpoints of the true key, is found
// by whoever has lifecycle.
func TestActsThatAreNotWhatLifecycleTells(t *testing.T) {
	for what, c := range map[string]struct {
		acts    int
		problem string
	}{
		"rewritten": {5, "acts/2026-11: its first 3 entries are not the ones that lifecycle entry 1 tells of"},
		"cut":       {2, "acts/2026-11: it has 2 entries, and lifecycle entry 1 says that it had 3: the others are gone"},
	} {
		clock := newClock(noon)
		r := newRig(t, func(cfg *Config) { cfg.Now = clock.Now })
		for i := range 3 {
			r.act(i)
		}
		r.close()
		other := newRig(t, func(cfg *Config) { cfg.Now = clock.Now })
		other.key = r.key
		for i := range c.acts {
			other.act(10 + i)
		}
		other.close()
		acts := filepath.Join(r.cfg.Dir, "acts")
		if err := os.RemoveAll(acts); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(acts, os.DirFS(filepath.Join(other.cfg.Dir, "acts"))); err != nil {
			t.Fatal(err)
		}
		rep := r.verify()
		if len(rep.Problems) != 1 || rep.Problems[0].String() != c.problem {
			t.Errorf("%s: %q, want %q", what, rep.Problems, c.problem)
		}
	}
}

// What lifecycle says of the acts has to make sense.
func TestHeadsThatMakeNoSense(t *testing.T) {
	acts := keyName(host, node) + "/acts/2026-11"
	head := func(origin string, size int64) keystore.Record {
		return headRecord(keystore.ActAuditHead, Checkpoint{Origin: origin, Size: size})
	}
	none := head(acts, 1)
	none.Detail = nil
	for what, c := range map[string]struct {
		recs    []keystore.Record
		problem string
	}{
		"another node's": {[]keystore.Record{head("localhost:8443/audit/b/acts/2026-11", 1)}, "lifecycle: entry 0: it does not tell how far a month of acts of this node had come"},
		"nothing":        {[]keystore.Record{none}, "lifecycle: entry 0: it does not tell how far a month of acts of this node had come"},
		"going back":     {[]keystore.Record{head(acts, 3), head(acts, 2)}, "lifecycle: entry 1: it says that " + acts + " has 2 entries, and entry 0 that it has 3"},
	} {
		r := newRig(t)
		for _, rec := range c.recs {
			r.lifecycle(rec)
		}
		r.close()
		if rep := r.verify(); len(rep.Problems) == 0 || rep.Problems[0].String() != c.problem {
			t.Errorf("%s: %q, want %q", what, rep.Problems, c.problem)
		}
	}
}

// What the log tells of itself was entered twice where it was on its way to the
// disk as the log was closed.
func TestClosingEntersNothingTwice(t *testing.T) {
	r, disk := newFaultyRig(t, func(c *Config) { c.Interval = time.Hour })
	release := disk.hold("sync")
	defer release()
	r.log.note(headRecord(keystore.ActAuditHead, Checkpoint{Origin: keyName(host, node) + "/acts/2026-11", Size: 1}))
	r.log.hurry()
	waitFor(t, "the entry is on its way", func() bool { return disk.count("held") > 0 })
	closed := make(chan error, 1)
	go func() { closed <- r.log.Close(t.Context()) }()
	select {
	case <-r.log.stopped:
	case <-time.After(100 * time.Millisecond):
	}
	release()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	r.log = nil
	if heads := r.heads(); len(heads) != 1 {
		t.Errorf("heads %q, want one", heads)
	}
}

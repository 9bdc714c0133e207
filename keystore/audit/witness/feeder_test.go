package witness

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery/keystore/audit"
)

func TestEveryWitnessIsShownEachLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedRig(t, newTestLog(t).add(3, "entry").publish())
		r.start()
		wait(time.Second)
		r.want(3, "w1 w2 w3")
		r.add(600, "entry").publish()
		wait(11 * time.Second)
		r.want(603, "w1 w2 w3")
		for _, n := range r.neighbours {
			if len(n.times()) != 2 {
				t.Errorf("asked at %v, want twice", n.times())
			}
		}
		month := r.testLog.fork()
		month.dir, month.name = r.dir, "acts/2026-11"
		month.publish()
		wait(11 * time.Second)
		if len(r.kept) != 2 {
			t.Errorf("kept of %v", slices.Collect(maps.Keys(r.kept)))
		}
		r.stop()
	})
}

// TestOneThatHangsHoldsUpNobody, though the log has another checkpoint each second.
func TestOneThatHangsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedRig(t, newTestLog(t).add(1, "entry").publish())
		r.neighbours[1].now("hang")
		r.start()
		synctest.Wait()
		for range 120 {
			r.add(1, "entry").publish()
			wait(time.Second)
			if size, by := r.witnessed(); r.size-size > 21 || by != "w1 w3" {
				t.Fatalf("of %d entries %d are witnessed by %q", r.size, size, by)
			}
		}
		if n := len(r.neighbours[0].times()); n > 13 {
			t.Errorf("a witness was asked %d times in two minutes", n)
		}
		r.neighbours[1].now("")
		wait(6 * time.Minute)
		r.want(121, "w1 w2 w3")
		r.stop()
	})
}

// TestWitnessesThatAreNeverThereTogether are shown the same checkpoint all the
// same, though the log has another one each second.
func TestWitnessesThatAreNeverThereTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedRig(t, newTestLog(t).add(1, "entry").publish())
		r.neighbours[2].now("down")
		r.start()
		for second := range 600 {
			here, away := r.neighbours[0], r.neighbours[1]
			if second/20%2 == 1 {
				here, away = away, here
			}
			here.now("")
			away.now("down")
			r.add(1, "entry").publish()
			wait(time.Second)
		}
		if size, by := r.witnessed(); r.size-size > 120 || by != "w1 w2" {
			t.Errorf("of %d entries %d are witnessed by %q", r.size, size, by)
		}
		r.stop()
	})
}

// TestWithoutAQuorumNothingIsKept, and a slow log waits for the second witness.
func TestWithoutAQuorumNothingIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedRig(t, newTestLog(t).add(1, "entry").publish())
		r.neighbours[0].now("down")
		r.neighbours[1].now("sick")
		r.start()
		for range 60 {
			r.add(1, "entry").publish()
			wait(time.Second)
		}
		r.want(0, "")
		r.neighbours[1].now("")
		wait(6 * time.Minute)
		r.want(61, "w2 w3")
		var failed []string
		for _, s := range r.f.Standings() {
			failed = append(failed, s.Name+" "+s.Failed)
		}
		if want := []string{"w1 the witness does not answer", "w2 ", "w3 "}; !slices.Equal(failed, want) {
			t.Errorf("standings: %q, want %q", failed, want)
		}
		r.stop()
	})
}

func TestAWitnessThatFailsIsAskedEverLessOften(t *testing.T) {
	for _, does := range []string{"down", "sick"} {
		synctest.Test(t, func(t *testing.T) {
			r := newFeedRig(t, newTestLog(t).add(1, "entry").publish())
			r.neighbours[0].now(does)
			r.start()
			wait(time.Hour)
			at := r.neighbours[0].times()
			if n := len(at); n < 12 || n > 20 {
				t.Errorf("%s: it was asked %d times in an hour", does, n)
			}
			r.stop()
		})
	}
}

// TestALogThatWasRolledBack is told once by each witness, and once more when it
// is whole again; a restart between forgets nothing.
func TestALogThatWasRolledBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t).add(300, "entry")
		whole := l.fork().add(20, "entry")
		whole.dir = l.dir
		whole.publish()
		r := newFeedRig(t, whole)
		r.start()
		wait(time.Second)
		r.want(320, "w1 w2 w3")

		l.publish()
		wait(10 * time.Minute)
		r.wantTold(3, "it has cosigned 320 entries, and this log has 300")
		l.add(40, "another entry").publish()
		wait(10 * time.Minute)
		r.wantTold(3, "it has cosigned 320 entries, and this log has 300")
		if n := len(r.f.Contradictions()); n != 3 {
			t.Errorf("%d contradictions stand, want 3", n)
		}
		r.stop()
		r.start()
		wait(10 * time.Minute)
		r.wantTold(3, "it has cosigned 320 entries, and this log has 300")
		if n := len(r.f.Contradictions()); n != 3 {
			t.Errorf("%d contradictions stand after a restart, want 3", n)
		}

		whole.add(5, "entry").publish()
		wait(10 * time.Minute)
		r.want(325, "w1 w2 w3")
		r.wantTold(6, "")
		if n := len(r.f.Contradictions()); n != 0 {
			t.Errorf("%d contradictions stand, want none", n)
		}
		r.stop()
	})
}

// TestALogThatSplit: it grew on as another one, or is another of the same size.
func TestALogThatSplit(t *testing.T) {
	for what, more := range map[string]int{"it finds that the 11 entries of this log are not what the 10 it cosigned became": 11, "it has cosigned another tree of 10 entries": 10} {
		synctest.Test(t, func(t *testing.T) {
			r := newFeedRig(t, newTestLog(t).add(10, "entry").publish())
			r.start()
			wait(time.Second)
			r.stop()
			split := newTestLog(t).add(more, "another entry")
			split.signers, split.dir = r.signers, r.dir
			split.publish()
			r.start()
			wait(time.Minute)
			r.wantTold(3, what)
			r.stop()
		})
	}
}

// TestWhatCouldNotBeToldIsToldAgain.
func TestWhatCouldNotBeToldIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedRig(t, newTestLog(t).add(10, "entry").publish())
		r.start()
		wait(time.Second)
		r.stop()
		tell, tries := r.cfg.Told, 0
		r.cfg.Told = func(c Contradiction) error {
			if tries++; tries <= 3 {
				return errors.New("the log is down")
			}
			return tell(c)
		}
		split := newTestLog(t).add(10, "another entry")
		split.signers, split.dir = r.signers, r.dir
		split.publish()
		r.start()
		wait(time.Hour)
		r.wantTold(3, "it has cosigned another tree of 10 entries")
		r.stop()
	})
}

// TestSomeoneElseMayShowALog: a witness that is ahead of the round, but not of
// the log, contradicts nothing.
func TestSomeoneElseMayShowALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedRig(t, newTestLog(t).add(10, "entry").publish())
		r.neighbours[1].now("down")
		r.neighbours[2].now("down")
		r.start()
		wait(time.Second) // the round of ten entries goes on
		r.add(10, "entry").publish()
		if _, err := r.neighbours[1].Cosign(r.request(0, 20)); err != nil {
			t.Fatal(err)
		}
		r.neighbours[1].now("")
		wait(10 * time.Minute)
		r.want(20, "w1 w2")
		if told := r.tales(); len(told) != 0 {
			t.Errorf("told %+v", told)
		}
		r.stop()
	})
}

// TestARestartGoesOn where each witness was, and asks nobody again.
func TestARestartGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedRig(t, newTestLog(t).add(10, "entry").publish())
		r.start()
		wait(time.Second)
		r.stop()
		r.start()
		wait(time.Hour)
		r.add(10, "entry").publish()
		wait(time.Minute)
		r.stop()
		for _, n := range r.neighbours {
			var olds []int64
			for _, a := range n.times() {
				olds = append(olds, a.old)
			}
			if !slices.Equal(olds, []int64{0, 10}) {
				t.Errorf("asked from %v, want from 0 and 10", olds)
			}
		}
		r.want(20, "w1 w2 w3")

		// Without the state the witness says where it is.
		if err := os.RemoveAll(r.cfg.State); err != nil {
			t.Fatal(err)
		}
		r.add(10, "entry").publish()
		r.start()
		wait(time.Minute)
		r.want(30, "w1 w2 w3")
		r.stop()
	})
}

func TestAStateThatIsNoneIsBegunAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for _, content := range []string{"", "{", `{"witness":"other","logs":{"a":{"size":5}}}`, `{"witness":"w","logs":{"a":null}}`, `{"witness":"w","logs":{"a":{"size":-5}}}`, `[]`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if s := loadState(path, "w"); s.size("a") != 0 {
			t.Errorf("%q: size %d", content, s.size("a"))
		}
	}
}

// TestALogKeyRotates: the successor signs beside its predecessor until every
// witness has cosigned what it signed alone.
func TestALogKeyRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedRig(t, newTestLog(t).add(10, "entry").publish())
		old := r.key()
		r.start()
		wait(time.Minute)
		if !r.f.Answered(old.id()) {
			t.Error("nobody knows the log's only key")
		}
		next := newLogKey(t)
		r.signers = []note.Signer{next, old}
		for i, n := range r.neighbours {
			r.publish() // in both hands, with nothing new in it
			wait(10 * time.Minute)
			if r.f.Answered(next.id()) {
				t.Errorf("after %d of 3 witnesses learned the successor it is known to all", i)
			}
			n.cfg.Logs = append(n.cfg.Logs, next.verifier(t))
		}
		r.add(1, "entry").publish()
		wait(10 * time.Minute)
		r.want(11, "w1 w2 w3")
		if !r.f.Answered(next.id()) {
			t.Error("every witness knows the successor, and it is not said")
		}
		r.stop()
		r.start()
		synctest.Wait()
		if !r.f.Answered(next.id()) {
			t.Error("it is forgotten after a restart")
		}
		r.stop()
	})
}

// TestTilesThatDoNotFitAreNotShown: no proof comes from them.
func TestTilesThatDoNotFitAreNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedRig(t, newTestLog(t).add(300, "entry").publish())
		r.start()
		wait(time.Second)
		r.add(10, "entry").publish()
		r.write("tile/0/001.p/54", bytes.Repeat([]byte{1}, 54*32))
		wait(time.Minute)
		r.want(300, "w1 w2 w3")
		if s := r.f.Standings()[0]; !strings.Contains(s.Failed, "reading the tree of 300 entries") || s.Contradicts != "" {
			t.Errorf("standing: %+v", s)
		}
		r.publish()
		wait(10 * time.Minute)
		r.want(310, "w1 w2 w3")
		r.stop()
	})
}

func TestWhatCannotBeFed(t *testing.T) {
	p := AllOf([]audit.WitnessKey{newCosigner(t, "w").Key})
	whole := Config{Dir: "d", Policy: p, State: t.TempDir(), Keep: func(string, []byte) error { return nil }}
	for want, change := range map[string]func(*Config){
		"witness w1: \"\" is no submission prefix": func(*Config) {},
		"without a log": func(c *Config) { c.Dir = "" },
		"a policy":      func(c *Config) { c.Policy = nil },
		"their state":   func(c *Config) { c.State = "" },
		"they cosign":   func(c *Config) { c.Keep = nil },
	} {
		cfg := whole
		change(&cfg)
		if _, err := NewFeeder(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

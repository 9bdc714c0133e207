package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// node returns one that may serve until a lease ends; zero: without an end.
func node(name string, lease time.Duration) keystore.Node {
	n := keystore.Node{Name: name, Epoch: 1, EnrolledAt: start, SeenAt: start}
	if lease != 0 {
		n.SignsUntil, n.PublishesUntil = at(lease), at(lease)
	}
	return n
}

func stoppedNode(name string, when time.Duration) keystore.Node {
	n := node(name, time.Hour)
	n.StoppedAt = at(when)
	return n
}

// acked returns ks with what nodes have said of a version.
func acked(ks *keystore.KeySet, version int, nodes map[string]time.Duration) *keystore.KeySet {
	v, _ := ks.Version(version)
	for name, when := range nodes {
		ks.Acks = append(ks.Acks, keystore.Ack{Node: name, Version: version, At: at(when)})
		v.ServedAt = later(v.ServedAt, at(when))
	}
	return ks
}

// TestActivationWaitsForEveryNode shows rules 1 and 5: a version signs A + S
// after the last node said that it serves it, or could serve a set without it no
// more. fast has A = 4 s and S = 1 s.
func TestActivationWaitsForEveryNode(t *testing.T) {
	const s = time.Second
	successor := func(nodes map[string]time.Duration) *keystore.KeySet {
		ks := acked(lives(fast, active(0), unserved()), 1, map[string]time.Duration{"a": 0, "b": 0})
		return acked(ks, 2, nodes)
	}
	both := []keystore.Node{node("a", time.Hour), node("b", time.Hour)}
	for _, c := range []struct {
		name  string
		set   *keystore.KeySet
		nodes []keystore.Node
		now   time.Duration
		step  string
		why   string
		at    time.Duration // -1: no known time
	}{
		{"both have said so", successor(map[string]time.Duration{"a": s, "b": 3 * s}), both, 8 * s, "activate 2", "12:00:08", 8 * s},
		{"it counts from the last of them", successor(map[string]time.Duration{"a": s, "b": 3 * s}), both, 7 * s, "-", "rule 1: caches", 8 * s},
		{"one has not", successor(map[string]time.Duration{"a": s}), both, 30 * s, "-", "node b has not said", 3605 * s},
		{"neither has", successor(nil), both, 30 * s, "-", "no node has said", -1},
		{"one that has not stopped properly", successor(map[string]time.Duration{"a": s}), []keystore.Node{node("a", time.Hour), stoppedNode("b", 4*s)}, 8 * s, "-", "rule 1: caches", 9 * s},
		{"and A + S after its stop", successor(map[string]time.Duration{"a": s}), []keystore.Node{node("a", time.Hour), stoppedNode("b", 4*s)}, 9 * s, "activate 2", "", 9 * s},
		{"one is cut off, and its lease ends", successor(map[string]time.Duration{"a": s}), []keystore.Node{node("a", time.Hour), node("b", 10*s)}, 14 * s, "-", "rule 1: caches", 15 * s},
		{"and A + S after that", successor(map[string]time.Duration{"a": s}), []keystore.Node{node("a", time.Hour), node("b", 10*s)}, 15 * s, "activate 2", "", 15 * s},
		{"one without leases that has not said so", successor(map[string]time.Duration{"a": s}), []keystore.Node{node("a", 0), node("b", 0)}, time.Hour, "-", "node b has not said", -1},
		{"one that joined later", successor(map[string]time.Duration{"a": s, "b": s}), append(both, node("c", time.Hour)), 30 * s, "-", "node c has not said", 3605 * s},
		{
			"the first version waits for every node, and for nothing more",
			acked(lives(fast, unserved()), 1, map[string]time.Duration{"a": 0}), both, 30 * s, "-", "node b has not said", 3600 * s,
		},
		{
			"the first version, when every node serves it",
			acked(lives(fast, unserved()), 1, map[string]time.Duration{"a": 0, "b": 2 * s}), both, 2 * s, "activate 1", "first served", 2 * s,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := Facts{Set: c.set, Nodes: c.nodes, Self: "a", Rotate: &keystore.Fact{At: start, By: "olga", Reason: "drill"}}
			step, why := Plan(f, fast, at(c.now))
			if got := spell(step); got != c.step || !strings.Contains(why.Text, c.why) {
				t.Errorf("%s because %q, want %s because of %q", got, why.Text, c.step, c.why)
			}
			if want := at(c.at); c.at >= 0 && !why.At.Equal(want) || c.at < 0 && !why.At.IsZero() {
				t.Errorf("at %v, want %v", why.At, want)
			}
		})
	}
}

// A key that one node is making is nobody else's to look for, until that node
// may have gone.
func TestAPendingVersionIsItsMakersWhileItLives(t *testing.T) {
	set := lives(fast, active(0), pending())
	set.Versions[1].Maker = "b"
	nodes := []keystore.Node{node("a", time.Hour), node("b", 5*time.Second)}
	for _, c := range []struct {
		self string
		now  time.Duration
		want string
	}{
		{"a", 4 * time.Second, "-"},
		{"b", 4 * time.Second, "publish 2"},
		{"a", 5 * time.Second, "publish 2"},
		{"c", 4 * time.Second, "-"},
	} {
		step, why := Plan(Facts{Set: set, Nodes: nodes, Self: c.self}, fast, at(c.now))
		if spell(step) != c.want {
			t.Errorf("node %s after %v: %s because %s, want %s", c.self, c.now, spell(step), why, c.want)
		}
	}
}

// A node that started used to take a version whose key another one was making for
// one that a crash had left: it was abandoned, and its key an orphan on the token
// (spiffe/spire#5497). So did a node that was asked to rotate.
func TestAKeyThatAnotherNodeMakesIsLeftAlone(t *testing.T) {
	w := newWorld(t, fast)
	now := start
	w.catalog.now = func() time.Time { return now }
	w.catalog.nodes = []keystore.Node{node("a", 5*time.Second), node("b", time.Hour)}
	joined := func(name string) *Rotator {
		r := New(Config{Node: name, Shared: true, Catalog: w.catalog, Keys: w.token, Audit: w.catalog, Brake: w.pedal, Now: w.catalog.now})
		if err := r.Ensure(t.Context(), []Spec{w.spec}); err != nil {
			t.Fatal(err)
		}
		return r
	}
	a, b := joined("a"), joined("b")
	w.token.generate = func() error { return keystore.ErrUncertain } // it takes long
	s, _, _ := a.of("web")
	if _, err := a.locked(t.Context(), "web", s); !errors.Is(err, keystore.ErrUncertain) {
		t.Fatal(err)
	}
	if found, err := b.Reconcile(t.Context(), ""); err != nil || found.Err() != nil || len(found.Mismatches) != 0 {
		t.Errorf("compared while it is made: %+v, %v", found, err)
	}
	if _, err := b.Rotate(t.Context(), Request{By: "olga", KeySet: "web", Reason: "drill"}); !errors.Is(err, keystore.ErrOvertaken) {
		t.Errorf("asked to rotate while it is made: %v", err)
	}
	w.want(t, "1 pending")

	now = at(5 * time.Second) // a may be gone
	if found, err := b.Reconcile(t.Context(), ""); err != nil || len(found.Mismatches) != 1 || found.Mismatches[0].Kind != KeyFinished {
		t.Errorf("compared after its lease: %+v, %v", found, err)
	}
	w.want(t, "1 abandoned")
}

// TestRealTime shows rule 9: what cannot be taken back waits for as much real
// time as the clock says has passed.
func TestRealTime(t *testing.T) {
	set := lives(fast, retiring(0, at(10*time.Second)), active(0))
	until, ok := keptUntil(set, fast, &set.Versions[0], at(time.Hour))
	if !ok {
		t.Fatal("it is kept for ever")
	}
	kept := until.Sub(at(0))
	for _, c := range []struct {
		name  string
		clock Clock
		now   time.Duration
		want  string
		at    time.Duration
	}{
		{"a clock that was always steady", Clock{}, kept, "remove 1", kept},
		{"steady from when it stopped", Clock{Steady: at(0)}, kept, "remove 1", kept},
		{"the clock became steady later: the time counts from there", Clock{Steady: at(7 * time.Second)}, kept + 6*time.Second, "-", kept + 7*time.Second},
		{"and is over", Clock{Steady: at(7 * time.Second)}, kept + 7*time.Second, "remove 1", kept + 7*time.Second},
		{"after a restart, held against a reference", Clock{Steady: at(time.Hour), Synchronised: true}, time.Hour, "remove 1", kept},
		{"after a restart a year later, with nothing to hold it against", Clock{Steady: at(8760 * time.Hour)}, 8760 * time.Hour, "-", 8760*time.Hour + kept},
	} {
		t.Run(c.name, func(t *testing.T) {
			step, why := Plan(Facts{Set: set, Clock: c.clock}, Schedule{Lease: fast.Lease, Skew: fast.Skew, CacheFor: fast.CacheFor, Lifetime: fast.Lifetime}, at(c.now))
			if spell(step) != c.want || !why.At.Equal(at(c.at)) {
				t.Errorf("%s at %v because %q, want %s at %v", spell(step), why.At.Sub(start), why.Text, c.want, c.at)
			}
		})
	}
}

// A window is over only when real time is: what a clock that was stepped says of
// leases, acknowledgements and promises is counted anew from where it is steady.
func TestAWindowIsRealTime(t *testing.T) {
	const s = time.Second
	promised := func(lowered time.Duration) *keystore.KeySet {
		ks := acked(lives(fast, active(0), unserved()), 1, map[string]time.Duration{"a": 0, "b": 0})
		ks.Promises[0].CacheFor = 20 * s
		low := ks.Promises[0]
		low.At, low.CacheFor = at(lowered), 4*s
		ks.Promises = append(ks.Promises, low)
		return acked(ks, 2, map[string]time.Duration{"a": 10 * s, "b": 10 * s})
	}
	successor := acked(lives(fast, active(0), unserved()), 2, map[string]time.Duration{"a": s})
	successor.Acks = append(successor.Acks, keystore.Ack{Node: "b", Version: 1, At: start})
	for _, c := range []struct {
		name  string
		set   *keystore.KeySet
		nodes []keystore.Node
		clock Clock
		at    time.Duration
	}{
		{"a clock that was always steady", successor, []keystore.Node{node("a", 0)}, Clock{}, 6 * s},
		{"one that was stepped after the acknowledgement", successor, []keystore.Node{node("a", 0)}, Clock{Steady: at(3600 * s)}, 3605 * s},
		{"and one that is held against a reference", successor, []keystore.Node{node("a", 0)}, Clock{Steady: at(3600 * s), Synchronised: true}, 6 * s},
		{"a lease that the step has ended has not ended", successor, []keystore.Node{node("a", 0), node("b", 10*s)}, Clock{Steady: at(3600 * s)}, 3615 * s},
		{"a lowered A counts when the old one is over, + S", promised(0), nil, Clock{}, 21 * s},
		{"and when no node may send the old one any more", promised(0), []keystore.Node{node("a", 30*s), node("b", 30*s)}, Clock{}, 31 * s},
		{"in real time", promised(0), nil, Clock{Steady: at(9 * s)}, 30 * s},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := Facts{Set: c.set, Nodes: c.nodes, Self: "a", Clock: c.clock, Rotate: &keystore.Fact{At: start, By: "olga", Reason: "drill"}}
			_, why, ok := find(Waits(f, fast, at(11*s)), Activate)
			if !ok || !why.At.Equal(at(c.at)) {
				t.Errorf("at %v because %q, want %v", why.At.Sub(start), why.Text, c.at)
			}
		})
	}
}

// spell writes a step as the tables do.
func spell(s Step) string {
	if s == NoStep {
		return "-"
	}
	return fmt.Sprintf("%s %d", s.Kind, s.Version)
}

// What an operator should know of several nodes and many keys.
func TestAlarmsOfNodesAndMany(t *testing.T) {
	set := acked(lives(fast, active(0), unserved()), 2, map[string]time.Duration{"a": time.Second})
	set.Acks = append(set.Acks, keystore.Ack{Node: "b", Version: 1, At: start}, keystore.Ack{Node: "a", Version: 1, At: start})
	f := Facts{Set: set, Nodes: []keystore.Node{node("a", 0), node("b", 0)}}
	if got := strings.Join(Alarms(f, fast, at(2*time.Minute))[2], ", "); !strings.Contains(got, "not every node has said that it serves it: not b") {
		t.Errorf("a node that does not serve the successor: %q", got)
	}
	for _, known := range []int{manyKnown - 1, manyKnown} {
		set := lives(fast, append(many(known-1, retiring(0, at(time.Hour))), active(0))...)
		got := strings.Join(Alarms(Facts{Set: set}, fast, at(time.Second))[known], ", ")
		if told := strings.Contains(got, "versions are known"); told != (known >= manyKnown) {
			t.Errorf("%d known: %q", known, got)
		}
	}
}

// A node that had suspended a version suspended it again, by its brake, after an
// operator had resumed it on another node; and it did so later, when the suspension
// had been entered by that node, in its log.
func TestASuspensionLiftedElsewhereIsLetGo(t *testing.T) {
	for _, c := range []struct{ shared, elsewhere bool }{{false, false}, {true, false}, {true, true}} {
		shared, catalog, kept := c.shared, newMemory(time.Now), newPedal()
		var log Log = catalog
		if c.elsewhere {
			log = anothers{catalog}
		}
		r := New(Config{Catalog: catalog, Keys: newSoftware(), Audit: log, Brake: kept, Node: "a", Shared: shared})
		set := lives(fast, active(0))
		if _, err := catalog.Create(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		r.adopt([]Spec{{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: fast}})
		if _, err := r.Suspend(t.Context(), "olga", "web", "", "doubt"); err != nil {
			t.Fatal(err)
		}
		_, err := catalog.Update(t.Context(), "web", -1, func(_ keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			ks.Versions[0].Suspended = nil
			return []keystore.Record{{Action: keystore.ActResume}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		v, _ := catalog.set("web").Active()
		if braked := r.isBraked(v.KID); braked == shared || (v.Suspended == nil) != shared {
			t.Errorf("%+v: suspended %v, braked %v", c, v.Suspended, braked)
		}
		r.Wait()
	}
}

// A suspension that was asked for on a node whose brake still kept an earlier one,
// which another node had resumed, was answered as in force, and let go of with the
// earlier one.
func TestASuspensionAfterAResumptionElsewhereStays(t *testing.T) {
	now := start
	catalog, kept := newMemory(func() time.Time { return now }), newPedal()
	r := New(Config{Catalog: catalog, Keys: newSoftware(), Audit: catalog, Brake: kept, Node: "a", Shared: true, Now: func() time.Time { return now }})
	defer r.Wait()
	if _, err := catalog.Create(t.Context(), lives(fast, active(0))); err != nil {
		t.Fatal(err)
	}
	r.adopt([]Spec{{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: fast}})
	suspend := func() Suspension {
		t.Helper()
		now = now.Add(time.Second)
		s, err := r.Suspend(t.Context(), "olga", "web", "", "doubt")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := suspend()
	_, err := catalog.Update(t.Context(), "web", -1, func(_ keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		ks.Versions[0].Suspended = nil
		return []keystore.Record{{Action: keystore.ActResume}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	again := suspend()
	if !again.Suspended || !again.Durable || again.Entry == "" || again.Entry == first.Entry {
		t.Errorf("suspended again: %+v, at first %+v", again, first)
	}
	if err := r.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	v, _ := catalog.set("web").Active()
	if v.Suspended == nil || !v.Suspended.At.Equal(now) || !r.isBraked(v.KID) {
		t.Errorf("suspended %v at %v, braked %v", v.Suspended, now, r.isBraked(v.KID))
	}
}

// A version that another node had suspended, and that was suspended here once more,
// was suspended again by the brake of this node after that one had resumed it.
func TestASuspensionOfWhatAnotherNodeSuspendedIsLiftedWithIt(t *testing.T) {
	now := start
	catalog, kept := newMemory(func() time.Time { return now }), newPedal()
	r := New(Config{Catalog: catalog, Keys: newSoftware(), Audit: catalog, Brake: kept, Node: "a", Shared: true, Now: func() time.Time { return now }})
	defer r.Wait()
	if _, err := catalog.Create(t.Context(), lives(fast, active(0))); err != nil {
		t.Fatal(err)
	}
	r.adopt([]Spec{{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: fast}})
	elsewhere := func(f func(ks *keystore.KeySet, v *keystore.Version) keystore.Record) {
		t.Helper()
		now = now.Add(time.Second)
		_, err := catalog.Update(t.Context(), "web", -1, func(_ keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			return []keystore.Record{f(ks, &ks.Versions[0])}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	elsewhere(func(ks *keystore.KeySet, v *keystore.Version) keystore.Record {
		v.Suspended = &keystore.Fact{At: now, By: "paul", Reason: "doubt"}
		return factRecord(ks, v, keystore.ActSuspend, *v.Suspended)
	})
	now = now.Add(time.Second)
	if s, err := r.Suspend(t.Context(), "olga", "web", "", "doubt, too"); err != nil || !s.Suspended || s.Entry == "" {
		t.Fatalf("%+v, %v", s, err)
	}
	if v, _ := catalog.set("web").Active(); !r.isBraked(v.KID) {
		t.Error("the brake does not keep it")
	}
	elsewhere(func(ks *keystore.KeySet, v *keystore.Version) keystore.Record {
		v.Suspended = nil
		return keystore.Record{Action: keystore.ActResume}
	})
	if err := r.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v, _ := catalog.set("web").Active(); v.Suspended != nil || r.isBraked(v.KID) {
		t.Errorf("suspended %+v, braked %v", v.Suspended, r.isBraked(v.KID))
	}
}

// anothers is the log of a node whose steps another node enters.
type anothers struct{ Log }

func (anothers) Find(context.Context, string) (audit.Receipt, bool, error) {
	return audit.Receipt{}, false, nil
}

// A token that a node signed by its old snapshot, within the lease of a version
// that had just stopped, for a lifetime that had just been raised, was rejected:
// what the version may have signed was counted by the lifetimes of before its stop.
func TestALifetimeRaisedWithinTheLeaseCounts(t *testing.T) {
	sch := fast
	sch.Lease = 2 * time.Second
	longer := sch
	longer.Lifetime = 3 * sch.Lifetime
	for _, c := range []struct {
		after time.Duration // the version's stop
		want  time.Duration
	}{{sch.Lease, longer.Lifetime}, {sch.Lease + time.Microsecond, sch.Lifetime}} {
		set := lives(sch, retiring(10*time.Second, at(40*time.Second)), active(10*time.Second))
		next, changed := reconfigured(set, Spec{Name: "web", Algorithm: set.Algorithm, Keystore: set.Keystore, Schedule: longer}, at(10*time.Second+c.after))
		if got := next.Versions[0].MaxLifetime; !changed || got != c.want {
			t.Errorf("%v after its stop: the longest lifetime is %v, want %v", c.after, got, c.want)
		}
		if got := next.Versions[1].MaxLifetime; got != longer.Lifetime {
			t.Errorf("the active one: %v", got)
		}
	}
}

// Two nodes that are configured differently took steps by turns, each by windows
// that the other did not keep. The one that was started last is in force.
func TestANodeWithAnotherConfigurationTakesNoStep(t *testing.T) {
	now := start
	catalog, token := newMemory(func() time.Time { return now }), newSoftware()
	node := func(name string, change func(*Spec)) *Rotator {
		spec := Spec{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: fast,
			Announced: []keystore.Algorithm{keystore.ES256}}
		change(&spec)
		r := New(Config{Node: name, Shared: true, Catalog: catalog, Keys: token, Audit: catalog, Brake: newPedal(), Now: func() time.Time { return now }})
		if err := r.Ensure(t.Context(), []Spec{spec}); err != nil {
			t.Fatal(err)
		}
		return r
	}
	pass := func(r *Rotator) error {
		s, _, err := r.of("web")
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.locked(t.Context(), "web", s)
		return err
	}
	for name, change := range map[string]func(*Spec){
		"max_ttl":   func(s *Spec) { s.Schedule.Lifetime *= 2 },
		"cache_for": func(s *Spec) { s.Schedule.CacheFor *= 2 },
		"algorithm": func(s *Spec) { s.Algorithm = keystore.ES256 },
		"keystore":  func(s *Spec) { s.Keystore = "vault" },
	} {
		a := node("a", func(*Spec) {})
		if err := pass(a); err != nil {
			t.Errorf("%s: alone: %v", name, err)
		}
		if err := a.Disagrees("web"); err != nil || a.Disagreeing() != 0 {
			t.Errorf("%s: alone, readiness tells %v", name, err)
		}
		node("b", change)
		if err := pass(a); !errors.Is(err, ErrDisagree) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: the node with the old configuration: %v", name, err)
		}
		if _, err := a.Rotate(t.Context(), Request{By: "olga", KeySet: "web", Reason: "drill"}); !errors.Is(err, ErrDisagree) {
			t.Errorf("%s: a rotation asked of it: %v", name, err)
		}
		if o, err := a.Outlook(t.Context(), "web"); err != nil || !strings.Contains(o.Next.Text, "held up") || !strings.Contains(o.Next.Text, name) {
			t.Errorf("%s: what it says of the next step: %q, %v", name, o.Next.Text, err)
		}
		if err := a.Disagrees("web"); !errors.Is(err, ErrDisagree) || !strings.Contains(err.Error(), name) || a.Disagreeing() != 1 {
			t.Errorf("%s: readiness tells %v, and the metric %d", name, err, a.Disagreeing())
		}
		if _, err := a.Suspend(t.Context(), "olga", "web", catalog.set("web").Versions[0].KID, "doubt"); err != nil {
			t.Errorf("%s: stopping is easier than starting: %v", name, err)
		}
		a.Wait()
	}
}

// An earlier is a catalog that once shows what it was before.
type earlier struct {
	*memory
	view *keystore.View
}

func (e *earlier) View(ctx context.Context) (*keystore.View, error) {
	if v := e.view; v != nil {
		e.view = nil
		return v, nil
	}
	return e.memory.View(ctx)
}

// Of two nodes that were started on an empty catalog the one that came second did
// not start: the key sets were there.
func TestTwoNodesMakeTheSameKeySetsAtOnce(t *testing.T) {
	catalog := newMemory(time.Now)
	empty, err := catalog.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: fast}
	for i, c := range []Catalog{catalog, &earlier{catalog, empty}} {
		name := fmt.Sprint("node ", i+1)
		r := New(Config{Node: name, Shared: true, Catalog: c, Keys: newSoftware(), Audit: catalog, Brake: newPedal()})
		if err := r.Ensure(t.Context(), []Spec{spec}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if set := catalog.set("web"); set == nil || len(set.Promises) != 1 {
		t.Errorf("the key set: %+v", set)
	}
}

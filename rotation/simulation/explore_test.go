package simulation

import (
	"os"
	"slices"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

// tiny is a schedule whose times are small multiples of a second, so that every
// order of events is within a few steps of time.
var tiny = Config{
	Schedule: rotation.Schedule{
		Every: 4 * time.Second, MaxAge: time.Second, CacheFor: 2 * time.Second,
		Skew: time.Second, Lifetime: 2 * time.Second, Lease: time.Second,
	},
	Publishing: 3 * time.Second,
}

// A move is what an exploration does at a time.
type move []Action

// moves are everything that may happen next in an exploration: time, whatever a
// node does by itself, a crash between any two of its durable acts, lost answers,
// nodes that are cut off, and what operators do.
func moves(nodes int) []move {
	all := []move{
		{{Advance, 0, int64(time.Second)}},
		{{Rotate, 0, 0}},
		{{RotateNow, 0, 0}},
		{{Suspend, 0, 0}}, {{Resume, 0, 0}},
		{{Configure, 0, 1}},                  // A and max-age halved
		{{Configure, 0, 4}},                  // L halved
		{{Configure, 0, 10}, {Reload, 1, 0}}, // another algorithm
		{{Configure, 0, 11}},                 // one that was not announced
		{{Verify, uint8(once), 0}, {Verify, uint8(patient), 0}},
	}
	both := move{{Advance, 0, int64(time.Second)}, {Refresh, 0, 0}}
	if nodes > 1 {
		both = append(both, Action{Refresh, 1, 0})
	}
	all = append(all, both)
	for i := range nodes {
		n := uint8(i)
		all = append(all,
			move{{Refresh, n, 0}, {Prove, n, 0}}, move{{Ack, n, 0}}, move{{Sign, n, 1}, {Release, n, 0}},
			move{{Pass, n, 0}}, move{{Pass, n, 1}},
			move{{Crash, n, 0}, {Start, n, 0}}, move{{Cut, n, 0}}, move{{Join, n, 0}},
		)
	}
	return all
}

// clockMoves are what may happen where clocks step: time, a rotation and all that it
// needs, clocks of nodes and of the catalog that are set, by less than S/2 and by
// more, and machines that start anew, which know nothing of their clock then.
func clockMoves(nodes int) []move {
	steps := []time.Duration{2 * time.Second, -2 * time.Second, 400 * time.Millisecond, 0}
	all := []move{
		{{Advance, 0, int64(time.Second)}},
		{{RotateNow, 0, 0}},
		{{Verify, uint8(once), 0}, {Verify, uint8(patient), 0}},
	}
	for _, step := range steps {
		all = append(all, move{{StepStore, 0, int64(step)}})
	}
	for i := range nodes {
		n := uint8(i)
		all = append(all,
			move{{Refresh, n, 0}, {Prove, n, 0}, {Ack, n, 0}}, move{{Sign, n, 1}, {Release, n, 0}},
			move{{Pass, n, 0}}, move{{Crash, n, 1}, {Start, n, 0}},
		)
		for _, step := range steps {
			all = append(all, move{{StepNode, n, int64(step)}})
		}
	}
	return all
}

// An exploration visits every world that so many moves lead to, each once.
type exploration struct {
	moves   []move
	visited map[uint64]int8 // how many moves were tried from there on
	taken   int64
	path    []move
	worlds  []*World // one for each move ahead, used again and again
	found   *Violation
}

// from explores so many moves from w on. It leaves w as it is.
func (x *exploration) from(w *World, moves int) {
	if moves == 0 || x.found != nil {
		return
	}
	for len(x.worlds) < moves {
		x.worlds = append(x.worlds, &World{})
	}
	next := x.worlds[moves-1]
	for _, m := range x.moves {
		next.become(w)
		for _, a := range m {
			next.Do(a)
		}
		x.taken++
		x.path = append(x.path, m)
		if next.violation != nil {
			x.found = next.violation
			return
		}
		if at := next.hash(); int(x.visited[at]) < moves {
			x.visited[at] = int8(moves)
			x.from(next, moves-1)
			if x.found != nil {
				return
			}
		}
		x.path = x.path[:len(x.path)-1]
	}
}

// beginnings are where explorations begin: the first version signs and verifiers
// have the set; its successor is published and one node has said so; the successor
// is about to sign; it has just begun to.
func beginnings(nodes int) [][]Action {
	var way []Action
	do := func(kinds ...Kind) {
		for n := range nodes {
			for _, k := range kinds {
				way = append(way, Action{k, uint8(n), 0})
			}
		}
	}
	var all [][]Action
	begin := func() { all = append(all, slices.Clone(way)) }
	pass := Action{Pass, 0, 0}
	do(Refresh)
	way = append(way, pass, pass, pass)
	do(Refresh, Prove, Ack)
	way = append(way, pass, Action{Fetch, uint8(once), 0}, Action{Fetch, uint8(patient), 0})
	do(Refresh)
	begin()
	way = append(way, pass, pass, pass, Action{Sign, 0, 1}, Action{Release, 0, 0}, Action{Ack, 0, 0})
	begin()
	do(Refresh, Prove, Ack)
	way = append(way, Action{Advance, 0, int64(tiny.Schedule.Every - time.Second)})
	do(Refresh)
	begin()
	way = append(way, Action{Advance, 0, int64(time.Second)})
	do(Refresh, Pass)
	begin()
	return all
}

// explore explores so many moves from every beginning.
func explore(t *testing.T, cfg Config, unsteady bool, depth int) (x *exploration, way []Action) {
	t.Helper()
	cfg, err := cfg.checked()
	if err != nil {
		t.Fatal(err)
	}
	x = &exploration{moves: moves(cfg.Nodes), visited: map[uint64]int8{}}
	if unsteady {
		x.moves = clockMoves(cfg.Nodes)
	}
	for i, begin := range beginnings(cfg.Nodes) {
		w := replay(cfg, unsteady, begin, nil)
		if v, ok := w.store.set.Active(); cfg.without == 0 && (!ok || v.Number != 1+i/3) {
			t.Fatalf("beginning %d: %+v", i, w.store.set.Versions)
		}
		if x.found = w.violation; x.found == nil {
			x.from(w, depth)
		}
		if x.found != nil {
			for _, m := range x.path {
				begin = append(begin, m...)
			}
			return x, begin
		}
	}
	return x, nil
}

// TestEveryWayIsSafe is the model check: every order of a few moves, of one node
// and of two, from several moments of a rotation. No rule is broken in any.
func TestEveryWayIsSafe(t *testing.T) {
	for _, c := range []struct {
		nodes       int
		unsteady    bool // the clocks
		depth, soak int
	}{{1, false, 5, 8}, {2, false, 4, 6}, {1, true, 6, 8}, {2, true, 4, 6}} {
		cfg := tiny
		cfg.Nodes = c.nodes
		if os.Getenv("CHANCERY_SOAK") != "" {
			c.depth = c.soak
		}
		x, way := explore(t, cfg, c.unsteady, c.depth)
		if x.found != nil {
			cfg, _ = cfg.checked()
			report(t, Report{Violation: x.found, Story: tell(cfg, c.unsteady, shrink(cfg, c.unsteady, way))})
		}
		t.Logf("%d nodes, clocks that step %v: %d worlds by %d moves, every order of %d: nothing is violated",
			c.nodes, c.unsteady, len(x.visited), x.taken, c.depth)
	}
}

// The model check bites: what two nodes may do wrong is among so few moves.
func TestSomeWayIsNot(t *testing.T) {
	for name, m := range map[string]struct {
		off      switched
		unsteady bool
	}{
		"rule 1": {offWindow, false}, "rule 2": {offRetention, false}, "rule 6": {offStopped, false}, "rule 7": {offGates, false},
		"rule 8": {offRowFirst, false}, "rule 9": {offNotBefore, false}, "rule 9, of clocks that step": {offClockGuard, true},
	} {
		cfg := tiny
		cfg.Nodes, cfg.without = 2, m.off
		x, way := explore(t, cfg, m.unsteady, 4)
		if x.found == nil {
			t.Errorf("%s is off, and nothing is violated in %d worlds", name, len(x.visited))
			continue
		}
		t.Logf("%s is off: %v, after %d actions, in world %d", name, x.found, len(way), len(x.visited))
	}
}

// become makes w a copy of another world.
func (w *World) become(other *World) {
	nodes, held := w.store.nodes[:0], w.held[:0]
	*w = *other
	w.store.nodes = append(nodes, other.store.nodes...)
	w.held = append(held, other.held...)
}

// A digest sums up a world. Times are relative to the world's own, and those
// that lie so far back that nothing goes by them any more are all the same.
type digest struct {
	sum uint64
	now time.Duration
}

func (d *digest) add(x uint64) {
	d.sum ^= x
	d.sum *= 0x9e3779b97f4a7c15
	d.sum ^= d.sum >> 29
}

func (d *digest) bool(x bool) {
	if x {
		d.add(1)
	} else {
		d.add(2)
	}
}

// longAgo is longer ago than anything counts in a tiny world.
const longAgo = 30 * time.Second

func (d *digest) span(at time.Duration) { d.add(uint64(max(at-d.now, -longAgo))) }

func (d *digest) time(t time.Time) {
	if t.IsZero() {
		d.add(3)
		return
	}
	d.span(t.Sub(epoch))
}

func (w *World) hash() uint64 {
	d := &digest{now: w.now}
	w.store.digest(d)
	for i := range w.cfg.Nodes {
		w.nodes[i].digest(d, w.store.set)
		if w.env.unsteady {
			w.nodes[i].clocks(d)
		}
	}
	d.add(uint64(w.store.slip))
	for i := range w.held {
		if s := &w.held[i]; s.until > w.now {
			s.digest(d)
			d.span(s.until)
		}
	}
	for k := 1; k <= w.keys; k++ {
		d.span(max(w.live[k], w.now))
		d.span(w.since.stopped[k])
	}
	for i := range w.verifiers {
		v := &w.verifiers[i]
		d.bool(v.has)
		d.add(uint64(v.set.keys))
		d.add(uint64(v.algs))
		d.span(max(v.until, w.now))
		d.span(max(v.most, w.now))
	}
	d.add(uint64(w.token))
	d.add(uint64(w.strays))
	d.bool(w.added)
	d.config(&w.spec)
	d.span(w.since.asked)
	d.span(w.since.suspended)
	return d.sum
}

func (d *digest) config(spec *rotation.Spec) {
	d.add(uint64(algorithmBit[spec.Algorithm]))
	d.add(uint64(len(spec.Keystore)))
	d.add(uint64(spec.Schedule.CacheFor))
	d.add(uint64(spec.Schedule.Lifetime))
	d.add(uint64(spec.Schedule.Every))
}

func (s *store) digest(d *digest) {
	d.set(s.set)
	d.time(s.last)
	for i := range s.nodes {
		n := &s.nodes[i]
		d.add(uint64(n.Name[0]))
		d.add(uint64(n.Epoch))
		d.time(n.SignsUntil)
		d.time(n.PublishesUntil)
		d.time(n.StoppedAt)
		d.bool(n.Forgotten != nil)
	}
}

func (d *digest) set(ks *keystore.KeySet) {
	if ks == nil {
		d.add(4)
		return
	}
	d.add(uint64(algorithmBit[ks.Algorithm]))
	d.bool(ks.ServedAt.IsZero())
	d.fact(ks.RotateBy)
	for _, p := range ks.Promises {
		d.time(p.At)
		d.add(uint64(p.CacheFor))
		d.add(uint64(p.MaxLifetime))
	}
	for _, a := range ks.Acks {
		d.add(uint64(a.Node[0]))
		d.add(uint64(a.Version))
		d.time(a.At)
	}
	for i := range ks.Versions {
		v := &ks.Versions[i]
		d.add(uint64(v.State))
		d.add(uint64(v.Number))
		d.add(uint64(v.KeyID[0]))
		d.add(uint64(algorithmBit[v.Algorithm])<<8 | uint64(v.Maker[0]))
		for _, t := range [...]time.Time{v.PublishedAt, v.ServedAt, v.ActivatedAt, v.StoppedAt, v.RetiredAt, v.DestroyedAt, v.ExpHorizon} {
			d.time(t)
		}
		d.add(uint64(v.MaxLifetime))
		d.fact(v.Suspended)
	}
}

func (d *digest) fact(f *keystore.Fact) {
	if f == nil {
		d.add(5)
		return
	}
	d.time(f.At)
}

func (n *node) digest(d *digest, latest *keystore.KeySet) {
	for _, b := range []bool{n.up, n.paused, n.cut, n.enrolled, n.doubt, n.behind, n.added, n.serving} {
		d.bool(b)
	}
	d.add(uint64(n.epoch))
	d.config(&n.spec)
	if d.bool(n.set == latest); n.set != latest {
		d.set(n.set)
	}
	d.span(n.readAt)
	d.add(uint64(n.proven))
	d.add(uint64(n.gone))
	d.add(uint64(n.braked))
	d.add(uint64(n.making.key)<<8 | uint64(n.making.stage))
	d.add(uint64(n.horizon.key))
	d.time(n.horizon.until)
	d.add(uint64(n.flight.key))
	d.span(n.flight.exp)
	if n.serving {
		n.served.digest(d)
	}
}

// clocks sums up what a node's clock says and what it knows of clocks.
func (n *node) clocks(d *digest) {
	for _, off := range []time.Duration{n.slip, n.trust, n.storeTrust, n.flight.slip} {
		d.add(uint64(off))
	}
	d.time(n.steady)
	d.bool(n.rebooted)
}

func (s *snapshot) digest(d *digest) {
	d.add(uint64(s.keys))
	d.add(uint64(s.hold))
	d.add(uint64(s.maxAge))
	d.add(uint64(s.algs))
}

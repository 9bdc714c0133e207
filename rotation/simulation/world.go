package simulation

import (
	"fmt"
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

// maxNodes and maxKeys bound a world: sets of keys are bits of a word.
const (
	maxNodes = 3
	maxKeys  = 63
)

var nodeNames = [maxNodes]string{"a", "b", "c"}

// epoch is when a world begins.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A World is one key set, the nodes that sign and serve by it, and the verifiers
// out there, under clocks of their own. It changes by Do alone, and the same
// actions make the same world. The zero World is not one: see newWorld.
//
// Times without a clock are real time since the world began.
type World struct {
	cfg   Config
	env   environment
	now   time.Duration
	store store
	nodes [maxNodes]node
	spec  rotation.Spec // as the operators have written it
	added bool          // the configuration has the key set

	token     bits // the keys it holds
	tokenDown bool
	keys      int  // made so far, or tried
	strays    bits // keys whose row a failover lost
	rows      bits // keys that ever had a row

	verifiers [verifierKinds]verifier
	shared    response // what the cache between them holds

	held []snapshot // sets that are served no more and that caches hold still
	// live is until when some verifier takes what a key has signed for valid.
	live [maxKeys + 1]time.Duration

	since     since
	engine    engine
	spans     []time.Duration // for chance to choose of
	steps     []time.Duration
	counts    Counts
	violation *Violation
	tell      func(format string, args ...any) // nil: nobody listens
}

// bits is a set of keys.
type bits uint64

func (b bits) has(key int) bool { return b>>key&1 != 0 }

// environment is how good the clocks of a world are. S covers all of it.
type environment struct {
	verifier time.Duration // how far a verifier's clock, leeway included, is off
	cache    time.Duration // how much longer than it should a cache holds a set
	unsteady bool          // clocks of nodes and catalog step
}

func (c Config) environment(unsteady bool) environment {
	if unsteady {
		return environment{verifier: c.Schedule.Skew / 4, cache: c.Schedule.Skew / 4, unsteady: true}
	}
	return environment{verifier: c.Schedule.Skew, cache: c.Schedule.Skew}
}

// newWorld returns a world in which nothing has happened yet: its nodes are up,
// its key set is configured and has no version. cfg has been checked.
func newWorld(cfg Config, unsteady bool) *World {
	w := &World{cfg: cfg, env: cfg.environment(unsteady), added: true, engine: newEngine(cfg), spans: spans(cfg), steps: steps(cfg)}
	w.spec = rotation.Spec{
		Name: "web", Purpose: cfg.Purpose, Algorithm: keystore.ES256, Keystore: "hsm",
		Announced: []keystore.Algorithm{keystore.EdDSA}, Schedule: cfg.Schedule,
	}
	w.store.set = rotation.NewSet(w.spec, epoch)
	w.store.seq = 1
	w.store.set.Revision = 1
	for i := range cfg.Nodes {
		w.nodes[i] = node{up: true, spec: w.spec, added: true}
	}
	for i := range w.verifiers {
		w.verifiers[i].kind = verifierKind(i)
	}
	return w
}

// leased reports whether the nodes have leases. One that holds the catalog alone
// has none.
func (w *World) leased() bool { return w.cfg.Nodes > 1 }

// at returns what a clock says that is off by slip.
func (w *World) at(slip time.Duration) time.Time { return epoch.Add(w.now + slip) }

// Do has one thing happen. After a violation nothing happens any more.
func (w *World) Do(a Action) {
	if w.violation != nil {
		return
	}
	w.counts.Events++
	n := int(a.Who) % w.cfg.Nodes
	if w.tell != nil {
		w.tell("%s", a)
	}
	switch a.Kind {
	case Advance:
		w.advance(w.now + time.Duration(a.Arg))
	case Wake:
		w.wake(n)
	case Linger:
		if nd := &w.nodes[n]; w.leased() && nd.set != nil {
			w.advance(nd.readAt + w.cfg.Schedule.Lease - time.Microsecond)
		}
	case Fetch:
		w.fetch(&w.verifiers[a.Who%uint8(verifierKinds)], int(a.Arg))
	case Verify:
		w.verify(&w.verifiers[a.Who%uint8(verifierKinds)], int(a.Arg))
	case StepStore, StoreDown, StoreUp, Failover, TokenDown, TokenUp, LoseKey:
		w.disturb(a)
	case Rotate, RotateNow, Suspend, Resume, Forget, Configure, Reload:
		w.operate(a, n)
	default:
		w.act(a, n)
	}
}

// act is what a node does, or what is done to it.
func (w *World) act(a Action, n int) {
	switch a.Kind {
	case Refresh:
		w.refresh(n)
	case Prove:
		w.prove(n)
	case Ack:
		w.acknowledge(n)
	case Sign:
		w.sign(n, a.Arg != 0)
	case Release:
		w.release(n)
	case Pass:
		w.pass(n, a.Arg == 1)
	case Crash:
		w.crash(n, a.Arg == 1)
	case Start:
		w.start(n)
	case Pause:
		w.pause(n)
	case Continue:
		w.goOn(n)
	case Cut:
		w.nodes[n].cut = true
	case Join:
		w.nodes[n].cut = false
	case Leave:
		w.leave(n)
	case StepNode:
		w.stepNode(n, time.Duration(a.Arg))
	}
}

// disturb is what happens to catalog and token.
func (w *World) disturb(a Action) {
	switch a.Kind {
	case StepStore:
		if w.env.unsteady && w.leased() {
			w.store.slip = time.Duration(a.Arg)
		}
	case StoreDown, StoreUp:
		w.store.down = a.Kind == StoreDown
	case Failover:
		w.failover()
	case TokenDown, TokenUp:
		w.tokenDown = a.Kind == TokenDown
	case LoseKey:
		for k := w.keys; k > 0; k-- {
			if w.token.has(k) {
				w.token &^= 1 << k
				break
			}
		}
	}
}

// advance has time pass until a moment. What a node may not serve any longer by
// then it has stopped serving in time.
func (w *World) advance(until time.Duration) {
	if until <= w.now {
		return
	}
	w.now = until
	if !w.leased() || w.cfg.without&offPublishingLease != 0 {
		return
	}
	for i := range w.cfg.Nodes {
		nd := &w.nodes[i]
		if end := nd.readAt + w.cfg.Publishing; nd.serving && w.now >= end {
			w.closeAt(i, end)
		}
	}
}

// wake has time pass until the next step that a node plans, as its loop does.
func (w *World) wake(n int) {
	nd := &w.nodes[n]
	if !w.works(n) || w.store.set == nil || nd.making.key != 0 {
		return
	}
	now := w.store.clock(w)
	var next time.Time
	for _, why := range w.engine.waits(w, n, w.store.set, w.facts(n, w.store.set), nd.spec.Schedule, now) {
		if why.At.After(now) && (next.IsZero() || why.At.Before(next)) {
			next = why.At
		}
	}
	if !next.IsZero() {
		w.advance(w.now + next.Sub(now))
	}
}

// A Violation is a rule that was broken.
type Violation struct {
	Rule int    // 0: what no rule has a number for
	Text string // what was broken, in words
}

func (v *Violation) String() string {
	if v.Rule == 0 {
		return v.Text
	}
	return fmt.Sprintf("rule %d: %s", v.Rule, v.Text)
}

// broken notes the first violation.
func (w *World) broken(rule int, format string, args ...any) {
	if w.violation == nil {
		w.violation = &Violation{Rule: rule, Text: fmt.Sprintf(format, args...)}
		w.say("VIOLATED: %s", w.violation)
	}
}

// say tells what became of an action.
func (w *World) say(format string, args ...any) {
	if w.tell != nil {
		w.tell("    "+format, args...)
	}
}

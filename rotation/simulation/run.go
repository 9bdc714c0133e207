package simulation

import (
	"context"
	"math/rand/v2"
	"time"
)

// Counts are how much of what there was.
type Counts struct {
	Events        int64 `json:"events"`
	Worlds        int64 `json:"worlds"`
	Rotations     int64 `json:"rotations"` // activations
	Removals      int64 `json:"removals"`
	Crashes       int64 `json:"crashes"`
	Failovers     int64 `json:"failovers"`     // that lost something
	Lost          int64 `json:"lost_answers"`  // commits whose outcome the node did not learn
	Tokens        int64 `json:"tokens"`        // released
	Sets          int64 `json:"sets"`          // served, each from when it changed
	Pairs         int64 `json:"pairs"`         // tokens held against sets that are served or cached
	Fetches       int64 `json:"fetches"`       // by verifiers
	Verifications int64 `json:"verifications"` // by verifiers, each of every version that has a live token
}

func (c *Counts) add(more Counts) {
	c.Events += more.Events
	c.Worlds++
	c.Rotations += more.Rotations
	c.Removals += more.Removals
	c.Crashes += more.Crashes
	c.Failovers += more.Failovers
	c.Lost += more.Lost
	c.Tokens += more.Tokens
	c.Sets += more.Sets
	c.Pairs += more.Pairs
	c.Fetches += more.Fetches
	c.Verifications += more.Verifications
}

// A Report is what a simulation found.
type Report struct {
	Counts
	// Violation is the first rule that was broken; nil: none was.
	Violation *Violation
	Seed      uint64
	Unsteady  bool     // the clocks of the world in which it was
	Actions   []Action // a short way from the beginning of that world to the violation
	Story     []string // that way, told
}

// eventsOfAWorld is how many events a world has before another one begins.
const eventsOfAWorld = 2000

// Simulate has so many events happen, in one world after the other, and returns
// at the first violation. The same cfg and seed give the same events. progress,
// if there is one, is called now and then. It returns an error if cfg cannot be
// simulated or ctx ends.
func Simulate(ctx context.Context, cfg Config, seed uint64, events int64, progress func(Counts)) (Report, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return Report{}, err
	}
	report := Report{Seed: seed}
	actions := make([]Action, 0, eventsOfAWorld)
	for number := uint64(0); report.Events < events; number++ {
		if err := ctx.Err(); err != nil {
			return report, context.Cause(ctx)
		}
		unsteady := number%2 == 1
		w := newWorld(cfg, unsteady)
		actions = chance{rand.New(rand.NewPCG(seed, number))}.live(w, min(eventsOfAWorld, events-report.Events), actions[:0])
		report.add(w.counts)
		if w.violation != nil {
			report.Unsteady = unsteady
			report.Violation = w.violation
			report.Actions = shrink(cfg, unsteady, actions)
			report.Story = tell(cfg, unsteady, report.Actions)
			return report, nil
		}
		if progress != nil && number%64 == 63 {
			progress(report.Counts)
		}
	}
	return report, nil
}

// chance is what happens in a world, at random.
type chance struct{ *rand.Rand }

// live has so many actions happen and returns them.
func (c chance) live(w *World, events int64, actions []Action) []Action {
	do := func(a Action) {
		if w.violation == nil && w.counts.Events < events {
			actions = append(actions, a)
			w.Do(a)
		}
	}
	for i := range w.cfg.Nodes { // a good beginning, most of the time
		if c.IntN(8) > 0 {
			do(Action{Refresh, uint8(i), 0})
		}
	}
	for w.violation == nil && w.counts.Events < events && w.keys < maxKeys {
		switch n := c.IntN(256); {
		case n < 40:
			c.round(w, do)
		case n < 64:
			c.well(w, do)
		case n < 72:
			do(c.trouble(w))
		case n < 80:
			do(c.operator(w))
		case n < 84:
			c.mend(w, do)
		default:
			do(c.common(w))
		}
	}
	return actions
}

// round is what a node that is well does all the time.
func (c chance) round(w *World, do func(Action)) {
	n := uint8(c.IntN(w.cfg.Nodes))
	do(Action{Refresh, n, 0})
	if c.IntN(4) == 0 {
		do(Action{Prove, n, 0})
	}
	do(Action{Ack, n, 0})
	do(Action{Pass, n, 0})
	do(Action{Sign, n, int64(c.IntN(2))})
	do(Action{Release, n, 0})
}

// mend ends what troubles the world, and what operators have stopped.
func (c chance) mend(w *World, do func(Action)) {
	if w.store.down {
		do(Action{StoreUp, 0, 0})
	}
	if w.tokenDown {
		do(Action{TokenUp, 0, 0})
	}
	if w.store.slip != 0 {
		do(Action{StepStore, 0, 0})
	}
	for i := range w.cfg.Nodes {
		nd, n := &w.nodes[i], uint8(i)
		if nd.behind {
			do(Action{Crash, n, 0})
		}
		for _, end := range [...]struct {
			kind     Kind
			troubled bool
		}{{Start, !nd.up}, {Continue, nd.paused}, {Join, nd.cut}, {StepNode, nd.slip != 0}} {
			if end.troubled {
				do(Action{end.kind, n, 0})
			}
		}
		do(Action{Refresh, n, 0})
		do(Action{Prove, n, 0})
	}
	if c.IntN(2) == 0 {
		do(Action{Resume, uint8(c.IntN(w.cfg.Nodes)), 0})
	}
	if !w.added {
		do(Action{Configure, 0, 0})
	}
	for i := range w.cfg.Nodes {
		do(Action{Reload, uint8(i), 0})
	}
}

// well is what happens when every node is: the next step comes due and is taken.
func (c chance) well(w *World, do func(Action)) {
	do(Action{Wake, uint8(c.IntN(w.cfg.Nodes)), 0})
	for i := range w.cfg.Nodes {
		do(Action{Refresh, uint8(i), 0})
	}
	for i := range w.cfg.Nodes {
		n := uint8(i)
		do(Action{Pass, n, 0})
		do(Action{Prove, n, 0})
		do(Action{Ack, n, 0})
		do(Action{Sign, n, int64(c.IntN(2))})
		do(Action{Release, n, 0})
	}
}

func (c chance) common(w *World) Action {
	n := uint8(c.IntN(w.cfg.Nodes))
	kind := []Kind{
		Advance, Advance, Advance, Wake, Wake, Linger, Refresh, Refresh, Prove, Ack, Ack, Sign, Sign, Release, Release,
		Pass, Pass, Pass, Pass, Fetch, Verify, Verify,
	}[c.IntN(22)]
	switch kind {
	case Advance:
		return Action{kind, 0, int64(c.span(w))}
	case Sign:
		return Action{kind, n, int64(c.IntN(2))}
	case Fetch, Verify:
		return Action{kind, uint8(c.IntN(int(verifierKinds))), int64(c.IntN(w.cfg.Nodes))}
	}
	return Action{kind, n, 0}
}

// spans are times that matter in a world.
func spans(cfg Config) []time.Duration {
	s := cfg.Schedule
	return []time.Duration{
		time.Microsecond, s.Lease / 2, s.Lease, s.Skew / 2, s.Skew, s.MaxAge, s.CacheFor / 3, s.CacheFor, s.CacheFor + s.Skew,
		s.Lifetime / 4, s.Lifetime, s.Lifetime + s.Skew + s.Lease, cfg.Publishing / 2, cfg.Publishing, s.Every / 4,
	}
}

// steps are how far off a clock may be, once it was stepped: not at all, by what
// nobody notices, or by more than S.
func steps(cfg Config) []time.Duration {
	s, l := cfg.Schedule.Skew, cfg.Schedule.Lifetime
	return []time.Duration{0, 0, s / 8, -s / 8, 3 * s, 3 * s, -3 * s, l + 2*s, l + 2*s, -l - 2*s, 9000 * time.Hour}
}

// span is a time that matters, or a little less.
func (c chance) span(w *World) time.Duration {
	d := pick(c, w.spans)
	if c.IntN(4) == 0 {
		d -= time.Microsecond
	}
	return max(d, time.Microsecond).Truncate(time.Microsecond)
}

func pick[T any](c chance, from []T) T { return from[c.IntN(len(from))] }

func (c chance) trouble(w *World) Action {
	n := uint8(c.IntN(w.cfg.Nodes))
	kind := []Kind{
		Crash, Start, Start, Pause, Continue, Continue, Cut, Join, Join, Leave, StepNode, StepStore,
		StoreDown, StoreUp, StoreUp, Failover, TokenDown, TokenUp, TokenUp, LoseKey, Pass, Start, Join, Continue,
	}[c.IntN(24)]
	switch kind {
	case Crash:
		return Action{kind, n, int64(c.IntN(2))}
	case StepNode, StepStore:
		return Action{kind, n, int64(pick(c, w.steps).Truncate(time.Microsecond))}
	case Pass:
		return Action{kind, n, 1}
	}
	return Action{kind, n, 0}
}

func (c chance) operator(w *World) Action {
	n := uint8(c.IntN(w.cfg.Nodes))
	kind := []Kind{Rotate, Rotate, RotateNow, Suspend, Resume, Resume, Forget, Configure, Configure, Reload, Reload, Reload}[c.IntN(12)]
	if kind == Configure {
		return Action{kind, n, int64(c.IntN(variants))}
	}
	return Action{kind, n, 0}
}

package clock

import (
	"errors"
	"time"
)

// SlewRate is how fast a clock may be brought in line without that being a step:
// 1000 millionths, twice what the kernel slews at. It is also how fast a step too
// small to count is forgotten.
const SlewRate = 1000e-6

// A Change is what a reading made of a Guard's state.
type Change uint8

// The changes.
const (
	NoChange Change = iota
	Stepped         // wall clock and boot time do not agree any more
	Settled         // they agree again
)

// A Guard says whether the wall clock agrees with the time since the boot. It is
// fed readings and reads nothing itself, so every question about time is a table
// test. It is not safe for concurrent use.
type Guard struct {
	skew  time.Duration
	kept  Anchor // of a former process; zero: none
	begun bool   // a reading was fed

	bootID string
	boot   time.Duration // of the last reading
	seen   time.Time     // its origin
	sync   Sync

	agreed time.Time // the origin by the time that is agreed
	// floor: the agreed time is of a former boot, and all that is known is that it
	// has passed.
	floor   bool
	trouble bool
	since   time.Time // the agreed time at which the trouble was noticed
	steady  time.Time // since when both clocks have agreed; zero in trouble
}

// New returns a Guard for the smallest skew S that any verifier forgives. kept is
// what a former process knew; the zero Anchor makes it a first start.
func New(skew time.Duration, kept Anchor) *Guard { return &Guard{skew: skew, kept: kept} }

// Set changes the skew. It counts from the next reading on.
func (g *Guard) Set(skew time.Duration) { g.skew = skew }

// Feed takes a reading and returns what it changed. Readings are in the order in
// which they were made, about a second apart; one that is late is no step.
func (g *Guard) Feed(r Reading) Change {
	was := g.trouble
	if !g.begun {
		g.begin(r)
		was = false // a step that a former process knew of is told once more
	} else {
		g.follow(r)
	}
	g.sync = r.Synchronised
	apart := g.apart(r.origin())
	switch {
	case apart && !g.trouble:
		g.trouble, g.since, g.steady = true, g.agreed.Add(r.Boot), time.Time{}
	case !apart && g.trouble:
		g.settle(r)
		return Settled
	}
	if g.trouble && !was {
		return Stepped
	}
	return NoChange
}

// begin compares the first reading with what a former process kept.
func (g *Guard) begin(r Reading) {
	g.begun, g.bootID = true, r.BootID
	origin := r.origin()
	switch {
	case g.kept == Anchor{}:
		g.boot, g.seen, g.agreed, g.steady = r.Boot, origin, origin, r.Wall
	case g.kept.BootID == r.BootID && g.kept.Boot <= r.Boot:
		g.agreed = g.kept.Wall.Add(-g.kept.Boot)
		g.boot, g.seen, g.steady = g.kept.Boot, g.agreed, g.kept.Steady
		g.trouble = g.steady.IsZero()
		g.since = g.agreed.Add(r.Boot)
		g.follow(r)
	default:
		g.boot, g.seen, g.agreed, g.floor = r.Boot, origin, g.kept.Wall, true // this boot came after it
		if !g.apart(origin) {
			g.agreed, g.floor, g.steady = origin, false, r.Wall
		}
	}
}

// follow moves the agreed time after the wall clock, at SlewRate at most: to
// where it is now if it was slewed there, and otherwise to where it was before
// this reading, so that a step counts whole. In trouble it stays: a step does not
// become right by waiting.
func (g *Guard) follow(r Reading) {
	origin := r.origin()
	budget := time.Duration(SlewRate * float64(max(0, r.Boot-g.boot)))
	if !g.trouble {
		target := g.seen
		if origin.Sub(g.seen).Abs() <= budget {
			target = origin
		}
		g.agreed = g.agreed.Add(min(budget, max(-budget, target.Sub(g.agreed))))
	}
	g.seen, g.boot = origin, max(g.boot, r.Boot)
}

// apart reports whether the wall clock is more than S/2 from the agreed time.
func (g *Guard) apart(origin time.Time) bool {
	off := origin.Sub(g.agreed)
	return off < -g.skew/2 || off > g.skew/2 && !g.floor
}

// settle ends the trouble at r.
func (g *Guard) settle(r Reading) {
	if g.floor {
		g.agreed, g.floor = r.origin(), false
	}
	g.trouble, g.steady = false, r.Wall
}

// Agrees reports whether a reading between two that are fed agrees as well, so
// that whoever is about to go by the clock need not wait for the next one. It
// changes nothing.
func (g *Guard) Agrees(r Reading) bool { return g.begun && !g.trouble && !g.apart(r.origin()) }

// Time returns the time to go by: the wall clock's, or while that does not agree
// the one there would be had it not been stepped, so that no certificate and no
// schedule runs out by the step. After a reboot it is no later than the true time.
func (g *Guard) Time(r Reading) time.Time {
	if !g.begun || g.Agrees(r) {
		return r.Wall
	}
	return g.agreed.Add(r.Boot)
}

// Offset returns how far the wall clock was from the agreed time when it was
// last read; forward is positive.
func (g *Guard) Offset() time.Duration { return g.seen.Sub(g.agreed) }

// Confirm makes the time that is offset from the agreed one the agreed time, from
// r on. It reports whether there was anything to confirm. A step that came after
// the offset was taken is noticed at the next reading.
func (g *Guard) Confirm(offset time.Duration, r Reading) bool {
	if !g.trouble {
		return false
	}
	g.agreed, g.floor = g.agreed.Add(offset), false
	g.settle(r)
	return true
}

// State returns since when both clocks have agreed and nil, or since when they
// have not and a *StepError.
func (g *Guard) State() (since time.Time, trouble error) {
	if !g.trouble {
		return g.steady, nil
	}
	return g.since, &StepError{Offset: g.Offset(), At: g.since, Reboot: g.floor}
}

// Steady returns the wall time since which, in this boot, both clocks have agreed
// without interruption, over restarts of the process too; the zero time in
// trouble. After a settlement and after a confirmation it begins anew.
func (g *Guard) Steady() time.Time { return g.steady }

// ErrUnsynchronised: the kernel does not say that anything keeps the wall clock
// right.
var ErrUnsynchronised = errors.New("the wall clock is not known to be synchronised")

// Unsynchronised returns nil, or an error wrapping ErrUnsynchronised if nothing
// keeps the wall clock right or nobody knows. Signing goes on meanwhile.
func (g *Guard) Unsynchronised() error {
	if g.sync == Synchronised {
		return nil
	}
	return &unsynchronisedError{g.sync}
}

// Anchor returns what the next process is to know. The wall time in it is the
// agreed one, so that a step is not taken for right by a restart.
func (g *Guard) Anchor() Anchor {
	if g.floor {
		return g.kept // of the boot in which it was agreed
	}
	return Anchor{BootID: g.bootID, Boot: g.boot, Wall: g.agreed.Add(g.boot), Steady: g.steady}
}

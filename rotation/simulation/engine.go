package simulation

import (
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

// A switched is a rule, or a part of one, that a world does without.
type switched uint32

// What can be switched off. The engine has no switches: it is rotation.Plan as
// it runs in the daemon. A rule of the engine's is off when the engine is not
// told what the rule goes by; a rule of a node's, when the nodes of the world do
// not keep it.
const (
	offWindow          switched = 1 << iota // 1: the engine takes A and S for nothing before an activation
	offRetention                            // 2: it takes what was signed for short-lived
	offPromises                             // 3: it is told of the last promise only
	offSigningLease                         // 4: nodes sign by any snapshot they have
	offNodes                                // 5: the engine is told of no nodes
	offPublishingLease                      // 5: nodes serve any snapshot they have
	offSuspension                           // 6: the engine is told of no suspension
	offStopped                              // 6: nodes sign with what is suspended
	offGates                                // 7: an operator's rotation is done as it is asked
	offProof                                // 8: no key has to show that it signs
	offAskAgain                             // 8: the plan is not asked again in the swap
	offRowFirst                             // 8: a key is made before its row is recorded
	offRealTime                             // 9: the engine is told that every clock is right
	offNotBefore                            // 9: nbf is iat
	offClockGuard                           // 9: nodes sign by any clock
	offIssued                               // 10: certificates are taken for tokens, which have horizons
	offListed                               // 11: any algorithm may follow
	offLostHorizons                         // 2: horizons count though a failover may lose them
)

// switches are those of each rule.
var switches = [...]switched{
	1: offWindow, 2: offRetention | offLostHorizons, 3: offPromises, 4: offSigningLease, 5: offNodes | offPublishingLease,
	6: offSuspension | offStopped, 7: offGates, 8: offProof | offAskAgain | offRowFirst,
	9: offRealTime | offNotBefore | offClockGuard, 10: offIssued, 11: offListed,
}

// An engine is what decides in a world: the real one, or one with a fault.
type engine struct {
	plan        func(w *World, n int, ks *keystore.KeySet, now time.Time) (rotation.Step, rotation.Why)
	reconfigure func(ks *keystore.KeySet, spec rotation.Spec, now time.Time) (*keystore.KeySet, bool, error)
	// activate and others are what the engine sees before it decides on those
	// steps; nil: all there is.
	activate, remove func(f rotation.Facts, sch rotation.Schedule) (rotation.Facts, rotation.Schedule)

	unproven bool // keys are not asked to sign before they are activated
	blind    bool // the plan is not asked again in the swap, and goes by the node's snapshot
	keyFirst bool // a key is made before its row is recorded
	eager    bool // an operator's rotation asks nobody
	partial  bool // a set is served though it lacks what is needed
}

func newEngine(cfg Config) engine {
	off := cfg.without
	e := engine{
		plan: planned, reconfigure: rotation.Reconfigure,
		activate: blindfold(off, offWindow|offPromises|offNodes|offSuspension|offProof|offRealTime),
		remove:   blindfold(off, offRetention|offPromises|offRealTime|offIssued),
		unproven: off&offProof != 0, blind: off&offAskAgain != 0, keyFirst: off&offRowFirst != 0, eager: off&offGates != 0,
	}
	if off&offListed != 0 {
		e.reconfigure = func(ks *keystore.KeySet, spec rotation.Spec, now time.Time) (*keystore.KeySet, bool, error) {
			spec.Announced = append(spec.Announced, ks.Announced...)
			was := ks.Algorithm
			ks = ks.Clone()
			ks.ServedAt = time.Time{} // as if nobody had read the list
			next, changed, err := rotation.Reconfigure(ks, spec, now)
			return next, changed || was != spec.Algorithm, err
		}
	}
	return e
}

// planned is what Plan returns, with the waits of w.
func planned(w *World, n int, ks *keystore.KeySet, now time.Time) (rotation.Step, rotation.Why) {
	f, sch := w.facts(n, ks), w.nodes[n].spec.Schedule
	if w.cfg.without == 0 {
		return rotation.Plan(f, sch, now)
	}
	for _, why := range w.engine.waits(w, n, ks, f, sch, now) {
		if !why.At.IsZero() && !why.At.After(now) {
			return why.Step, why
		}
	}
	return rotation.NoStep, rotation.Why{}
}

// sees returns the key set that a node decides by, before it swaps.
func (e *engine) sees(w *World, n int) *keystore.KeySet {
	if e.blind && w.nodes[n].set != nil {
		return w.nodes[n].set
	}
	return w.store.set
}

// waits returns what rotation.Waits does, of an engine that does not see what has
// been switched off.
func (e *engine) waits(w *World, n int, ks *keystore.KeySet, f rotation.Facts, sch rotation.Schedule, now time.Time) []rotation.Why {
	all := rotation.Waits(f, sch, now)
	all = e.instead(all, rotation.Activate, e.activate, f, sch, now)
	return e.instead(all, rotation.Remove, e.remove, f, sch, now)
}

// instead replaces the waits of one kind by those of who sees less.
func (e *engine) instead(all []rotation.Why, kind rotation.Kind, see func(rotation.Facts, rotation.Schedule) (rotation.Facts, rotation.Schedule), f rotation.Facts, sch rotation.Schedule, now time.Time) []rotation.Why {
	if see == nil {
		return all
	}
	var waits []rotation.Why
	for _, why := range all {
		if why.Step.Kind != kind {
			waits = append(waits, why)
		}
	}
	f, sch = see(f, sch)
	for _, why := range rotation.Waits(f, sch, now) {
		if why.Step.Kind == kind {
			waits = append([]rotation.Why{why}, waits...)
		}
	}
	return waits
}

// blindfold returns what takes away from an engine's facts what the rules that are
// off go by, of those that count; nil if none does.
func blindfold(off, count switched) func(rotation.Facts, rotation.Schedule) (rotation.Facts, rotation.Schedule) {
	off &= count
	if off == 0 {
		return nil
	}
	return func(f rotation.Facts, sch rotation.Schedule) (rotation.Facts, rotation.Schedule) {
		f.Set = f.Set.Clone()
		if off&offWindow != 0 {
			f.Set.Promises, sch.CacheFor, sch.Skew = nil, 0, 0
		}
		if off&offPromises != 0 {
			f.Set.Promises = f.Set.Promises[len(f.Set.Promises)-1:]
		}
		if off&offNodes != 0 {
			f.Nodes = nil
		}
		if off&offRealTime != 0 {
			f.Clock = rotation.Clock{}
		}
		if off&offRetention != 0 {
			sch.Lease, sch.Skew = 0, 0
		}
		if off&offIssued != 0 {
			f.Set.Purpose = keystore.PurposeJWT
		}
		for i := range f.Set.Versions {
			v := &f.Set.Versions[i]
			if off&offSuspension != 0 {
				v.Suspended = nil
			}
			if off&offRetention != 0 {
				v.MaxLifetime, v.ExpHorizon = 1, time.Time{}
			}
			if off&offProof != 0 && v.ServedAt.IsZero() {
				v.ServedAt, f.Nodes = v.PublishedAt, nil
			}
		}
		if off&offProof != 0 {
			f.Gone = nil
		}
		return f, sch
	}
}

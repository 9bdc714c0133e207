package simulation

import (
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

// facts are what a node plans by.
func (w *World) facts(n int, ks *keystore.KeySet) rotation.Facts {
	nd := &w.nodes[n]
	f := rotation.Facts{
		Set: ks, Nodes: w.store.nodes, Self: nodeNames[n],
		Clock: rotation.Clock{Steady: nd.steady, Synchronised: !w.env.unsteady},
	}
	if missing := nd.gone; missing != 0 {
		f.Gone = func(kid keystore.KID) string {
			if missing.has(keyNamed(kid)) {
				return "its key is not there"
			}
			return ""
		}
	}
	if nd.braked != 0 {
		f.Set = ks.Clone()
		for i := range f.Set.Versions {
			if v := &f.Set.Versions[i]; v.Suspended == nil && nd.braked.has(keyOf(v)) {
				v.Suspended = &keystore.Fact{At: w.store.clock(w), By: "olga"}
			}
		}
	}
	return f
}

// pass has a node take the next step that is due, or the next part of a
// generation: between two of them it can die.
func (w *World) pass(n int, lost bool) {
	nd := &w.nodes[n]
	if !nd.added || !w.writes(n) {
		return
	}
	w.watch(n)
	if !w.rightClock(n) {
		return // held: nothing goes by a clock that is wrong
	}
	if nd.making.key != 0 {
		w.make(n, lost)
		return
	}
	step, _ := w.engine.plan(w, n, w.engine.sees(w, n), w.store.clock(w))
	switch step.Kind {
	case rotation.Generate:
		w.pend(n, lost)
	case rotation.Publish:
		w.finish(n, step, lost)
	case rotation.Activate:
		if w.engine.unproven || w.find(n, step.Version) {
			w.swap(n, step, lost)
		}
	case rotation.Remove:
		w.swap(n, step, lost)
	}
}

// swap takes a step in one swap, in which the plan is asked again.
func (w *World) swap(n int, step rotation.Step, lost bool) {
	w.commit(n, !lost, func(ks *keystore.KeySet, now time.Time) bool {
		again, why := step, rotation.Why{}
		if !w.engine.blind {
			again, why = w.engine.plan(w, n, ks, now)
		}
		if again != step {
			return false
		}
		if _, err := rotation.Apply(ks, w.nodes[n].spec.Schedule, step, why, now); err != nil {
			return false
		}
		w.say("%s version %d: %s", step.Kind, step.Version, why.Text)
		return true
	})
}

// find asks the token for a version's key, and has it sign.
func (w *World) find(n, number int) bool {
	nd := &w.nodes[n]
	v, ok := w.store.set.Version(number)
	if !ok || w.tokenDown {
		return false
	}
	k := keyOf(v)
	if !w.token.has(k) {
		nd.gone |= 1 << k
		return false
	}
	nd.proven |= 1 << k
	nd.gone &^= 1 << k
	return true
}

// pend records a version whose key is to be made, and only then is it made.
func (w *World) pend(n int, lost bool) {
	nd := &w.nodes[n]
	if w.keys >= maxKeys || w.tokenDown {
		return
	}
	w.keys++
	key := w.keys
	if w.engine.keyFirst && nd.making.stage != 2 {
		w.token |= 1 << key
		nd.making.key, nd.making.stage = key, 0
		return
	}
	if w.record(n, key, lost) {
		nd.making.key, nd.making.stage = key, 1
	}
}

// record adds the pending row.
func (w *World) record(n, key int, lost bool) bool {
	return w.commit(n, !lost, func(ks *keystore.KeySet, now time.Time) bool {
		number := 1
		for i := range ks.Versions {
			number = max(number, ks.Versions[i].Number+1)
		}
		if step, _ := w.engine.plan(w, n, ks, now); !w.engine.blind && step.Kind != rotation.Generate {
			return false
		}
		v := keystore.Version{
			Number: number, Algorithm: ks.Algorithm, Keystore: ks.Keystore, State: keystore.Pending,
			Maker: nodeNames[n], CreatedAt: now,
		}
		v.KeyID[0] = byte(key)
		ks.Versions = append(ks.Versions, v)
		w.say("version %d is recorded", number)
		return true
	})
}

// make goes on with the generation that a node is at.
func (w *World) make(n int, lost bool) {
	nd := &w.nodes[n]
	switch nd.making.stage {
	case 0: // the key is there and no row yet, as nobody should do it
		w.record(n, nd.making.key, lost)
		nd.making.stage = 2
	case 1:
		if !w.tokenDown {
			w.token |= 1 << nd.making.key
			nd.making.stage = 2
		}
	case 2:
		key := nd.making.key
		nd.making.key = 0
		w.publish(n, key, lost)
	}
}

// finish brings a version to its end whose generation was interrupted.
func (w *World) finish(n int, step rotation.Step, lost bool) {
	v, ok := w.store.set.Version(step.Version)
	if !ok || w.tokenDown {
		return
	}
	w.publish(n, keyOf(v), lost)
}

// publish makes a pending version published, if its key is there, or abandons it.
func (w *World) publish(n, key int, lost bool) {
	there := w.token.has(key)
	w.commit(n, !lost, func(ks *keystore.KeySet, now time.Time) bool {
		for i := range ks.Versions {
			v := &ks.Versions[i]
			if keyOf(v) != key || v.State != keystore.Pending {
				continue
			}
			if !there {
				v.State, v.DestroyedAt = keystore.Abandoned, now
				return true
			}
			v.State, v.KID, v.PublishedAt = keystore.Published, kids[key], now
			w.nodes[n].proven |= 1 << key
			w.say("version %d is published", v.Number)
			return true
		}
		return false
	})
}

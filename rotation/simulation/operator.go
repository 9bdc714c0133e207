package simulation

import (
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

// operate is what operators do to the key set, by way of one node.
func (w *World) operate(a Action, n int) {
	switch a.Kind {
	case Rotate:
		w.ask(n)
	case RotateNow:
		w.rotateNow(n)
	case Suspend:
		w.suspend(n)
	case Resume:
		w.resume(n)
	case Forget:
		w.forgetNode(n)
	case Configure:
		w.configure(n, a.Arg)
	case Reload:
		w.reload(n)
	}
}

// by is the operator.
func (w *World) by() *keystore.Fact { return &keystore.Fact{At: w.store.clock(w), By: "olga"} }

// ask records that a rotation is asked for.
func (w *World) ask(n int) {
	if !w.writes(n) {
		return
	}
	w.commit(n, true, func(ks *keystore.KeySet, now time.Time) bool {
		if _, ok := ks.Active(); !ok {
			return false
		}
		if w.engine.eager {
			return w.rush(n, ks, now)
		}
		ks.RotateBy = w.by()
		w.since.asked = w.now
		return true
	})
}

// rotateNow activates the successor if the rules let it sign now.
func (w *World) rotateNow(n int) {
	nd := &w.nodes[n]
	if !nd.added || !w.writes(n) {
		return
	}
	w.watch(n)
	w.commit(n, true, func(ks *keystore.KeySet, now time.Time) bool {
		if w.engine.eager {
			return w.rush(n, ks, now)
		}
		f := w.facts(n, ks)
		f.Rotate = w.by()
		for _, why := range w.engine.waits(w, n, ks, f, nd.spec.Schedule, now) {
			if why.Step.Kind != rotation.Activate || why.At.IsZero() || why.At.After(now) {
				continue
			}
			if !w.engine.unproven && !w.find(n, why.Step.Version) {
				return false
			}
			ks.RotateBy, w.since.asked = f.Rotate, w.now
			_, err := rotation.Apply(ks, nd.spec.Schedule, why.Step, why, now)
			ks.RotateBy = nil
			w.say("activate version %d, by an operator: %s", why.Step.Version, why.Text)
			return err == nil
		}
		return false
	})
}

// rush activates the newest version, whatever the rules say. No Rotator does so.
func (w *World) rush(n int, ks *keystore.KeySet, now time.Time) bool {
	published := ks.InState(keystore.Published)
	if len(published) == 0 {
		return false
	}
	step := rotation.Step{Kind: rotation.Activate, Version: published[len(published)-1].Number}
	w.since.asked = w.now
	_, err := rotation.Apply(ks, w.nodes[n].spec.Schedule, step, rotation.Why{}, now)
	return err == nil
}

// suspend stops the active version: on this node at once, and for all when the
// catalog has it.
func (w *World) suspend(n int) {
	nd := &w.nodes[n]
	if !nd.up || nd.paused || nd.set == nil {
		return
	}
	v, ok := nd.set.Active()
	if !ok {
		return
	}
	nd.braked |= 1 << keyOf(v)
	w.settle(n)
	w.serve(n)
}

// settle records the suspensions that only a node's brake knows.
func (w *World) settle(n int) {
	nd := &w.nodes[n]
	if nd.braked == 0 || !w.writes(n) {
		return
	}
	braked := nd.braked
	nd.braked = 0
	w.commit(n, true, func(ks *keystore.KeySet, now time.Time) bool {
		changed := false
		for i := range ks.Versions {
			v := &ks.Versions[i]
			if braked.has(keyOf(v)) && v.Suspended == nil && v.State.Known() {
				v.Suspended, changed = w.by(), true
				w.since.suspended = w.now
				w.say("version %d is suspended", v.Number)
			}
		}
		return changed
	})
	w.store.synced()
}

// resume lets the suspended versions sign again.
func (w *World) resume(n int) {
	nd := &w.nodes[n]
	if !w.writes(n) {
		return
	}
	nd.braked = 0
	w.commit(n, true, func(ks *keystore.KeySet, _ time.Time) bool {
		changed := false
		for i := range ks.Versions {
			changed = changed || ks.Versions[i].Suspended != nil
			ks.Versions[i].Suspended = nil
		}
		return changed
	})
}

// forgetNode says, by way of another node, that one does not come back.
func (w *World) forgetNode(n int) {
	by := (n + 1) % w.cfg.Nodes
	row := w.store.row(nodeNames[n])
	if by == n || row == nil || !w.writes(by) {
		return
	}
	row.Forgotten = w.by()
	w.store.synced()
}

// variants are how many configurations there are: see variant.
const variants = 15

// variant changes one thing of a configuration.
func (c Config) variant(spec rotation.Spec, number int64) (changed rotation.Spec, configured bool) {
	base, sch := c.Schedule, &spec.Schedule
	switch number % variants {
	case 0:
		spec.Schedule, spec.Keystore, spec.Algorithm = base, "hsm", keystore.ES256
	case 1:
		sch.CacheFor, sch.MaxAge = base.CacheFor/2, base.MaxAge/2
	case 2:
		sch.CacheFor, sch.MaxAge = base.CacheFor, base.MaxAge
	case 3:
		sch.CacheFor, sch.MaxAge = 2*base.CacheFor, 2*base.MaxAge
	case 4:
		sch.Lifetime = base.Lifetime / 2
	case 5:
		sch.Lifetime = base.Lifetime
	case 6:
		sch.Lifetime = 2 * base.Lifetime
	case 7:
		sch.Every = 0
	case 8:
		sch.Every = base.Every
	case 9:
		sch.Every = base.Every / 2
	case 10:
		spec.Algorithm = keystore.EdDSA
	case 11:
		spec.Algorithm = keystore.RS256 // which nobody has announced
	case 12:
		spec.Keystore = "vault"
	case 13:
		spec.Keystore = "hsm"
	case 14:
		return spec, false
	}
	return spec, true
}

// configure changes what is written, and has one node take it up.
func (w *World) configure(n int, number int64) {
	before, was := w.spec, w.added
	w.spec, w.added = w.cfg.variant(w.spec, number)
	if !w.reload(n) {
		w.spec, w.added = before, was
	}
}

// reload has a node take up the configuration: the catalog knows of it first.
func (w *World) reload(n int) bool {
	nd := &w.nodes[n]
	if !w.writes(n) {
		return false
	}
	if !w.added {
		nd.added = false
		return true
	}
	refused := false
	w.commit(n, true, func(ks *keystore.KeySet, now time.Time) bool {
		next, changed, err := w.engine.reconfigure(ks, w.spec, now)
		if err != nil {
			refused = true
			w.say("refused: %v", err)
			return false
		}
		if changed {
			*ks = *next
		}
		return changed
	})
	w.store.synced()
	if refused {
		return false
	}
	nd.spec, nd.added = w.spec, true
	w.serve(n)
	return true
}

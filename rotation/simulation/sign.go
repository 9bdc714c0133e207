package simulation

import (
	"time"

	"chancery/keystore"
)

// signs returns the version that a node may sign with at this moment, or nil.
func (w *World) signs(n int) *keystore.Version {
	nd := &w.nodes[n]
	if !nd.up || nd.paused || nd.set == nil || !nd.added || !w.rightClock(n) || !w.ready(n) {
		return nil
	}
	if w.cfg.without&offSigningLease == 0 && (nd.doubt || w.leased() && w.now >= nd.readAt+w.cfg.Schedule.Lease) {
		return nil
	}
	v, ok := nd.set.Active()
	if !ok || !nd.proven.has(keyOf(v)) {
		return nil
	}
	stopped := v.Suspended != nil || nd.braked.has(keyOf(v))
	if v.Compromised != nil || stopped && w.cfg.without&offStopped == 0 {
		return nil
	}
	return v
}

// sign has a node make a token. It is not let go yet.
func (w *World) sign(n int, long bool) {
	nd := &w.nodes[n]
	v := w.signs(n)
	if v == nil {
		return
	}
	k := keyOf(v)
	if w.tokenDown || !w.token.has(k) {
		return
	}
	longest := min(nd.spec.Schedule.Lifetime, w.allowed(nd.set))
	ttl := longest
	if !long {
		ttl = longest / 8
	}
	f := flight{key: k, slip: nd.slip, iat: w.now + nd.slip, version: v.Number}
	f.nbf, f.exp = f.iat-w.cfg.Schedule.Skew, f.iat+ttl
	if w.cfg.without&offNotBefore != 0 {
		f.nbf = f.iat
	}
	if !w.covers(n, v, epoch.Add(f.exp), longest) {
		return
	}
	nd.flight = f
}

// allowed is the longest lifetime that a snapshot lets tokens have.
func (w *World) allowed(ks *keystore.KeySet) time.Duration {
	return ks.Promises[len(ks.Promises)-1].MaxLifetime
}

// covers reports whether a version's horizon is at exp or beyond, and has the
// catalog raise it where it is not. Certificates have a row each instead, written
// before they are signed.
func (w *World) covers(n int, v *keystore.Version, exp time.Time, longest time.Duration) bool {
	nd := &w.nodes[n]
	k := keyOf(v)
	if w.cfg.Purpose == keystore.PurposeCA {
		if !w.writes(n) {
			return false
		}
		w.store.synced()
		return true
	}
	if nd.horizon.key == k && !nd.horizon.until.Before(exp) || !v.ExpHorizon.Before(exp) {
		return true
	}
	if !w.writes(n) {
		return false
	}
	s := &w.store
	next := s.set.Clone()
	row, ok := next.Version(v.Number)
	if !ok || keyOf(row) != k || row.State != keystore.Active && row.State != keystore.Retiring {
		return false
	}
	until := w.at(nd.slip).Add(2 * longest)
	if row.ExpHorizon.Before(until) {
		row.ExpHorizon = until
		if s.raised == nil {
			s.raised = s.set
		}
		s.set, s.before = next, nil // the commits that came before it the replica has
	}
	nd.horizon.key, nd.horizon.until = k, until
	return true
}

// release looks again and lets a node's token go, into the hands of verifiers
// with every cache there is.
func (w *World) release(n int) {
	nd := &w.nodes[n]
	f := nd.flight
	if f.key == 0 || !nd.up || nd.paused {
		return
	}
	nd.flight = flight{}
	if again := w.signs(n); again == nil || keyOf(again) != f.key {
		return
	}
	w.counts.Tokens++
	if w.tell != nil {
		w.say("node %s releases a token of version %d, valid for %v", nodeNames[n], f.version, f.exp-f.iat)
	}
	w.live[f.key] = max(w.live[f.key], f.exp+w.env.verifier)
	w.checkRelease(n, f)
	w.checkKey(f.key)
}

// checkRelease demands of a token that is let go that its version may sign, and
// that verifiers take its times for what they are.
func (w *World) checkRelease(n int, f flight) {
	skew := w.cfg.Schedule.Skew
	if f.nbf > w.now-w.env.verifier {
		w.broken(9, "a token of node %s is not valid yet for %v, to a verifier whose clock is behind", nodeNames[n], f.nbf-(w.now-w.env.verifier))
	}
	if f.slip > skew || -f.slip > skew {
		w.broken(9, "node %s signs by a clock that is off by %v", nodeNames[n], f.slip)
	}
	v := w.version(f.key)
	switch {
	case v == nil:
		w.broken(8, "a key signs that has no version")
	case v.State == keystore.Active && v.Suspended == nil:
	case v.State == keystore.Active:
		if late := w.now - w.since.suspended; late > w.cfg.Schedule.Lease || !w.leased() {
			w.broken(6, "node %s signs with version %d %v after it was suspended", nodeNames[n], v.Number, late)
		}
	case v.State == keystore.Retiring && w.leased():
		if late := w.now - w.since.stopped[f.key]; late > w.cfg.Schedule.Lease {
			w.broken(4, "node %s signs with version %d %v after it stopped", nodeNames[n], v.Number, late)
		}
	default:
		w.broken(4, "node %s signs with version %d, which is %s", nodeNames[n], v.Number, v.State)
	}
}

package simulation

import (
	"time"

	"chancery/keystore"
)

// A verifierKind is how a verifier caches.
type verifierKind uint8

const (
	complies   verifierKind = iota // holds a response for max-age less Age
	ignoresAge                     // holds it for max-age anew, behind a shared cache
	patient                        // never fetches at an unknown kid, only when its set expires
	hasty                          // fetches at once at an unknown kid
	once                           // reads the algorithms in discovery once
	stale                          // uses what it has beyond max-age while it may, and when no node answers
	verifierKinds
)

var verifierNames = [verifierKinds]string{
	"complies with max-age and Age", "ignores Age", "never fetches at an unknown kid",
	"fetches at an unknown kid", "reads discovery once", "uses stale sets while it may",
}

// A response is a set as it came from a node.
type response struct {
	keys  bits
	algs  algorithms
	at    time.Duration // when the node sent it
	fresh time.Duration // max-age
	hold  time.Duration // A
}

// A verifier is out there, with a cache of its own.
type verifier struct {
	kind  verifierKind
	has   bool
	set   response
	until time.Duration // it uses the set until then
	most  time.Duration // and no longer than until then where it may be stale
	algs  algorithms    // of the first response there was
}

// answer returns what a node answers, beginning with one that the balancer
// chooses; false if none does.
func (w *World) answer(first int) (response, bool) {
	for i := range w.cfg.Nodes {
		n := (first + i) % w.cfg.Nodes
		nd := &w.nodes[n]
		if !nd.serving || nd.paused {
			continue
		}
		s := &nd.served
		return response{keys: s.keys, algs: s.algs, at: w.now, fresh: s.maxAge, hold: s.hold}, true
	}
	return response{}, false
}

// fetch has a verifier fetch the set, and reports whether it got one.
func (w *World) fetch(v *verifier, first int) bool {
	if first < 0 {
		first = -first
	}
	var r response
	ok := true
	switch v.kind {
	case complies, ignoresAge: // through the shared cache
		if w.now >= w.shared.at+w.shared.fresh {
			if r, ok = w.answer(first); ok {
				w.shared = r
			}
		}
		r = w.shared
	default:
		r, ok = w.answer(first)
	}
	if !ok {
		return false
	}
	w.counts.Fetches++
	if !v.has {
		v.algs = r.algs
	}
	v.has, v.set = true, r
	v.until = w.now + r.fresh
	if v.kind == complies {
		v.until = r.at + r.fresh
	}
	v.most = r.at + r.hold
	v.until = min(v.until, v.most)
	return true
}

// verify shows a verifier a live token of every version.
func (w *World) verify(v *verifier, first int) {
	if (!v.has || w.now >= v.until) && !w.fetch(v, first) && !(v.kind == stale && v.has && w.now < v.most) {
		return // it has no set: an outage, and no rejection
	}
	w.counts.Verifications++
	for k := 1; k <= w.keys; k++ {
		if w.live[k] <= w.now {
			continue
		}
		known := v.set.keys.has(k)
		if !known && v.kind == hasty {
			known = !w.fetch(v, first) || v.set.keys.has(k)
		}
		row := w.version(k)
		if !known {
			rule := 1
			if row == nil || done(row.State) {
				rule = 2
			}
			w.broken(rule, "a verifier that %s rejects a token of key %d", verifierNames[v.kind], k)
			return
		}
		if v.kind == once && w.cfg.Purpose == keystore.PurposeJWT && row != nil && v.algs&algorithmBit[row.Algorithm] == 0 {
			w.broken(11, "a verifier that %s rejects a token of version %d, which is %s", verifierNames[v.kind], row.Number, row.Algorithm)
			return
		}
	}
}

package simulation

import (
	"time"

	"chancery/keystore"
)

// A snapshot is a set as one node serves or served it, and how long a cache may
// hold it.
type snapshot struct {
	keys   bits
	from   time.Duration
	until  time.Duration // the last moment a cache may hold it, once it is served no more
	maxAge time.Duration
	hold   time.Duration // A, as it was declared to whoever runs the caches
	algs   algorithms
	node   uint8
}

// algorithms are a set of them, by their place in keystore.Algorithms.
type algorithms uint16

var algorithmBit = func() map[keystore.Algorithm]algorithms {
	all := map[keystore.Algorithm]algorithms{}
	for i, a := range keystore.Algorithms() {
		all[a] = 1 << i
	}
	return all
}()

// mayServe reports whether a node's publishing lease has not ended.
func (w *World) mayServe(n int) bool {
	nd := &w.nodes[n]
	return nd.up && !nd.paused && nd.set != nil &&
		(!w.leased() || w.now < nd.readAt+w.cfg.Publishing || w.cfg.without&offPublishingLease != 0)
}

// serve has a node serve the set of its snapshot, or nothing if it must not: a
// set that lacks a version it needs, and one that no node has served before
// unless it is the catalog's at this moment.
func (w *World) serve(n int) {
	nd := &w.nodes[n]
	if !w.mayServe(n) {
		w.close(n)
		return
	}
	var keys bits
	for i := range nd.set.Versions {
		v := &nd.set.Versions[i]
		k := keyOf(v)
		switch {
		case v.State.Known() && v.Compromised == nil && nd.proven.has(k):
			keys |= 1 << k
		case w.engine.partial:
		case nd.set.Needs(v):
			w.close(n)
			return
		}
	}
	if keys == 0 || !w.opened(n, keys) {
		w.close(n)
		return
	}
	now := w.at(nd.slip)
	promise := keystore.InForce(nd.set.Promises, now)
	last := nd.set.Promises[len(nd.set.Promises)-1]
	s := snapshot{keys: keys, from: w.now, maxAge: promise.MaxAge, hold: last.CacheFor, node: uint8(n), algs: listed(nd.set)}
	if nd.serving && nd.served.keys == s.keys && nd.served.maxAge == s.maxAge && nd.served.hold == s.hold && nd.served.algs == s.algs {
		return
	}
	w.close(n)
	nd.served, nd.serving = s, true
	w.counts.Sets++
	if w.tell != nil {
		w.say("node %s serves keys %s, max-age %v", nodeNames[n], s.keys, s.maxAge)
	}
	w.checkSet(n)
}

// listed are the algorithms that discovery lists.
func listed(ks *keystore.KeySet) algorithms {
	all := algorithmBit[ks.Algorithm]
	for _, a := range ks.Announced {
		all |= algorithmBit[a]
	}
	for i := range ks.Versions {
		all |= algorithmBit[ks.Versions[i].Algorithm]
	}
	return all
}

// opened records that a set is served for the first time, and reports whether
// one may be: it has every version that is known at this moment.
func (w *World) opened(n int, keys bits) bool {
	nd := &w.nodes[n]
	if !nd.set.ServedAt.IsZero() {
		return true
	}
	if !w.writes(n) || w.store.set != nd.set && !w.store.set.ServedAt.IsZero() {
		return false
	}
	for _, v := range w.store.set.Known() {
		if !keys.has(keyOf(v)) {
			return false
		}
	}
	// Not commit: what it does at its end is what is done here.
	s := &w.store
	next := s.set.Clone()
	s.seq++
	next.Revision, next.ServedAt = s.seq, s.clock(w)
	s.set, s.last = next, next.ServedAt
	s.synced()
	nd.set, nd.seen = next, s.seq
	return true
}

func (w *World) close(n int) { w.closeAt(n, w.now) }

// closeAt ends what a node serves, at a moment. Caches hold it still.
func (w *World) closeAt(n int, end time.Duration) {
	nd := &w.nodes[n]
	if !nd.serving {
		return
	}
	nd.serving = false
	s := nd.served
	s.until = end + s.hold + w.env.cache
	if s.until <= w.now {
		return
	}
	live := w.held[:0]
	for _, h := range w.held {
		if h.until > w.now && !(h.keys == s.keys && h.until <= s.until) {
			live = append(live, h)
		}
	}
	w.held = append(live, s)
}

// checkSet holds a set that begins to be served against every token that lives.
func (w *World) checkSet(n int) {
	nd := &w.nodes[n]
	s := &nd.served
	if active, ok := nd.set.Active(); ok && active.Compromised == nil && !s.keys.has(keyOf(active)) {
		w.broken(8, "node %s serves a set without version %d, which is active", nodeNames[n], active.Number)
	}
	// A node that has its configuration before the others may promise more.
	if s.maxAge > s.hold && s.maxAge > keystore.InForce(nd.set.Promises, w.at(0)).CacheFor {
		w.broken(3, "node %s sends max-age %v, and caches were declared to hold a set for %v", nodeNames[n], s.maxAge, s.hold)
	}
	for k := 1; k <= w.keys; k++ {
		if w.live[k] <= s.from {
			continue
		}
		w.counts.Pairs++
		if !s.keys.has(k) {
			w.unknown(k, s, w.live[k]-s.from)
		}
	}
}

// checkKey holds a token that a key may sign now against every set that is
// served, or that a cache holds.
func (w *World) checkKey(k int) {
	for i := range w.cfg.Nodes {
		if nd := &w.nodes[i]; nd.serving {
			w.counts.Pairs++
			if !nd.served.keys.has(k) {
				w.unknown(k, &nd.served, 0)
			}
		}
	}
	for i := range w.held {
		if s := &w.held[i]; s.until > w.now {
			w.counts.Pairs++
			if !s.keys.has(k) {
				w.unknown(k, s, s.until-w.now)
			}
		}
	}
}

// unknown notes that verifiers reject a token by a set that lacks its key, for so
// long; and the rule that is there to prevent it.
func (w *World) unknown(k int, s *snapshot, span time.Duration) {
	v := w.version(k)
	switch {
	case v == nil:
		w.broken(8, "key %d signs, and no version is known by it", k)
	case v.State == keystore.Retired:
		w.broken(2, "tokens of version %d live for %v more and node %s serves a set without it", v.Number, span, nodeNames[s.node])
	case span == 0:
		w.broken(5, "version %d signs and node %s serves a set without it", v.Number, nodeNames[s.node])
	default:
		w.broken(1, "version %d signs and caches hold a set of node %s without it for %v more", v.Number, nodeNames[s.node], span)
	}
}

// version returns the version with a key, as the catalog has it, or nil.
func (w *World) version(k int) *keystore.Version {
	for i := range w.store.set.Versions {
		if v := &w.store.set.Versions[i]; keyOf(v) == k {
			return v
		}
	}
	return nil
}

package simulation

import (
	"time"

	"chancery/keystore"
)

// A store is the catalog: one key set, the nodes, and a clock of its own that
// never goes back from one change to the next. Key sets in it are not changed but
// replaced, so that whoever has read one may keep it.
type store struct {
	set   *keystore.KeySet
	nodes []keystore.Node
	seq   int64 // of the last commit; never used again
	epoch int64 // of the last enrolment
	slip  time.Duration
	last  time.Time // of the last change
	down  bool

	before *keystore.KeySet // what a failover goes back to; nil: the replica has every commit
	raised *keystore.KeySet // what it goes back to then, without the horizons raised since; nil: it has those too
	lost   [4]int64         // the last commits that failovers lost
	losses int
}

// clock returns what the catalog's clock says.
func (s *store) clock(w *World) time.Time {
	slip := s.slip
	if !w.leased() {
		slip = w.nodes[0].slip
	}
	if t := w.at(slip); t.After(s.last) {
		return t
	}
	return s.last
}

// row returns what the catalog knows of a node, or nil.
func (s *store) row(name string) *keystore.Node {
	for i := range s.nodes {
		if s.nodes[i].Name == name {
			return &s.nodes[i]
		}
	}
	return nil
}

// A change makes the next state out of a copy of the key set, or nothing of it.
type change func(ks *keystore.KeySet, now time.Time) bool

// commit makes a change in one swap. answered is whether the node learns of it:
// a change whose answer is lost has happened.
func (w *World) commit(n int, answered bool, f change) bool {
	s := &w.store
	now := s.clock(w)
	before := s.set
	next := before.Clone()
	if !f(next, now) {
		return false
	}
	s.seq++
	next.Revision = s.seq
	forget(next)
	s.set, s.before, s.raised, s.last = next, before, nil, now
	w.checkCommit(before, next, n, now)
	nd := &w.nodes[n]
	if !answered {
		w.counts.Lost++
		w.say("the answer is lost")
		nd.doubt = true
		return false
	}
	nd.set, nd.seen = next, s.seq
	nd.readAt = w.now
	w.renew(n)
	w.serve(n)
	return true
}

// synced says that the replica has everything.
func (s *store) synced() { s.before, s.raised = nil, nil }

// failover has the replica take over. It lacks the last commit if that was a step
// of a version or an acknowledgement, and horizons that were raised since, which
// are no commits: nobody notices. What was promised to the world, the step by which a
// version signs, a suspension and a lease are waited for until the replica has them.
func (w *World) failover() {
	s := &w.store
	if !w.leased() {
		return
	}
	if s.before == nil {
		if s.raised != nil {
			w.say("horizons that were raised are lost")
			w.counts.Failovers++
			s.set, s.raised = s.raised, nil
		}
		return
	}
	w.say("commit %d is lost", s.seq)
	s.lost[s.losses%len(s.lost)] = s.seq
	s.losses++
	for i := range s.set.Versions {
		v := &s.set.Versions[i]
		if _, ok := s.before.Version(v.Number); !ok {
			w.strays |= 1 << keyOf(v)
		}
	}
	s.set, s.before, s.raised = s.before, nil, nil
	w.counts.Failovers++
}

// behind reports whether a node has seen what the catalog does not have any
// more, by its high-water mark.
func (s *store) behind(seen int64) bool {
	if seen == 0 {
		return false
	}
	for _, lost := range s.lost {
		if lost == seen {
			return true
		}
	}
	return false
}

// forget drops what the engine does not look at any more, so that worlds can go
// on for long: versions that left the set long ago, and promises that have run
// out.
func forget(ks *keystore.KeySet) {
	const kept = 4
	drop := 0
	for drop < len(ks.Versions)-kept && done(ks.Versions[drop].State) {
		drop++
	}
	if drop > kept {
		ks.Versions = ks.Versions[drop:]
		first := ks.Versions[0].Number
		acks := ks.Acks[:0]
		for _, a := range ks.Acks {
			if a.Version >= first {
				acks = append(acks, a)
			}
		}
		ks.Acks = acks
	}
}

func done(s keystore.State) bool {
	return s == keystore.Retired || s == keystore.Destroyed || s == keystore.Abandoned
}

// keyOf returns the number of a version's key in this world.
func keyOf(v *keystore.Version) int { return int(v.KeyID[0]) }

// kids are the names of keys, by number.
var kids = func() (all [maxKeys + 1]keystore.KID) {
	for i := range all {
		all[i] = keystore.KID([]byte{'k', 'e', 'y', '-', byte('0' + i/10), byte('0' + i%10)})
	}
	return all
}()

// keyNamed is the number of a key by its name.
func keyNamed(kid keystore.KID) int {
	if len(kid) != 6 {
		return 0
	}
	return int(kid[4]-'0')*10 + int(kid[5]-'0')
}

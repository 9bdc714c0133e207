package rotation

import (
	"slices"
	"time"

	"chancery/keystore"
)

// cacheFor returns A at t: what has been promised to caches and counts then
// (rule 3), and never less than the schedule says. What a promise was lowered
// from counts S longer, for a cache whose clock differs; what it was raised to
// counts already.
func cacheFor(ks *keystore.KeySet, sch Schedule, t time.Time) time.Duration {
	return max(keystore.InForce(ks.Promises, t.Add(-sch.Skew)).CacheFor, sch.CacheFor)
}

// lifetime returns L at t, in the same way.
func lifetime(ks *keystore.KeySet, sch Schedule, t time.Time) time.Duration {
	return max(keystore.InForce(ks.Promises, t).MaxLifetime, sch.Lifetime)
}

// evidence returns the last moment at which a node may have served a set without
// v, which is what rule 1 counts from: each node's acknowledgement, never the
// row's own time, or the end of the publishing lease of one that has not
// acknowledged. waits are the nodes that have neither, until is the latest end of
// their leases; zero: they have none. Without nodes the version's last
// acknowledgement counts.
func evidence(f Facts, v *keystore.Version, now time.Time) (last time.Time, waits []string, until time.Time) {
	last = v.ServedAt
	bounded := true
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if ack, ok := f.Set.AckOf(n.Name, v.Number); ok {
			last = later(last, ack.At)
			continue
		}
		end, ends := n.ServedUntil()
		if ends && n.StoppedAt.IsZero() { // it counts its lease in real time
			end = f.Clock.elapses(n.SeenAt, end)
		}
		if ends && !end.After(now) {
			last = later(last, end)
			continue
		}
		waits = append(waits, n.Name)
		until, bounded = later(until, end), bounded && ends
	}
	if !bounded {
		until = time.Time{}
	}
	return last, waits, until
}

// signsFrom returns the earliest moment rule 1 lets v sign, given that no node
// has served a set without it since last, as seen at now; first says that no
// cache can hold a set without it.
func signsFrom(f Facts, sch Schedule, v *keystore.Version, last, now time.Time) (at time.Time, first bool) {
	ks := f.Set
	if ks.First(v) {
		return last, true
	}
	// A node may have gone by a snapshot as old as its publishing lease is long, and
	// have sent until last what a promise was lowered from that long before.
	behind := snapshotAge(f.Nodes)
	// A falls while an old promise runs out: look for the first moment t that is
	// A(t) + S after the set with v was served everywhere. A only changes where a
	// promise runs out, so between two such moments it is constant.
	counted := *ks
	counted.Promises = realPromises(f)
	turns := []time.Time{now}
	for i := 1; i < len(counted.Promises); i++ {
		if t := counted.Promises[i].At.Add(counted.Promises[i-1].CacheFor + sch.Skew + behind); t.After(now) {
			turns = append(turns, t)
		}
	}
	slices.SortFunc(turns, time.Time.Compare)
	for i, from := range turns {
		at = last.Add(cacheFor(&counted, sch, from.Add(-behind)) + sch.Skew)
		if i == 0 && !at.After(from) {
			return at, false // over already
		}
		at = later(at, from)
		if i+1 == len(turns) || at.Before(turns[i+1]) {
			break
		}
	}
	return at, false
}

// realPromises returns what was promised to caches, as if it had been when the
// clock became steady at the earliest: nobody knows how long before that it was
// (rule 9).
func realPromises(f Facts) []keystore.Promise {
	promises := f.Set.Promises
	if f.Clock.Synchronised || len(promises) == 0 || !f.Clock.Steady.After(promises[0].At) {
		return promises
	}
	promises = slices.Clone(promises)
	for i := range promises {
		promises[i].At = later(promises[i].At, f.Clock.Steady)
	}
	return promises
}

// snapshotAge returns how old the snapshot may be that a node serves.
func snapshotAge(nodes []keystore.Node) time.Duration {
	age := time.Duration(0)
	for i := range nodes {
		if n := &nodes[i]; !n.PublishesUntil.IsZero() {
			age = max(age, n.PublishesUntil.Sub(n.SeenAt))
		}
	}
	return age
}

// keptUntil returns the earliest moment rule 2 lets v, which is retiring, leave
// the set; false if it has to stay for ever.
//
// What v signed expires by its horizon, which the catalog raises ahead of need,
// and in any case one lease and one longest lifetime after it stopped. Only
// tokens have a horizon, and not everywhere does it count.
func keptUntil(ks *keystore.KeySet, sch Schedule, v *keystore.Version, now time.Time) (time.Time, bool) {
	life := v.MaxLifetime
	if life <= 0 {
		life = lifetime(ks, sch, now)
	}
	if life <= 0 || v.StoppedAt.IsZero() {
		return time.Time{}, false
	}
	stopped := v.StoppedAt.Add(sch.Lease)
	until := stopped.Add(life)
	if ks.Purpose == keystore.PurposeJWT && !sch.NoHorizon && v.MaxLifetime > 0 && v.ExpHorizon.Before(until) {
		until = later(v.ExpHorizon, stopped)
	}
	return until.Add(sch.Skew), true
}

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
func evidence(ks *keystore.KeySet, nodes []keystore.Node, v *keystore.Version, now time.Time) (last time.Time, waits []string, until time.Time) {
	last = v.ServedAt
	bounded := true
	for i := range nodes {
		n := &nodes[i]
		if ack, ok := ks.AckOf(n.Name, v.Number); ok {
			last = later(last, ack.At)
			continue
		}
		end, ends := n.ServedUntil()
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
func signsFrom(ks *keystore.KeySet, sch Schedule, v *keystore.Version, last, now time.Time) (at time.Time, first bool) {
	if ks.First(v) {
		return last, true
	}
	// A falls while an old promise runs out: look for the first moment t that is
	// A(t) + S after the set with v was served everywhere. A only changes where a
	// promise runs out, so between two such moments it is constant.
	turns := []time.Time{now}
	for i := 1; i < len(ks.Promises); i++ {
		if t := ks.Promises[i].At.Add(ks.Promises[i-1].CacheFor + sch.Skew); t.After(now) {
			turns = append(turns, t)
		}
	}
	slices.SortFunc(turns, time.Time.Compare)
	for i, from := range turns {
		at = last.Add(cacheFor(ks, sch, from) + sch.Skew)
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

// keptUntil returns the earliest moment rule 2 lets v, which is retiring, leave
// the set; false if it has to stay for ever.
//
// What v signed expires by its horizon, which the catalog raises ahead of need,
// and in any case one lease and one longest lifetime after it stopped. Only
// tokens have a horizon.
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
	if ks.Purpose == keystore.PurposeJWT && v.MaxLifetime > 0 && v.ExpHorizon.Before(until) {
		until = later(v.ExpHorizon, stopped)
	}
	return until.Add(sch.Skew), true
}

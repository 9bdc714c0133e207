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

// signsFrom returns the earliest moment rule 1 lets v sign, given that it is
// served, as seen at now; first says that v is the first version of a set that
// was never served without it, so that no cache can hold an older one.
func signsFrom(ks *keystore.KeySet, sch Schedule, v *keystore.Version, now time.Time) (at time.Time, first bool) {
	if firstServed(ks, v) {
		return v.ServedAt, true
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
		at = v.ServedAt.Add(cacheFor(ks, sch, from) + sch.Skew)
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

// firstServed reports whether v was in the first set that was ever served and
// none has signed before it. It compares for equality only, and looks at every
// other version: a clock that was set back makes no version first.
func firstServed(ks *keystore.KeySet, v *keystore.Version) bool {
	return v.ServedAt.Equal(ks.ServedAt) && !slices.ContainsFunc(ks.Versions, func(u keystore.Version) bool {
		earlier := !u.ServedAt.IsZero() && !u.ServedAt.Equal(v.ServedAt)
		return u.Number != v.Number && (earlier || !u.ActivatedAt.IsZero())
	})
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

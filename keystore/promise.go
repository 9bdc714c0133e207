package keystore

import "time"

// InForce returns what must be assumed at now about the world's caches and
// verifiers, given the promises made to them, oldest first. It is pure.
//
// Raising a promise counts at once. Lowering one counts only when everything
// handed out under the old one has run out: CacheFor and MaxLifetime of a
// promise count until its replacement's At plus that same time, so each is the
// longest of those that still count. MaxAge is what may be sent to caches: what
// the last promise configured, and never more than CacheFor. At is the last
// promise's. Promises whose At lies ahead count already, so that a clock set
// back shortens nothing.
//
// Without promises it returns the zero Promise.
func InForce(promises []Promise, now time.Time) Promise {
	if len(promises) == 0 {
		return Promise{}
	}
	in := promises[len(promises)-1]
	for i, p := range promises[:len(promises)-1] {
		since := now.Sub(promises[i+1].At) // how long ago p was replaced
		if since < p.CacheFor {
			in.CacheFor = max(in.CacheFor, p.CacheFor)
		}
		if since < p.MaxLifetime {
			in.MaxLifetime = max(in.MaxLifetime, p.MaxLifetime)
		}
	}
	in.MaxAge = min(in.MaxAge, in.CacheFor)
	return in
}

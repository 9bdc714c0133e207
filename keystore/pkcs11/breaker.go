package pkcs11

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A breaker decides whether a token is to be left alone for a while: when worker
// after worker ended in a short time and none of them had done anything useful.
// It is pure; its owner says what happened and when.
type breaker struct {
	ends   []time.Time // of useless workers within breakerWindow, oldest first
	opened int         // how often in a row; 0: closed for good
	open   bool
}

const (
	breakerEnds   = 6                // useless workers
	breakerWindow = 10 * time.Second // within this
	firstBreak    = time.Second      // how long the token is left alone, doubling
	longestBreak  = 30 * time.Second

	// useful is how many signatures for callers make a worker a useful one.
	useful = maxBatch
	// tryout is how many signatures of the probe key one has to make before
	// callers are let to a token again.
	tryout = maxBatch
)

// ended says that a worker ended that had come to serve, and returns whether
// that opened the breaker.
func (b *breaker) ended(now time.Time, usefully bool) bool {
	if usefully {
		b.ends, b.opened = nil, 0
		return false
	}
	b.ends = slices.DeleteFunc(b.ends, func(t time.Time) bool { return now.Sub(t) > breakerWindow })
	b.ends = append(b.ends, now)
	if b.open || len(b.ends) < breakerEnds {
		return false
	}
	b.open = true
	b.opened++
	return true
}

// pause returns how long to leave the token alone.
func (b *breaker) pause() time.Duration {
	return min(firstBreak<<min(max(b.opened-1, 0), 16), longestBreak)
}

// failed says that the tryout after a pause failed.
func (b *breaker) failed() { b.opened++ }

// passed says that the tryout after a pause succeeded: callers are let in, and
// one useless worker more opens the breaker again.
func (b *breaker) passed(now time.Time) {
	b.open = false
	b.ends = slices.Repeat([]time.Time{now}, breakerEnds-1)
}

// How long a generation must have served to count as a good one, and the
// pauses after bad ones. The first death is followed by a new worker at once.
const (
	goodService = time.Second
	firstPause  = 50 * time.Millisecond
	servedPause = 250 * time.Millisecond // at most, if it served at all; callers wait for that
	longPause   = 5 * time.Second        // at most, if it did not
	loopPause   = time.Minute            // at most, in a crash loop

	// crashLoop is how many workers in a row crash while they start before the
	// module is taken for one that does nothing else.
	crashLoop = 10
)

// backoff returns the pause after so many workers in a row that were no good,
// before jitter.
func backoff(failures int, longest time.Duration) time.Duration {
	if failures <= 1 {
		return 0
	}
	return min(firstPause<<min(failures-2, 16), longest)
}

// jitter returns a time within a quarter of d, so that what failed together is
// not tried together.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d*3/4 + rand.N(d/2+1)
}

// A budget bounds how many workers are started in a time, because a device may
// keep the sessions of a killed one for a while. The zero budget has no bound.
type budget struct {
	workers int           // how many
	within  time.Duration // in this time
	starts  []time.Time
}

// wait returns how long the next start has to wait, and counts it as made after
// that.
func (b *budget) wait(now time.Time) time.Duration {
	if b.workers == 0 {
		return 0
	}
	b.starts = slices.DeleteFunc(b.starts, func(t time.Time) bool { return now.Sub(t) >= b.within })
	at := now
	if n := len(b.starts); n >= b.workers {
		at = b.starts[n-b.workers].Add(b.within)
	}
	b.starts = append(b.starts, at)
	return at.Sub(now)
}

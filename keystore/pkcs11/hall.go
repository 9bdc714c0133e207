package pkcs11

import (
	"container/list"
	"context"
	"slices"
	"sync"

	"chancery/keystore"
)

// How much may be at a worker, and how much may wait for that.
const (
	// DefaultWaiting is how many requests wait for a token before others are
	// refused.
	DefaultWaiting = 2048

	// placesPerSigner is enough for a signing thread to find its next batch when
	// it has answered one, and so few that the last is signed long before its
	// deadline.
	placesPerSigner = 2 * maxBatch
)

// A hall is where signatures wait for one of a token's workers: one line for all
// of them, first come, first served, each caller under a context of its own.
// Whoever is first goes to the worker that has least to do. A worker's deadlines
// do not run for who waits, so that many callers are not taken for a worker that
// hangs.
//
// While no worker serves and one is starting, the line waits. When the token
// will not serve soon, everybody is refused at once with the reason.
type hall struct {
	limit int // how many may wait

	mu   sync.Mutex
	line list.List     // of *place
	open []*generation // those that take signatures; their seats are guarded by mu too
	live []*generation // those and the ones that go, until their processes are gone
	shut error         // why everybody is refused; nil: nobody is
	old  uint32        // those with a view up to this one are not opened any more
}

// seats are how much a generation has from the hall. Guarded by the hall's mu.
type seats struct {
	all, taken int
	closed     bool          // it takes nothing new
	empty      chan struct{} // closed when it takes nothing new and all has been answered
}

// enter waits for a place at a worker, which the caller must leave. A caller who
// comes again, because his worker ended, goes to the head of the line. The
// errors are those of room.enter, and the reason if everybody is refused.
func (h *hall) enter(ctx context.Context, again bool) (*place, error) {
	if ctx.Err() != nil {
		return nil, gaveUp(ctx)
	}
	p := &place{of: h}
	p.holds.Store(1)
	if entered, err := h.join(p, again); entered || err != nil {
		return p, err
	}
	select {
	case <-p.given:
		return p, p.refused
	case <-ctx.Done():
		if !h.forget(p) && p.refused == nil {
			p.leave() // its turn came at the same moment
		}
		return nil, gaveUp(ctx)
	}
}

func (h *hall) join(p *place, again bool) (entered bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shut != nil {
		return false, h.shut
	}
	if h.line.Len() == 0 {
		if g := h.freest(); g != nil {
			h.seat(p, g)
			return true, nil
		}
	}
	if again {
		p.given = make(chan struct{})
		p.waiter = h.line.PushFront(p)
		return false, nil
	}
	if h.line.Len() >= h.limit {
		return false, overloaded(h.limit)
	}
	p.given = make(chan struct{})
	p.waiter = h.line.PushBack(p)
	return false, nil
}

// freest returns the worker with least to do, or nil if none has a seat free.
func (h *hall) freest() *generation {
	var best *generation
	for _, g := range h.open {
		if g.seats.taken < g.seats.all && (best == nil || g.seats.taken < best.seats.taken) {
			best = g
		}
	}
	return best
}

func (h *hall) seat(p *place, g *generation) {
	p.worker = g
	g.seats.taken++
}

// call gives free seats to who waits for them.
func (h *hall) call() {
	for h.line.Len() > 0 {
		g := h.freest()
		if g == nil {
			return
		}
		next := h.line.Remove(h.line.Front()).(*place)
		next.waiter = nil
		h.seat(next, g)
		close(next.given)
	}
}

func (h *hall) forget(p *place) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.waiter == nil {
		return false
	}
	h.line.Remove(p.waiter)
	return true
}

// freed gives the place to the first in line.
func (h *hall) freed(p *place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &p.worker.seats
	s.taken--
	if s.closed && s.taken == 0 {
		close(s.empty)
	}
	h.call()
}

// add opens a worker to the line, unless it has ended, or is one of those that
// renew has sent away.
func (h *hall) add(g *generation, places int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g.view <= h.old || g.seats.closed {
		return false
	}
	g.seats.all = places
	h.open, h.live = append(h.open, g), append(h.live, g)
	h.call()
	return true
}

// hasEnded reports whether a worker has ended, or is about to.
func (h *hall) hasEnded(g *generation) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return g.seats.closed
}

// gone is told that the process of a worker is no more.
func (h *hall) gone(g *generation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live = slices.DeleteFunc(h.live, func(other *generation) bool { return other == g })
}

// renew opens no generation any more whose view is not later than last, and returns
// those that were opened and live, which are to go.
func (h *hall) renew(last uint32) []*generation {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.old = max(h.old, last)
	return slices.Clone(h.live)
}

// remove sends nothing more to a worker, if it was open. The channel it returns
// is closed when all that the worker was asked has been answered.
func (h *hall) remove(g *generation) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := &g.seats; !s.closed {
		s.closed, s.empty = true, make(chan struct{})
		if s.taken == 0 {
			close(s.empty)
		}
		h.open = slices.DeleteFunc(h.open, func(other *generation) bool { return other == g })
	}
	return g.seats.empty
}

// refuse has everybody refused for that reason, from those who wait on. A nil
// reason lets them wait again.
func (h *hall) refuse(reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shut = reason
	if reason == nil {
		h.call()
		return
	}
	for h.line.Len() > 0 {
		p := h.line.Remove(h.line.Front()).(*place)
		p.waiter, p.refused = nil, reason
		close(p.given)
	}
}

// workers returns those that are open.
func (h *hall) workers() []*generation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.open)
}

// idlest returns the open worker with least to do, or nil.
func (h *hall) idlest() *generation {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.open) == 0 {
		return nil
	}
	return slices.MinFunc(h.open, func(a, b *generation) int { return a.seats.taken - b.seats.taken })
}

// holding returns the workers that hold a key, those that go among them: a session
// copy is gone when its process is.
func (h *hall) holding(id keystore.KeyID) []*generation {
	h.mu.Lock()
	live := slices.Clone(h.live)
	h.mu.Unlock()
	return slices.DeleteFunc(live, func(g *generation) bool { return !g.holds(id) })
}

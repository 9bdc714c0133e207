package pkcs11

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"chancery/keystore"
)

// How much may be at a worker, and how much may wait for that.
const (
	// DefaultWaiting is how many requests of one kind wait for a provider
	// before others are refused.
	DefaultWaiting = 2048

	// placesPerSigner is enough for a signing thread to find its next batch when
	// it has answered one, and so few that the last is signed long before its
	// deadline.
	placesPerSigner = 2 * maxBatch
)

// rooms are where a provider's requests wait, by what they wait for: nothing
// starves behind what it does not need. Whoever has a place in one of the
// others may enter the desk, and nobody at the desk enters another.
type rooms struct {
	signing room // callers' signatures
	probing room // the one that tells whether the token signs
	making  room // so that of many key generations one is at the desk
	desk    room // what the worker's desk does, one thing after the other
}

func newRooms(signers, waiting int) *rooms {
	return &rooms{
		signing: room{free: signers * placesPerSigner, limit: waiting},
		probing: room{free: 1, limit: waiting},
		making:  room{free: 1, limit: waiting},
		desk:    room{free: 1, limit: waiting},
	}
}

// A room lets a few requests be at the worker at a time. The others wait here,
// first come, first served, each under its own context. The worker's deadlines
// do not run meanwhile, so that many callers are not taken for a worker that
// hangs. It outlives generations.
type room struct {
	mu    sync.Mutex
	free  int       // places not taken; if any, nobody waits
	limit int       // how many may wait
	line  list.List // of *place
}

// A place is the right to have something at the worker. It is taken until its
// owner has left it and all that was sent with it is answered: a request keeps
// the worker busy though its caller has gone.
//
// The nil place is that of whoever is alone with a worker.
type place struct {
	room   *room
	given  chan struct{} // closed when its turn has come; nil if that was at once
	holds  atomic.Int32  // the owner's, and one for each request without an answer
	waiter *list.Element // guarded by room.mu; nil if it does not wait
}

// enter waits for a place, which the caller must leave. The error wraps
// keystore.ErrOverloaded, at once, if too many wait already, and
// keystore.ErrUnavailable if ctx ends first.
func (r *room) enter(ctx context.Context) (*place, error) {
	if ctx.Err() != nil {
		return nil, gaveUp(ctx)
	}
	p := &place{room: r}
	p.holds.Store(1)
	if entered, err := r.join(p); entered || err != nil {
		return p, err
	}
	select {
	case <-p.given:
		return p, nil
	case <-ctx.Done():
		if !r.forget(p) {
			p.leave() // its turn came at the same moment
		}
		return nil, gaveUp(ctx)
	}
}

// join gives p a place if one is free, and has it wait otherwise.
func (r *room) join(p *place) (entered bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.free > 0 {
		r.free--
		return true, nil
	}
	if r.line.Len() >= r.limit {
		return false, fmt.Errorf("%w (%d do)", keystore.ErrOverloaded, r.limit)
	}
	p.given = make(chan struct{})
	p.waiter = r.line.PushBack(p)
	return false, nil
}

// forget takes p out of the line. It returns false if p has a place.
func (r *room) forget(p *place) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.waiter == nil {
		return false
	}
	r.line.Remove(p.waiter)
	return true
}

// hold keeps the place for one request more, until that one leaves it.
func (p *place) hold() {
	if p != nil {
		p.holds.Add(1)
	}
}

// leave takes one hold back, and with the last one gives the place to the first
// in line.
func (p *place) leave() {
	if p == nil || p.holds.Add(-1) > 0 {
		return
	}
	r := p.room
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.line.Front()
	if first == nil {
		r.free++
		return
	}
	next := r.line.Remove(first).(*place)
	next.waiter = nil
	close(next.given)
}

// gaveUp is the error of a caller that waited until its ctx ended.
func gaveUp(ctx context.Context) error {
	return fmt.Errorf("%w: waiting for the token: %w", keystore.ErrUnavailable, context.Cause(ctx))
}

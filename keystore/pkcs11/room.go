package pkcs11

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"chancery/keystore"
)

// A room lets one request be somewhere at a time. The others wait here, first
// come, first served, each under its own context.
type room struct {
	mu    sync.Mutex
	free  int       // places not taken; if any, nobody waits
	limit int       // how many may wait
	line  list.List // of *place
}

// A place is the right to have something at a worker. It is taken until its
// owner has left it and all that was sent with it is answered: a request keeps
// the worker busy though its caller has gone.
//
// The nil place is that of whoever is alone with a worker.
type place struct {
	of      interface{ freed(*place) }
	worker  *generation   // which one it is at; nil in a room
	given   chan struct{} // closed when its turn has come; nil if that was at once
	refused error         // set before given is closed: there is no turn
	holds   atomic.Int32  // the owner's, and one for each request without an answer
	waiter  *list.Element // guarded by the mutex of where it waits; nil if it does not
}

// enter waits for a place, which the caller must leave. The error wraps
// keystore.ErrOverloaded, at once, if too many wait already, and
// keystore.ErrUnavailable if ctx ends first.
func (r *room) enter(ctx context.Context) (*place, error) {
	if ctx.Err() != nil {
		return nil, gaveUp(ctx)
	}
	p := &place{of: r}
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
		return false, overloaded(r.limit)
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

// freed gives the place to the first in line.
func (r *room) freed(*place) {
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

// hold keeps the place for one request more, until that one leaves it.
func (p *place) hold() {
	if p != nil {
		p.holds.Add(1)
	}
}

// leave takes one hold back, and the last one gives the place up.
func (p *place) leave() {
	if p != nil && p.holds.Add(-1) == 0 {
		p.of.freed(p)
	}
}

// gaveUp is the error of a caller that waited until its ctx ended.
func gaveUp(ctx context.Context) error {
	return fmt.Errorf("%w: waiting for the token: %w", keystore.ErrUnavailable, context.Cause(ctx))
}

func overloaded(limit int) error {
	return fmt.Errorf("%w (%d do)", keystore.ErrOverloaded, limit)
}

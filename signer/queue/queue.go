package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ErrLeft: the time of a request was over before its turn came. It wraps nothing,
// and is wrapped together with the cause of the context's end.
var ErrLeft = errors.New("it left the queue before its turn")

// A FullError refuses a request at once: it would have to wait behind too many.
type FullError struct {
	Own     bool          // of its own principal; false: of all together
	Waiting int           // how many they are
	Wait    time.Duration // how long the last of that principal waited: when to come back
}

// Error says whose line is full.
func (e *FullError) Error() string {
	if e.Own {
		return fmt.Sprintf("%d requests of this principal wait for the keystore", e.Waiting)
	}
	return fmt.Sprintf("%d requests wait for the keystore, and no principal has more of them", e.Waiting)
}

// A Queue is where principals, named by K, wait for a keystore. It may be used
// concurrently.
type Queue[K comparable] struct {
	observe func(waited time.Duration)
	waited  atomic.Uint64 // Stats.Waited

	mu    sync.Mutex // guards what follows
	s     schedule[K]
	stats Stats
}

// Stats is what a queue has seen, and how it stands.
type Stats struct {
	Inside  int // room of what is at the keystore
	Waiting int // requests
	Lines   int // principals that have one waiting

	AtOnce     uint64 // went in without waiting
	Waited     uint64 // had their turn later
	RefusedOwn uint64 // their principal had too many waiting
	RefusedAll uint64 // all had, or it gave way to a principal who had less
	Left       uint64 // ended while they waited, or as their turn came
}

// New returns a Queue. weight returns a principal's weight, 1 to MaxWeight, and
// must answer at once; it is asked when the queue first sees a principal and at
// Reweigh. observe is told how long each request waited that had to; it may be nil.
func New[K comparable](l Limits, weight func(K) int, observe func(waited time.Duration)) *Queue[K] {
	if observe == nil {
		observe = func(time.Duration) {}
	}
	return &Queue[K]{s: newSchedule(l, weight), observe: observe}
}

// A Turn is leave to be at the keystore, until it is given back once. The zero Turn
// is that of whoever does not wait in a queue.
type Turn[K comparable] struct {
	q    *Queue[K]
	of   *line[K]
	work work
}

// Enter waits for a turn of who's, which must be left. cost is how much work it is:
// 1 for a signature on an elliptic curve. The error is a *FullError, at once, if too
// many wait, and wraps ErrLeft if ctx ends first. Who does not get a turn has cost
// nothing.
func (q *Queue[K]) Enter(ctx context.Context, who K, cost int) (Turn[K], error) {
	return q.enter(ctx, who, single(cost))
}

// EnterPortion is Enter for several signatures that are made together: they cost as
// much as by themselves, and take half the room.
func (q *Queue[K]) EnterPortion(ctx context.Context, who K, cost int) (Turn[K], error) {
	return q.enter(ctx, who, portion(cost))
}

func (q *Queue[K]) enter(ctx context.Context, who K, w work) (Turn[K], error) {
	if ctx.Err() != nil {
		return Turn[K]{}, left(ctx)
	}
	q.mu.Lock()
	l := q.s.line(who)
	how, r, out := q.s.arrive(l, w, newRequest[K])
	if how == entered {
		q.stats.AtOnce++
		q.mu.Unlock()
		return Turn[K]{q, l, w}, nil
	}
	if out != nil {
		q.stats.RefusedAll++
		out.told <- &FullError{Waiting: q.s.waiting, Wait: q.wait(out.of)}
	}
	if how != waits {
		err := q.refused(l, how)
		q.mu.Unlock()
		return Turn[K]{}, err
	}
	q.mu.Unlock()
	select {
	case err := <-r.told:
		return q.turn(ctx, r, err)
	case <-ctx.Done():
	}
	q.mu.Lock()
	if r.in {
		q.s.withdraw(r)
		q.stats.Left++
		q.mu.Unlock()
		return Turn[K]{}, left(ctx)
	}
	q.mu.Unlock()
	return q.turn(ctx, r, <-r.told) // at the same moment
}

func newRequest[K comparable]() *request[K] {
	return &request[K]{told: make(chan error, 1), since: time.Now()}
}

// turn is what a request has that was told something: an error, or its turn, if it
// still has time for that.
func (q *Queue[K]) turn(ctx context.Context, r *request[K], err error) (Turn[K], error) {
	if err != nil {
		return Turn[K]{}, err
	}
	t := Turn[K]{q, r.of, r.work}
	if ctx.Err() != nil {
		q.mu.Lock()
		q.stats.Left++
		q.mu.Unlock()
		t.Leave()
		return Turn[K]{}, left(ctx)
	}
	q.waited.Add(1)
	q.observe(time.Since(r.since))
	return t, nil
}

// refused counts a refusal. The caller holds mu.
func (q *Queue[K]) refused(l *line[K], how arrival) error {
	if how == lineFull {
		q.stats.RefusedOwn++
		return &FullError{Own: true, Waiting: l.waiting, Wait: q.wait(l)}
	}
	q.stats.RefusedAll++
	return &FullError{Waiting: q.s.waiting, Wait: q.wait(l)}
}

// wait returns how long the last of a line waited, or the first has by now: at the
// rate that was seen, what is in a line that is as long has gone by then. The caller
// holds mu.
func (q *Queue[K]) wait(l *line[K]) time.Duration {
	lately := l.lately
	if l.first != nil {
		lately = max(lately, time.Since(l.first.since))
	}
	return lately
}

func left(ctx context.Context) error { return fmt.Errorf("%w: %w", ErrLeft, context.Cause(ctx)) }

// Leave gives the turn back, and whoever is next gets theirs.
func (t Turn[K]) Leave() {
	if t.q == nil {
		return
	}
	q := t.q
	q.mu.Lock()
	defer q.mu.Unlock()
	q.s.leave(t.of, t.work)
	for r := q.s.next(); r != nil; r = q.s.next() {
		r.of.lately = time.Since(r.since)
		r.told <- nil
	}
}

// Portion returns how much of a batch is to come as one request: the rest of a larger
// one waits for turns of its own, so that others have theirs in between. 0: all of it.
func (q *Queue[K]) Portion() int { return q.s.Portion }

// Reweigh has the weights that are in force now count from here on.
func (q *Queue[K]) Reweigh() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.s.reweigh()
}

// Stats returns how the queue stands.
func (q *Queue[K]) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	s.Waited = q.waited.Load()
	s.Inside, s.Waiting, s.Lines = q.s.inside, q.s.waiting, len(q.s.called)
	return s
}

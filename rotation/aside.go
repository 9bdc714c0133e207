package rotation

import (
	"context"
	"fmt"
	"time"

	"chancery/keystore"
)

// aside runs f in a goroutine of its own, which Wait waits for. It is for calls
// that may hang with the disk, whatever context they are given, on behalf of
// someone who must not hang with them.
func (r *Rotator) aside(f func()) {
	r.mu.Lock()
	r.asides++
	r.mu.Unlock()
	go func() {
		defer func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.asides--
			r.idle.Broadcast()
		}()
		f()
	}()
}

// Wait waits for what outlasted the calls that began it, which happens while
// the disk hangs. Run waits by itself before it returns.
func (r *Rotator) Wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.asides > 0 {
		r.idle.Wait()
	}
}

// bounded returns what f returns, or an error wrapping keystore.ErrUnavailable
// once ctx has ended, whether or not f heeds that. Then f goes on aside.
func bounded[T any](ctx context.Context, r *Rotator, f func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	r.aside(func() {
		value, err := f()
		done <- outcome{value, err}
	})
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
	}
	select {
	case o := <-done: // both were ready
		return o.value, o.err
	default:
		var none T
		return none, fmt.Errorf("no answer: %w: %w", keystore.ErrUnavailable, context.Cause(ctx))
	}
}

// look is bounded by a time of its own. One look is under way at most, so that
// those who ask again and again while the disk hangs make no heap of them.
func look[T any](ctx context.Context, r *Rotator, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case r.looks <- struct{}{}:
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("waiting for another look: %w: %w", keystore.ErrUnavailable, context.Cause(ctx))
	}
	return bounded(ctx, r, func() (T, error) {
		defer func() { <-r.looks }()
		return f(ctx)
	})
}

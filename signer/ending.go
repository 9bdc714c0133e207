package signer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
)

// ErrTimeLimit is why the context of a request ended that took as long as the daemon
// gives any. It wraps context.DeadlineExceeded. A context that ended without it was
// ended by its caller: who went away, or who set a deadline that passed.
var ErrTimeLimit = fmt.Errorf("no request may take longer: %w", context.DeadlineExceeded)

// Within returns ctx with the most time that the daemon gives a request. An earlier
// deadline in ctx stays the caller's.
func Within(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, most, ErrTimeLimit)
}

// EndedByCaller reports whether the context of a request has ended, and not because
// of ErrTimeLimit.
func EndedByCaller(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), ErrTimeLimit)
}

// byCaller returns what a request sees that came to nothing because its caller ended
// it, and nil if err has another reason: then nothing here is at fault.
func byCaller(ctx context.Context, err error) *api.Error {
	if !EndedByCaller(ctx) || !errors.Is(err, ctx.Err()) || errors.Is(err, keystore.ErrSignature) {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return api.Errorf(api.CodeCanceled, "the caller did not wait for the answer").Because(err)
	}
	return api.Errorf(api.CodeDeadlineExceeded, "the deadline that the caller set passed before it was done").Because(err)
}

// ended returns err, or what byCaller makes of it.
func ended(ctx context.Context, err error) error {
	if e := byCaller(ctx, err); e != nil {
		return e
	}
	return err
}

// overdue is what a request sees that did not come to its signature: that its caller
// ended it; or that it took as long as any may, since it waited behind too many others
// and nothing else is wrong. While its time lasts, otherwise says what err is.
func overdue(ctx context.Context, err error, otherwise func(error) *api.Error) error {
	if e := byCaller(ctx, err); e != nil {
		return e
	}
	late := errors.Is(ctx.Err(), context.DeadlineExceeded) && errors.Is(err, context.DeadlineExceeded)
	if late && !errors.Is(err, keystore.ErrSignature) {
		return overloaded(err)
	}
	return otherwise(err)
}

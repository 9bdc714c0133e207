package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"chancery/keystore"
)

// Errors a caller branches on, beside those of keystore.
var (
	// ErrIllegal: the change breaks a rule of the catalog; nothing was changed.
	ErrIllegal = errors.New("illegal change")
	// ErrDamaged: the catalog is not what was written. It wraps nothing; what the
	// catalog returns while open wraps keystore.ErrUnavailable too.
	ErrDamaged = errors.New("catalog damaged")
	// ErrNewer: a later version of Chancery has written the catalog.
	ErrNewer = errors.New("catalog is newer than this program")
	// ErrBehind: the database lacks a change that was seen, as after a failover to
	// a server that had not received it. Nothing is read or written until it has
	// it. It wraps keystore.ErrUnavailable.
	ErrBehind = fmt.Errorf("%w: the database lacks a change that was seen", keystore.ErrUnavailable)
	// ErrFenced: this node's epoch is over: it was enrolled again, stopped or
	// forgotten. It writes nothing any more.
	ErrFenced = errors.New("this node is fenced")
	// ErrIdempotencyMismatch: the key was used before with another body.
	ErrIdempotencyMismatch = errors.New("idempotency key was used with another request")
	// ErrIdempotencyInProgress: the same request is being answered now.
	ErrIdempotencyInProgress = errors.New("request with this idempotency key is in progress")
)

const repairHint = "(hint: stop chanceryd, put the catalog aside (a file together with its -wal and -shm), restore the last backup, " +
	"and compare it with `chancery audit list` before you start again)"

// damaged makes an error for a catalog that is not what was written.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w: %s %s", keystore.ErrUnavailable, ErrDamaged, fmt.Sprintf(format, args...), repairHint)
}

func illegal(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrIllegal, fmt.Sprintf(format, args...))
}

// explain gives a database error its kind. Errors that have one pass through.
func (c *Catalog) explain(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{
		ErrIllegal, ErrDamaged, ErrNewer, ErrFenced, ErrIdempotencyMismatch, ErrIdempotencyInProgress,
		keystore.ErrNotFound, keystore.ErrExists, keystore.ErrOvertaken, keystore.ErrUnavailable, keystore.ErrUncertain,
	} {
		if errors.Is(err, known) {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err) // the driver says what that did to its connection
	}
	if c.db != nil {
		if known := c.db.explain(err); known != nil {
			return fmt.Errorf("%s: %w", doing, known)
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sql.ErrConnDone) {
		return fmt.Errorf("%s: %w: %w", doing, keystore.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

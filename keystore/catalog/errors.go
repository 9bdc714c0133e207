package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/mattn/go-sqlite3"

	"chancery/keystore"
)

// Errors a caller branches on, beside those of keystore.
var (
	// ErrIllegal: the change breaks a rule of the catalog; nothing was changed.
	ErrIllegal = errors.New("illegal change")
	// ErrDamaged: the file is not what was written. It wraps nothing; what the
	// catalog returns while open wraps keystore.ErrUnavailable too.
	ErrDamaged = errors.New("catalog damaged")
	// ErrNewer: a later version of Chancery has written the file.
	ErrNewer = errors.New("catalog is newer than this program")
	// ErrIdempotencyMismatch: the key was used before with another body.
	ErrIdempotencyMismatch = errors.New("idempotency key was used with another request")
	// ErrIdempotencyInProgress: the same request is being answered now.
	ErrIdempotencyInProgress = errors.New("request with this idempotency key is in progress")
)

const repairHint = "(hint: stop chanceryd, put the file and its -wal and -shm aside, restore the last backup, " +
	"and compare it with `chancery audit list` before you start again)"

// damaged makes an error for a file that is not what was written.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w: %s %s", keystore.ErrUnavailable, ErrDamaged, fmt.Sprintf(format, args...), repairHint)
}

func illegal(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrIllegal, fmt.Sprintf(format, args...))
}

// explain gives a database error its kind. Errors that have one pass through.
func explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{
		ErrIllegal, ErrDamaged, ErrNewer, ErrIdempotencyMismatch, ErrIdempotencyInProgress,
		keystore.ErrNotFound, keystore.ErrExists, keystore.ErrOvertaken, keystore.ErrUnavailable, keystore.ErrUncertain,
	} {
		if errors.Is(err, known) {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if e, ok := errors.AsType[sqlite3.Error](err); ok {
		return fmt.Errorf("%s: %w", doing, explainSQLite(e))
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sql.ErrConnDone) {
		return fmt.Errorf("%s: %w: %w", doing, keystore.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func explainSQLite(e sqlite3.Error) error {
	switch e.Code {
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB, sqlite3.ErrFormat:
		return damaged("%v", e)
	case sqlite3.ErrConstraint:
		return illegal("%v", e)
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return fmt.Errorf("%w: another process holds the catalog: %w "+
			"(hint: look with `fuser` for a second writer, such as a sqlite3 shell)", keystore.ErrUnavailable, e)
	case sqlite3.ErrFull:
		return fmt.Errorf("%w: no space for the catalog: %w", keystore.ErrUnavailable, e)
	}
	// I/O errors, read-only file systems, interrupts: it may work later.
	return fmt.Errorf("%w: %w", keystore.ErrUnavailable, e)
}

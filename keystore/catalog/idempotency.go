package catalog

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"time"
)

// idempotencyKept is how long a reply can be had again.
const idempotencyKept = 24 * time.Hour

// An IdempotencyKey is a caller's name for a request, within what it is about.
type IdempotencyKey struct{ Principal, Authority, Profile, Key string }

func (k IdempotencyKey) columns() []any { return []any{k.Principal, k.Authority, k.Profile, k.Key} }

// BeginIdempotent takes the key for a request whose body has that hash. It
// returns nil, nil if the request is the caller's to answer now, who then calls
// FinishIdempotent or ReleaseIdempotent; the reply, not nil, if it was answered
// before; and otherwise ErrIdempotencyMismatch or ErrIdempotencyInProgress.
// Keys are forgotten after 24 hours.
func (c *Catalog) BeginIdempotent(ctx context.Context, key IdempotencyKey, body [32]byte, now time.Time) (reply []byte, err error) {
	if key.Key == "" || len(key.Key) > 255 {
		return nil, illegal("an idempotency key has 1 to 255 bytes")
	}
	at := cut(now)
	happened := func(ctx context.Context, db *sql.DB) (bool, error) {
		var hash, done []byte
		var when int64
		err := db.QueryRowContext(ctx, sqlIdempotent, key.columns()...).Scan(&hash, &when, &done)
		if errors.Is(err, sql.ErrNoRows) {
			return false, nil
		}
		return bytes.Equal(hash, body[:]) && when == at.UnixMicro() && done == nil, err
	}
	err = c.write(ctx, "beginning a request", happened, func(tx *transaction) error {
		if _, err := tx.exec(sqlForgetIdempotent, at.Add(-idempotencyKept).UnixMicro()); err != nil {
			return err
		}
		var hash []byte
		var when int64
		err := tx.row(sqlIdempotent, key.columns()...).Scan(&hash, &when, &reply)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			_, err = tx.exec(sqlInsertIdempotent, append(key.columns(), body[:], at.UnixMicro())...)
			return err
		case err != nil:
			return err
		case !bytes.Equal(hash, body[:]):
			return ErrIdempotencyMismatch
		case reply == nil:
			return ErrIdempotencyInProgress
		}
		return nil // and what was forgotten stays forgotten
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// FinishIdempotent keeps the reply, which is not empty, for whoever asks again.
// The error wraps keystore.ErrNotFound if the key was not begun.
func (c *Catalog) FinishIdempotent(ctx context.Context, key IdempotencyKey, reply []byte) error {
	if len(reply) == 0 {
		return illegal("a reply is not empty")
	}
	happened := func(ctx context.Context, db *sql.DB) (bool, error) {
		var hash, done []byte
		var when int64
		err := db.QueryRowContext(ctx, sqlIdempotent, key.columns()...).Scan(&hash, &when, &done)
		return bytes.Equal(done, reply), err
	}
	return c.write(ctx, "keeping a reply", happened, func(tx *transaction) error {
		result, err := tx.exec(sqlFinishIdempotent, append([]any{reply}, key.columns()...)...)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return missing(sql.ErrNoRows, "a request in progress with idempotency key %q", key.Key)
	})
}

// ReleaseIdempotent gives the key back without a reply, so that the request can
// be made again. A key that is not in progress stays as it is.
func (c *Catalog) ReleaseIdempotent(ctx context.Context, key IdempotencyKey) error {
	return c.write(ctx, "releasing a request", nil, func(tx *transaction) error {
		_, err := tx.exec(sqlReleaseIdempotent, key.columns()...)
		return err
	})
}

package catalog

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"
)

// idempotencyKept is how long a reply can be had again.
const idempotencyKept = 24 * time.Hour

// An IdempotencyKey is a caller's name for a request, within what it is about.
type IdempotencyKey struct{ Principal, Authority, Profile, Key string }

func (k IdempotencyKey) columns() []any { return []any{k.Principal, k.Authority, k.Profile, k.Key} }

// claims are the keys whose requests this process is answering now. A row in
// progress says that someone began; the claim says that someone will end it. A
// row without a claim was left behind when its answer could not be kept (a full
// disk, say): it would turn its caller away for a day although nobody answers.
//
// This holds while the catalog has one process. On several nodes the row has to
// name its node, and each node's claims judge only the rows that name it.
type claims struct {
	mu    sync.Mutex
	since map[IdempotencyKey]time.Time
}

// take claims key, or reports false if it is claimed. A claim that was never
// dropped, because its request panicked, ends when its row would.
func (c *claims) take(key IdempotencyKey, at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if since, ok := c.since[key]; ok && at.Sub(since) < idempotencyKept {
		return false
	}
	if c.since == nil {
		c.since = make(map[IdempotencyKey]time.Time)
	}
	c.since[key] = at
	return true
}

func (c *claims) drop(key IdempotencyKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.since, key)
}

// BeginIdempotent takes the key for a request whose body has that hash. It
// returns nil, nil if the request is the caller's to answer now, who then calls
// FinishIdempotent or ReleaseIdempotent; the reply, not nil, if it was answered
// before; and otherwise ErrIdempotencyMismatch or ErrIdempotencyInProgress. A key
// whose answer could not be kept is free again, for any body. Keys are forgotten
// after 24 hours.
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
	claimed := false
	err = c.write(ctx, "beginning a request", happened, func(tx *transaction) error {
		if _, err := tx.exec(sqlForgetIdempotent, at.Add(-idempotencyKept).UnixMicro()); err != nil {
			return err
		}
		var hash []byte
		var when int64
		err := tx.row(sqlIdempotent, key.columns()...).Scan(&hash, &when, &reply)
		begun := !errors.Is(err, sql.ErrNoRows)
		if begun && err != nil {
			return err
		}
		// Claimed in here, where no other request with the key is.
		claimed = reply == nil && c.answering.take(key, at)
		switch {
		case claimed:
			return beginAnew(tx, key, body, at)
		case begun && !bytes.Equal(hash, body[:]):
			return ErrIdempotencyMismatch
		case reply == nil:
			return ErrIdempotencyInProgress
		}
		return nil // and what was forgotten stays forgotten
	})
	if err != nil {
		if claimed {
			c.answering.drop(key)
		}
		return nil, err
	}
	return reply, nil
}

// beginAnew writes the row of a request in progress, in place of one that nobody
// is answering.
func beginAnew(tx *transaction, key IdempotencyKey, body [32]byte, at time.Time) error {
	if _, err := tx.exec(sqlReleaseIdempotent, key.columns()...); err != nil {
		return err
	}
	_, err := tx.exec(sqlInsertIdempotent, append(key.columns(), body[:], at.UnixMicro())...)
	return err
}

// FinishIdempotent keeps the reply, which is not empty, for whoever asks again.
// The error wraps keystore.ErrNotFound if the key was not begun. After any error
// the key is free again, unless the reply was kept after all.
func (c *Catalog) FinishIdempotent(ctx context.Context, key IdempotencyKey, reply []byte) error {
	drop := c.dropOnce(key)
	defer drop()
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
		drop()
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
// be made again. A key that is not in progress stays as it is. After an error
// too the key is free.
func (c *Catalog) ReleaseIdempotent(ctx context.Context, key IdempotencyKey) error {
	drop := c.dropOnce(key)
	defer drop()
	return c.write(ctx, "releasing a request", nil, func(tx *transaction) error {
		drop()
		_, err := tx.exec(sqlReleaseIdempotent, key.columns()...)
		return err
	})
}

// dropOnce returns a function that ends the claim of key when first called. That
// is inside the transaction, so that whoever begins next finds row and claim as
// the transaction left them, or after one that never came to be. Later the claim
// may be another's.
func (c *Catalog) dropOnce(key IdempotencyKey) func() {
	return sync.OnceFunc(func() { c.answering.drop(key) })
}

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

func (k IdempotencyKey) ownColumns(tx *transaction) []any {
	return append(k.columns(), tx.node, tx.epoch)
}

// claims are the keys whose requests this process is answering now. A row in
// progress says that someone began; the claim says that someone will end it. A
// row without a claim was left behind when its answer could not be kept (a full
// disk, say): it would turn its caller away for a day although nobody answers.
//
// A row names its node and epoch, and the claims judge only the rows of their
// own. Another's row is free when that node's epoch is over or its lease to sign
// has ended: whoever was answering cannot end it any more.
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
	if key.Key == "" || len(key.Key) > 255 || plain(key.Key) != key.Key {
		return nil, illegal("an idempotency key has 1 to 255 bytes, of UTF-8 and none of them zero")
	}
	var at time.Time
	happened := func(tx *transaction) (bool, error) {
		row, found, err := findIdempotent(tx, key)
		return found && bytes.Equal(row.body, body[:]) && row.at.Equal(at) && row.reply == nil &&
			row.node == tx.node && row.epoch == tx.epoch, err
	}
	claimed := false
	err = c.write(ctx, writing, "beginning a request", happened, func(tx *transaction) error {
		if at = cut(now); tx.db.shared() {
			at = tx.now
		}
		if _, err := tx.exec(sqlForgetIdempotent, at.Add(-idempotencyKept).UnixMicro()); err != nil {
			return err
		}
		row, begun, err := findIdempotent(tx, key)
		if err != nil {
			return err
		}
		free := !begun
		if begun && row.reply == nil {
			if free, err = isFree(tx, row); err != nil {
				return err
			}
		}
		// Claimed in here, where no other request of this process with the key is.
		claimed = free && c.answering.take(key, at)
		switch {
		case claimed:
			return beginAnew(tx, key, body, at)
		case begun && !bytes.Equal(row.body, body[:]):
			return ErrIdempotencyMismatch
		case row.reply == nil:
			return ErrIdempotencyInProgress
		}
		reply = row.reply
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

// An idempotentRow is a request that was begun.
type idempotentRow struct {
	body  []byte
	at    time.Time
	reply []byte // nil: in progress
	node  string
	epoch int64
}

func findIdempotent(tx *transaction, key IdempotencyKey) (row idempotentRow, found bool, err error) {
	var at int64
	err = tx.row(tx.locked(sqlIdempotent, forUpdate), key.columns()...).Scan(&row.body, &at, &row.reply, &row.node, &row.epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return row, false, nil
	}
	row.at = time.UnixMicro(at).UTC()
	return row, err == nil, err
}

// isFree reports whether a request in progress may be begun anew as far as its
// node is concerned: it is this one, whose claims know, or one that cannot end
// it.
func isFree(tx *transaction, row idempotentRow) (bool, error) {
	if row.node == tx.node && row.epoch == tx.epoch {
		return true, nil
	}
	n, found, err := findNode(tx, row.node, unlocked)
	if err != nil {
		return false, err
	}
	over := !found || n.Epoch != row.epoch || n.Forgotten != nil || !n.MaySign(tx.now)
	return over, nil
}

// beginAnew writes the row of a request in progress, in place of one that nobody
// is answering. Another node may have been first.
func beginAnew(tx *transaction, key IdempotencyKey, body [32]byte, at time.Time) error {
	if _, err := tx.exec(sqlAbandonIdempotent, key.columns()...); err != nil {
		return err
	}
	n, err := tx.affected(sqlInsertIdempotent, append(key.columns(), body[:], at.UnixMicro(), tx.node, tx.epoch)...)
	if err == nil && n == 0 {
		err = ErrIdempotencyInProgress
	}
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
	happened := func(tx *transaction) (bool, error) {
		row, _, err := findIdempotent(tx, key)
		return bytes.Equal(row.reply, reply), err
	}
	return c.write(ctx, writing, "keeping a reply", happened, func(tx *transaction) error {
		drop()
		n, err := tx.affected(sqlFinishIdempotent, append([]any{reply}, key.ownColumns(tx)...)...)
		if err != nil || n == 1 {
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
	return c.write(ctx, writing, "releasing a request", nil, func(tx *transaction) error {
		drop()
		_, err := tx.exec(sqlReleaseIdempotent, key.ownColumns(tx)...)
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

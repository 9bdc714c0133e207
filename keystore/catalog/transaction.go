package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chancery/keystore"
)

// lookWithin is how long it may take to find out what became of a commit.
const lookWithin = 2 * time.Second

// A transaction sees one state of the catalog, and may be changing it.
type transaction struct {
	ctx    context.Context
	conn   *sql.Conn
	db     database
	now    time.Time // the catalog's clock; from one change to the next it never goes back
	mode   mode
	newest head   // the newest change, the one being made included
	node   string // that writes; empty: it has not enrolled
	epoch  int64  // of the node
}

func (tx *transaction) exec(statement string, args ...any) (sql.Result, error) {
	return tx.conn.ExecContext(tx.ctx, statement, args...)
}

func (tx *transaction) query(statement string, args ...any) (*sql.Rows, error) {
	return tx.conn.QueryContext(tx.ctx, statement, args...)
}

func (tx *transaction) row(statement string, args ...any) *sql.Row {
	return tx.conn.QueryRowContext(tx.ctx, statement, args...)
}

// locked returns a SELECT whose rows nobody else changes until the transaction
// ends, if it is one that may.
func (tx *transaction) locked(query, strength string) string {
	if tx.mode == reading {
		return query
	}
	return tx.db.locked(query, strength)
}

// affected runs a statement and returns how many rows it wrote.
func (tx *transaction) affected(statement string, args ...any) (int64, error) {
	result, err := tx.exec(statement, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// errNothing makes write roll back and succeed.
var errNothing = errors.New("nothing to write")

// A lookup tells whether a write happened, from another connection.
type lookup func(*transaction) (bool, error)

// write runs f in a transaction of mode m and commits it if f returns nil. If
// the commit fails, happened is asked on another connection whether it was made
// after all (S04); a nil happened means that repeating the write does no harm, so
// that a failure need not be told apart.
func (c *Catalog) write(ctx context.Context, m mode, doing string, happened lookup, f func(*transaction) error) error {
	bounded, cancel := c.db.within(ctx)
	defer cancel()
	err := c.writeOnce(bounded, m, happened, f)
	if errors.Is(err, errNothing) {
		return nil
	}
	return c.explain(bounded, doing, err)
}

func (c *Catalog) writeOnce(ctx context.Context, m mode, happened lookup, f func(*transaction) error) error {
	tx, err := c.begin(ctx, m)
	if err != nil {
		return err
	}
	defer tx.conn.Close()
	open := true
	defer func() {
		if open { // f failed or panicked
			c.rollback(tx.conn)
		}
	}()
	found := tx.newest
	if err := c.fence(tx, m); err != nil {
		return err
	}
	if err := f(tx); err != nil {
		c.mark.notice(found)
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	open = false
	// From here the caller's patience does not count: a commit cut off in the
	// middle is what nobody wants to explain.
	committing, cancel := c.db.committing(context.WithoutCancel(ctx))
	defer cancel()
	err = c.commit(committing, tx.conn)
	if err != nil {
		c.rollback(tx.conn)
		discard(tx.conn) // after an I/O error its caches are not trusted
		if err := c.lookBack(ctx, tx.newest.id, err, happened); err != nil {
			return err
		}
	}
	c.mark.notice(tx.newest)
	return nil
}

// begin begins a transaction and looks where the catalog is: nothing is read or
// written in one that is behind what was seen of it.
func (c *Catalog) begin(ctx context.Context, m mode) (*transaction, error) {
	seen := c.mark.seen() // before: what is seen meanwhile, the transaction need not see
	conn, err := c.db.begin(ctx, m)
	if err != nil {
		return nil, err
	}
	tx := &transaction{ctx: ctx, conn: conn, db: c.db, mode: m}
	if e := c.enrolled.Load(); e != nil {
		tx.node, tx.epoch = e.name, e.epoch
	}
	tx.newest, err = readHead(tx, m, seen.revision, c.clock())
	if err == nil {
		err = c.mark.check(seen, tx.newest)
	}
	if err != nil {
		c.rollback(conn)
		return nil, errors.Join(err, closed(conn))
	}
	tx.now = tx.newest.clock
	return tx, nil
}

func closed(conn *sql.Conn) error {
	if err := conn.Close(); err != nil && !errors.Is(err, sql.ErrConnDone) {
		return err
	}
	return nil
}

// lookBack tells what became of a commit that failed with err.
func (c *Catalog) lookBack(ctx context.Context, id string, err error, happened lookup) error {
	if happened == nil {
		return fmt.Errorf("committing: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookWithin)
	defer cancel()
	yes := false
	lookErr := c.db.settled(ctx, id)
	if lookErr == nil {
		lookErr = c.readOnce(ctx, func(tx *transaction) (err error) {
			yes, err = happened(tx)
			return err
		})
	}
	switch {
	case lookErr != nil:
		return fmt.Errorf("%w: committing: %w; looking whether it happened: %w", keystore.ErrUncertain, err, lookErr)
	case yes:
		return nil
	}
	return fmt.Errorf("committing, which did not happen: %w", err)
}

func execCommit(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "COMMIT")
	return err
}

// rollback ends the transaction if there still is one, and gives up the
// connection if it cannot.
func (c *Catalog) rollback(conn *sql.Conn) {
	ctx, cancel := c.db.committing(context.Background())
	defer cancel()
	_, err := conn.ExecContext(ctx, "ROLLBACK")
	if err != nil && !noTransaction(err) {
		discard(conn)
	}
}

// read runs f in a transaction that sees one state.
func (c *Catalog) read(ctx context.Context, doing string, f func(*transaction) error) error {
	ctx, cancel := c.db.within(ctx)
	defer cancel()
	return c.explain(ctx, doing, c.readOnce(ctx, f))
}

func (c *Catalog) readOnce(ctx context.Context, f func(*transaction) error) error {
	tx, err := c.begin(ctx, reading)
	if err != nil {
		return err
	}
	defer tx.conn.Close()
	defer c.rollback(tx.conn)
	if err := f(tx); err != nil {
		return err
	}
	c.mark.notice(tx.newest)
	return nil
}

package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"chancery/keystore"
)

// Config says where the catalog is: in the file at Path or, unless that is nil,
// in Postgres.
type Config struct {
	Path     string // of the SQLite file; made, mode 0600, if it does not exist
	Postgres *Postgres

	// Mark is the path of a file that keeps which change was the newest that was
	// seen; see there for its format. A database that does not have that change is
	// not used. Empty: no such file, only what was seen since Open counts.
	Mark string

	Now func() time.Time // nil: time.Now; on PostgreSQL it dates snapshots only

	// Agree is asked, with what the catalog's clock says, before each write of a node
	// that has enrolled or enrols. Its error refuses the write: what is written once by
	// a clock that is ahead is not taken back. Nil: no write is refused for that.
	Agree func(now time.Time) error

	clock func() time.Time // in tests, PostgreSQL's clock
}

// A Catalog is the open catalog. All methods may be called concurrently. Those
// that write wait for each other, and none may be called from the function
// given to Update.
type Catalog struct {
	db    database
	now   func() time.Time
	clock func() time.Time // what the catalog's clock goes by; zero: the database's own
	agree func(time.Time) error
	mark  *mark

	enrolled  atomic.Pointer[enrolled] // nil: its writes are fenced by nothing
	listed    atomic.Pointer[listing]  // what View returned last; nil: nothing
	answering claims                   // the idempotency keys this process is answering now

	commit func(context.Context, *sql.Conn) error // execs COMMIT; tests lose its answer
}

// Open opens the catalog, making it if there is none, and brings its schema up to
// date. In a file, which one process has, it ends what the last process left
// open: certificates whose outcome was never recorded become "unknown", requests
// in progress are forgotten. In PostgreSQL Enrol does that.
//
// Its errors wrap ErrDamaged if the catalog is not what a catalog wrote, ErrNewer
// if a later version of Chancery wrote it, ErrBehind if it lacks a change that
// was seen, keystore.ErrUnavailable if it cannot be opened now, and say what to
// do. Open changes nothing before it has recognised the catalog.
func Open(ctx context.Context, cfg Config) (*Catalog, error) {
	c := &Catalog{now: cfg.Now, agree: cfg.Agree, commit: execCommit}
	if c.now == nil {
		c.now = time.Now
	}
	c.clock = c.now
	if cfg.Postgres != nil {
		c.clock = cfg.clock
		if c.clock == nil {
			c.clock = func() time.Time { return time.Time{} }
		}
	}
	db, err := newDatabase(cfg)
	if err != nil {
		return nil, c.explain(ctx, opening(cfg), err)
	}
	c.db = db
	c.mark, err = openMark(cfg.Mark)
	if err == nil {
		err = c.open(ctx)
	}
	if err != nil {
		return nil, errors.Join(c.explain(ctx, opening(cfg), err), c.Close())
	}
	return c, nil
}

func newDatabase(cfg Config) (database, error) {
	if cfg.Postgres != nil {
		p, err := newPostgres(*cfg.Postgres)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	if err := checkSQLiteLinked(); err != nil {
		return nil, err
	}
	return &sqlite{path: cfg.Path}, nil
}

func opening(cfg Config) string {
	if cfg.Postgres != nil {
		return "opening the catalog in PostgreSQL"
	}
	return "opening the catalog " + cfg.Path
}

func (c *Catalog) open(ctx context.Context) error {
	bounded, cancel := c.db.within(ctx)
	defer cancel()
	if err := c.db.open(bounded, c.recognise); err != nil {
		return err
	}
	if !c.db.shared() {
		if err := c.endOpen(ctx); err != nil {
			return err
		}
	}
	view, err := c.View(ctx)
	if err != nil {
		return err
	}
	return checkView(view)
}

// recognise refuses a catalog that is behind what was seen of it. tx is nil where
// there is no catalog yet.
func (c *Catalog) recognise(tx *transaction) error {
	seen := c.mark.seen()
	if tx == nil {
		return c.mark.check(seen, head{})
	}
	found, err := readHead(tx, reading, seen.revision, c.clock())
	if err != nil {
		return err
	}
	return c.mark.check(seen, found)
}

// checkView holds what was read against the rules of check.go.
func checkView(view *keystore.View) error {
	for _, ks := range view.KeySets() {
		if err := checkSet(ks); err != nil {
			return damaged("%v", err)
		}
		for _, v := range ks.Known() {
			if err := checkKey(v); err != nil {
				return damaged("key set %q version %d: %v", ks.Name, v.Number, err)
			}
		}
	}
	return nil
}

// endOpen ends what the last process left open.
func (c *Catalog) endOpen(ctx context.Context) error {
	return c.write(ctx, writing, "closing what was left open", nil, func(tx *transaction) error {
		if _, err := tx.exec(sqlIntentsUnknown); err != nil {
			return err
		}
		_, err := tx.exec(sqlForgetInProgress)
		return err
	})
}

// Warnings says what about the database an operator should know, a sentence
// each: nothing that keeps the catalog from being used.
func (c *Catalog) Warnings() []string {
	list := c.db.warnings()
	if err := c.mark.failure(); err != nil {
		list = append(list, fmt.Sprintf("which change was seen last could not be kept: %v "+
			"(hint: until it can, a restart does not notice a database that lost changes)", err))
	}
	return list
}

// Close waits for running calls and closes the catalog.
func (c *Catalog) Close() error {
	return c.db.close()
}

package catalog

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"time"
)

// A mode is what a transaction is for.
type mode int

const (
	reading   mode = iota + 1 // sees one state, changes nothing
	writing                   // rows that no two nodes write: horizons, certificates, requests, heads
	changing                  // key sets, nodes, acknowledgements: one after the other, over all nodes
	enrolling                 // the same, by a node that is not held against its own row
	leasing                   // a node's leases, which wait for none of the others
)

// A database is what differs between SQLite and PostgreSQL; the rest of the
// package is the same for both. Each lets no two transactions of one mode but
// reading run at once in a process.
type database interface {
	// open recognises the catalog, or makes it, brings its schema up to date and
	// checks that it is whole. It changes nothing before it has recognised it, and
	// before it has shown what is there to seen, which may refuse it.
	open(ctx context.Context, seen func(*transaction) error) error

	// begin begins a transaction. Whoever gets the connection closes it.
	begin(ctx context.Context, m mode) (*sql.Conn, error)

	// newest is the statement that a transaction begins with: see head.
	newest(m mode) string

	// locked returns a SELECT whose rows nobody else changes until the transaction
	// ends. strength is how PostgreSQL calls that.
	locked(query, strength string) string

	// settled waits until the transaction of that id has ended, whatever became of it. Its
	// error says that this cannot be told.
	settled(ctx context.Context, id string) error

	// within bounds a call, commit one that cannot be given up half way.
	within(ctx context.Context) (context.Context, context.CancelFunc)
	committing(ctx context.Context) (context.Context, context.CancelFunc)

	// shared reports whether several nodes may have the catalog open.
	shared() bool

	// explain gives an error of the database its kind, and returns nil for any
	// other.
	explain(err error) error

	warnings() []string
	close() error
}

// The strengths of a lock on rows.
const (
	unlocked       = ""
	forUpdate      = " FOR UPDATE"        // the row is about to be replaced
	forNoKeyUpdate = " FOR NO KEY UPDATE" // it is about to be changed; what refers to it does not wait
	forKeyShare    = " FOR KEY SHARE"     // only replacing it waits
)

// A head is the newest change there is, and when a transaction that sees it
// began.
type head struct {
	revision   int64 // 0: there has been no change
	transition string
	at         time.Time // of the change
	marked     string    // the transition at the revision that was asked about
	clock      time.Time
	id         string // of the transaction, where the database has one
}

// readHead asks what the newest change is, and which one made the revision
// marked.
func readHead(tx *transaction, m mode, marked int64, now time.Time) (head, error) {
	var h head
	var at int64
	var clock sql.NullInt64
	var id sql.NullString
	local := any(nil)
	if !now.IsZero() {
		local = now.UnixMicro()
	}
	err := tx.row(tx.db.newest(m), marked, local).Scan(&h.revision, &h.transition, &at, &h.marked, &clock, &id)
	if at != 0 {
		h.at = time.UnixMicro(at).UTC()
	}
	h.clock, h.id = timeOf(clock), id.String
	if h.clock.Before(h.at) {
		h.clock = h.at // it stands still until the clock has caught up
	}
	return h, err
}

// A connector makes connections of one kind. It replaces database/sql's names
// for drivers, which are global.
type connector struct {
	driver driver.Driver
	dsn    string
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c connector) Driver() driver.Driver                        { return c.driver }

// discard takes the connection out of its pool.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

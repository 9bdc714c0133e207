package catalog

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/mattn/go-sqlite3"

	"chancery/keystore"
)

// busyTimeout is how long a write waits for another process that holds the file.
const busyTimeout = 2 * time.Second

// Config says where the catalog is.
type Config struct {
	Path string           // of the SQLite file; made, mode 0600, if it does not exist
	Now  func() time.Time // nil: time.Now
}

// A Catalog is the open file. All methods may be called concurrently. Those
// that write wait for each other, and none may be called from the function
// given to Update.
type Catalog struct {
	path string
	now  func() time.Time
	file fs.FileInfo // of path when it was opened

	writer *sql.DB // one connection, each transaction BEGIN IMMEDIATE
	reader *sql.DB // read-only

	answering claims // the idempotency keys this process is answering now

	commit func(context.Context, *sql.Conn) error // execs COMMIT; tests lose its answer
}

// Open opens the catalog, making it if there is no file, brings its schema up
// to date, and ends what the last process left open: certificates whose outcome
// was never recorded become "unknown", requests in progress are forgotten.
//
// Its errors wrap ErrDamaged if the file is not what a catalog wrote, ErrNewer
// if a later version of Chancery wrote it, keystore.ErrUnavailable if it cannot
// be opened now, and say what to do. Open changes nothing before it has
// recognised the file.
func Open(ctx context.Context, cfg Config) (*Catalog, error) {
	if _, number, _ := sqlite3.Version(); checkSQLite(number) != nil {
		return nil, checkSQLite(number)
	}
	c := &Catalog{path: cfg.Path, now: cfg.Now, commit: execCommit}
	if c.now == nil {
		c.now = time.Now
	}
	if err := c.open(ctx); err != nil {
		return nil, errors.Join(explain(fmt.Sprintf("opening the catalog %s", c.path), err), c.Close())
	}
	return c, nil
}

// checkSQLite refuses the SQLite versions whose write-ahead log can lose
// committed changes: 3.7.0 to 3.51.2 (FAULTS S07).
func checkSQLite(number int) error {
	if number < 3_051_003 {
		return fmt.Errorf("SQLite %d.%d.%d can corrupt its write-ahead log "+
			"(hint: build with SQLite 3.51.3 or later; the one bundled with this program is)",
			number/1_000_000, number/1000%1000, number%1000)
	}
	return nil
}

func (c *Catalog) open(ctx context.Context) error {
	info, err := os.Lstat(c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(ctx, c.path); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	case !info.Mode().IsRegular():
		return damaged("it is not a regular file")
	case info.Size() == 0:
		return damaged("the file is empty")
	case info.Mode().Perm()&0o077 != 0:
		if err := os.Chmod(c.path, 0o600); err != nil {
			return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
		}
	}
	if c.file, err = os.Lstat(c.path); err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	c.writer = openPool(c.path, "rw", 1)
	if err := prepare(ctx, c.writer); err != nil {
		return err
	}
	c.reader = openPool(c.path, "ro", 4)
	if err := c.endOpen(ctx); err != nil {
		return err
	}
	view, err := c.View(ctx)
	if err != nil {
		return err
	}
	return checkView(view)
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
	return c.write(ctx, "closing what was left open", nil, func(tx *transaction) error {
		if _, err := tx.exec(sqlIntentsUnknown); err != nil {
			return err
		}
		_, err := tx.exec(sqlForgetInProgress)
		return err
	})
}

// Close waits for running calls, writes the file out and closes it.
func (c *Catalog) Close() error {
	var errs []error
	if c.reader != nil {
		errs = append(errs, c.reader.Close()) // first: the last connection to close checkpoints, and a reader cannot
	}
	if c.writer != nil {
		errs = append(errs, c.writer.Close())
	}
	return errors.Join(errs...)
}

// A connector makes connections of one kind. It replaces database/sql's names
// for drivers, which are global.
type connector struct {
	driver *sqlite3.SQLiteDriver
	dsn    string
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c connector) Driver() driver.Driver                        { return c.driver }

// openPool opens nothing yet. mode is "rw" or "ro"; the file must exist.
func openPool(path, mode string, size int) *sql.DB {
	dsn := url.URL{Scheme: "file", Path: path, OmitHost: true}
	query := url.Values{
		"mode":             {mode},
		"_busy_timeout":    {strconv.FormatInt(busyTimeout.Milliseconds(), 10)},
		"_stmt_cache_size": {"64"},
	}
	if mode == "ro" {
		query.Set("_query_only", "1")
	}
	dsn.RawQuery = query.Encode()
	db := sql.OpenDB(connector{&sqlite3.SQLiteDriver{ConnectHook: configure}, dsn.String()})
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db
}

// configure sets what SQLite keeps per connection. FULL syncs the write-ahead
// log at every commit; the driver's own default for WAL is NORMAL, which does
// not.
func configure(conn *sqlite3.SQLiteConn) error {
	_, err := conn.Exec(`
		PRAGMA synchronous = FULL;
		PRAGMA foreign_keys = ON;
		PRAGMA trusted_schema = OFF;
		PRAGMA cell_size_check = ON;
		PRAGMA cache_size = -1024;
		PRAGMA temp_store = MEMORY;`, nil)
	return err
}

// unmoved returns an error if the path does not lead to the opened file any
// more. SQLite would go on writing into a file that nobody finds again (S12).
func (c *Catalog) unmoved() error {
	info, err := os.Lstat(c.path)
	if err == nil && os.SameFile(info, c.file) {
		return nil
	}
	if err == nil {
		err = errors.New("another file is in its place")
	}
	return fmt.Errorf("%w: the catalog was moved or removed while it was in use: %w "+
		"(hint: put %s back; nothing is written until then)", keystore.ErrUnavailable, err, c.path)
}

// A transaction is a write in progress.
type transaction struct {
	ctx  context.Context
	conn *sql.Conn
	now  time.Time
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

// errNothing makes write roll back and succeed.
var errNothing = errors.New("nothing to write")

// write runs f in a transaction that no other writer shares and commits it if f
// returns nil. If the commit fails, happened is asked on another connection
// whether it was made after all (S04); a nil happened means that repeating the
// write does no harm, so that a failure need not be told apart.
func (c *Catalog) write(ctx context.Context, doing string, happened func(context.Context, *sql.DB) (bool, error), f func(*transaction) error) error {
	err := c.writeOnce(ctx, happened, f)
	if errors.Is(err, errNothing) {
		return nil
	}
	return explain(doing, err)
}

func (c *Catalog) writeOnce(ctx context.Context, happened func(context.Context, *sql.DB) (bool, error), f func(*transaction) error) error {
	if err := c.unmoved(); err != nil {
		return err
	}
	conn, err := c.writer.Conn(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the writer: %w", err)
	}
	defer conn.Close()
	if err := begin(ctx, conn); err != nil {
		return err
	}
	open := true
	defer func() {
		if open { // f failed or panicked
			rollback(conn)
		}
	}()
	if err := f(&transaction{ctx, conn, cut(c.now())}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	open = false
	// From here the caller's patience does not count: a commit cut off in the
	// middle is what nobody wants to explain.
	err = c.commit(context.WithoutCancel(ctx), conn)
	if err == nil {
		return nil
	}
	rollback(conn)
	discard(conn) // after an I/O error its caches are not trusted
	return c.lookBack(ctx, err, happened)
}

// lookBack tells what became of a commit that failed with err.
func (c *Catalog) lookBack(ctx context.Context, err error, happened func(context.Context, *sql.DB) (bool, error)) error {
	if happened == nil {
		return fmt.Errorf("committing: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), busyTimeout)
	defer cancel()
	yes, lookErr := happened(ctx, c.reader)
	switch {
	case lookErr != nil:
		return fmt.Errorf("%w: committing: %w; looking whether it happened: %w", keystore.ErrUncertain, err, lookErr)
	case yes:
		return nil
	}
	return fmt.Errorf("committing, which did not happen: %w", err)
}

// begin takes the write lock, waiting for another process no longer than ctx
// lasts: SQLite sleeps inside and would not notice.
func begin(ctx context.Context, conn *sql.Conn) error {
	wait := busyTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, max(time.Until(deadline), 0))
	}
	wait = wait.Round(100 * time.Millisecond) // few spellings, so that the statement cache holds them
	if _, err := conn.ExecContext(ctx, "PRAGMA busy_timeout = "+strconv.FormatInt(wait.Milliseconds(), 10)); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE")
	return err
}

func execCommit(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "COMMIT")
	return err
}

// rollback ends the transaction if there still is one, and gives up the
// connection if it cannot. SQLite itself rolls back after some errors.
func rollback(conn *sql.Conn) {
	_, err := conn.ExecContext(context.Background(), "ROLLBACK")
	if e, ok := errors.AsType[sqlite3.Error](err); err != nil && !(ok && e.Code == sqlite3.ErrError) {
		discard(conn)
	}
}

// discard takes the connection out of its pool.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

// read runs f in a transaction that sees one state of the file.
func (c *Catalog) read(ctx context.Context, doing string, f func(*sql.Tx) error) error {
	err := c.readOnce(ctx, f)
	return explain(doing, err)
}

func (c *Catalog) readOnce(ctx context.Context, f func(*sql.Tx) error) error {
	if err := c.unmoved(); err != nil {
		return err
	}
	tx, err := c.reader.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return f(tx)
}

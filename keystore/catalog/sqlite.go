package catalog

import (
	"context"
	"database/sql"
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

// A sqlite is the catalog in one file.
type sqlite struct {
	path string
	file fs.FileInfo // of path when it was opened

	writer *sql.DB // one connection, each transaction BEGIN IMMEDIATE
	reader *sql.DB // read-only
}

func checkSQLiteLinked() error {
	_, number, _ := sqlite3.Version()
	return checkSQLite(number)
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

func (s *sqlite) open(ctx context.Context, seen func(*transaction) error) error {
	info, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := seen(nil); err != nil {
			return err
		}
		if err := create(ctx, s.path); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	case !info.Mode().IsRegular():
		return damaged("it is not a regular file")
	case info.Size() == 0:
		return damaged("the file is empty")
	case info.Mode().Perm()&0o077 != 0:
		if err := os.Chmod(s.path, 0o600); err != nil {
			return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
		}
	}
	if s.file, err = os.Lstat(s.path); err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	s.writer = openPool(s.path, "rw", 1)
	if err := s.prepare(ctx, seen); err != nil {
		return err
	}
	s.reader = openPool(s.path, "ro", 4)
	return nil
}

func (s *sqlite) close() error {
	var errs []error
	if s.reader != nil {
		errs = append(errs, s.reader.Close()) // first: the last connection to close checkpoints, and a reader cannot
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	return errors.Join(errs...)
}

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
func (s *sqlite) unmoved() error {
	info, err := os.Lstat(s.path)
	if err == nil && os.SameFile(info, s.file) {
		return nil
	}
	if err == nil {
		err = errors.New("another file is in its place")
	}
	return fmt.Errorf("%w: the catalog was moved or removed while it was in use: %w "+
		"(hint: put %s back; nothing is written until then)", keystore.ErrUnavailable, err, s.path)
}

func (s *sqlite) begin(ctx context.Context, m mode) (*sql.Conn, error) {
	if err := s.unmoved(); err != nil {
		return nil, err
	}
	pool, start := s.writer, beginImmediate
	if m == reading {
		pool, start = s.reader, beginDeferred
	}
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("waiting for a connection: %w", err)
	}
	if err := start(ctx, conn); err != nil {
		return nil, errors.Join(err, closed(conn))
	}
	return conn, nil
}

func beginDeferred(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "BEGIN")
	return err
}

// beginImmediate takes the write lock, waiting for another process no longer than
// ctx lasts: SQLite sleeps inside and would not notice.
func beginImmediate(ctx context.Context, conn *sql.Conn) error {
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

// newest takes the clock from its second parameter: the file has none.
func (s *sqlite) newest(mode) string {
	return `SELECT COALESCE(n.revision, 0), COALESCE(n.transition, ''), COALESCE(n.at, 0),
			COALESCE((SELECT transition FROM change WHERE revision = $1), ''), $2, ''
		FROM (SELECT 1) LEFT JOIN (SELECT revision, transition, at FROM change ORDER BY revision DESC LIMIT 1) AS n ON true`
}

// locked leaves the query as it is: whoever writes is alone.
func (s *sqlite) locked(query, _ string) string { return query }

// settled has nothing to wait for: a transaction ends with its connection.
func (s *sqlite) settled(context.Context, string) error { return nil }

func (s *sqlite) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return ctx, func() {} // what waits inside is bounded by busyTimeout
}

func (s *sqlite) committing(ctx context.Context) (context.Context, context.CancelFunc) {
	return ctx, func() {}
}

func (s *sqlite) shared() bool { return false }

func (s *sqlite) warnings() []string { return nil }

// noTransaction reports whether a rollback found that SQLite had rolled back
// itself, as it does after some errors.
func noTransaction(err error) bool {
	e, ok := errors.AsType[sqlite3.Error](err)
	return ok && e.Code == sqlite3.ErrError
}

func (s *sqlite) explain(err error) error {
	e, ok := errors.AsType[sqlite3.Error](err)
	if !ok {
		return nil
	}
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

package catalog

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/mattn/go-sqlite3"

	"chancery/keystore"
)

// applicationID marks the file as ours: "Chcy".
const applicationID = 0x43686379

//go:embed migrations
var migrations embed.FS

// loadMigrations returns the statements that lead from schema version i to i+1.
// The schema version is the number of migrations that were applied: in SQLite in
// PRAGMA user_version, in PostgreSQL in the table catalog.
func loadMigrations(database string) ([]string, error) {
	names, err := fs.Glob(migrations, "migrations/"+database+"/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var texts []string
	for _, name := range names {
		text, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	return texts, nil
}

// create makes an empty catalog at path. It is built beside it and renamed, so
// that there never is half a catalog under that name.
func create(ctx context.Context, path string) error {
	for _, suffix := range []string{"-wal", "-journal"} {
		if _, err := os.Lstat(path + suffix); err == nil {
			return damaged("the file is gone, but %s%s is there", filepath.Base(path), suffix)
		}
	}
	building := path + ".new"
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(building + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
		}
	}
	f, err := os.OpenFile(building, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	if err := build(ctx, building); err != nil {
		return err
	}
	if err := os.Rename(building, path); err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	return syncDir(filepath.Dir(path))
}

// build applies every migration to the empty file at path and closes it, which
// writes it out.
func build(ctx context.Context, path string) (err error) {
	db := openPool(path, "rw", 1)
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "PRAGMA application_id = "+strconv.Itoa(applicationID)); err != nil {
		return err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	return errors.Join(migrate(ctx, conn, nil), conn.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	err = errors.Join(d.Sync(), d.Close())
	if err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	return nil
}

// prepare recognises the file, brings its schema up to date and checks that it
// is whole.
func (s *sqlite) prepare(ctx context.Context, seen func(*transaction) error) error {
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var id int
	if err := conn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return err
	}
	if id != applicationID {
		return damaged("it is a database of something else (application id %#x)", id)
	}
	if err := migrate(ctx, conn, func() error { return seen(&transaction{ctx: ctx, conn: conn, db: s}) }); err != nil {
		return err
	}
	if err := checkSchema(ctx, conn); err != nil {
		return err
	}
	return checkIntegrity(ctx, conn)
}

// migrate applies the migrations the file has not had, each in a transaction
// with the version number it leads to. recognised is asked before the first.
func migrate(ctx context.Context, conn *sql.Conn, recognised func() error) error {
	all, err := loadMigrations("sqlite")
	if err != nil {
		return err
	}
	var version int
	if err := conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(all) {
		return newer(version, len(all))
	}
	if version < 0 {
		return damaged("its schema version is %d", version)
	}
	if version > 0 {
		if err := recognised(); err != nil {
			return err
		}
	}
	var mode string
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("%w: no write-ahead log here, journal mode is %q "+
			"(hint: the data directory must be on a local file system)", keystore.ErrUnavailable, mode)
	}
	for i := version; i < len(all); i++ {
		if err := migrateOnce(ctx, conn, all[i], i+1); err != nil {
			_, _ = conn.ExecContext(context.Background(), "ROLLBACK")
			return fmt.Errorf("migrating to schema %d: %w", i+1, err)
		}
	}
	return nil
}

func newer(version, known int) error {
	return fmt.Errorf("%w: schema %d, this program knows %d (hint: run the version of chanceryd that wrote it, or a later one)",
		ErrNewer, version, known)
}

// sealsAcknowledgements is the schema whose acknowledgements have sums first.
const sealsAcknowledgements = 3

func migrateOnce(ctx context.Context, conn *sql.Conn, text string, version int) error {
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE; "+text); err != nil {
		return err
	}
	if version == sealsAcknowledgements {
		if err := sealAcknowledgements(ctx, conn); err != nil {
			return err
		}
	}
	_, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d; COMMIT", version))
	return err
}

// sealAcknowledgements gives those of before their sums.
func sealAcknowledgements(ctx context.Context, conn *sql.Conn) error {
	rows, err := conn.QueryContext(ctx, `SELECT node, keyset, number, at FROM acknowledgement`)
	if err != nil {
		return err
	}
	acks, err := collect(rows, func(s scanner) ([]any, error) {
		var node, keyset string
		var number, at int64
		err := s.Scan(&node, &keyset, &number, &at)
		return []any{node, keyset, number, at}, err
	})
	if err != nil {
		return err
	}
	for _, row := range acks {
		_, err := conn.ExecContext(ctx, `UPDATE acknowledgement SET sum = $1 WHERE node = $2 AND keyset = $3 AND number = $4 AND at = $5`, append([]any{sum(row)}, row...)...)
		if err != nil {
			return err
		}
	}
	return nil
}

// checkSchema compares the file's tables, indexes and triggers with what the
// migrations make of an empty database: no check of SQLite's finds a constraint
// that is not there.
func checkSchema(ctx context.Context, conn *sql.Conn) (err error) {
	all, err := loadMigrations("sqlite")
	if err != nil {
		return err
	}
	fresh := sql.OpenDB(connector{&sqlite3.SQLiteDriver{}, ":memory:"})
	fresh.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, fresh.Close()) }()
	for _, text := range all {
		if _, err := fresh.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	want, err := schemaOf(ctx, fresh)
	if err != nil {
		return err
	}
	got, err := schemaOf(ctx, conn)
	if err != nil {
		return err
	}
	if !slices.Equal(got, want) {
		return damaged("its tables are not those this program made")
	}
	return nil
}

// A querier is a *sql.DB or *sql.Conn.
type querier interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}

func schemaOf(ctx context.Context, db querier) ([]string, error) {
	rows, err := db.QueryContext(ctx, `SELECT type || ' ' || name || ' ' || tbl_name || ' ' || COALESCE(sql, '')
		FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name`)
	if err != nil {
		return nil, err
	}
	return collect(rows, func(s scanner) (text string, err error) { return text, s.Scan(&text) })
}

// checkIntegrity reads the whole file once (S08), and the tables that decide
// over keys together with their indexes.
func checkIntegrity(ctx context.Context, db querier) error {
	for _, pragma := range []string{
		"quick_check(1)", "integrity_check(keyset)", "integrity_check(promise)", "integrity_check(version)",
		"integrity_check(node)", "integrity_check(acknowledgement)",
	} {
		rows, err := db.QueryContext(ctx, "PRAGMA "+pragma)
		if err != nil {
			return err
		}
		found, err := collect(rows, func(s scanner) (text string, err error) { return text, s.Scan(&text) })
		if err != nil {
			return err
		}
		if len(found) != 1 || found[0] != "ok" {
			return damaged("%s: %q", pragma, found)
		}
	}
	return nil
}

// collect reads all rows and closes them.
func collect[T any](rows *sql.Rows, scan func(scanner) (T, error)) (list []T, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, rows.Err()
}

package catalog

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// postgresSchema is what sqlPostgresSchema finds after all migrations, a line
// each.
//
//go:embed migrations/postgres/schema.txt
var postgresSchema string

// What makes the place for the catalog, and the row that whoever migrates locks.
const (
	sqlMakeSchema  = `CREATE SCHEMA IF NOT EXISTS chancery`
	sqlMakeCatalog = `CREATE TABLE IF NOT EXISTS catalog (
		id     bigint PRIMARY KEY CHECK (id = 1),
		schema bigint NOT NULL CHECK (schema >= 0),
		epochs bigint NOT NULL CHECK (epochs >= 0)
	)`
	sqlMakeRow     = `INSERT INTO catalog (id, schema, epochs) VALUES (1, 0, 0) ON CONFLICT DO NOTHING`
	sqlSchemaNow   = `SELECT schema FROM catalog`
	sqlSetSchema   = `UPDATE catalog SET schema = $1`
	sqlHasCatalog  = `SELECT to_regclass('chancery.catalog') IS NOT NULL`
	sqlHasAnything = `SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'chancery')`
)

// sqlPostgresSchema lists what a catalog consists of, in words that are the same
// in every version of PostgreSQL: relations with what keeps their rows, columns,
// constraints, indexes, triggers, and the sources of functions. A constraint's
// expression is not among them.
const sqlPostgresSchema = `
WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname = 'chancery'),
rel AS (SELECT * FROM pg_class WHERE relnamespace IN (SELECT oid FROM ours))
SELECT concat_ws(' ', 'relation', relname, relkind, relpersistence, relrowsecurity, relhasrules, relispartition) FROM rel
UNION ALL
SELECT concat_ws(' ', 'column', rel.relname, attname, format_type(atttypid, atttypmod), attnotnull, NULLIF(attidentity::text, ''), NULLIF(attgenerated::text, ''))
	FROM pg_attribute a JOIN rel ON rel.oid = attrelid WHERE relkind = 'r' AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT concat_ws(' ', 'constraint', rel.relname, conname, contype, convalidated, condeferrable, conkey, NULLIF(confrelid, 0)::regclass, confkey)
	FROM pg_constraint JOIN rel ON rel.oid = conrelid WHERE contype <> 'n'
UNION ALL
SELECT concat_ws(' ', 'index', i.relname, rel.relname, indisunique, indisvalid, indisready, indkey, indpred IS NOT NULL)
	FROM pg_index JOIN rel ON rel.oid = indrelid JOIN pg_class i ON i.oid = indexrelid WHERE rel.relkind = 'r'
UNION ALL
SELECT concat_ws(' ', 'trigger', rel.relname, tgname, tgtype, tgenabled, tgfoid::regproc, tgqual IS NOT NULL)
	FROM pg_trigger JOIN rel ON rel.oid = tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT concat_ws(' ', 'function', proname, md5(prosrc), l.lanname)
	FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE pronamespace IN (SELECT oid FROM ours)`

// open recognises the schema, makes it where there is none, brings it up to date
// and checks that its tables are as they were made. Any number of nodes may do so
// at once: one makes it, and they migrate one after the other.
func (p *postgres) open(ctx context.Context, seen func(*transaction) error) error {
	var err error
	for range 5 {
		if err = p.openOnce(ctx, seen); !madeMeanwhile(err) {
			break
		}
	}
	return err
}

// madeMeanwhile reports whether another node was making at the same moment what
// this one was about to make.
func madeMeanwhile(err error) bool {
	return slices.Contains([]string{"23505", "42P06", "42P07", "42710", "40P01", "40001", "55P03", "XX000"}, codeOf(err))
}

func (p *postgres) openOnce(ctx context.Context, seen func(*transaction) error) (err error) {
	conn, err := p.pools[changing].Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer func() { err = errors.Join(err, closed(conn)) }()
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	if err := p.prepare(ctx, conn, seen); err != nil {
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		return err
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return err
}

// prepare does it in the transaction that conn has begun.
func (p *postgres) prepare(ctx context.Context, conn *sql.Conn, seen func(*transaction) error) error {
	var there, anything bool
	if err := conn.QueryRowContext(ctx, sqlHasCatalog).Scan(&there); err != nil {
		return err
	}
	if !there {
		if err := seen(nil); err != nil {
			return err
		}
		if err := conn.QueryRowContext(ctx, sqlHasAnything).Scan(&anything); err != nil {
			return err
		}
		if anything {
			return damaged("the schema chancery of the database is of something else, or lacks its table catalog")
		}
		if err := makeCatalog(ctx, conn); err != nil {
			return err
		}
	}
	if _, err := conn.ExecContext(ctx, "SELECT FROM catalog FOR UPDATE"); err != nil {
		return err
	}
	if err := p.migrate(ctx, conn, seen); err != nil {
		return err
	}
	return checkPostgresSchema(ctx, conn)
}

func makeCatalog(ctx context.Context, conn *sql.Conn) error {
	var exists bool
	if err := conn.QueryRowContext(ctx, `SELECT to_regnamespace('chancery') IS NOT NULL`).Scan(&exists); err != nil {
		return err
	}
	statements := []string{sqlMakeSchema, sqlMakeCatalog, sqlMakeRow}
	if exists { // by somebody who may; this role need not
		statements = statements[1:]
	}
	for _, statement := range statements {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// migrate applies the migrations the catalog has not had.
func (p *postgres) migrate(ctx context.Context, conn *sql.Conn, seen func(*transaction) error) error {
	all, err := loadMigrations("postgres")
	if err != nil {
		return err
	}
	var version int
	if err := conn.QueryRowContext(ctx, sqlSchemaNow).Scan(&version); err != nil {
		return err
	}
	if version > len(all) {
		return newer(version, len(all))
	}
	if version > 0 {
		if err := seen(&transaction{ctx: ctx, conn: conn, db: p, mode: reading}); err != nil {
			return err
		}
	}
	for i := version; i < len(all); i++ {
		if _, err := conn.ExecContext(ctx, all[i]); err != nil {
			return fmt.Errorf("migrating to schema %d: %w", i+1, err)
		}
		if _, err := conn.ExecContext(ctx, sqlSetSchema, i+1); err != nil {
			return err
		}
	}
	return nil
}

// checkPostgresSchema compares what there is with what the migrations make.
func checkPostgresSchema(ctx context.Context, db querier) error {
	found, err := postgresSchemaOf(ctx, db)
	if err != nil {
		return err
	}
	want := strings.Split(strings.TrimSuffix(postgresSchema, "\n"), "\n")
	for _, line := range found {
		if !slices.Contains(want, line) {
			return damaged("its tables are not those this program made: %q", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(found, line) {
			return damaged("its tables are not those this program made: %q is not there", line)
		}
	}
	return nil
}

func postgresSchemaOf(ctx context.Context, db querier) ([]string, error) {
	rows, err := db.QueryContext(ctx, sqlPostgresSchema)
	if err != nil {
		return nil, err
	}
	list, err := collect(rows, func(s scanner) (text string, err error) { return text, s.Scan(&text) })
	slices.Sort(list)
	return list, err
}

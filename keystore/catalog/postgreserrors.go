package catalog

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"chancery/keystore"
)

// unheardOf reports whether the server has never had a transaction of that id:
// it is another server than the one that was asked to commit.
func unheardOf(err error) bool { return codeOf(err) == "22023" }

// codeOf returns the SQLSTATE that the server gave, or "".
func codeOf(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// lostConnection reports whether err is the connection's and not the server's
// answer, or tells that the server is ending it.
func lostConnection(err error) bool {
	code := codeOf(err)
	return code == "" || strings.HasPrefix(code, "08") || strings.HasPrefix(code, "57P")
}

func (p *postgres) explain(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return explainPostgres(e)
	}
	_, refused := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[net.Error](err)
	lost := slices.ContainsFunc([]error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, driver.ErrBadConn, pgconn.ErrConnClosed, sql.ErrConnDone},
		func(target error) bool { return errors.Is(err, target) })
	if refused || network || lost || pgconn.SafeToRetry(err) || pgconn.Timeout(err) {
		return fmt.Errorf("%w: the database cannot be reached: %w", keystore.ErrUnavailable, err)
	}
	return nil
}

// explainPostgres goes by SQLSTATE, whose first two characters are its class.
func explainPostgres(e *pgconn.PgError) error {
	unavailable := func(what, hint string) error {
		return fmt.Errorf("%w: %s: %w (hint: %s)", keystore.ErrUnavailable, what, e, hint)
	}
	switch class := e.Code[:min(2, len(e.Code))]; {
	case class == "23", e.Code == "P0001", e.Code == "22021", e.Code == "22P05":
		return illegal("%v", e)
	case class == "XX", e.Code == "42P01", e.Code == "42703", e.Code == "42883":
		return damaged("%v", e)
	case class == "28":
		return unavailable("the database does not let this role in", "look at the role, its password file, and pg_hba.conf")
	case e.Code == "42501":
		return unavailable("the database does not allow it", "the role owns the schema chancery, or may make it: GRANT CREATE ON DATABASE")
	case e.Code == "3D000":
		return unavailable("there is no such database", "CREATE DATABASE, owned by the role of chanceryd")
	case e.Code == "55P03":
		return unavailable("another node's change takes too long", "look in pg_stat_activity for who holds the catalog")
	case e.Code == "25006":
		return unavailable("the database is read-only", "it is a standby: name all servers in the URL, so that the one that takes writes is found")
	}
	// No resources, shutdowns, serialization, I/O errors: it may work later.
	return fmt.Errorf("%w: %w", keystore.ErrUnavailable, e)
}

package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sys/unix"

	"chancery/keystore"
)

// Postgres says where the catalog's database is. Nothing about it is taken from
// the environment, from ~/.pgpass or from ~/.postgresql.
type Postgres struct {
	// URL is postgres://USER@HOST[:PORT][,HOST[:PORT]…]/DATABASE[?PARAMETER=VALUE&…],
	// or postgres://USER@/DATABASE?host=/DIRECTORY for a Unix socket, without a
	// password. Of several hosts the one that takes writes is used. Parameters are
	// sslmode, sslrootcert, sslcert, sslkey, host and port. sslmode is verify-full
	// if it is not said, with the system's roots unless sslrootcert names a file;
	// disable, allow and prefer are for loopback and Unix sockets alone.
	URL string

	// PasswordFile holds the password, with at most a line feed after it. It is
	// read at each new connection. Empty: none.
	PasswordFile string
}

// How long things take at most. A call is bounded even where its caller has no
// deadline, so that a connection that goes nowhere is given up; a commit is not
// given up when its caller is, and has a bound of its own.
const (
	callWithin    = 10 * time.Second
	commitWithin  = 3 * time.Second
	connectWithin = 3 * time.Second // one host
	lockWithin    = 2 * time.Second // behind another node's change
	idleWithin    = 5 * time.Second // what a stopped node may keep the others waiting
	unackedWithin = 5 * time.Second // what was sent and not acknowledged by the other kernel
	connectionAge = 10 * time.Minute
)

const postgresFloor = 13

// A postgres is the catalog in PostgreSQL.
type postgres struct {
	config       *pgx.ConnConfig
	passwordFile string
	remarks      []string // about the configuration

	pools map[mode]*sql.DB

	mu    sync.Mutex // guards found
	found []string   // about the server that was connected to last
}

func newPostgres(cfg Postgres) (*postgres, error) {
	at, err := parsePostgresURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	p := &postgres{passwordFile: cfg.PasswordFile, remarks: at.remarks(), pools: make(map[mode]*sql.DB)}
	if p.config, err = at.config(); err != nil {
		return nil, fmt.Errorf("%w: the URL of the database: %w", keystore.ErrUnavailable, err)
	}
	p.config.ConnectTimeout = connectWithin
	p.config.DialFunc = dial
	p.config.RuntimeParams = map[string]string{
		"application_name": "chanceryd",
		// Only what was made there: nobody puts a table of the same name before it.
		"search_path":                         "chancery, pg_temp",
		"lock_timeout":                        milliseconds(lockWithin),
		"statement_timeout":                   milliseconds(callWithin),
		"idle_in_transaction_session_timeout": milliseconds(idleWithin),
		"tcp_user_timeout":                    milliseconds(unackedWithin),
		"client_encoding":                     "UTF8",
		"standard_conforming_strings":         "on",
		"timezone":                            "UTC",
	}
	for m, size := range map[mode]int{reading: 4, writing: 1, changing: 1, leasing: 1} {
		p.pools[m] = p.pool(size)
	}
	p.pools[enrolling] = p.pools[changing]
	return p, nil
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

func (p *postgres) pool(size int) *sql.DB {
	db := stdlib.OpenDB(*p.config, stdlib.OptionBeforeConnect(p.authenticate), stdlib.OptionAfterConnect(p.inspect))
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	db.SetConnMaxLifetime(connectionAge) // the server is inspected again
	return db
}

// dial connects so that a peer that is gone is noticed while something is sent
// to it, and while nothing is.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		Timeout:         connectWithin,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: unackedWithin, Interval: time.Second, Count: 5},
		Control: func(network, _ string, c syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			var err error
			return errors.Join(c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedWithin.Milliseconds()))
			}), err)
		},
	}
	return d.DialContext(ctx, network, address)
}

// authenticate reads the password for one connection.
func (p *postgres) authenticate(_ context.Context, cfg *pgx.ConnConfig) error {
	if p.passwordFile == "" {
		return nil
	}
	text, err := os.ReadFile(p.passwordFile)
	if err != nil {
		return fmt.Errorf("%w: reading the password of the database: %w", keystore.ErrUnavailable, err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if password == "" || strings.ContainsAny(password, "\r\n\x00") {
		return fmt.Errorf("%w: the password file %s does not hold one line (hint: write the password and nothing else into it)",
			keystore.ErrUnavailable, p.passwordFile)
	}
	cfg.Password = password
	return nil
}

// begin begins a transaction. What a connection that has died meanwhile says at
// its first statement is no answer: another is taken.
func (p *postgres) begin(ctx context.Context, m mode) (*sql.Conn, error) {
	start := "BEGIN"
	switch m {
	case reading:
		start = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	case changing, enrolling:
		start = "BEGIN; SELECT FROM catalog FOR UPDATE"
	}
	for attempt := 0; ; attempt++ {
		conn, err := p.pools[m].Conn(ctx)
		if err != nil {
			return nil, fmt.Errorf("connecting: %w", err)
		}
		_, err = conn.ExecContext(ctx, start)
		if err == nil {
			return conn, nil
		}
		discard(conn)
		err = errors.Join(err, closed(conn))
		if attempt == 4 || ctx.Err() != nil || !lostConnection(err) {
			return nil, err
		}
	}
}

// newest takes its clock from the server, and its second parameter in tests.
func (p *postgres) newest(m mode) string {
	const clock = `COALESCE($2::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)`
	id := `pg_current_xact_id()::text`
	if m == reading {
		id = `NULL::text`
	}
	return `SELECT COALESCE(n.revision, 0), COALESCE(n.transition, ''), COALESCE(n.at, 0),
			COALESCE((SELECT transition FROM change WHERE revision = $1), ''), ` + clock + `, ` + id + `
		FROM (SELECT 1) AS one LEFT JOIN (SELECT revision, transition, at FROM change ORDER BY revision DESC LIMIT 1) AS n ON true`
}

func (p *postgres) locked(query, strength string) string { return query + strength }

// settled asks until the server says that the transaction has ended: one that is
// still on its way may yet be committed. A server that does not know it never
// had it.
func (p *postgres) settled(ctx context.Context, id string) error {
	for {
		var running bool
		err := p.pools[reading].QueryRowContext(ctx,
			`SELECT COALESCE(pg_xact_status(($1::text)::xid8) = 'in progress', false)`, id).Scan(&running)
		if err != nil && !unheardOf(err) {
			return err
		}
		if !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the transaction has not ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *postgres) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callWithin)
}

func (p *postgres) committing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, commitWithin)
}

func (p *postgres) shared() bool { return true }

func (p *postgres) warnings() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(append([]string(nil), p.remarks...), p.found...)
}

func (p *postgres) close() error {
	var errs []error
	for _, m := range []mode{reading, writing, changing, leasing} {
		if db := p.pools[m]; db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// inspect refuses a server that can lose or spoil what it says is committed
// (S05), at each new connection: it may be another server than before.
func (p *postgres) inspect(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var fsync, pages, commit, standbys string
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('fsync'),
		current_setting('full_page_writes'), current_setting('synchronous_commit'), current_setting('synchronous_standby_names')`,
	).Scan(&version, &fsync, &pages, &commit, &standbys)
	if err == nil {
		err = checkServer(version, fsync, pages, commit)
	}
	if err != nil {
		return errors.Join(err, conn.Close(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found = remarksOn(commit, standbys)
	return nil
}

// checkServer returns nil for a server whose commits are on a disk when it says
// so.
func checkServer(version int, fsync, pages, commit string) error {
	var what, hint string
	switch {
	case version/10000 < postgresFloor:
		what, hint = fmt.Sprintf("PostgreSQL %d is too old", version/10000), fmt.Sprintf("use PostgreSQL %d or later", postgresFloor)
	case fsync != "on":
		what, hint = "the server has fsync="+fsync, "a crash of it loses the catalog: set fsync = on in postgresql.conf, and reload"
	case pages != "on":
		what, hint = "the server has full_page_writes="+pages, "a crash of it spoils the catalog: set full_page_writes = on in postgresql.conf, and reload"
	case commit == "off":
		what, hint = "the server has synchronous_commit=off for this role and database", "a crash of it loses what it said was committed: set it to on, or to what replication needs"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s (hint: %s)", keystore.ErrUnavailable, what, hint)
}

func remarksOn(commit, standbys string) []string {
	if standbys != "" && commit != "local" {
		return nil
	}
	return []string{fmt.Sprintf("the database has no synchronous standby (synchronous_commit=%s, synchronous_standby_names=%q): "+
		"a failover may lose its last changes: nodes that had seen them wait for the server that has them, and others go on without", commit, standbys)}
}

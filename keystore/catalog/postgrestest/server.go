package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startWithin is how long a server on a busy machine takes to start or to stop, and
// runWithin how long any program of PostgreSQL's takes.
const (
	startWithin = time.Minute
	runWithin   = 2 * time.Minute
)

// The one role that needs a password.
const (
	SecretRole = "secret"
	Password   = "open sesame"
)

// A Server is one PostgreSQL server. Its methods wait until they are done, and
// fail the test if they cannot be.
type Server struct {
	t    testing.TB
	dir  string // holds data, the socket, and what the server says
	port int

	guard *exec.Cmd // runs the server, and ends it when its standard input ends
	hold  io.WriteCloser
}

// Start starts a server of the test's own and stops it when the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	need(t)
	s := newServer(t)
	t.Cleanup(s.remove)
	s.must(copyTree(clusterOnce(t), s.data()))
	s.configure("")
	s.launch()
	return s
}

// binaries returns the directory of the newest version's programs.
func binaries() (string, bool) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.SortFunc(found, func(a, b string) int { return versionIn(a) - versionIn(b) })
	if len(found) == 0 {
		return "", false
	}
	return filepath.Dir(found[len(found)-1]), true
}

func versionIn(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

func need(t testing.TB) {
	t.Helper()
	if _, ok := binaries(); ok {
		return
	}
	if os.Getenv("CHANCERY_TEST_POSTGRES") == "required" {
		t.Fatal("no PostgreSQL under /usr/lib/postgresql")
	}
	t.Skip("no PostgreSQL under /usr/lib/postgresql")
}

func newServer(t testing.TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "pg") // short: the path of a socket has an end
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir}
	s.must(own(dir))
	return s
}

func (s *Server) must(err error) {
	s.t.Helper()
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		s.t.Fatalf("postgres: %v\n%s", err, said)
	}
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// unprivileged returns who the server runs as: itself, unless that is root.
func unprivileged() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.ParseUint(u.Uid, 10, 32)
			gid, _ := strconv.ParseUint(u.Gid, 10, 32)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return nil
}

func own(path string) error {
	if c := unprivileged(); c != nil {
		return os.Chown(path, int(c.Uid), int(c.Gid))
	}
	return nil
}

// program is a command of PostgreSQL's that takes nothing from this process's
// environment.
func program(ctx context.Context, name string, args ...string) *exec.Cmd {
	bin, _ := binaries()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: unprivileged()}
	return cmd
}

func run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runWithin)
	defer cancel()
	cmd := program(ctx, name, args...)
	cmd.WaitDelay = time.Second // for what it has started, and left with its output
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// The cluster that the others are copied from, made once.
var cluster struct {
	sync.Once
	dir string
	err error
}

func clusterOnce(t testing.TB) string {
	t.Helper()
	cluster.Do(func() {
		if cluster.dir, cluster.err = os.MkdirTemp("", "pg"); cluster.err != nil {
			return
		}
		if cluster.err = own(cluster.dir); cluster.err != nil {
			return
		}
		_, cluster.err = run("initdb", "--pgdata", filepath.Join(cluster.dir, "data"), "--username", "postgres", "--auth", "trust",
			"--encoding", "UTF8", "--locale", "C.UTF-8", "--wal-segsize", "1", "--no-sync", "--no-instructions")
	})
	if cluster.err != nil {
		t.Fatal(cluster.err)
	}
	return filepath.Join(cluster.dir, "data")
}

func copyTree(from, to string) error {
	cmd := exec.Command("cp", "-a", from, to)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: unprivileged()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copying a cluster: %w: %s", err, out)
	}
	return nil
}

// configure writes the server's configuration and gives it a free port.
func (s *Server) configure(more string) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	s.port = l.Addr().(*net.TCPAddr).Port
	s.must(l.Close())
	s.must(s.appendTo("postgresql.conf", fmt.Sprintf(`
port = %d
listen_addresses = '127.0.0.1'
unix_socket_directories = '%s'
shared_buffers = 8MB
max_connections = 60
max_wal_size = 64MB
min_wal_size = 4MB
wal_level = replica
max_wal_senders = 4
wal_keep_size = 32MB
hot_standby = on
autovacuum = off
%s
`, s.port, s.dir, more)))
	s.must(os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(`
host all `+SecretRole+` 127.0.0.1/32 scram-sha-256
local all all trust
host all all 127.0.0.1/32 trust
local replication all trust
`), 0o600))
	s.must(own(filepath.Join(s.data(), "pg_hba.conf")))
}

func (s *Server) appendTo(name, text string) error {
	f, err := os.OpenFile(filepath.Join(s.data(), name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Set changes a setting in postgresql.conf, reloads it, and waits until new
// connections go by it; one that needs a restart has to be followed by one.
func (s *Server) Set(name, value string) {
	s.t.Helper()
	s.must(s.appendTo("postgresql.conf", fmt.Sprintf("%s = '%s'\n", name, value)))
	_, err := run("pg_ctl", "reload", "-D", s.data())
	s.must(err)
	for deadline := time.Now().Add(startWithin); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if s.Exec("postgres", fmt.Sprintf("SELECT setting = '%s' OR pending_restart FROM pg_settings WHERE name = '%s'", value, name)) == "t" {
			return
		}
	}
	s.must(fmt.Errorf("%s is not %s", name, value))
}

// guard runs the server, its arguments but the first, until its own standard
// input ends. What it was not told to keep, the first, it removes: the process of
// the test has died.
const guard = `dir=$1; shift; "$@" & p=$!; read word; kill -QUIT $p 2>/dev/null; wait $p; [ "$word" = keep ] || rm -rf "$dir"`

func (s *Server) launch() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	s.must(err)
	defer log.Close()
	server := program(context.Background(), "postgres", "-D", s.data())
	cmd := exec.Command("/bin/sh", append([]string{"-c", guard, "sh", s.dir, server.Path}, server.Args[1:]...)...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = server.Env, server.Dir, server.SysProcAttr
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Setpgid = true // for release
	s.hold, err = cmd.StdinPipe()
	s.must(err)
	s.must(cmd.Start())
	s.guard = cmd
	for deadline := time.Now().Add(startWithin); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err = run("pg_isready", "-q", "-h", s.dir, "-p", strconv.Itoa(s.port)); err == nil {
			return
		}
	}
	s.must(err)
}

// Stop stops the server: as a power cut would, which leaves it to recover from
// its log, or in order. Stopping it twice is no error.
func (s *Server) Stop(immediate bool) {
	s.t.Helper()
	if s.guard == nil {
		return
	}
	how := "fast"
	if immediate {
		how = "immediate"
	}
	_, err := run("pg_ctl", "stop", "-D", s.data(), "-m", how, "-w", "-t", strconv.Itoa(int(startWithin.Seconds())))
	s.release()
	s.must(err)
}

// release lets the guard end, and keeps the directory.
func (s *Server) release() {
	_, _ = io.WriteString(s.hold, "keep\n")
	s.hold.Close()
	group := -s.guard.Process.Pid // the guard leads it, and the server is in it
	late := time.AfterFunc(startWithin, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
	defer late.Stop()
	_ = s.guard.Wait() // how postgres ended is of no interest
	s.guard = nil
}

// Restart starts a server that was stopped, on the same port.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop(false)
	s.launch()
}

func (s *Server) remove() {
	if s.guard != nil {
		s.release()
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}

// Host is the server's directory, for a URL that goes through its socket.
func (s *Server) Host() string { return s.dir }

// Port is where it listens, on the socket and on 127.0.0.1.
func (s *Server) Port() int { return s.port }

// URL names a database on this server, by the role postgres.
func (s *Server) URL(database string) string { return URL(database, s) }

// URL names a database that is on one of these servers.
func URL(database string, servers ...*Server) string {
	var hosts []string
	for _, s := range servers {
		hosts = append(hosts, fmt.Sprintf("127.0.0.1:%d", s.port))
	}
	return urlOf(database, hosts...)
}

func urlOf(database string, hosts ...string) string {
	return "postgres://postgres@" + strings.Join(hosts, ",") + "/" + database + "?sslmode=disable"
}

// Create makes a database.
func (s *Server) Create(database string) {
	s.t.Helper()
	s.Exec("postgres", "CREATE DATABASE "+database)
}

// Exec runs SQL in a database, as the role postgres, and returns what it prints:
// a line for each row, with | between the columns.
func (s *Server) Exec(database, sql string) string {
	s.t.Helper()
	out, err := s.TryExec(database, sql)
	s.must(err)
	return out
}

// TryExec is Exec for what may fail.
func (s *Server) TryExec(database, sql string) (string, error) {
	out, err := run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
		"-h", s.dir, "-p", strconv.Itoa(s.port), "-U", "postgres", "-d", database, "-c", sql)
	return strings.TrimSpace(out), err
}

// Terminate ends the server's side of every connection to a database, by
// pg_terminate_backend, waits until all have ended, and returns how many there were.
func (s *Server) Terminate(database string) int {
	s.t.Helper()
	ended := strings.Fields(s.Exec("postgres", `SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname = '`+database+`'`))
	if len(ended) == 0 {
		return 0
	}
	pids := make([]string, len(ended))
	for i, row := range ended {
		pids[i], _, _ = strings.Cut(row, "|")
	}
	left := "SELECT count(*) FROM pg_stat_activity WHERE pid IN (" + strings.Join(pids, ", ") + ")"
	for deadline := time.Now().Add(startWithin); s.Exec("postgres", left) != "0"; {
		if time.Now().After(deadline) {
			s.must(errors.New("connections that were ended go on"))
		}
	}
	return len(pids)
}

// Replica starts a server that follows this one, asynchronously, and has
// everything that this one has now.
func (s *Server) Replica(t testing.TB) *Server {
	t.Helper()
	r := newServer(t)
	t.Cleanup(r.remove)
	_, err := run("pg_basebackup", "-D", r.data(), "-h", s.dir, "-p", strconv.Itoa(s.port), "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "--no-sync")
	r.must(err)
	r.configure("cluster_name = 'replica'")
	r.launch()
	s.Caught(r)
	return r
}

// Caught waits until a replica has received and applied all there is.
func (s *Server) Caught(replica *Server) {
	s.t.Helper()
	at := s.Exec("postgres", "SELECT pg_current_wal_lsn()")
	for deadline := time.Now().Add(startWithin); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if replica.Exec("postgres", fmt.Sprintf("SELECT COALESCE(pg_last_wal_replay_lsn() >= '%s', false)", at)) == "t" {
			return
		}
	}
	s.must(errors.New("the replica does not follow"))
}

// Promote makes a replica a server of its own.
func (s *Server) Promote() {
	s.t.Helper()
	_, err := run("pg_ctl", "promote", "-D", s.data(), "-w")
	s.must(err)
}

package catalog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore"
	"chancery/keystore/catalog/postgrestest"
)

func TestURLsOfDatabases(t *testing.T) {
	for _, tc := range []struct{ url, want string }{
		{"postgres://u@db.example/chancery", "u@[db.example:5432]/chancery verify-full"},
		{"postgresql://u@db.example:6432/chancery?sslmode=verify-ca&sslrootcert=/ca.pem", "u@[db.example:6432]/chancery verify-ca"},
		{"postgres://u@a,b:6432,[::1]:7432/c", "u@[a:5432 b:6432 ::1:7432]/c verify-full"},
		{"postgres://u@a,b/c?port=1,2", "u@[a:1 b:2]/c verify-full"},
		{"postgres://u@a/c?port=1&target_session_attrs=read-write", "u@[a:1]/c verify-full"},
		{"postgres://u%40x@/c?host=/run/postgresql", "u@x@[/run/postgresql:5432]/c prefer"},
		{"postgres://u@127.0.0.1,localhost,[::1]/c", "u@[127.0.0.1:5432 localhost:5432 ::1:5432]/c prefer"},
		{"postgres://u@localhost/c?sslmode=disable", "u@[localhost:5432]/c disable"},
		{"postgres://u@a/c?sslmode=require", "u@[a:5432]/c require"},
	} {
		l, err := parsePostgresURL(tc.url)
		if err != nil {
			t.Errorf("%s: %v", tc.url, err)
			continue
		}
		var hosts []string
		for i := range l.hosts {
			hosts = append(hosts, l.hosts[i]+":"+l.ports[i])
		}
		if got := fmt.Sprintf("%s@%v/%s %s", l.user, hosts, l.database, l.tls["sslmode"]); got != tc.want {
			t.Errorf("%s: %s", tc.url, got)
		}
	}
}

func TestURLsThatAreRefused(t *testing.T) {
	for _, tc := range []struct{ url, says string }{
		{"mysql://u@a/c", "postgres://"},
		{"host=a user=u", "postgres://"},
		{"postgres://a/c", "no user"},
		{"postgres://@a/c", "no user"},
		{"postgres://u:hunter2@a/c", "password"},
		{"postgres://u:hun@ter2@a/c", "password"},
		{"postgres://u@hunter2@a/c", "password"},
		{"postgres://u@a/c?password=hunter2", `"password"`},
		{"postgres://u@a/c?passfile=/x", `"passfile"`},
		{"postgres://u@a/c?service=x", `"service"`},
		{"postgres://u@a/c?options=-csynchronous_commit%3Doff", `"options"`},
		{"postgres://u@a", "no database"},
		{"postgres://u@a/", "no database"},
		{"postgres://u@/c", "no host"},
		{"postgres://u@a,/c", "no host"},
		{"postgres://u@a:0/c", "port"},
		{"postgres://u@a:hunter2/c", "port"},
		{"postgres://u@a,b/c?port=1,2,3", "number of ports"},
		{"postgres://u@a/c?host=/run", "two places"},
		{"postgres://u@a/c?sslmode=require&sslmode=disable", "twice"},
		{"postgres://u@a/c?sslmode=disable", "sslmode=disable"},
		{"postgres://u@a/c?sslmode=prefer", "sslmode=prefer"},
		{"postgres://u@localhost,a/c?sslmode=allow", "sslmode=allow"},
		{"postgres://u@a/c?sslmode=maybe", "sslmode"},
		{"postgres://u@a/c?target_session_attrs=any", "read-write"},
		{"postgres://u@a/c?sslrootcert=%zz", "escaped"},
	} {
		_, err := Open(t.Context(), Config{Postgres: &Postgres{URL: tc.url}})
		if err == nil || !strings.Contains(err.Error(), tc.says) || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("%s: %v", tc.url, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error quotes a password: %v", tc.url, err)
		}
	}
}

// What is in the environment, the home directory and service files changes
// nothing.
func TestNothingIsTakenFromTheEnvironment(t *testing.T) {
	const url = "postgres://u@db.example:6432,other.example/c"
	before, err := newPostgres(Postgres{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer before.close()
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".postgresql"), 0o700); err != nil {
		t.Fatal(err)
	}
	service := filepath.Join(home, "services")
	for path, text := range map[string]string{
		filepath.Join(home, ".pgpass"): "*:*:*:*:stolen\n",
		service:                        "[evil]\nuser=evil\nstatement_timeout=0\n",
		filepath.Join(home, ".postgresql/root.crt"):       "no certificate",
		filepath.Join(home, ".postgresql/postgresql.crt"): "no certificate",
		filepath.Join(home, ".postgresql/postgresql.key"): "no key",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"HOME": home, "PGHOST": "evil", "PGPORT": "1", "PGDATABASE": "evil", "PGUSER": "evil", "PGPASSWORD": "stolen", "PGPASSFILE": filepath.Join(home, ".pgpass"),
		"PGAPPNAME": "evil", "PGCONNECT_TIMEOUT": "x", "PGSSLMODE": "disable", "PGSSLKEY": "/x", "PGSSLCERT": "/x", "PGSSLCERTMODE": "x", "PGSSLSNI": "0",
		"PGSSLROOTCERT": "/x", "PGSSLPASSWORD": "x", "PGSSLNEGOTIATION": "direct", "PGTARGETSESSIONATTRS": "any", "PGSERVICE": "evil", "PGSERVICEFILE": service,
		"PGTZ": "x", "PGOPTIONS": "-csynchronous_commit=off", "PGMINPROTOCOLVERSION": "x", "PGMAXPROTOCOLVERSION": "x", "PGCHANNELBINDING": "x", "PGREQUIREAUTH": "none",
	} {
		t.Setenv(name, value)
	}
	after, err := newPostgres(Postgres{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer after.close()
	if diff := cmp.Diff(before.describe(), after.describe()); diff != "" {
		t.Error(diff)
	}
	if before.config.Password != "" || after.config.Password != "" {
		t.Error("a password was found somewhere")
	}
}

// describe lists what decides where and how p connects.
func (p *postgres) describe() []string {
	c := p.config
	list := []string{c.Host, fmt.Sprint(c.Port), c.Database, c.User, c.Password, c.SSLNegotiation, c.SSLCertMode, fmt.Sprint(c.ConnectTimeout),
		c.MinProtocolVersion, c.MaxProtocolVersion, c.ChannelBinding, c.RequireAuth, fmt.Sprint(c.ValidateConnect != nil), fmt.Sprint(c.RuntimeParams)}
	tls := func(i int) string {
		t := c.TLSConfig
		if i > 0 {
			t = c.Fallbacks[i-1].TLSConfig
		}
		if t == nil {
			return "no TLS"
		}
		return fmt.Sprint(t.ServerName, t.InsecureSkipVerify, t.RootCAs == nil, t.GetClientCertificate == nil, t.NextProtos)
	}
	list = append(list, tls(0))
	for i, f := range c.Fallbacks {
		list = append(list, fmt.Sprint(f.Host, f.Port, tls(i+1)))
	}
	return list
}

// The password is read anew for each connection, and never told.
func TestThePasswordIsInAFile(t *testing.T) {
	s := postgrestest.Start(t)
	s.Exec("postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'; GRANT CREATE ON DATABASE postgres TO %[1]s",
		postgrestest.SecretRole, postgrestest.Password))
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Postgres: &Postgres{URL: strings.Replace(s.URL("postgres"), "postgres@", postgrestest.SecretRole+"@", 1), PasswordFile: file}}
	refused := func(what string) {
		t.Helper()
		c, err := Open(t.Context(), cfg)
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), "hint") {
			t.Errorf("%s: %v", what, err)
		}
		for _, secret := range []string{postgrestest.Password, "wrong guess"} {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error tells it: %v", what, err)
			}
		}
	}
	write("wrong guess\n")
	refused("a wrong password")
	write(postgrestest.Password + "\nand more\n")
	refused("two lines")
	write("")
	refused("none")
	write(postgrestest.Password + "\n")
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mustCreate(t, c, keySet("web"))
	s.Exec("postgres", "ALTER ROLE "+postgrestest.SecretRole+" PASSWORD 'another'")
	write("another")
	s.Terminate("postgres")
	if _, err := addVersion(c, t.Context(), -1); err != nil {
		t.Errorf("after the password was changed: %v", err)
	}
}

// S05: a commit that is told is on a disk.
func TestS05AServerThatLosesCommitsIsRefused(t *testing.T) {
	s := postgrestest.Start(t)
	cfg := Config{Postgres: &Postgres{URL: s.URL("postgres")}}
	c := openURL(t, Config{}, s.URL("postgres"))
	mustCreate(t, c, keySet("web"))
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, "synchronous standby") {
		t.Errorf("warnings: %q", w)
	}
	for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
		s.Set(name, "off")
		again, err := Open(t.Context(), cfg)
		if err == nil {
			again.Close()
		}
		if !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), name+"=off") || !strings.Contains(err.Error(), "hint") {
			t.Errorf("%s: %v", name, err)
		}
		s.Terminate("postgres") // the open one has to connect anew
		if _, err := c.View(t.Context()); !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s, on a new connection: %v", name, err)
		}
		s.Set(name, "on")
	}
	if _, err := addVersion(c, t.Context(), -1); err != nil {
		t.Error(err)
	}
	s.Exec("postgres", "ALTER ROLE postgres SET synchronous_commit = off")
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "synchronous_commit=off") {
		t.Errorf("for the role alone: %v", err)
	}
	s.Exec("postgres", "ALTER ROLE postgres SET synchronous_commit = local")
	s.Set("synchronous_standby_names", "nobody")
	c = openURL(t, Config{}, s.URL("postgres"))
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, "synchronous_commit=local") {
		t.Errorf("warnings: %q", w)
	}
}

func TestServersByWhatTheyPromise(t *testing.T) {
	for _, tc := range []struct {
		version              int
		fsync, pages, commit string
		says                 string
	}{
		{150014, "on", "on", "on", ""}, {130000, "on", "on", "local", ""}, {180001, "on", "on", "remote_apply", ""},
		{129999, "on", "on", "on", "too old"}, {150014, "off", "on", "on", "fsync"}, {150014, "on", "off", "on", "full_page_writes"}, {150014, "on", "on", "off", "synchronous_commit"},
	} {
		err := checkServer(tc.version, tc.fsync, tc.pages, tc.commit)
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	if remarksOn("on", "*") != nil || remarksOn("on", "") == nil || remarksOn("local", "*") == nil {
		t.Error("an operator is told of a synchronous standby that is there, or not of one that is not")
	}
}

// Several nodes start at once on an empty database, and each finds the catalog.
func TestNodesThatStartAtOnceMakeOneCatalog(t *testing.T) {
	for range 3 {
		url, name, s := postgrestest.Database(t)
		nodes := make([]*Catalog, 4)
		var wg sync.WaitGroup
		for i := range nodes {
			wg.Go(func() {
				c, err := Open(t.Context(), Config{Postgres: &Postgres{URL: url}})
				if err != nil {
					t.Error(err)
					return
				}
				nodes[i] = c
				if _, err := c.Enrol(t.Context(), enrolment(fmt.Sprint("node-", i))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, c := range nodes {
			if c != nil {
				defer c.Close()
			}
		}
		if got := s.Exec(name, "SELECT count(*), count(DISTINCT epoch), max(epoch) FROM chancery.node"); got != "4|4|4" {
			t.Errorf("nodes, epochs, the last one: %s", got)
		}
	}
}

func TestS08WhatIsNoCatalogInPostgresIsRefusedAndLeftAlone(t *testing.T) {
	for _, tc := range []struct {
		name, spoil string
		kind        error
		phrase      string
	}{
		{"newer", "UPDATE catalog SET schema = 99", ErrNewer, "schema 99"},
		{"a trigger is gone", "DROP TRIGGER version_fixed ON version", ErrDamaged, "version_fixed"},
		{"a trigger is off", "ALTER TABLE version DISABLE TRIGGER version_fixed", ErrDamaged, "version_fixed"},
		{"a trigger does nothing", "CREATE OR REPLACE FUNCTION version_fixed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", ErrDamaged, "version_fixed"},
		{"a constraint is gone", "ALTER TABLE version DROP CONSTRAINT version_kid_key", ErrDamaged, "version_kid_key"},
		{"an index is gone", "DROP INDEX version_active", ErrDamaged, "version_active"},
		{"a table too many", "CREATE TABLE extra (x int)", ErrDamaged, "extra"},
		{"a column too many", "ALTER TABLE version ADD COLUMN x int", ErrDamaged, "version x"},
		{"unlogged", "ALTER TABLE secret SET UNLOGGED", ErrDamaged, "secret"},
		{"a time was edited", "ALTER TABLE version DISABLE TRIGGER ALL; UPDATE version SET published_at = published_at - 1; ALTER TABLE version ENABLE TRIGGER ALL", ErrDamaged, "checksum"},
		{"the catalog's own row is gone", "DROP TABLE catalog", ErrDamaged, "table catalog"},
		{"something else", "DROP SCHEMA chancery CASCADE; CREATE SCHEMA chancery; CREATE TABLE chancery.x (y int)", ErrDamaged, "something else"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url, name, s := postgrestest.Database(t)
			at := &place{url: url, time: epoch}
			at.activated(t)
			s.Exec(name, "SET search_path = chancery; "+tc.spoil)
			before, _ := s.TryExec(name, "SELECT sum(hashtext(v::text)) FROM chancery.version v")
			c, err := Open(t.Context(), at.config())
			if err == nil {
				c.Close()
				t.Fatal("it was opened")
			}
			if !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.phrase) || !strings.Contains(err.Error(), "hint") {
				t.Errorf("got: %v", err)
			}
			if after, _ := s.TryExec(name, "SELECT sum(hashtext(v::text)) FROM chancery.version v"); after != before {
				t.Error("the refused catalog was changed")
			}
		})
	}
}

// A role that owns the schema needs no rights on the database.
func TestARoleNeedsNoMoreThanItsSchema(t *testing.T) {
	s := postgrestest.Start(t)
	s.Exec("postgres", "CREATE ROLE chancery LOGIN")
	url := strings.Replace(s.URL("postgres"), "postgres@", "chancery@", 1)
	_, err := Open(t.Context(), Config{Postgres: &Postgres{URL: url}})
	if !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), "GRANT CREATE ON DATABASE") {
		t.Errorf("without a schema: %v", err)
	}
	s.Exec("postgres", "CREATE SCHEMA chancery AUTHORIZATION chancery")
	for range 2 {
		c := openURL(t, Config{}, url)
		enrol(t, c, enrolment("a"))
	}
}

func TestASocketIsAWayToo(t *testing.T) {
	_, name, s := postgrestest.Database(t)
	c := openURL(t, Config{}, fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%d", name, s.Host(), s.Port()))
	mustCreate(t, c, keySet("web"))
}

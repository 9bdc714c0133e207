package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore"
)

func TestALifeComesBackAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with %20 spaces?&#", "catalog.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	c := open(t, path)
	mustCreate(t, c, keySet("web"))
	for _, to := range []keystore.State{keystore.Pending, keystore.Published, keystore.Active} {
		step(t, c, "web", 1, to)
	}
	_, err := c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		ks.RotateBy = &keystore.Fact{At: epoch, By: "op\x00erator", Reason: "“asked”\xff"}
		ks.Promises = append(ks.Promises, keystore.Promise{At: epoch.Add(time.Hour), MaxAge: 1500 * time.Nanosecond})
		v := &ks.Versions[0]
		v.Suspended = &keystore.Fact{At: epoch, By: "op", Reason: ""}
		v.ExpHorizon = epoch.Add(time.Hour)
		v.MaxLifetime = time.Hour + 1
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	was := set(t, c, "web")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	again := open(t, path)
	if diff := cmp.Diff(was, set(t, again, "web")); diff != "" {
		t.Error("after reopening:", diff)
	}
	want := keySet("web")
	want.Revision = was.Revision
	want.RotateBy = &keystore.Fact{At: epoch, By: "op\uFFFDerator", Reason: "“asked”\uFFFD"}
	want.Promises = append(want.Promises, keystore.Promise{At: epoch.Add(time.Hour), MaxAge: 1500 * time.Nanosecond})
	v := was.Versions[0]
	want.Versions = []keystore.Version{{
		Number: 1, Algorithm: keystore.EdDSA, Keystore: "hsm", KeyID: v.KeyID, KID: v.KID, SPKI: v.SPKI, State: keystore.Active,
		CreatedAt: epoch, PublishedAt: epoch.Add(2 * time.Second), ActivatedAt: epoch.Add(3 * time.Second),
		ExpHorizon: epoch.Add(time.Hour), MaxLifetime: time.Hour + 1, Suspended: &keystore.Fact{At: epoch, By: "op"},
	}}
	if diff := cmp.Diff(want, was); diff != "" {
		t.Error("as written:", diff)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestTimesAreCutToMicrosecondsAndHorizonsRoundedUp(t *testing.T) {
	c := activated(t)
	v := set(t, c, "web").Versions[0]
	zone := time.FixedZone("", 3600)
	if err := c.RaiseHorizon(t.Context(), v.KID, epoch.Add(time.Hour+time.Nanosecond).In(zone)); err != nil {
		t.Fatal(err)
	}
	if got, want := set(t, c, "web").Versions[0].ExpHorizon, epoch.Add(time.Hour+time.Microsecond); got != want {
		t.Errorf("horizon %v, want %v", got, want)
	}
	if got, want := cut(epoch.Add(999).In(zone)), epoch; got != want {
		t.Errorf("cut %v, want %v", got, want)
	}
}

func TestConnectionsAreDurableAndReadersCannotWrite(t *testing.T) {
	c := fresh(t)
	for name, db := range map[string]*sql.DB{"writer": file(c).writer, "reader": file(c).reader} {
		for pragma, want := range map[string]string{"synchronous": "2", "foreign_keys": "1", "journal_mode": "wal", "trusted_schema": "0"} {
			var got string
			if err := db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s: %s is %q, %v; want %q", name, pragma, got, err, want)
			}
		}
	}
	if _, err := file(c).reader.ExecContext(t.Context(), "DELETE FROM secret"); err == nil {
		t.Error("a reader wrote")
	}
}

func TestS07OldSQLiteIsRefused(t *testing.T) {
	for number, ok := range map[int]bool{3_007_000: false, 3_040_001: false, 3_051_002: false, 3_051_003: true, 3_054_001: true, 4_000_000: true} {
		if err := checkSQLite(number); (err == nil) != ok {
			t.Errorf("%d: %v", number, err)
		}
	}
}

func TestS06AnotherWriterMakesItUnavailableAndNotHang(t *testing.T) {
	c := activated(t)
	other := openPool(file(c).path, "rw", 1)
	defer other.Close()
	if _, err := other.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := c.Remember(ctx, "log", 1, [32]byte{})
	if !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Errorf("a caller with 300 ms waited %v", took)
	}
	start = time.Now()
	err = c.Remember(t.Context(), "log", 1, [32]byte{})
	if !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took < busyTimeout-200*time.Millisecond || took > busyTimeout+2*time.Second {
		t.Errorf("a caller without a deadline waited %v", took)
	}
	if _, err := c.View(t.Context()); err != nil {
		t.Errorf("reading beside the other writer: %v", err)
	}
	if _, err := other.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := c.Remember(t.Context(), "log", 1, [32]byte{}); err != nil {
		t.Errorf("after the other writer left: %v", err)
	}
}

func TestS08AFileThatWasMovedAwayIsNotWrittenTo(t *testing.T) {
	c := activated(t)
	aside := file(c).path + ".aside"
	if err := os.Rename(file(c).path, aside); err != nil {
		t.Fatal(err)
	}
	for _, replace := range []bool{false, true} {
		if replace {
			if err := os.WriteFile(file(c).path, []byte("something else"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Remember(t.Context(), "log", 1, [32]byte{}); !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), "hint") {
			t.Errorf("replaced %v: write: %v", replace, err)
		}
		if _, err := c.View(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("replaced %v: read: %v", replace, err)
		}
	}
	if err := os.Rename(aside, file(c).path); err != nil {
		t.Fatal(err)
	}
	if err := c.Remember(t.Context(), "log", 1, [32]byte{}); err != nil {
		t.Errorf("after it was put back: %v", err)
	}
}

func TestS08WhatIsNoCatalogIsRefusedAndLeftAlone(t *testing.T) {
	whole := func(t *testing.T) []byte {
		c := activated(t)
		path := file(c).path
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}(t)
	run := func(statement string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			db := openPool(path, "rw", 1)
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(b []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name   string
		spoil  func(t *testing.T, path string)
		kind   error
		phrase string
	}{
		{"empty", write(nil), ErrDamaged, "empty"},
		{"cut in half", write(whole[:len(whole)/2]), ErrDamaged, "restore the last backup"},
		{"cut by one byte", write(whole[:len(whole)-1]), ErrDamaged, "restore the last backup"},
		{"cut after one page", write(whole[:4096]), ErrDamaged, "restore the last backup"},
		{"no database", write([]byte(strings.Repeat("not a database. ", 512))), ErrDamaged, "not a database"},
		{"another program's", run("PRAGMA application_id = 7"), ErrDamaged, "something else"},
		{"newer", run("PRAGMA user_version = 99"), ErrNewer, "schema 99"},
		{"a trigger is gone", run("DROP TRIGGER version_forward"), ErrDamaged, "tables are not those"},
		{"a table too many", run("CREATE TABLE extra (x)"), ErrDamaged, "tables are not those"},
		{"a time was edited", run("UPDATE version SET published_at = published_at - 1"), ErrDamaged, "checksum"},
		{"a version was added", run(`INSERT INTO version (keyset, number, algorithm, keystore, key_id, state, created_at, max_lifetime, sum)
			VALUES ('web', 2, 'EdDSA', 'hsm', x'00000000000000000000000000000001', 'pending', 1, 0, 0)`), ErrDamaged, "checksum"},
		{"a directory", func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, ErrDamaged, "regular file"},
		{"gone, its log left", func(t *testing.T, path string) {
			if err := errors.Join(os.Rename(path, path+"-wal")); err != nil {
				t.Fatal(err)
			}
		}, ErrDamaged, "-wal is there"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "catalog.db")
			write(whole)(t, path)
			tc.spoil(t, path)
			before, _ := os.ReadFile(path)
			c, err := Open(t.Context(), Config{Path: path})
			if err == nil {
				c.Close()
				t.Fatal("it was opened")
			}
			if !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.phrase) || !strings.Contains(err.Error(), "hint") {
				t.Errorf("got: %v", err)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the refused file was changed")
			}
		})
	}
}

func TestS08AFlippedByteIsNoticedOrDoesNotMatter(t *testing.T) {
	c := activated(t)
	if _, err := c.Acknowledge(t.Context(), "dev", "web", []int{1}, epoch); err != nil {
		t.Fatal(err)
	}
	was := set(t, c, "web")
	outbox, err := c.Outbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := file(c).path
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := filepath.Join(t.TempDir(), "catalog.db")
	noticed, tried := 0, 0
	for i := 0; i < len(whole); i++ {
		// All of what is not empty space would take minutes.
		if whole[i] == 0 && i%1997 != 0 || whole[i] != 0 && i > 100 && i%151 != 0 {
			continue
		}
		tried++
		b := append([]byte(nil), whole...)
		b[i] ^= byte(1 << (i % 8))
		if err := os.WriteFile(spoiled, b, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Open(t.Context(), Config{Path: spoiled})
		if err != nil {
			noticed++
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) && !errors.Is(err, keystore.ErrUnavailable) {
				t.Errorf("byte %d: an error of no kind: %v", i, err)
			}
			continue
		}
		view, err := again.View(t.Context())
		if err == nil {
			now, _ := view.KeySet("web")
			if diff := cmp.Diff(was, now); diff != "" {
				t.Errorf("byte %d changed the key set unnoticed: %s", i, diff)
			}
		}
		rows, err := again.Outbox(t.Context())
		if err == nil {
			if diff := cmp.Diff(outbox, rows); diff != "" {
				t.Errorf("byte %d changed the outbox unnoticed: %s", i, diff)
			}
		}
		if err := again.Close(); err != nil {
			t.Errorf("byte %d: closing: %v", i, err)
		}
		for _, suffix := range []string{"-wal", "-shm"} {
			_ = os.Remove(spoiled + suffix)
		}
	}
	t.Logf("%d of %d bytes tried, %d noticed", tried, len(whole), noticed)
}

func TestTheSchemaIsASecondLine(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		step(t, c, "web", 2, keystore.Pending)
		step(t, c, "web", 2, keystore.Published)
		if _, err := c.Enrol(t.Context(), enrolment("a")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Acknowledge(t.Context(), "a", "web", []int{1}, epoch); err != nil {
			t.Fatal(err)
		}
		zeros := func(n int) string {
			if at.url != "" {
				return fmt.Sprintf("decode(repeat('00', %d), 'hex')", n)
			}
			return fmt.Sprintf("zeroblob(%d)", n)
		}
		for _, statement := range []string{
			`DELETE FROM keyset`, `DELETE FROM version`, `DELETE FROM promise`, `DELETE FROM outbox`, `DELETE FROM change`,
			`DELETE FROM node`, `DELETE FROM catalog`,
			`UPDATE keyset SET purpose = 'ca'`,
			`UPDATE keyset SET name = 'other'`,
			`UPDATE promise SET max_age = 0`,
			`UPDATE version SET state = 'published', activated_at = NULL WHERE number = 1`,
			`UPDATE version SET state = 'active', activated_at = 1 WHERE number = 2`,
			`UPDATE version SET state = 'destroyed', destroyed_at = 1 WHERE number = 1`,
			`UPDATE version SET state = 'unheard-of' WHERE number = 1`,
			`UPDATE version SET kid = (SELECT kid FROM version WHERE number = 1) WHERE number = 2`,
			`UPDATE version SET key_id = ` + zeros(16) + ` WHERE number = 2`,
			`UPDATE version SET algorithm = 'ES256' WHERE number = 2`,
			`UPDATE version SET max_lifetime = -1 WHERE number = 2`,
			`UPDATE version SET maker = 'b' WHERE number = 2`,
			`INSERT INTO version SELECT keyset, 3, algorithm, keystore, ` + zeros(16) + `, kid, spki, spki_hash, state, created_at, published_at,
				served_at, activated_at, stopped_at, retired_at, destroyed_at, exp_horizon, max_lifetime, NULL, NULL, NULL, NULL, NULL, NULL, 0, ''
				FROM version WHERE number = 2`,
			`UPDATE outbox SET record = '{}'`,
			`UPDATE outbox SET node = 'b'`,
			`UPDATE keyset SET revision = 0`,
			`UPDATE change SET at = 0`,
			`UPDATE catalog SET epochs = 0`,
			`UPDATE node SET epoch = 0`,
			`UPDATE node SET enrolled_at = 0`,
			`UPDATE acknowledgement SET at = 0`,
			`INSERT INTO certificate VALUES ('00', 'a', 'p', 'w', 1, ` + zeros(32) + `, '[]', 1, 2, 'issued', NULL, '', '', 0)`,
		} {
			if err := runs(t, c, statement); err == nil {
				t.Errorf("%s: was done", statement)
			} else if err := c.explain(t.Context(), "x", err); !errors.Is(err, ErrIllegal) {
				t.Errorf("%s: %v", statement, err)
			}
		}
	})
}

func TestAForeignReaderReadsBesideTheDaemon(t *testing.T) {
	c := activated(t)
	reader := openPool(file(c).path, "ro", 1)
	defer reader.Close()
	var n int
	if err := reader.QueryRowContext(t.Context(), "SELECT count(*) FROM version").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d versions, %v", n, err)
	}
	step(t, c, "web", 2, keystore.Pending)
	if err := reader.QueryRowContext(t.Context(), "SELECT count(*) FROM version").Scan(&n); err != nil || n != 2 {
		t.Errorf("%d versions, %v", n, err)
	}
}

func TestS01ACreationThatWasCutOffIsBegunAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	for _, suffix := range []string{".new", ".new-wal", ".new-journal"} {
		if err := os.WriteFile(path+suffix, []byte("half a catalog"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustCreate(t, open(t, path), keySet("web"))
	if left, err := filepath.Glob(path + ".new*"); err != nil || left != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A catalog of an older schema opens, keeps what it holds, and takes what the
// newest one has.
func TestOlderSchemasAreBroughtUpToDate(t *testing.T) {
	for schema := 1; schema <= 2; schema++ {
		t.Run(fmt.Sprint(schema), func(t *testing.T) { bringUpToDate(t, schema) })
	}
}

func bringUpToDate(t *testing.T, schema int) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	want := writeOldCatalog(t, path, schema)
	c, err := Open(t.Context(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if diff := cmp.Diff(want, set(t, c, "web")); diff != "" {
		t.Error(diff)
	}
	rows, err := c.Outbox(t.Context())
	if err != nil || len(rows) != 1 || rows[0].Record.Action != keystore.ActKeyActivate || rows[0].Node != "" || !rows[0].At.Equal(epoch) {
		t.Errorf("outbox: %+v, %v", rows, err)
	}
	if _, err := c.Enrol(t.Context(), enrolment("dev"), record(keystore.ActNodeEnrol)); err != nil {
		t.Fatal(err)
	}
	algs := []keystore.Algorithm{keystore.ES256, keystore.EdDSA}
	_, err = c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		ks.Announced = algs
		v := pending(2)
		v.Maker = "dev"
		ks.Versions = append(ks.Versions, v)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if ks := set(t, c, "web"); !slices.Equal(ks.Announced, algs) || ks.Versions[1].Maker != "dev" {
		t.Errorf("announced %v, made by %q", ks.Announced, ks.Versions[1].Maker)
	}
}

// writeOldCatalog makes the file of an older schema with a key set that is
// acknowledged, and returns the set.
func writeOldCatalog(t *testing.T, path string, schema int) *keystore.KeySet {
	t.Helper()
	ks := keySet("web")
	ks.Revision, ks.ServedAt = 1, epoch
	ks.Versions = []keystore.Version{pending(1)}
	ks.Acks = []keystore.Ack{{Node: "dev", Version: 1, At: epoch}}
	all, err := loadMigrations("sqlite")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db := openPool(path, "rw", 1)
	run := func(statement string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	run(fmt.Sprintf("PRAGMA application_id = %d; PRAGMA journal_mode = WAL", applicationID))
	for _, text := range all[:schema] {
		run(text)
	}
	run(fmt.Sprintf("PRAGMA user_version = %d", schema))
	id := newID()
	run(sqlInsertChange, 1, id, "web", epoch.UnixMicro())
	values := func(n int) string { return "(?" + strings.Repeat(", ?", n-1) + ")" }
	run(`INSERT INTO keyset (name, purpose, algorithm, keystore, revision, created_at, served_at, rotate_by_at, rotate_by, rotate_by_reason,
		versions, promises, sum) VALUES `+values(13), sealed(keySetRow(ks))...)
	run(sqlInsertPromise, sealed(promiseRow("web", 0, ks.Promises[0]))...)
	columns := strings.TrimSuffix(versionColumns, ", maker")
	run(`INSERT INTO version (`+columns+`) VALUES `+values(25), sealed(versionRow("web", &ks.Versions[0]))...)
	v := &ks.Versions[0]
	for _, to := range []keystore.State{keystore.Published, keystore.Active} {
		advance(v, to, epoch)
		v.ServedAt = epoch
		run(`UPDATE version SET (`+columns+`) = `+values(25)+` WHERE number = 1`, sealed(versionRow("web", v))...)
	}
	run(`INSERT INTO acknowledgement (node, keyset, number, at) VALUES ('dev', 'web', 1, ?)`, epoch.UnixMicro())
	row := []any{id, newID(), `{"action":"key.activate","outcome":"done"}`, epoch.UnixMicro()}
	run(`INSERT INTO outbox (transition, record_id, record, at, sum) VALUES (?, ?, ?, ?, ?)`, sealed(row)...)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return ks
}

func mustView(t testing.TB, c *Catalog) *keystore.View {
	t.Helper()
	v, err := c.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

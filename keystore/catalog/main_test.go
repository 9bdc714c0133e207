package catalog

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chancery/keystore"
	"chancery/keystore/catalog/postgrestest"
)

// TestMain becomes the process that TestS01KillAtAnyMoment kills, if asked to.
func TestMain(m *testing.M) {
	if path := os.Getenv("CATALOG_TEST_UPDATE"); path != "" {
		updateForEver(path)
		return
	}
	// Each check is dozens of synced writes; -rapid.checks=1000 for more.
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		postgrestest.Stop()
		os.Exit(code)
	}))
}

var epoch = time.Date(2026, 11, 2, 8, 0, 0, 123456000, time.UTC)

// A place is where a catalog is, on one of the databases. Its clock, the
// catalog's too, stands at epoch until a test moves it.
type place struct {
	path string // of the file on SQLite
	url  string // on PostgreSQL

	mu   sync.Mutex // guards time
	time time.Time
}

func (p *place) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.time
}

func (p *place) setClock(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.time = t
}

func (p *place) config() Config {
	cfg := Config{Path: p.path, Now: p.now}
	if p.url != "" {
		cfg = Config{Postgres: &Postgres{URL: p.url}, Now: p.now, clock: p.now}
	}
	return cfg
}

func (p *place) open(t testing.TB) *Catalog {
	t.Helper()
	c, err := Open(context.Background(), p.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// activated returns a catalog whose key set "web" has an active version 1.
func (p *place) activated(t testing.TB) *Catalog {
	t.Helper()
	c := p.open(t)
	mustCreate(t, c, keySet("web"))
	for _, to := range []keystore.State{keystore.Pending, keystore.Published, keystore.Active} {
		step(t, c, "web", 1, to)
	}
	return c
}

// acknowledge has the catalog's clock stand at a moment for an acknowledgement.
func (p *place) acknowledge(t testing.TB, c *Catalog, node string, versions []int, at time.Time, recs ...keystore.Record) (Change, error) {
	p.setClock(at)
	return c.Acknowledge(t.Context(), node, "web", versions, at, recs...)
}

func inFile(t testing.TB) *place {
	return &place{path: filepath.Join(t.TempDir(), "catalog.db"), time: epoch}
}

func inPostgres(t testing.TB) *place {
	url, _, _ := postgrestest.Database(t)
	return &place{url: url, time: epoch}
}

// another is a place on the same database where there is no catalog yet.
func (p *place) another(t testing.TB) *place {
	if p.url != "" {
		return inPostgres(t)
	}
	return inFile(t)
}

// each runs a test on every database.
func each(t *testing.T, f func(t *testing.T, at *place)) {
	t.Run("sqlite", func(t *testing.T) { f(t, inFile(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, inPostgres(t)) })
}

func open(t testing.TB, path string) *Catalog {
	t.Helper()
	return (&place{path: path, time: epoch}).open(t)
}

func fresh(t testing.TB) *Catalog {
	t.Helper()
	return inFile(t).open(t)
}

func activated(t testing.TB) *Catalog {
	t.Helper()
	return inFile(t).activated(t)
}

func enrolment(node string) Enrolment {
	return Enrolment{Node: node, Identity: [16]byte([]byte(fmt.Sprintf("%-16s", node))), Signing: 30 * time.Second, Publishing: 5 * time.Minute}
}

// file is the database of a catalog in a file.
func file(c *Catalog) *sqlite { return c.db.(*sqlite) }

// blind keeps a catalog from being read.
func blind(c *Catalog) {
	switch db := c.db.(type) {
	case *sqlite:
		db.reader.Close()
	case *postgres:
		db.pools[reading].Close()
	}
}

// runs executes a statement beside the catalog's own code.
func runs(t testing.TB, c *Catalog, statement string) error {
	t.Helper()
	db := writerOf(c)
	_, err := db.ExecContext(t.Context(), statement)
	return err
}

func writerOf(c *Catalog) *sql.DB {
	if db, ok := c.db.(*postgres); ok {
		return db.pools[changing]
	}
	return file(c).writer
}

func keySet(name string) *keystore.KeySet {
	return &keystore.KeySet{
		Name: name, Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", CreatedAt: epoch,
		Promises: []keystore.Promise{{At: epoch, MaxAge: time.Minute, CacheFor: 2 * time.Minute, MaxLifetime: time.Hour}},
	}
}

func pending(number int) keystore.Version {
	return keystore.Version{
		Number: number, Algorithm: keystore.EdDSA, Keystore: "hsm", KeyID: keystore.NewKeyID(),
		State: keystore.Pending, CreatedAt: epoch,
	}
}

// giveKey gives v a fresh public key.
func giveKey(v *keystore.Version) {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	if v.SPKI, err = keystore.MarshalPublic(pub); err != nil {
		panic(err)
	}
	if v.KID, err = keystore.Thumbprint(pub); err != nil {
		panic(err)
	}
}

// advance moves v to a state with the times and key that state has.
func advance(v *keystore.Version, to keystore.State, at time.Time) {
	switch to {
	case keystore.Published:
		giveKey(v)
		v.PublishedAt = at
	case keystore.Active:
		v.ActivatedAt = at
	case keystore.Retiring:
		v.StoppedAt = at
	case keystore.Retired:
		if v.State == keystore.Active {
			v.StoppedAt = at
		}
		v.RetiredAt = at
	case keystore.Destroyed, keystore.Abandoned:
		v.DestroyedAt = at
	}
	v.State = to
}

func record(action keystore.Action) keystore.Record {
	return keystore.Record{Principal: "chancery", Action: action, Outcome: keystore.OutcomeDone}
}

func mustCreate(t testing.TB, c *Catalog, ks *keystore.KeySet) Change {
	t.Helper()
	change, err := c.Create(t.Context(), ks, record(keystore.ActKeySetCreate))
	if err != nil {
		t.Fatal(err)
	}
	return change
}

// step is an Update that moves one version, appending it first if it is new.
func step(t testing.TB, c *Catalog, name string, number int, to keystore.State) Change {
	t.Helper()
	change, err := c.Update(t.Context(), name, -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		if to == keystore.Pending {
			ks.Versions = append(ks.Versions, pending(number))
		} else {
			advance(&ks.Versions[number-1], to, epoch.Add(time.Duration(to)*time.Second))
		}
		return []keystore.Record{record(keystore.Action("key." + to.String()))}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return change
}

func set(t testing.TB, c *Catalog, name string) *keystore.KeySet {
	t.Helper()
	view, err := c.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ks, ok := view.KeySet(name)
	if !ok {
		t.Fatalf("no key set %q", name)
	}
	return ks
}

// updateForEver counts up in the key set at path until it is killed, saying
// each number after it is durable. A number stands in the set and in the record
// of its change.
func updateForEver(path string) {
	ctx := context.Background()
	c, err := Open(ctx, Config{Path: path})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for {
		n := ""
		_, err := c.Update(ctx, "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			n = fmt.Sprint(ks.Revision + 1)
			ks.RotateBy = &keystore.Fact{At: epoch, By: "test", Reason: n}
			ks.Versions = append(ks.Versions, pending(len(ks.Versions)+1))
			if i := len(ks.Versions) - 2; i >= 0 {
				advance(&ks.Versions[i], keystore.Abandoned, epoch)
			}
			rec := record(keystore.ActRotate)
			rec.Reason = n
			return []keystore.Record{rec}, nil
		})
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

package catalog

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write migrations/postgres/schema.txt anew")

func TestThePostgresSchemaIsWhatTheMigrationsMake(t *testing.T) {
	db, err := newPostgres(Postgres{URL: inPostgres(t).url})
	if err != nil {
		t.Fatal(err)
	}
	defer db.close()
	conn, err := db.pools[changing].Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := makeCatalog(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if err := db.migrate(t.Context(), conn, nil); err != nil {
		t.Fatal(err)
	}
	found, err := postgresSchemaOf(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(found, "\n") + "\n"
	if *update {
		if err := os.WriteFile("migrations/postgres/schema.txt", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(postgresSchema, text); diff != "" {
		t.Errorf("the file is another (go test -run %s -update): %s", t.Name(), diff)
	}
}

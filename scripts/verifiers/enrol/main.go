// Command enrol makes a log known to litewitness: it writes the log's origin and
// verifier key into litewitness's database, which litewitness has made. Torchwood
// has witnessctl for this, which needs more than the module proxy gives.
//
//	enrol DB ORIGIN VKEY
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: enrol DB ORIGIN VKEY")
		os.Exit(2)
	}
	if err := enrol(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func enrol(path, origin, vkey string) error {
	db, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer db.Close()
	root := sha256.Sum256(nil) // of the tree without entries
	for _, row := range []struct {
		query string
		args  []any
	}{
		{"INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", []any{origin, base64.StdEncoding.EncodeToString(root[:])}},
		{"INSERT INTO key (origin, key) VALUES (?, ?)", []any{origin, vkey}},
	} {
		if err := sqlitex.Execute(db, row.query, &sqlitex.ExecOptions{Args: row.args}); err != nil {
			return fmt.Errorf("writing to the database: %w", err)
		}
	}
	return nil
}

package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/signer/api"
)

// asHolder makes the test binary hold SQLite's write lock on the database it
// names, from when it says so until its input ends.
const asHolder = "CHANCERYD_TEST_HOLD"

func holdCatalog(path string) int {
	db, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=10000")
	if err == nil {
		db.SetMaxOpenConns(1)
		_, err = db.Exec("BEGIN IMMEDIATE")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("held")
	os.Stdin.Read(make([]byte, 1))
	if _, err := db.Exec("ROLLBACK"); err != nil {
		return 1
	}
	return 0
}

// hold has another process take the catalog's write lock; release gives it back.
func (d *chanceryd) hold() (release func()) {
	d.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asHolder+"="+filepath.Join(d.dir, "catalog.db"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		d.t.Fatalf("holding the catalog: %v", err)
	}
	return func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			d.t.Errorf("holding the catalog: %v", err)
		}
	}
}

// TestS06CatalogHeld: while another process holds the catalog's write lock,
// tokens within the horizon are signed, those beyond are refused, and all is
// well when it lets go.
func TestS06CatalogHeld(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.client("issuer")
	d.within(20*time.Second, "every successor is published and served", func() error {
		for _, name := range []string{"web", "legacy", "edge"} {
			plan, err := d.client("operator").Plan(t.Context(), name)
			if err != nil {
				return err
			}
			if len(plan.Steps) == 0 || plan.Steps[0].Step != "activate" || time.Until(plan.Steps[0].At) < time.Hour {
				return fmt.Errorf("%s: %+v", name, plan.Steps)
			}
		}
		return nil
	})
	d.sign(c, "web", `{}`) // raises the horizon of web, and not of edge
	release := d.hold()
	for range 20 {
		d.sign(c, "web", `{}`)
	}
	start := time.Now()
	_, err := c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "edge", Claims: json.RawMessage(`{}`)})
	if p := wantCode(t, err, api.CodeLeaseExpired); p.RetryAfter < 1 {
		t.Errorf("Retry-After %d", p.RetryAfter)
	}
	took := time.Since(start)
	if took > 5*time.Second { // raising a horizon has 3 s
		t.Errorf("refused after %v only", took)
	}
	d.sign(c, "web", `{}`)
	// Readiness said that all is well while every token beyond the horizon was refused.
	if ready, text := d.readyz(); ready || !strings.Contains(text, "[-]catalog") {
		t.Errorf("ready %v:\n%s", ready, text)
	}
	release()
	gone := time.Now()
	d.within(5*time.Second, "it is ready again, though nobody asks", func() error {
		if ready, text := d.readyz(); !ready {
			return errors.New(text)
		}
		return nil
	})
	d.within(5*time.Second, "edge signs again", func() error {
		_, err := c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "edge", Claims: json.RawMessage(`{}`)})
		return err
	})
	t.Logf("a token beyond the horizon refused after %v; signed again %v after the lock was let go",
		took.Round(time.Millisecond), time.Since(gone).Round(time.Millisecond))
}

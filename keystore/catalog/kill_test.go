package catalog

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// The child updates without pause and says each number once it is durable.
// Wherever it is killed, the set is at that number or a later one, and the
// newest record in the outbox is the one of the change the set shows.
func TestS01KillAtAnyMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	c, err := Open(t.Context(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, c, keySet("web"))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	rounds, updates := 15, 0
	for round := range rounds {
		said := killedUpdater(t, path, time.Duration(rand.Int64N(int64(60*time.Millisecond))))
		updates = max(updates, said)
		c, err := Open(t.Context(), Config{Path: path})
		if err != nil {
			t.Fatalf("round %d, after %d: %v", round, said, err)
		}
		ks := set(t, c, "web")
		rows, err := c.Outbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if int(ks.Revision) < said {
			t.Errorf("round %d: %d was durable, the set is at %d", round, said, ks.Revision)
		}
		if len(rows) != int(ks.Revision) {
			t.Errorf("round %d: revision %d, %d records", round, ks.Revision, len(rows))
		}
		if last := rows[len(rows)-1].Record; ks.Revision > 1 && (last.Reason != ks.RotateBy.Reason || last.Reason != fmt.Sprint(ks.Revision)) {
			t.Errorf("round %d: the set is at %d and says %q, the last record %q", round, ks.Revision, ks.RotateBy.Reason, last.Reason)
		}
		if len(ks.Versions) != int(ks.Revision)-1 {
			t.Errorf("round %d: revision %d, %d versions", round, ks.Revision, len(ks.Versions))
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills over %d updates", rounds, updates)
}

// killedUpdater runs the child, kills it some time after its first number, and
// returns the last number it said.
func killedUpdater(t *testing.T, path string, after time.Duration) (last int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "CATALOG_TEST_UPDATE="+path)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Wait() }()
	var timer *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if timer == nil {
			timer = time.AfterFunc(after, func() { _ = child.Process.Kill() })
			defer timer.Stop()
		}
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("the child says %q", lines.Text())
		}
		last = n
	}
	return last
}

package main

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// I1, S01, S09, S10: sixteen clients keep every token that they receive while the
// daemon is killed, its disk is full and its syncs fail, one after the other and
// again. Each of those tokens is in the verified log, in an entry of its own.
func TestI1SixteenClientsKeepEveryToken(t *testing.T) {
	t.Parallel()
	needStrace(t)
	rounds := soak(t, 4, 60, "rounds of a kill, a full disk, failing syncs and a kill on a full disk")
	dir := tempDir(t)
	smallFileSystem(t, filepath.Join(dir, "audit"), "768m")
	startDev(t, dir).stop()
	var kept []answer
	counts := make(map[string]int)
	for round := range rounds {
		d, what := startFor(t, dir, round)
		c := d.crowd(16, 0, "web", "edge", "legacy")
		c.atLeast(100)
		switch what {
		case "full", "killed when full":
			free := d.fillUnderLoad(c)
			if what == "killed when full" {
				d.kill()
			}
			free()
			if what == "full" {
				c.successAfter(time.Now(), 20*time.Second)
				if round < 4 { // later ones are killed before that may be entered
					d.awaitResumed()
				}
				d.kill()
			}
		default:
			time.Sleep(time.Duration(rand.Int64N(int64(time.Second))))
			d.kill()
		}
		c.stop()
		got := c.replies()
		counts[what] += len(got)
		kept = append(kept, got...)
	}
	d := startDev(t, dir)
	d.wantVerified(kept[max(0, len(kept)-2000):])
	d.stop()
	d.wantAccounted()
	d.wantRecorded(kept)
	resumed := d.resumed()
	if resumed == 0 {
		t.Error("no failure of the log is told")
	}
	t.Logf("%d tokens, of rounds by how they ended: %v; the log went on %d times", len(kept), counts, resumed)
}

// resumed returns how often the log tells that it went on after a failure.
func (d *chanceryd) resumed() int {
	d.t.Helper()
	return len(d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActAuditResume}))
}

func (d *chanceryd) awaitResumed() {
	d.t.Helper()
	d.within(20*time.Second, "the log tells that it went on", func() error {
		if d.resumed() == 0 {
			return errNotYet
		}
		return nil
	})
}

// startFor starts the daemon for a round, and says what befalls it.
func startFor(t *testing.T, dir string, round int) (d *chanceryd, what string) {
	t.Helper()
	what = [...]string{"killed", "full", "sync", "killed when full"}[round%4]
	if what != "sync" {
		return startDev(t, dir), what
	}
	// Each thread counts its own syncs, so the fault comes again now and then.
	d, _ = launchTraced(t, dir, "fdatasync:error=EIO:when=9", "dev", "--dir", dir)
	d.awaitServing()
	return d, what
}

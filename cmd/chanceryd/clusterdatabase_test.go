package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore/catalog/postgrestest"
	"chancery/signer/api"
)

// S03, S04: connections that end, in the middle of anything, change nothing of what
// a step is: made whole, once, or not at all.
func TestS03S04NodesLoseTheirConnections(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.issuers(2)
	long := time.Duration(soak(t, 6, 60, "seconds")) * time.Second
	t.Run("S03 connections are terminated", func(t *testing.T) {
		terminated := 0
		c.rotateWhile(long, 200*time.Millisecond, func() { terminated += c.server.Terminate(clusterDatabase) })
		if terminated == 0 {
			t.Error("there were no connections to terminate")
		}
		t.Logf("%d connections terminated; calm within %v", terminated, c.wantCalm(time.Now(), againWithin))
	})
	t.Run("S04 the answer to a commit is cut off", func(t *testing.T) {
		c.rotateWhile(long, 150*time.Millisecond, func() {
			for _, m := range c.nodes {
				m.proxy.CutAfterCommit()
			}
		})
		t.Logf("calm within %v", c.wantCalm(time.Now(), againWithin))
	})
	for _, crowd := range c.crowds {
		wantUnavailable(t, crowd.problems(false), whileAway...)
	}
	c.end()
}

// rotateWhile has all nodes asked to rotate for a while, with something done to
// them again and again.
func (c *cluster) rotateWhile(long, pause time.Duration, do func()) {
	c.t.Helper()
	for until := time.Now().Add(long); time.Now().Before(until); time.Sleep(pause) {
		do()
		c.askAll("web", api.CodeTooEarly, api.CodeConflict, api.CodeLeaseExpired, api.CodeAuditUnavailable)
	}
}

// While the database is down nodes sign until the lease of what they last read is
// over, and serve until their publishing lease is; they are back by themselves.
func TestS05TheDatabaseIsDown(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.issuers(2)
	downs := []time.Duration{3 * time.Second, config.Lease + 3*time.Second, fastPublish + 5*time.Second}
	for _, down := range downs[:soak(t, 2, 3, "leases that a database is down for")] {
		since := time.Now()
		c.server.Stop(true)
		time.Sleep(time.Until(since.Add(down)))
		c.wantStopped(since, time.Now())
		up := time.Now()
		c.server.Restart()
		t.Logf("down for %v; all sign %v after it was started again", down, c.wantCalm(up, againWithin))
	}
	for _, crowd := range c.crowds {
		wantUnavailable(t, crowd.problems(false), whileAway...)
	}
	c.end()
}

// wantStopped checks what nodes do that have not reached the database since a moment.
func (c *cluster) wantStopped(since, now time.Time) {
	c.t.Helper()
	down := now.Sub(since)
	for i, m := range c.nodes {
		if n := c.signedBetween(m, since.Add(config.Lease+fastSkew), now); n > 0 {
			c.t.Errorf("node %s: %d tokens longer than its lease after the database was last seen", m.name, n)
		}
		if down > config.Lease+fastSkew && len(c.crowds[i].problems(false)) == 0 {
			c.t.Errorf("node %s refused nothing while it could not sign", m.name)
		}
		want := "[200]"
		if down > fastPublish+2*fastSkew {
			want = "[200 503]"
		}
		if got := fmt.Sprint(c.judge.statuses(m.name, "web", since)); got != want {
			c.t.Errorf("the database was down for %v: node %s answered for its set with %s, want %s", down, m.name, got, want)
		}
	}
}

// S05: a replica is promoted that had not received the last changes. Nodes that
// saw them go by nothing that it says, and tell why; the server that has them is
// the one to go on with.
func TestS05AReplicaWithoutTheLastChangesIsPromoted(t *testing.T) {
	t.Parallel()
	c, replica := newReplicated(t)
	c.awaitReady(c.nodes[0], "web")
	replica.Stop(false)
	lost := c.rotateNow(c.nodes[0], "web", againWithin).To
	for _, m := range c.nodes {
		m.within(againWithin, "node "+m.name+" has seen it", func() error {
			reply, err := m.client("issuer").SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
			if err == nil && reply.KID != lost.KID {
				err = errNotYet
			}
			return err
		})
	}
	failed := time.Now()
	c.server.Stop(true)
	replica.Restart()
	replica.Promote()
	for _, m := range c.nodes {
		m.within(againWithin, "node "+m.name+" is not ready, and says why", func() error {
			ready, words := m.readyz()
			if ready || !strings.Contains(words, "lacks a change that was seen") {
				return fmt.Errorf("ready %v:\n%s", ready, words)
			}
			return nil
		})
	}
	time.Sleep(time.Until(failed.Add(config.Lease + 3*time.Second)))
	c.wantStopped(failed, time.Now())
	if n := replica.Exec(clusterDatabase, fmt.Sprintf("SELECT count(*) FROM chancery.version WHERE kid = '%s' AND state = 'active'", lost.KID)); n != "0" {
		t.Errorf("the replica has the change that it was to lack")
	}
	replica.Stop(true)
	back := time.Now()
	c.server.Restart()
	t.Logf("all sign %v after the server that has every change was started again", c.wantCalm(back, againWithin))
	for _, crowd := range c.crowds {
		wantUnavailable(t, crowd.problems(false), whileAway...)
	}
	c.end()
}

// S05: with a synchronous standby nothing is lost, and nodes go on by themselves
// with the one that was promoted.
func TestS05ASynchronousStandbyIsPromoted(t *testing.T) {
	t.Parallel()
	c, standby := newReplicated(t)
	c.server.Set("synchronous_standby_names", "*")
	c.awaitReady(c.nodes[0], "web")
	kept := c.rotateNow(c.nodes[0], "web", againWithin).To
	c.server.Stop(true)
	failed := time.Now()
	standby.Promote()
	t.Logf("all sign %v after the server failed", c.wantCalm(failed, againWithin))
	if v := c.versions("web")[kept.Version-1]; v.KID != kept.KID || v.State == "published" {
		t.Errorf("after the failover version %d is %+v, and was granted with kid %s", kept.Version, v, kept.KID)
	}
	c.rotateNow(c.nodes[1], "web", 3*againWithin) // on the new server
	for _, crowd := range c.crowds {
		wantUnavailable(t, crowd.problems(false), whileAway...)
	}
	c.end()
}

// newReplicated starts two nodes that know a database on two servers, the second of
// which follows the first, and issuers at both.
func newReplicated(t *testing.T) (*cluster, *postgrestest.Server) {
	t.Helper()
	c := startDatabase(t)
	replica := c.server.Replica(t)
	for range 2 {
		c.join(nil, postgrestest.URL(clusterDatabase, c.server, replica))
	}
	c.observe()
	c.issuers(2)
	return c, replica
}

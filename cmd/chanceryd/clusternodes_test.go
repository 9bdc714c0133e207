package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// againWithin is how long a node may take, once it can reach the catalog again, until it
// serves what all serve and signs.
const againWithin = 15 * time.Second

// whileAway are the codes of a node that cannot reach the catalog, and of one that is
// back and has not seen the key sign yet that others have begun to use.
var whileAway = []api.Code{api.CodeLeaseExpired, api.CodeBackendUnavailable}

// S18: a node that is stopped while the others go on loses its leases, and when
// it goes on it reads the catalog before it signs, serves or writes.
func TestS18ANodeIsStopped(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.issuers(2)
	a, b := c.nodes[0], c.nodes[1]
	pauses := []time.Duration{config.Lease + 2*time.Second, fastPublish + 3*time.Second}
	for _, pause := range pauses[:soak(t, 1, 2, "leases that a node outsleeps")] {
		c.awaitReady(a, "web")
		b.signal(syscall.SIGSTOP)
		stopped := time.Now()
		c.rotateNow(a, "web", againWithin)
		time.Sleep(time.Until(stopped.Add(pause)))
		b.signal(syscall.SIGCONT)
		t.Logf("after %v: back within %v", pause, c.wantCalm(time.Now(), againWithin))
	} // what it signed by an old snapshot when it went on is found in the end
	wantUnavailable(t, c.crowds[0].problems(false))
	wantUnavailable(t, c.crowds[1].problems(false), whileAway...)
	c.end()
}

func (d *chanceryd) signal(s syscall.Signal) {
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// awaitReady waits until a key set's next rotation could be granted: all nodes have
// served the successor for long enough.
func (c *cluster) awaitReady(m *member, keyset string) {
	c.t.Helper()
	m.within(40*time.Second, "a successor of "+keyset+" may sign", func() error {
		for _, v := range c.versions(keyset) {
			if v.State == keystore.Published.String() && v.PublishedAt != nil && time.Since(*v.PublishedAt) > fastCaches+2*fastSkew {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
		return errNotYet
	})
}

// signedBetween returns how many tokens an issuer received from a node.
func (c *cluster) signedBetween(m *member, from, until time.Time) (n int) {
	for i, crowd := range c.crowds {
		for _, a := range crowd.replies() {
			if c.nodes[i] == m && a.answered.After(from) && a.answered.Before(until) {
				n++
			}
		}
	}
	return n
}

// wantLeaseLostAndBack checks that the log tells when a node that has ended lost its
// signing lease, and that it got it back.
func (d *chanceryd) wantLeaseLostAndBack() {
	d.t.Helper()
	var outcomes []string
	for _, e := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActLease}) {
		outcomes = append(outcomes, string(e.Outcome))
	}
	if told := strings.Join(outcomes, " "); len(outcomes) < 2 || !strings.HasPrefix(told, "failed done") || !strings.HasSuffix(told, "done") {
		d.t.Errorf("the log tells of the lease: %q", told)
	}
}

// A node that ends in the middle of a step leaves it to another, which enters it in
// its own log, and comes back to a catalog that has moved on. The others used to
// refuse to sign after the next step of their own, until that was done.
func TestS02S18ANodeIsKilledInAStep(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.issuers(1)
	a, b := c.nodes[0], c.nodes[1]
	for range soak(t, 1, 10, "kills in the middle of a step") {
		left := c.killInAStep(b)
		killed := time.Now()
		a.within(config.Lease, "node a takes a step, while that of node b waits", func() error {
			_, err := a.client("operator").Rotate(t.Context(), "edge", rotateFor("a step while another waits"))
			return err
		})
		a.within(config.Lease+againWithin, "the step that was left is entered", func() error {
			if n := c.server.Exec(clusterDatabase, "SELECT count(*) FROM chancery.outbox WHERE entry IS NULL"); n != "0" {
				return fmt.Errorf("%s rows wait", n)
			}
			return nil
		})
		t.Logf("the step that was left is entered after %v", time.Since(killed))
		c.rotateNow(a, "web", fastPublish+againWithin)
		b.restart()
		t.Logf("back within %v", c.wantCalm(time.Now(), againWithin))
		for _, id := range left {
			c.wantEntered(id)
		}
	}
	wantUnavailable(t, c.crowds[0].problems(false))
	wantUnavailable(t, c.crowds[1].problems(true), whileAway...)
	c.end()
}

// killInAStep ends a node by kill -9 after one of its steps is in the catalog and
// before that is in its log, and returns the ids of what it has left.
func (c *cluster) killInAStep(m *member) (left []string) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	var armed atomic.Bool
	stopped := make(chan struct{}, 1)
	m.proxy.Before(func(statement string) {
		if statement == "COMMIT" && armed.CompareAndSwap(true, false) {
			m.signal(syscall.SIGSTOP) // the commit goes on to the server
			stopped <- struct{}{}
		}
	})
	defer m.proxy.Before(nil)
	operator := m.chanceryd.client("operator")
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		armed.Store(true)
		asked.Go(func() { // for a step to happen; it is not answered
			_, _ = operator.Rotate(ctx, "web", rotateFor("to be interrupted"))
		})
		select {
		case <-stopped:
		case <-time.After(time.Minute):
			c.t.Fatalf("node %s commits nothing\n%s", m.name, m.log)
		}
		time.Sleep(50 * time.Millisecond)
		rows := c.server.Exec(clusterDatabase, fmt.Sprintf("SELECT record_id FROM chancery.outbox WHERE entry IS NULL AND node = '%s'", m.name))
		if rows != "" {
			m.kill()
			return strings.Fields(rows)
		}
		m.signal(syscall.SIGCONT) // it was a lease, or a horizon
	}
	c.t.Fatal("the node takes no step")
	return nil
}

// wantEntered checks that a record is in the log of one node or another.
func (c *cluster) wantEntered(id string) {
	c.t.Helper()
	for _, m := range c.nodes {
		for _, e := range m.logged(audit.Filter{Log: "lifecycle"}) {
			if e.ID == id {
				return
			}
		}
	}
	c.t.Errorf("record %s is in no log", id)
}

// I3: a node that is cut off from the database serves what it knew for as long as
// its publishing lease, and no version that it does not know signs before that is over.
func TestI3I4ANodeIsCutOff(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.issuers(1)
	a, b := c.nodes[0], c.nodes[1]
	c.awaitReady(a, "web")
	cut := time.Now()
	b.proxy.BlackHole(true)
	unknown := c.rotateNow(a, "web", againWithin).To.Version + 1 // to node b
	c.rotateNow(a, "web", 3*fastPublish)                         // asked for again and again, and held by b alone
	granted := time.Now()
	waited := c.versions("web")[unknown-1].SignsFrom.Sub(cut)
	if waited < fastPublish-2*renewEvery {
		t.Errorf("version %d, which node b does not know, signs %v after that was cut off", unknown, waited)
	}
	if status, _ := b.get(b.endpoints.Public + "/issuers/web/jwks.json"); status != 503 {
		t.Errorf("the node that is cut off answers with status %d", status)
	}
	if n := c.signedBetween(b, cut.Add(config.Lease+time.Second), granted); n > 0 {
		t.Errorf("%d tokens came from the node that is cut off", n)
	}
	b.proxy.BlackHole(false)
	t.Logf("version %d signs after %v; back within %v", unknown, waited, c.wantCalm(time.Now(), againWithin))
	b.within(2*time.Second, "the judge has asked node b again", func() error {
		if got := fmt.Sprint(c.judge.statuses("b", "web", cut)); got != "[200 503 200]" {
			return fmt.Errorf("it answered for its set with %s", got)
		}
		return nil
	})
	wantUnavailable(t, c.crowds[0].problems(false))
	wantUnavailable(t, c.crowds[1].problems(false), whileAway...)
	c.end()
	b.wantLeaseLostAndBack()
}

// A compromised version stayed in the published set for as long as a database that
// does not answer was waited for.
func TestCompromiseWhileTheDatabaseHangs(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	a := c.nodes[0]
	a.mayCompromise()
	c.awaitReady(a, "web")
	active := c.versions("web")[signing(c.versions("web"))-1].KID
	a.proxy.BlackHole(true)
	time.Sleep(renewEvery) // something waits for the database
	operator := a.chanceryd.client("operator")
	var asked sync.WaitGroup
	asked.Go(func() {
		reply, err := operator.Compromise(t.Context(), "web", api.CompromiseRequest{Reason: "in other hands"})
		if err != nil || reply.Compromised[0].Recorded {
			t.Errorf("%+v, %v", reply, err)
		}
	})
	a.within(config.Lease, "it has left the set", func() error {
		if kids := a.kids("web"); len(kids) == 0 || slices.Contains(kids, active) {
			return fmt.Errorf("the set holds %v", kids)
		}
		return nil
	})
	asked.Wait()
	a.proxy.BlackHole(false)
	t.Logf("back within %v", c.wantCalm(time.Now(), againWithin))
	a.within(againWithin, "the record follows", func() error {
		if v := c.versions("web"); !slices.ContainsFunc(v, func(v api.Version) bool { return v.KID == active && v.Compromised }) {
			return errNotYet
		}
		return nil
	})
	c.end()
}

// A node that is configured otherwise than the one that was started last takes no step,
// and used to be ready without a word about it. It signs, and when it is configured
// and started like the other, it goes on.
func TestANodeIsConfiguredOtherwise(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	const gauge = "chancery_keysets_configured_otherwise "
	tells := func(m *member, note string, sets int) func() error {
		return func() error {
			ok, text := m.readyz()
			if _, metrics := m.get(m.endpoints.Admin + "/metrics"); !strings.Contains(metrics, fmt.Sprintf("%s%d\n", gauge, sets)) {
				return fmt.Errorf("the metric is not %d", sets)
			}
			if !ok || !strings.Contains(text, "[+]keyset edge ok"+note) {
				return errors.New(text)
			}
			return nil
		}
	}
	a.within(againWithin, "both are configured alike", tells(a, "\n", 0))
	longer := func(m *member) {
		m.edit("max_ttl: 10s\n    default_ttl", "max_ttl: 20s\n    default_ttl")
		m.stop()
		m.restart()
	}
	longer(b)
	a.within(againWithin, "node a tells that it takes no step", tells(a, `: "no step is taken here: max_age, cache_for or max_ttl of key set edge`, 3))
	b.within(againWithin, "node b is in force", tells(b, "\n", 0))
	_, err := a.client("operator").Rotate(t.Context(), "edge", rotateFor("a drill"))
	if p := wantCode(t, err, api.CodeConflict); !strings.Contains(p.Detail, "same configuration") {
		t.Errorf("a rotation asked of it: %q", p.Detail)
	}
	a.sign(a.client("issuer"), "edge", `{}`)
	longer(a)
	a.within(againWithin, "both are configured alike again", tells(a, "\n", 0))
	c.rotateNow(a, "edge", againWithin)
	c.wantActiveAt(b, "edge", a)
	c.end()
}

// wantActiveAt rotates at another node and checks that a node tells of the new version
// at once. It told of the version before by its snapshot, which was up to a second old:
// whoever had a key set compromised there named the key that had just been replaced.
func (c *cluster) wantActiveAt(m *member, keyset string, other *member) {
	c.t.Helper()
	c.awaitReady(other, keyset)
	granted := c.rotateNow(other, keyset, againWithin).To
	set, err := m.client("operator").KeySet(c.t.Context(), keyset)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, v := range set.Versions {
		if active := v.State == keystore.Active.String(); active != (v.KID == granted.KID) {
			c.t.Errorf("version %d was granted at node %s; node %s says that version %d is %s", granted.Version, other.name, m.name, v.Version, v.State)
		}
	}
}

package main

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"chancery/signer/api"
)

// V06, S02: nodes that rotate at once make one new version, not one each
// (DuendeArchive/Support#1241), and asked by operators at all nodes at once, one is
// granted it.
func TestV06S02NodesRotateAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, soak(t, 2, 3, "nodes"))
	c.issuers(1)
	before := c.versions("web")
	for range soak(t, 1, 10, "rotations by all at once") {
		c.rotateAtOnce("web")
	}
	for range soak(t, 1, 10, "rotations by themselves") {
		c.awaitRotation("edge")
	}
	c.wantCalm(time.Now(), 5*time.Second)
	for _, crowd := range c.crowds {
		if problems := crowd.problems(false); len(problems) > 0 {
			t.Errorf("%d of %d requests failed, the first with %v", len(problems), len(crowd.all()), problems[0].err)
		}
	}
	c.wantOneAfterTheOther("web", before)
	c.end()
}

// versions returns the versions of a key set, by the first node.
func (c *cluster) versions(keyset string) []api.Version {
	c.t.Helper()
	var set *api.KeySet
	first := c.nodes[0]
	first.within(againWithin, "node a shows "+keyset, func() (err error) {
		set, err = first.client("operator").KeySet(c.t.Context(), keyset)
		return err
	})
	return set.Versions
}

// rotateAtOnce asks every node to rotate now, all at the same moment, again and
// again until one does: it is one then.
func (c *cluster) rotateAtOnce(keyset string) {
	c.t.Helper()
	c.nodes[0].within(20*time.Second, "a rotation of "+keyset, func() error {
		granted := c.askAll(keyset, api.CodeTooEarly, api.CodeConflict)
		if granted > 1 {
			c.t.Errorf("%d nodes were granted the same rotation", granted)
		}
		if granted == 0 {
			return errNotYet
		}
		return nil
	})
}

// askAll asks every node to rotate now, and returns how many do. The others have to
// refuse it with one of these codes.
func (c *cluster) askAll(keyset string, codes ...api.Code) (granted int) {
	c.t.Helper()
	var asked sync.WaitGroup
	barrier, replies := make(chan struct{}), make(chan error, len(c.nodes))
	for _, m := range c.nodes {
		operator := m.client("operator")
		asked.Go(func() {
			<-barrier
			_, err := operator.Rotate(c.t.Context(), keyset, api.OperateRequest{Reason: "both at once", When: "now"})
			replies <- err
		})
	}
	close(barrier)
	asked.Wait()
	close(replies)
	for err := range replies {
		switch p, ok := errors.AsType[*api.Problem](err); {
		case err == nil:
			granted++
		case !ok || !slices.Contains(codes, p.Code):
			c.t.Errorf("asked to rotate: %v", err)
		}
	}
	return granted
}

// awaitRotation waits until another version of a key set is active.
func (c *cluster) awaitRotation(keyset string) {
	c.t.Helper()
	before := signing(c.versions(keyset))
	c.nodes[0].within(40*time.Second, keyset+" rotates by itself", func() error {
		time.Sleep(100 * time.Millisecond)
		if signing(c.versions(keyset)) == before {
			return errNotYet
		}
		return nil
	})
}

func signing(versions []api.Version) int {
	for _, v := range versions {
		if v.State == "active" {
			return v.Version
		}
	}
	return 0
}

// wantOneAfterTheOther checks that each version signed and was made once for each
// one before it: no step made two.
func (c *cluster) wantOneAfterTheOther(keyset string, before []api.Version) {
	c.t.Helper()
	versions := c.versions(keyset)
	active := signing(versions)
	if active <= signing(before) {
		c.t.Errorf("version %d is active, as before", active)
	}
	for _, v := range versions {
		if v.Version < active && v.State == "abandoned" || v.Version > active+1 {
			c.t.Errorf("%s version %d is %s while %d is active", keyset, v.Version, v.State, active)
		}
	}
	c.t.Logf("%s: version %d of %d is active", keyset, active, len(versions))
}

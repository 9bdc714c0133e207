package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore/audit"
)

// S15: a node whose wall clock is an hour from the database's says so, and neither
// signs, serves nor takes a step; the others go on.
func TestS15ANodeWithAnotherTime(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	b.stop()
	c.crowds = append(c.crowds, a.crowd(1, 60*time.Millisecond, "web", "edge"))
	b.launchAt("1h synchronised")
	b.within(againWithin, "node b says that its clock is not right", func() error {
		if !strings.Contains(b.log.String(), errClocks.Error()) {
			return errNotYet
		}
		return nil
	})
	c.awaitRotation("web") // by node a
	b.kill()
	if got := fmt.Sprint(c.judge.statuses("b", "web", time.Now().Add(-config.Lease))); got != "[0]" {
		t.Errorf("node b answered for its set with %s", got)
	}
	for _, e := range b.logged(audit.Filter{Log: "lifecycle"}) {
		if e.Time.After(time.Now().Add(30*time.Minute)) && e.KeySet != "" {
			t.Errorf("node b took a step: %+v", e)
		}
	}
	b.launchAt("0s synchronised")
	b.awaitReady()
	t.Logf("back within %v", c.wantCalm(time.Now(), againWithin))
	wantUnavailable(t, c.crowds[0].problems(false))
	c.end()
}

// launchAt starts the daemon of a node that has ended with the wall clock set, and as
// after a reboot: nothing is known of what it was.
func (m *member) launchAt(clock string) {
	m.t.Helper()
	setClock(m.t, m.dir, clock)
	if err := os.Remove(filepath.Join(m.dir, "clock")); err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "dev", "--dir", m.dir)
	cmd.Env = append(os.Environ(), testClock+"="+m.dir+".clock")
	m.chanceryd = launchCommand(m.t, m.dir, cmd)
}

// S16: after all nodes were down for several periods the next version waits its full
// window, and nothing is made up for.
func TestS16RotationIsOverdue(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.issuers(1)
	c.awaitReady(c.nodes[0], "web")
	for _, m := range c.nodes {
		m.kill()
	}
	down := time.Duration(soak(t, 25, 300, "seconds")) * time.Second
	time.Sleep(down)
	for _, m := range c.nodes {
		m.restart()
	}
	up := time.Now()
	t.Logf("down for %v; all sign within %v", down, c.wantCalm(up, againWithin))
	before := signing(c.versions("web"))
	c.awaitRotation("web")
	if now := signing(c.versions("web")); now > before+1 {
		t.Errorf("version %d signs, and %d did: overdue rotations were made up for", now, before)
	}
	for _, crowd := range c.crowds {
		wantUnavailable(t, crowd.problems(true), whileAway...)
	}
	c.end()
}

package main

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// S01: kill -9 at the statements that a whole rotation makes in PostgreSQL, each of
// which still reaches the server: old state or new, the other node goes on, and the
// node that was killed comes back to what is.
func TestS01KilledAtEveryStatement(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.issuers(1)
	b := c.nodes[1]
	points := c.statements(b, "web")
	tries := soak(t, 6, points, "statements")
	c.killed = b // a key of any key set may be in the making when the kill comes
	outcomes := make(map[string]int)
	for i := range tries {
		keyset := fastSets[i%len(fastSets)]
		c.awaitReady(c.nodes[0], keyset)
		before := signing(c.versions(keyset))
		c.killAt(b, keyset, (i+1)*points/tries)
		b.restart()
		c.wantCalm(time.Now(), againWithin)
		switch now := signing(c.versions(keyset)); {
		case now == before:
			outcomes["old"]++
		case now > before: // by more than one if the schedule rotates as well
			outcomes["new"]++
		default:
			t.Errorf("version %d of %s was active, and after the kill it is %d", before, keyset, now)
		}
	}
	t.Logf("killed at %d of the %d statements of a rotation: %v", tries, points, outcomes)
	if outcomes["new"] == 0 {
		t.Error("no kill came after the swap: little was shown")
	}
	wantUnavailable(t, c.crowds[0].problems(false))
	wantUnavailable(t, c.crowds[1].problems(true), whileAway...)
	c.end()
}

// statements returns how many statements go to the server from a node that rotates
// a key set and publishes the next version.
func (c *cluster) statements(m *member, keyset string) int {
	c.t.Helper()
	next := signing(c.versions(keyset)) + 2
	var n atomic.Int64
	m.proxy.Before(func(string) { n.Add(1) })
	defer m.proxy.Before(nil)
	c.rotateFrom(c.t.Context(), m, keyset, &n)
	m.within(20*time.Second, "the next version is published", func() error {
		published := slices.ContainsFunc(c.versions(keyset), func(v api.Version) bool {
			return v.Version == next && v.State == keystore.Published.String()
		})
		if !published {
			return errNotYet
		}
		return nil
	})
	return int(n.Load())
}

// killAt has a node rotate a key set and ends it by kill -9 at the n-th statement
// after it was asked.
func (c *cluster) killAt(m *member, keyset string, n int) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	var seen atomic.Int64
	reached := make(chan struct{})
	var once sync.Once
	m.proxy.Before(func(string) {
		if seen.Add(1) == int64(n) {
			once.Do(func() {
				m.signal(syscall.SIGKILL)
				close(reached)
			})
		}
	})
	defer m.proxy.Before(nil)
	asked.Go(func() { c.rotateFrom(ctx, m, keyset, &seen) })
	select {
	case <-reached: // statements go on when the rotation is over: leases are renewed
	case <-time.After(2 * time.Minute):
		c.t.Fatalf("node %s made %d statements in the whole of two minutes, not %d\n%s", m.name, seen.Load(), n, m.log)
	}
	m.kill()
}

// rotateFrom asks a node to rotate a key set now, until it does or ctx ends, with
// what counts the statements at zero each time.
func (c *cluster) rotateFrom(ctx context.Context, m *member, keyset string, statements *atomic.Int64) {
	operator := m.chanceryd.client("operator")
	for ctx.Err() == nil {
		statements.Store(0)
		if _, err := operator.Rotate(ctx, keyset, api.OperateRequest{Reason: "a scenario", When: "now"}); err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // shorter than what follows a rotation takes
		}
	}
}

// A kill explains what it left of the keys that the killed node had begun to make, and
// nothing else on the token.
func TestWhatAKillExplains(t *testing.T) {
	dir := tempDir(t)
	log, err := audit.Open(t.Context(), audit.Config{Dir: filepath.Join(dir, "audit"), Host: "localhost", Node: "b", Interval: time.Hour, JournalSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range []keystore.Record{{ID: "begun", Outcome: keystore.OutcomeIntent}, {ID: "made", Outcome: keystore.OutcomeIntent}, {ID: "made", Outcome: keystore.OutcomeDone}} {
		rec.Principal, rec.Action, rec.KeySet, rec.Version = "chancery", keystore.ActKeyGenerate, "web", 2
		if _, err := log.Lifecycle(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &member{chanceryd: &chanceryd{t: t, dir: dir}}
	for _, test := range []struct {
		found api.Mismatch
		want  bool
	}{
		{api.Mismatch{Kind: "half_pair", KeyID: "begun", Entry: "e"}, true},
		{api.Mismatch{Kind: "orphan", KeyID: "begun", Entry: "e"}, true},
		{api.Mismatch{Kind: "half_pair", KeyID: "begun"}, false}, // not entered
		{api.Mismatch{Kind: "half_pair", KeyID: "begun", Entry: "e", Version: 2}, false},
		{api.Mismatch{Kind: "missing", KeyID: "begun", Entry: "e"}, false},
		{api.Mismatch{Kind: "half_pair", KeyID: "made", Entry: "e"}, false},
		{api.Mismatch{Kind: "half_pair", KeyID: "another's", Entry: "e"}, false},
	} {
		c := &cluster{t: t, nodes: []*member{b}, killed: b}
		if got := c.explained(test.found); got != test.want {
			t.Errorf("%+v: %v", test.found, got)
		}
		if c.killed = nil; c.explained(test.found) {
			t.Errorf("%+v, and no node was killed", test.found)
		}
	}
}

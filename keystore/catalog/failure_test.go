package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore"
	"chancery/keystore/catalog/postgrestest"
)

// openURL opens the catalog of a database by the database's own clock.
func openURL(t testing.TB, cfg Config, url string) *Catalog {
	t.Helper()
	cfg.Postgres = &Postgres{URL: url}
	c, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // its server may be gone
	return c
}

// addVersion is a change of "web" that tells how often it was made: a version
// and a record each.
func addVersion(c *Catalog, ctx context.Context, expect int64) (Change, error) {
	return c.Update(ctx, "web", expect, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		v := pending(len(ks.Versions) + 1)
		v.CreatedAt = at.Now
		ks.Versions = append(ks.Versions, v)
		rec := record(keystore.ActKeyGenerate)
		rec.Version = v.Number
		return []keystore.Record{rec}, nil
	})
}

// count returns how many versions "web" has, and fails the test unless there is
// one record and one change for each.
func count(t testing.TB, c *Catalog) int {
	t.Helper()
	view := mustView(t, c)
	ks, ok := view.KeySet("web")
	rows, err := c.Outbox(t.Context())
	if !ok || err != nil {
		t.Fatalf("no key set, or %v", err)
	}
	records := 0
	for _, row := range rows {
		if row.Record.Action == keystore.ActKeyGenerate {
			records++
		}
	}
	if records != len(ks.Versions) {
		t.Errorf("half a change: %d versions, %d records", len(ks.Versions), records)
	}
	return len(ks.Versions)
}

func TestS02OfTwoNodesThatTakeOneStepOneDoes(t *testing.T) {
	url, _, _ := postgrestest.Database(t)
	nodes := []*Catalog{openURL(t, Config{}, url), openURL(t, Config{}, url)}
	mustCreate(t, nodes[0], keySet("web"))
	for i, c := range nodes {
		enrol(t, c, enrolment(fmt.Sprint("node-", i)))
	}
	for round := range 20 {
		revision := set(t, nodes[0], "web").Revision
		errs := make([]error, len(nodes))
		var wg sync.WaitGroup
		for i, c := range nodes {
			wg.Go(func() { _, errs[i] = addVersion(c, t.Context(), revision) })
		}
		wg.Wait()
		lost := 0
		for _, err := range errs {
			if errors.Is(err, keystore.ErrOvertaken) {
				lost++
			} else if err != nil {
				t.Error(err)
			}
		}
		if lost != 1 || count(t, nodes[1]) != round+1 {
			t.Fatalf("round %d: %d were overtaken, %d versions", round, lost, count(t, nodes[1]))
		}
	}
}

// While one node waits for another's change, time passes: the moment it decides
// by is that of its turn.
func TestAMomentIsOfTheTurnAndNotOfTheWait(t *testing.T) {
	url, _, _ := postgrestest.Database(t)
	first, second := openURL(t, Config{}, url), openURL(t, Config{}, url)
	mustCreate(t, first, keySet("web"))
	holding, release := make(chan struct{}), make(chan struct{})
	var last time.Time
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := first.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			close(holding)
			<-release
			ks.RotateBy = &keystore.Fact{At: at.Now, By: "first"}
			return nil, nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-holding
	began := mustView(t, second).Clock()
	wg.Go(func() {
		_, err := second.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			last = at.Now
			if ks.RotateBy == nil {
				t.Error("it does not see the change before it")
			}
			return nil, nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	time.Sleep(300 * time.Millisecond)
	close(release)
	wg.Wait()
	if waited := last.Sub(began); waited < 300*time.Millisecond {
		t.Errorf("its moment is %v after it began to wait", waited)
	}
}

// Nodes whose clocks differ by an hour write the database's times.
func TestS15TimesAreTheDatabases(t *testing.T) {
	url, _, s := postgrestest.Database(t)
	slow := openURL(t, Config{Now: func() time.Time { return time.Now().Add(-time.Hour) }}, url)
	fast := openURL(t, Config{Now: func() time.Time { return time.Now().Add(time.Hour) }}, url)
	mustCreate(t, slow, keySet("web"))
	var micros int64
	if _, err := fmt.Sscan(s.Exec("postgres", "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"), &micros); err != nil {
		t.Fatal(err)
	}
	real := time.UnixMicro(micros)
	near := func(what string, at time.Time) {
		t.Helper()
		if d := at.Sub(real); d < -time.Minute || d > time.Minute {
			t.Errorf("%s is %v from the database's clock", what, d)
		}
	}
	for i, c := range []*Catalog{slow, fast, slow} {
		n := enrol(t, c, enrolment(fmt.Sprint("node-", i)))
		near("enrolment", n.EnrolledAt)
		near("lease", n.SignsUntil.Add(-30*time.Second))
		if _, err := addVersion(c, t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		near("a view's clock", mustView(t, c).Clock())
	}
	step(t, slow, "web", 1, keystore.Published)
	if _, err := fast.Acknowledge(t.Context(), "node-1", "web", []int{1}, fast.now()); err != nil {
		t.Fatal(err)
	}
	ks := set(t, slow, "web")
	near("acknowledgement", ks.Acks[0].At)
	near("served", ks.ServedAt)
	last := time.Time{}
	for _, v := range ks.Versions {
		near("version", v.CreatedAt)
		if v.CreatedAt.Before(last) {
			t.Errorf("version %d was made before the one before it", v.Number)
		}
		last = v.CreatedAt
	}
	rows, err := slow.Outbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		near("record", row.At)
	}
}

// At every statement of a change the server ends the connection: the old state or
// the new one, and what the caller is told is what happened.
func TestS03AConnectionEndedAtEveryStatement(t *testing.T) {
	_, name, s := postgrestest.Database(t)
	proxy := s.Proxy(t)
	c, watch := openURL(t, Config{}, proxy.URL(name)), openURL(t, Config{}, s.URL(name))
	mustCreate(t, c, keySet("web"))
	if _, err := addVersion(c, t.Context(), -1); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for n := 1; ; n++ {
		before := count(t, watch)
		reached := endAt(s, name, proxy, n)
		_, err := addVersion(c, t.Context(), -1)
		proxy.Before(nil)
		last := !reached() // once the server has ended all connections: watch has one, too
		after := count(t, watch)
		if err == nil && after != before+1 || err != nil && after != before {
			t.Errorf("at statement %d: %d versions, then %d, and it was told: %v", n, before, after, err)
		}
		if err != nil {
			failed++
			if !errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, keystore.ErrUncertain) {
				t.Errorf("at statement %d: %v", n, err)
			}
		}
		if last {
			t.Logf("%d statements, %d of them failed", n-1, failed)
			break
		}
	}
	if failed < 5 {
		t.Errorf("only %d attempts failed", failed)
	}
}

// endAt has the server end the connections to a database before the n-th
// statement from now on reaches it. While it does, reached waits.
func endAt(s *postgrestest.Server, database string, proxy *postgrestest.Proxy, n int) (reached func() bool) {
	var mu sync.Mutex
	seen := 0
	proxy.Before(func(string) {
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen == n {
			s.Terminate(database)
		}
	})
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen >= n
	}
}

func TestS04ACommitWhoseAnswerIsCutOff(t *testing.T) {
	_, name, s := postgrestest.Database(t)
	proxy := s.Proxy(t)
	c := openURL(t, Config{}, proxy.URL(name))
	mustCreate(t, c, keySet("web"))
	for round := range 5 {
		proxy.CutAfterCommit()
		change, err := addVersion(c, t.Context(), -1)
		if err != nil || count(t, c) != round+1 || change.Revision != mustView(t, c).Revision() || len(change.Outbox) != 1 {
			t.Fatalf("round %d: %+v, %v, %d versions", round, change, err, count(t, c))
		}
	}
	proxy.CutAfterCommit()
	n := enrol(t, c, enrolment("a"))
	if got, _ := mustView(t, c).Node("a"); !cmp.Equal(*got, n) {
		t.Errorf("enrolled: %s", cmp.Diff(n, *got))
	}
}

// The answer to a commit is lost and the server is gone: nobody can tell.
func TestS04WithTheServerAwayTheOutcomeIsUnknown(t *testing.T) {
	s := postgrestest.Start(t)
	c := openURL(t, Config{}, s.URL("postgres"))
	mustCreate(t, c, keySet("web"))
	c.commit = func(ctx context.Context, conn *sql.Conn) error {
		s.Stop(true)
		return execCommit(ctx, conn)
	}
	_, err := addVersion(c, t.Context(), -1)
	if !errors.Is(err, keystore.ErrUncertain) {
		t.Errorf("got %v", err)
	}
	c.commit = execCommit
	s.Restart()
	if n := count(t, c); n != 0 {
		t.Errorf("%d versions", n)
	}
	if _, err := addVersion(c, t.Context(), -1); err != nil {
		t.Error(err)
	}
}

// The server dies in the middle of everything, again and again: what was told is
// there.
func TestS03AServerThatIsKilledLosesNothing(t *testing.T) {
	s := postgrestest.Start(t)
	c := openURL(t, Config{}, s.URL("postgres"))
	mustCreate(t, c, keySet("web"))
	for round := range 3 {
		before := count(t, c)
		done, unknown := 0, 0
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				_, err := addVersion(c, t.Context(), -1)
				switch {
				case err == nil:
					done++
					continue
				case errors.Is(err, keystore.ErrUncertain):
					unknown++
				case !errors.Is(err, keystore.ErrUnavailable):
					t.Error(err)
				}
				return
			}
		})
		time.Sleep(100 * time.Millisecond)
		s.Stop(true)
		wg.Wait()
		s.Restart()
		if after := count(t, c); after < before+done || after > before+done+unknown {
			t.Errorf("round %d: %d versions, %d were told, %d unknown, then %d", round, before, done, unknown, after)
		}
	}
}

// An asynchronous replica that had not received the last change is promoted.
func TestS05AFailoverThatLostAChangeIsNoticed(t *testing.T) {
	primary := postgrestest.Start(t)
	old := openURL(t, Config{}, primary.URL("postgres"))
	mustCreate(t, old, keySet("web"))
	replica := primary.Replica(t)
	url := postgrestest.URL("postgres", primary, replica)
	mark := filepath.Join(t.TempDir(), "mark")
	c := openURL(t, Config{Mark: mark}, url)
	if _, err := addVersion(c, t.Context(), -1); err != nil {
		t.Fatal(err)
	}
	primary.Caught(replica)
	replica.Stop(false) // it receives nothing more
	if _, err := addVersion(c, t.Context(), -1); err != nil {
		t.Fatal(err)
	}
	revision := mustView(t, c).Revision()
	primary.Stop(true)
	replica.Restart()
	replica.Promote()

	behind := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrBehind) || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	check := func() {
		t.Helper()
		_, err := c.View(t.Context())
		behind("view", err)
		_, err = addVersion(c, t.Context(), -1)
		behind("update", err)
		behind("head", c.Remember(t.Context(), "log", 1, [32]byte{}))
		_, err = Open(t.Context(), Config{Postgres: &Postgres{URL: url}, Mark: mark})
		behind("a restart", err)
	}
	check()
	// Another node, which has not seen it, goes on, and makes another change of
	// that revision.
	other := openURL(t, Config{}, url)
	if n := count(t, other); n != 1 {
		t.Errorf("the replica has %d versions", n)
	}
	for range 2 {
		if _, err := addVersion(other, t.Context(), -1); err != nil {
			t.Fatal(err)
		}
	}
	if got := mustView(t, other).Revision(); got <= revision {
		t.Errorf("the other node is at revision %d, this one saw %d", got, revision)
	}
	check()

	replica.Stop(true)
	primary.Restart()
	if n := count(t, c); n != 2 {
		t.Errorf("the old primary has %d versions", n)
	}
	if _, err := addVersion(c, t.Context(), -1); err != nil {
		t.Error(err)
	}
}

// A failover that lost nothing is followed.
func TestAFailoverIsFollowed(t *testing.T) {
	primary := postgrestest.Start(t)
	openURL(t, Config{}, primary.URL("postgres"))
	replica := primary.Replica(t)
	c := openURL(t, Config{Mark: filepath.Join(t.TempDir(), "mark")}, postgrestest.URL("postgres", replica, primary))
	mustCreate(t, c, keySet("web"))
	primary.Caught(replica)
	primary.Stop(false)
	if _, err := c.View(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("with a standby alone: %v", err)
	}
	replica.Promote()
	if _, err := addVersion(c, t.Context(), -1); err != nil || count(t, c) != 1 {
		t.Errorf("after the promotion: %v", err)
	}
}

// No call outlives its context by more than a moment when packets go nowhere, and
// one without a deadline is bounded too.
func TestAConnectionThatGoesNowhereIsGivenUp(t *testing.T) {
	_, name, s := postgrestest.Database(t)
	proxy := s.Proxy(t)
	c := openURL(t, Config{}, proxy.URL(name))
	mustCreate(t, c, keySet("web"))
	proxy.BlackHole(true)
	for what, call := range map[string]func(context.Context) error{
		"view":   func(ctx context.Context) error { _, err := c.View(ctx); return err },
		"update": func(ctx context.Context) error { _, err := addVersion(c, ctx, -1); return err },
		"head":   func(ctx context.Context) error { return c.Remember(ctx, "log", 1, [32]byte{}) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		start := time.Now()
		err := call(ctx)
		cancel()
		if took := time.Since(start); took > 300*time.Millisecond+commitWithin+5*time.Second || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("%s: after %v: %v", what, took, err)
		}
	}
	start := time.Now()
	if _, err := c.View(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("without a deadline: %v", err)
	}
	if took := time.Since(start); took > callWithin+commitWithin+5*time.Second {
		t.Errorf("a caller without a deadline waited %v", took)
	}
	proxy.BlackHole(false)
	if _, err := addVersion(c, t.Context(), -1); err != nil {
		t.Errorf("when packets go again: %v", err)
	}
}

// A node that stops in the middle of a change does not keep the others from
// theirs for long.
func TestS06AChangeThatHangsIsEndedByTheServer(t *testing.T) {
	url, _, _ := postgrestest.Database(t)
	hanging, c := openURL(t, Config{}, url), openURL(t, Config{}, url)
	mustCreate(t, c, keySet("web"))
	holding, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := hanging.Update(t.Context(), "web", -1, func(_ keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			close(holding)
			<-release
			ks.Keystore = "elsewhere"
			return nil, nil
		})
		if !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("it was ended meanwhile, and says: %v", err)
		}
	})
	<-holding
	if err := c.Remember(t.Context(), "log", 1, [32]byte{}); err != nil {
		t.Errorf("what needs no turn: %v", err)
	}
	if _, err := addVersion(c, t.Context(), -1); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("meanwhile: %v", err)
	}
	deadline := time.Now().Add(idleWithin + 10*time.Second)
	for {
		_, err := addVersion(c, t.Context(), -1)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still: %v", err)
		}
	}
	close(release)
	wg.Wait()
	if got := set(t, c, "web").Keystore; got != "hsm" {
		t.Errorf("its change was made: %s", got)
	}
}

package main

import (
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
	"chancery/keystore/catalog/postgrestest"
	"chancery/signer/server"
)

// A daemon that waited for its database heard no signal: SIGTERM did nothing, and
// the service manager killed it.
func TestStoppingWhileTheDatabaseIsAway(t *testing.T) {
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away.Close()
	dir := tempDir(t)
	d := launch(t, dir, "dev", "--dir", dir, "--postgres", "postgres://chancery@"+away.Addr().String()+"/chancery?sslmode=disable")
	for began := time.Now(); !strings.Contains(d.log.String(), "the catalog cannot be opened"); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("it does not say that it waits")
		}
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.ended(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// A node whose start took longer than its lease to sign ended with an error, as on
// a database that is far away: its writes were refused by then.
func TestStartingOnASlowDatabase(t *testing.T) {
	t.Parallel()
	_, name, server := postgrestest.Database(t)
	far := server.Proxy(t)
	slow := time.Now().Add(12 * time.Second)
	far.Before(func(string) {
		if time.Now().Before(slow) {
			time.Sleep(50 * time.Millisecond)
		}
	})
	startDev(t, tempDir(t), "--fast", "--postgres", far.URL(name))
}

// A request that lasted as long as a stop waits for requests had used up the time
// to say so in the catalog: the other nodes then waited for the one that had
// stopped as for one that was cut off.
func TestAStopIsToldAfterARequestThatHangs(t *testing.T) {
	t.Parallel()
	url, _, _ := postgrestest.Database(t)
	log := slog.New(slog.DiscardHandler)
	c, err := catalog.Open(t.Context(), catalog.Config{Postgres: &catalog.Postgres{URL: url}})
	if err != nil {
		t.Fatal(err)
	}
	enrolment := catalog.Enrolment{Node: "a", Signing: time.Minute, Publishing: time.Minute}
	if _, err := c.Enrol(t.Context(), enrolment); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{log: log, catalog: c, enrolled: true, doors: newDoors(log), clock: newClockKeeper(systemClocks(), "a", newDebts(log), log, func() {})}
	asked := make(chan bool)
	n.doors.open(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done() // when the door is closed for good
	}), server.Limits{}, nil, l, nil)
	go http.Get("http://" + l.Addr().String())
	select {
	case <-asked:
	case <-time.After(time.Minute):
		t.Fatal("nobody asks")
	}
	n.Close()
	again, err := catalog.Open(t.Context(), catalog.Config{Postgres: &catalog.Postgres{URL: url}})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	view, err := again.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := view.Node("a"); !ok || a.StoppedAt.IsZero() {
		t.Errorf("the node: %+v", a)
	}
}

// What it was: a skew that was changed alone was nowhere in the log, and a report
// judged the windows of rotations by the old one.
func TestASkewThatChangesIsEntered(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.stop()
	configured := func() (all []string) {
		for _, e := range d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeySetConfigure}) {
			all = append(all, e.KeySet+" "+e.Detail["skew"])
		}
		return all
	}
	before := configured()
	d.edit("skew: 5m", "skew: 4m")
	for range 2 {
		d = startDev(t, d.dir)
		d.sign(d.client("issuer"), "web", `{}`)
		d.stop()
	}
	if got := configured()[len(before):]; !slices.Equal(got, []string{"audit 4m0s", "devices 4m0s", "edge 4m0s", "legacy 4m0s", "web 4m0s"}) {
		t.Errorf("entered of a skew that became 4m: %v", got)
	}
}

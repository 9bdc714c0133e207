package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
	"chancery/keystore/catalog/postgrestest"
)

// enrolledSteps is the catalog at url as rotation sees it on a node that has
// enrolled, with a log of its own.
func enrolledSteps(t *testing.T, url, node string) *steps {
	t.Helper()
	c, err := catalog.Open(t.Context(), catalog.Config{Postgres: &catalog.Postgres{URL: url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	log, err := audit.Open(t.Context(), audit.Config{
		Dir: filepath.Join(t.TempDir(), "audit"), Host: "localhost", Node: node, Now: time.Now,
		Keys: func(context.Context) (audit.Keys, error) { return audit.Keys{}, audit.ErrNoKey },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(context.WithoutCancel(t.Context())) })
	l := &leases{shared: true, publishing: time.Minute, apart: time.Minute, boot: sinceBoot, now: time.Now}
	began := l.instant()
	enrolment := catalog.Enrolment{Node: node, Identity: [16]byte{node[0]}, Signing: config.Lease, Publishing: time.Minute}
	if _, err := c.Enrol(t.Context(), enrolment); err != nil {
		t.Fatal(err)
	}
	l.note(began, nil)
	return newSteps(node, c, log, &views{catalog: c, leases: l}, &keyring{}, telemetry.New("test"), func() {}, func() {})
}

func newKeySet(name string) *keystore.KeySet {
	return &keystore.KeySet{
		Name: name, Purpose: keystore.PurposeJWT, Algorithm: keystore.ES256, Keystore: "hsm", CreatedAt: time.Now(),
		Promises: []keystore.Promise{{At: time.Now()}},
	}
}

// Two nodes that took a step at the same time each waited for the other's entry
// before making its own, and neither signed until one of them took over.
func TestNodesDoNotWaitForEachOther(t *testing.T) {
	url, _, _ := postgrestest.Database(t)
	a, b := enrolledSteps(t, url, "a"), enrolledSteps(t, url, "b")
	for name, s := range map[string]*steps{"web": a, "edge": b} {
		if _, err := s.catalog.Create(t.Context(), newKeySet(name), keystore.Record{Action: keystore.ActKeySetCreate, KeySet: name}); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = a.View(t.Context()) // it may have to wait for b longer than it does
	if _, err := b.View(t.Context()); err != nil {
		t.Errorf("b, when a has looked: %v", err)
	}
	if _, err := a.View(t.Context()); err != nil {
		t.Errorf("a, when b has looked: %v", err)
	}
}

// A step that was taken while another node's waited to be entered was answered
// with a conflict, and whoever had asked for it asked again.
func TestAStepBehindAnotherNodesIsAnswered(t *testing.T) {
	url, _, _ := postgrestest.Database(t)
	a, b := enrolledSteps(t, url, "a"), enrolledSteps(t, url, "b")
	if _, err := b.catalog.Create(t.Context(), newKeySet("edge"), keystore.Record{Action: keystore.ActKeySetCreate, KeySet: "edge"}); err != nil {
		t.Fatal(err)
	}
	entry, err := a.Create(t.Context(), newKeySet("web"), keystore.Record{Action: keystore.ActKeySetCreate, KeySet: "web"})
	if err != nil || entry == "" {
		t.Errorf("%q, %v", entry, err)
	}
	if view, _ := a.views.Published(); view == nil || len(view.KeySets()) != 2 {
		t.Errorf("in force: %v", view)
	}
}

// What a node that had ended left to be entered was looked at again and again by
// the time of the first look, and taken over a third of a second late: a machine
// with much to do then signed nothing for a moment.
func TestTimeGoesOnWhileAnotherNodesStepIsWaitedFor(t *testing.T) {
	url, _, _ := postgrestest.Database(t)
	a, b := enrolledSteps(t, url, "a"), enrolledSteps(t, url, "b")
	if _, err := b.catalog.Create(t.Context(), newKeySet("edge"), keystore.Record{Action: keystore.ActKeySetCreate, KeySet: "edge"}); err != nil {
		t.Fatal(err)
	}
	rows, err := a.catalog.Outbox(t.Context())
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if err := a.settle(t.Context(), rows[0].At.Add(takeOverAfter-elsewhere/2)); err != nil {
		t.Error(err)
	}
	if rows, err := a.catalog.Outbox(t.Context()); err != nil || len(rows) != 0 {
		t.Errorf("%d rows are left, %v", len(rows), err)
	}
}

// A clock of which one answer had taken long counted as stepped at the next, and
// what was known from before counted no more until the process was started anew.
func TestRate(t *testing.T) {
	const apart = 500 * time.Millisecond
	begun := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	type answer struct{ asked, clock, answered time.Duration }
	for _, c := range []struct {
		name    string
		next    []answer
		stepped bool
	}{
		{"as fast", []answer{{1000, 1005, 1010}, {2000, 2005, 2010}}, false},
		{"an answer that took long", []answer{{1000, 1005, 4000}, {4100, 4105, 4110}}, false},
		{"a question that took long", []answer{{1000, 3995, 4000}, {4100, 4105, 4110}}, false},
		{"heard later than the one after it", []answer{{1500, 1505, 1510}, {1000, 1005, 4000}, {4100, 4105, 4110}}, false},
		{"a step ahead", []answer{{1000, 1600, 1010}}, true},
		{"a step back", []answer{{1000, 400, 1010}}, true},
		{"a step ahead between two", []answer{{1000, 1005, 1010}, {2000, 2605, 2010}}, true},
	} {
		var r rate
		for _, a := range append([]answer{{0, 5, 10}}, c.next...) {
			r.note(begun.Add(a.clock*time.Millisecond), a.asked*time.Millisecond, a.answered*time.Millisecond, apart)
		}
		if r.stepped != c.stepped {
			t.Errorf("%s: stepped %v", c.name, r.stepped)
		}
	}
}

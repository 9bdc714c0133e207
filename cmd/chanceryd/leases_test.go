package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore/catalog"
)

// twoClocks are a wall clock and boot time that are set apart.
type twoClocks struct {
	boot time.Duration
	wall time.Time
}

func (c *twoClocks) pass(d time.Duration) { c.boot, c.wall = c.boot+d, c.wall.Add(d) }

func newLeases(c *twoClocks) *leases {
	return &leases{
		shared: true, publishing: time.Minute,
		boot: func() time.Duration { return c.boot }, now: func() time.Time { return c.wall },
	}
}

// Rules 4 and 5: a node signs by a snapshot only while that is younger than its
// signing lease, and serves while it has been seen within its publishing lease,
// by boot time and by the wall clock.
func TestLeases(t *testing.T) {
	for _, c := range []struct {
		name         string
		read         time.Duration // how long ago, of an hour
		renewed      time.Duration
		step         time.Duration // of the wall clock since
		signs, serve bool
	}{
		{"fresh", 0, 0, 0, true, true},
		{"within both", config.Lease - time.Millisecond, config.Lease - time.Millisecond, 0, true, true},
		{"a snapshot as old as the lease", config.Lease, 0, 0, false, true},
		{"not seen by the catalog, though it could be read", 0, config.Lease, 0, false, true},
		{"the wall clock has gone further than boot time", time.Second, time.Second, config.Lease, false, true},
		{"set back, boot time counts", config.Lease, config.Lease, -time.Hour, false, true},
		{"as long as it may publish", time.Minute - time.Millisecond, time.Minute - time.Millisecond, 0, false, true},
		{"and longer", time.Minute, time.Minute, 0, false, false},
		{"seen by the catalog, of which nothing newer could be installed", time.Minute, 0, 0, false, false},
	} {
		clock := &twoClocks{time.Hour, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
		l := newLeases(clock)
		ago := func(d time.Duration) instant { return instant{clock.boot - d, clock.wall.Add(-d)} }
		read := ago(c.read)
		l.note(ago(c.renewed), nil)
		l.published(l.instant())
		clock.wall = clock.wall.Add(c.step)
		if err := l.sign(read); (err == nil) != c.signs {
			t.Errorf("%s: signing: %v", c.name, err)
		}
		if err := l.serve(read); (err == nil) != c.serve {
			t.Errorf("%s: serving: %v", c.name, err)
		}
	}
}

// A node that was cut off for longer than its publishing lease used to serve what it
// had before as soon as it could renew that: a set without the key that the others
// had begun to sign with. Now it makes the set anew first.
func TestALeaseThatBeganAnewIsNoneForWhatWasServedBefore(t *testing.T) {
	clock := &twoClocks{time.Hour, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	l := newLeases(clock)
	renew := func() { l.note(l.instant(), nil) }
	serves := func(what string, want bool) {
		t.Helper()
		if err := l.serve(l.instant()); (err == nil) != want || l.outdated() && want {
			t.Errorf("%s: serving: %v, outdated %v", what, err, l.outdated())
		}
	}
	renew()
	serves("enrolled, and nothing made yet", false)
	first := l.instant()
	l.published(first)
	serves("made", true)
	clock.pass(time.Minute - 1)
	renew()
	serves("renewed in time", true)

	clock.pass(time.Minute)
	serves("over", false)
	before := l.instant()
	clock.pass(time.Second)
	renew()
	serves("begun anew", false)
	l.published(before)
	serves("made from what was read before that", false)
	renew()
	l.published(l.instant())
	serves("made from what was read since", true)
}

// S15: a node whose clock was an hour ahead of the catalog's took no step, and signed
// tokens an hour ahead of their time all the same. An answer that took long is no
// sign of it.
func TestClocksThatDoNotAgree(t *testing.T) {
	for _, c := range []struct {
		name   string
		ahead  time.Duration // the catalog's clock, when it was read
		took   time.Duration // until it was read, and again until that was known
		agrees bool
	}{
		{"the same", 0, 0, true},
		{"as far as they may be", time.Second, 0, true},
		{"ahead", time.Second + 1, 0, false},
		{"behind", -time.Second - 1, 0, false},
		{"an hour behind", -time.Hour, 3 * time.Second, false},
		{"the same, by an answer that took long", 0, 2 * time.Second, true},
		{"it may be the answer", 3 * time.Second, 2 * time.Second, true},
	} {
		clock := &twoClocks{time.Hour, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
		l := newLeases(clock)
		l.apart = time.Second
		l.note(l.instant(), nil)
		asked := l.instant()
		clock.pass(c.took)
		said := clock.wall.Add(c.ahead)
		clock.pass(c.took)
		l.compare(said, asked)
		if err := l.sign(l.instant()); errors.Is(err, errClocks) == c.agrees || err != nil && c.agrees {
			t.Errorf("%s: signing: %v", c.name, err)
		}
	}
}

// A node that was fenced is never back by itself; one that failed to renew is,
// when it can.
func TestLeasesFenced(t *testing.T) {
	clock := &twoClocks{time.Hour, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	l := newLeases(clock)
	l.note(l.instant(), nil)
	l.note(l.instant(), errors.New("connection refused"))
	if err := l.sign(l.instant()); err != nil {
		t.Errorf("one renewal failed: %v", err)
	}
	l.note(l.instant(), fmt.Errorf("renewing: %w", catalog.ErrFenced))
	l.note(l.instant(), nil)
	for what, err := range map[string]error{"signing": l.sign(l.instant()), "serving": l.serve(l.instant()), "it": l.Fenced()} {
		if !errors.Is(err, catalog.ErrFenced) {
			t.Errorf("%s: %v, want that it is fenced", what, err)
		}
	}
	alone := newLeases(clock)
	alone.shared = false
	clock.pass(time.Hour)
	if alone.sign(instant{}) != nil || alone.serve(instant{}) != nil {
		t.Error("a node with a catalog of its own has lost a lease")
	}
}

// Rule 9 on a shared catalog: the database's clock counts from where it was last
// heard to have been stepped.
func TestRateOfTheCatalogsClock(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	type answer struct {
		asked, answered time.Duration // boot time
		clock           time.Duration // after noon
	}
	for _, c := range []struct {
		name    string
		answers []answer
		since   time.Duration
		stepped bool
	}{
		{"as fast as boot time", []answer{{0, 0, 0}, {time.Second, time.Second, time.Second}, {time.Hour, time.Hour, time.Hour}}, 0, false},
		{"an answer that took long", []answer{{0, 0, 0}, {time.Second, 4 * time.Second, 3 * time.Second}}, 0, false},
		{"a little off", []answer{{0, 0, 0}, {time.Second, time.Second, 1400 * time.Millisecond}}, 0, false},
		{"stepped forward", []answer{{0, 0, 0}, {time.Second, time.Second, time.Hour}, {2 * time.Second, 2 * time.Second, time.Hour + time.Second}}, time.Hour, true},
		{"set back", []answer{{0, 0, 0}, {time.Hour, time.Hour, time.Second}}, time.Second, true},
	} {
		var r rate
		for _, a := range c.answers {
			r.note(noon.Add(a.clock), a.asked, a.answered, 500*time.Millisecond)
		}
		if !r.since.Equal(noon.Add(c.since)) || r.stepped != c.stepped {
			t.Errorf("%s: steady since %v, stepped %v", c.name, r.since.Sub(noon), r.stepped)
		}
	}
}

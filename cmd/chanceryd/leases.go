package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/telemetry"
	"chancery/keystore/catalog"
)

// errLeaseOver: this node has not read the catalog, or not been seen by it, for
// longer than it may go on by what it knows.
var errLeaseOver = errors.New("this node has lost the catalog, and may not be up to date")

// leases are how long this node may sign and serve without having read the
// catalog and renewed its own row there. Each is counted on boot time and on the
// wall clock, from a moment before the catalog was asked, so that it ends here
// before the catalog takes it to have ended.
//
// On a catalog of its own a node has them for as long as it holds the data
// directory: then shared is false and they never end.
type leases struct {
	shared     bool
	publishing time.Duration
	apart      time.Duration // how far the catalog's clock and this node's may be apart
	boot       func() time.Duration
	now        func() time.Time

	mu      sync.Mutex // guards what follows
	renewed instant
	fenced  error // why they can never be renewed; nil: they can
	failed  error // why the last renewal failed; nil: it did not
	clocks  error // that the catalog's clock and this node's are apart; nil: as far as is known they are not
	// begun is when the publishing lease began anew, since the one before had ended:
	// others may have gone on without this node meanwhile, so nothing is served that
	// is not from a snapshot read later. made is when that was read, or before.
	begun, made time.Duration // of boot
}

// An instant is a moment on both clocks.
type instant struct {
	boot time.Duration
	wall time.Time
}

func (l *leases) instant() instant { return instant{l.boot(), l.now().Round(0)} }

// over reports whether more than d has passed since a moment, by either clock.
func (l *leases) over(since instant, d time.Duration) bool {
	at := l.instant()
	return at.boot-since.boot >= d || at.wall.Sub(since.wall) >= d
}

// sign returns nil while this node may sign by a snapshot that it began to read
// at a moment.
func (l *leases) sign(read instant) error {
	if !l.shared {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.fenced != nil:
		return l.fenced
	case l.clocks != nil:
		return l.clocks
	case l.over(read, config.Lease), l.over(l.renewed, config.Lease):
		return l.lost()
	}
	return nil
}

// compare notes what the catalog's clock said between a moment and now. Clocks are
// apart only if they are however long the answer took.
func (l *leases) compare(clock time.Time, asked instant) {
	least, most := clock.Sub(l.now().Round(0)), clock.Sub(asked.wall)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case least > l.apart:
		l.clocks = l.disagree(least)
	case most < -l.apart:
		l.clocks = l.disagree(most)
	default:
		l.clocks = nil
	}
}

// errClocks: this node's clock and the catalog's are too far apart to say which is
// right.
var errClocks = errors.New("the catalog's clock and this node's do not agree")

// agree returns nil if the clock that a change is dated by is near this node's: one
// that is far ahead would end what still lives, and outlast its correction.
func (l *leases) agree(clock time.Time) error {
	if by := clock.Sub(l.now()); l.shared && by.Abs() > l.apart {
		return l.disagree(by)
	}
	return nil
}

func (l *leases) disagree(by time.Duration) error {
	return fmt.Errorf("%w: they are %v apart, no more than %v may be (hint: synchronise both)", errClocks, by.Round(time.Millisecond), l.apart)
}

// lost says that a lease is over, and as far as is known why. The caller holds mu.
func (l *leases) lost() error {
	if l.failed == nil {
		return errLeaseOver
	}
	return fmt.Errorf("%w: %w", errLeaseOver, l.failed)
}

// serve returns nil while this node may serve what it has published, from a
// snapshot that it began to read at a moment: nobody counts on more than the
// publishing lease for what it sends by an older one.
func (l *leases) serve(read instant) error {
	if !l.shared {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.fenced != nil:
		return l.fenced
	case l.over(read, l.publishing), l.over(l.renewed, l.publishing), l.made < l.begun:
		return l.lost()
	}
	return nil
}

// published notes that all that is served from now on is from a snapshot that was
// read no earlier than at a moment.
func (l *leases) published(read instant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made = max(l.made, read.boot)
}

// outdated reports whether what is served has to be made anew before it may be.
func (l *leases) outdated() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.made < l.begun
}

// metrics tells whether this node has its leases. m is asked only where others
// have the catalog too.
func (l *leases) metrics(m *telemetry.Metrics, read func() instant) {
	holds := func(err func() error) func() float64 {
		return func() float64 {
			if err() != nil {
				return 0
			}
			return 1
		}
	}
	m.Gauge("chancery_lease_signing", "1 while this node may sign by what it knows of the shared catalog, 0 otherwise.", nil,
		holds(func() error { return l.sign(read()) }))
	m.Gauge("chancery_lease_publishing", "1 while this node may serve key sets by what it knows of the shared catalog, 0 otherwise.", nil,
		holds(func() error { return l.serve(read()) }))
}

// renew has the catalog note that this node lives and by which revision it goes.
func (l *leases) renew(ctx context.Context, c *catalog.Catalog, revision int64) error {
	began := l.instant()
	_, err := c.Renew(ctx, revision)
	l.note(began, err)
	if err != nil {
		return fmt.Errorf("renewing the leases of this node: %w", err)
	}
	return nil
}

// note notes how a renewal went, or the enrolment.
func (l *leases) note(began instant, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = err
	switch {
	case err == nil:
		if l.over(l.renewed, l.publishing) {
			l.begun = l.boot()
		}
		l.renewed = began
	case errors.Is(err, catalog.ErrFenced):
		l.fenced = err
	}
}

// Fenced returns why this node may never sign or serve again, or nil.
func (l *leases) Fenced() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fenced
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
)

// errUnentered: a step is in the catalog and not yet in the log, so it is not
// in force.
var errUnentered = errors.New("a step waits to be entered in the log and is not in force until then")

// errCatalog: the catalog cannot be written now, which is no fault of a keystore.
var errCatalog = errors.New("the catalog cannot be written")

// steps is the catalog as rotation sees it. A step is one compare-and-swap
// that leaves its record in the outbox; it is in force on this node once that
// record is a durable entry of the lifecycle log.
type steps struct {
	node    string
	catalog *catalog.Catalog
	log     *audit.Log
	views   *views
	keys    *keyring
	metrics *telemetry.Metrics
	changed func() // called after the snapshot in force changed
	slow    func() // called when nothing is signed until a change is in force

	turn chan struct{} // capacity 1: taken by the one who moves the outbox into the log

	// Owned by who has the turn.
	doubt    map[int64]bool   // rows that may have an entry already; nil before the first settle
	unmarked map[int64]string // rows whose entry is durable and that could not be marked yet

	mu     sync.Mutex       // guards what follows
	moved  map[int64]string // entries of rows whose step has not asked for them yet
	offset time.Duration    // of the catalog's clock against this node's
	rate   rate             // of the catalog's clock against boot time
}

// tick notes what the catalog's clock said when a snapshot was read. It was asked
// between read and now; the later of the two is taken, so that this node does not
// think it is later than it is.
func (s *steps) tick(view *keystore.View, read instant) {
	l := s.views.leases
	if !l.shared {
		return
	}
	l.compare(view.Clock(), read)
	boot := l.boot()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = view.Clock().Sub(read.wall.Add(boot - read.boot))
	s.rate.note(view.Clock(), read.boot, boot, l.apart)
}

// A rate is how steadily another machine's clock has gone against boot time.
type rate struct {
	since   time.Time // by that clock: when it was first heard, or heard to have been stepped
	stepped bool
	last    time.Time
	// asked and answered are between which moments of boot time last was heard.
	asked, answered time.Duration
}

// note notes what the clock said when it was asked between two moments of boot
// time. It may go as much too fast or slow as apart says between two answers,
// however long each of them took.
func (r *rate) note(clock time.Time, asked, answered, apart time.Duration) {
	if r.since.IsZero() {
		r.since = clock
	} else if went := clock.Sub(r.last); went < asked-r.answered-apart || went > answered-r.asked+apart {
		r.since, r.stepped = clock, true
	}
	r.last, r.asked, r.answered = clock, asked, answered
}

// Steady returns since when the catalog's clock has gone as fast as boot time, and
// whether it always has, as far as this process knows.
func (s *steps) Steady() (since time.Time, always bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rate.since, !s.rate.stepped
}

// Now is the catalog's clock as far as this node can tell.
func (s *steps) Now() time.Time { return s.views.leases.now().Add(s.Offset()) }

// Offset returns how far the catalog's clock is ahead of this node's; zero where
// they are one.
func (s *steps) Offset() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offset
}

// movedMost bounds moved: rows that a crash left have no step to ask for them.
const movedMost = 1024

// settleWithin bounds how long the outbox may take to reach the log.
const settleWithin = 5 * time.Second

func newSteps(node string, c *catalog.Catalog, log *audit.Log, v *views, keys *keyring, m *telemetry.Metrics, changed, slow func()) *steps {
	return &steps{
		node: node, catalog: c, log: log, views: v, keys: keys, metrics: m, changed: changed, slow: slow,
		turn: make(chan struct{}, 1), moved: make(map[int64]string), unmarked: make(map[int64]string),
	}
}

// View returns a fresh snapshot in which every step has been entered, and puts
// it in force.
func (s *steps) View(ctx context.Context) (*keystore.View, error) {
	if err := s.advance(ctx); err != nil {
		return nil, err
	}
	return s.views.Current()
}

// advance puts what the catalog says now in force. The order matters: the
// snapshot is read before the outbox, so that when the outbox has been entered
// every step of that snapshot has been.
func (s *steps) advance(ctx context.Context) error {
	view, read, err := s.views.Read(ctx)
	if err != nil {
		return err
	}
	s.tick(view, read)
	if err := s.settle(ctx, view.Clock()); err != nil {
		return err
	}
	before, installed := s.views.Install(view, read)
	switch {
	case installed:
	case s.views.Newer(view.Revision()): // someone has read later
		return nil
	default:
		return errStale
	}
	s.keys.Dropped(ctx, before, view)
	if before == nil || before.Revision() != view.Revision() {
		s.changed()
	}
	return nil
}

// Update makes one step and puts it in force. It returns the entry of the
// step's last record; with an error, the step may be in the catalog and is
// entered later.
func (s *steps) Update(ctx context.Context, name string, expect int64, f func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error)) (string, error) {
	if err := s.settle(ctx, time.Time{}); err != nil {
		return "", err
	}
	w := &watch{steps: s}
	change, err := s.catalog.Update(ctx, name, expect, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		recs, err := f(at, ks)
		if err == nil {
			w.start() // the times of the step are from now on
		}
		return recs, err
	})
	if err != nil {
		if w.stop() { // what is in the catalog is to be looked at once more
			err = errors.Join(err, s.advance(context.WithoutCancel(ctx)))
			s.changed()
		}
		if errors.Is(err, keystore.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", errCatalog, err)
		}
		return "", err
	}
	return s.enforce(ctx, change, w)
}

// Knows reports whether a record was ever committed to the catalog.
func (s *steps) Knows(ctx context.Context, recordID string) (bool, error) {
	return s.catalog.Knows(ctx, recordID)
}

// Create makes a key set.
func (s *steps) Create(ctx context.Context, ks *keystore.KeySet, recs ...keystore.Record) (string, error) {
	change, err := s.catalog.Create(ctx, ks, recs...)
	if err != nil {
		return "", err
	}
	w := &watch{steps: s}
	w.start()
	return s.enforce(ctx, change, w)
}

// Acknowledge records that this node serves a set with these versions.
func (s *steps) Acknowledge(ctx context.Context, node, keyset string, versions []int, at time.Time, recs ...keystore.Record) error {
	change, err := s.catalog.Acknowledge(ctx, node, keyset, versions, at, recs...)
	if err != nil {
		return err
	}
	w := &watch{steps: s}
	w.start()
	_, err = s.enforce(ctx, change, w)
	return err
}

// Opened records that a set is about to be served by a node for the first time,
// with these versions.
func (s *steps) Opened(ctx context.Context, keyset string, versions []int) error {
	change, err := s.catalog.Opened(ctx, keyset, versions)
	if err != nil {
		return err
	}
	w := &watch{steps: s}
	w.start()
	_, err = s.enforce(ctx, change, w)
	return err
}

// Forget fences a node in the catalog, and returns what it is then and where that
// stands in the log.
func (s *steps) Forget(ctx context.Context, name string, by keystore.Fact) (keystore.Node, string, error) {
	change, err := s.catalog.Forget(ctx, name, by, keystore.Record{
		Principal: by.By, Action: keystore.ActNodeForget, Outcome: keystore.OutcomeDone, Reason: by.Reason,
		Detail: map[string]string{"node": name},
	})
	if err != nil {
		return keystore.Node{}, "", err
	}
	w := &watch{steps: s}
	w.start()
	entry, err := s.enforce(ctx, change, w)
	if err != nil {
		return keystore.Node{}, "", err
	}
	view, err := s.catalog.View(ctx)
	if err != nil {
		return keystore.Node{}, entry, err
	}
	n, ok := view.Node(name)
	if !ok {
		return keystore.Node{}, entry, fmt.Errorf("node %q: %w", name, keystore.ErrNotFound)
	}
	return *n, entry, nil
}

// enforceWithin is how long a change may take to be in force here, from the
// moment its times are from. The lease that rotation allows for covers it.
const enforceWithin = config.Lease / 2

// A watch takes the snapshot out of force when a change takes longer than
// enforceWithin to be in force, as when the disk hangs or the log cannot be
// written: the snapshot from before might sign what the catalog no longer
// allows for.
type watch struct {
	steps *steps

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	fired bool
	over  bool
}

func (w *watch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(enforceWithin, w.fire)
}

func (w *watch) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.fired = true
		w.steps.views.Doubt()
		w.steps.slow()
	}
}

// stop ends the watch. It reports whether it took the snapshot out of force;
// the next one that is installed is in force again.
func (w *watch) stop() (fired bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.fired && !w.over {
		w.steps.views.Settled()
	}
	w.over = true
	return w.fired
}

// enforce enters a committed change and puts it in force. It goes on when the
// caller has gone: the change is committed.
func (s *steps) enforce(ctx context.Context, change catalog.Change, w *watch) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := s.advance(ctx)
	for errors.Is(err, errElsewhere) && ctx.Err() == nil { // that one is entered by this node before long
		err = s.advance(ctx)
	}
	fired := w.stop()
	entry := s.take(change.Outbox)
	if err != nil {
		s.views.Stale(change.Revision)
		s.changed()
		return "", err
	}
	if fired { // what was installed is not in force yet
		return entry, s.advance(ctx)
	}
	return entry, nil
}

// take returns the entry of the last of these rows and forgets them all.
func (s *steps) take(rows []int64) (entry string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range rows {
		if e, ok := s.moved[id]; ok {
			entry = e
			delete(s.moved, id)
		}
	}
	return entry
}

// takeOverAfter is how long a step of another node may wait for that node's log
// before this one enters it in its own. Until then the step is in force nowhere,
// and neither is one of this node's that comes after it: what remains of
// enforceWithin is for entering both.
const takeOverAfter = enforceWithin / 2

// errElsewhere: a step waits for the log of the node that took it. It passes by
// itself.
var errElsewhere = fmt.Errorf("%w, by the node that took it: %w", errUnentered, keystore.ErrOvertaken)

// A step of another node is in that node's log a moment after it is in the
// catalog: it is looked at again so often, more seldom each time, and waited for
// as long before errElsewhere.
const (
	lookAgain  = 20 * time.Millisecond
	lookSeldom = 160 * time.Millisecond
	elsewhere  = 300 * time.Millisecond
)

// settle moves the outbox into the lifecycle log, in order. A row that a crash
// left between its entry and its mark is found by what it says and not entered
// twice. A row of another node is that node's to enter, for a while, and is waited
// for when all that is this node's has been entered: that node may wait for this
// one. clock is the catalog's, or zero if what others do does not matter now.
func (s *steps) settle(ctx context.Context, clock time.Time) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for the log: %w", errUnentered, context.Cause(ctx))
	}
	for turn, pause := time.Now(), lookAgain; ; pause = min(2*pause, lookSeldom) {
		now := clock
		if !clock.IsZero() { // it has gone on, and so has what others have to enter
			now = clock.Add(time.Since(began))
		}
		others, err := s.enterOurs(ctx, now)
		switch {
		case err != nil:
			return err
		case others == nil || clock.IsZero():
			return nil
		case time.Since(turn) > elsewhere:
			return fmt.Errorf("%w: node %s has to enter %s of %s", errElsewhere, others.Node, others.Record.Action, others.Record.KeySet)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errElsewhere, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// enterOurs enters the rows that this node has to enter: its own, and by the
// catalog's clock, if it is given, those that others should have entered long ago.
// It returns the first of the others, or nil. Its caller has the turn.
func (s *steps) enterOurs(ctx context.Context, clock time.Time) (others *catalog.OutboxRow, err error) {
	rows, err := s.catalog.Outbox(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	if s.doubt == nil { // what a former process left may have been entered by it
		s.doubt = make(map[int64]bool)
		for _, row := range rows {
			s.doubt[row.ID] = true
		}
	}
	for _, row := range rows {
		if row.Node != "" && row.Node != s.node && (clock.IsZero() || clock.Sub(row.At) < takeOverAfter) {
			others = cmp.Or(others, &row)
			continue
		}
		entry, err := s.enter(ctx, row)
		if err != nil {
			s.doubt[row.ID] = true
			return nil, fmt.Errorf("%w: %w", errUnentered, err)
		}
		delete(s.doubt, row.ID)
		s.keep(row.ID, entry)
	}
	return others, nil
}

// keep holds an entry for the step it belongs to.
func (s *steps) keep(row int64, entry string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.moved) >= movedMost {
		clear(s.moved)
	}
	s.moved[row] = entry
}

// enter makes a row's entry, unless it has one, and marks the row. A row that
// cannot be marked now is marked later: its entry is durable, and that is what
// counts.
func (s *steps) enter(ctx context.Context, row catalog.OutboxRow) (string, error) {
	entry, entered := s.unmarked[row.ID]
	if !entered {
		receipt, err := s.enterRecord(ctx, row)
		if err != nil {
			return "", err
		}
		entry = receipt.Entry
		s.metrics.Step(string(row.Record.Action))
	}
	// Another node may have entered it as well, when this one was slow: it is in both
	// logs, by one id.
	if err := s.catalog.Mark(ctx, row.ID, entry); err != nil && !errors.Is(err, keystore.ErrExists) {
		s.unmarked[row.ID] = entry
		return entry, nil
	}
	delete(s.unmarked, row.ID)
	return entry, nil
}

func (s *steps) enterRecord(ctx context.Context, row catalog.OutboxRow) (audit.Receipt, error) {
	if s.doubt[row.ID] {
		if receipt, entered, err := s.log.Entered(ctx, row.Record); err != nil || entered {
			return receipt, err
		}
	}
	return s.log.Lifecycle(ctx, dated(row, s.Now()))
}

package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A Catalog keeps key sets.
type Catalog interface {
	// View returns a fresh snapshot.
	View(ctx context.Context) (*keystore.View, error)
	// Create records a new key set. It returns an error wrapping
	// keystore.ErrExists if the name was ever taken.
	Create(ctx context.Context, ks *keystore.KeySet, recs ...keystore.Record) (entry string, err error)
	// Update gives f a copy of the key set and commits what f made of it and the
	// records together, unless the set's revision is not expect (below zero: any),
	// enters the records in the log, and makes the new state this node's view
	// before it returns; entry is the last record's. The Moment is the catalog's, at
	// the change. If f fails, or changes nothing and returns no records, nothing
	// happens. An error after f may come from the log alone: then the change is
	// committed, and its records follow.
	Update(ctx context.Context, name string, expect int64, f func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error)) (entry string, err error)
	// Knows reports whether a record with that Record.ID was ever committed, by
	// whichever node.
	Knows(ctx context.Context, recordID string) (bool, error)
}

// Keys finds providers.
type Keys interface {
	// Provider returns the provider of a configured keystore.
	Provider(keystoreName string) (keystore.Provider, error)
}

// Log is the lifecycle log.
type Log interface {
	Lifecycle(ctx context.Context, rec keystore.Record) (audit.Receipt, error)
	// Find returns the receipt of the entry with that Record.ID.
	Find(ctx context.Context, id string) (audit.Receipt, bool, error)
	// Health returns nil, or why nothing can be entered now.
	Health() error
}

// Config is what a Rotator needs. Catalog, Keys, Audit and Brake are required.
type Config struct {
	Node    string // the name of this node in the catalog; empty: there is one alone
	Shared  bool   // other nodes have the catalog too
	Catalog Catalog
	Keys    Keys
	Audit   Log
	Brake   Brake
	// Proven is Facts.Proven for every key set. Whoever implements it calls
	// Changed when its answer changes.
	Proven func(keystore.KID) bool
	// Foreign reports whether an object in a keystore, though no version's key, is
	// to be there, such as a probe key. Nil: none is.
	Foreign func(keystoreName string, object keystore.Object) bool
	// Keystores are the names of those that are configured, to be compared though
	// no version may be in them.
	Keystores []string
	// Forget is told of a key before it is destroyed: it is not to be held any
	// more. Nil: nobody holds keys.
	Forget func(keystore.KID)
	// Hold returns nil, or why no step is taken now, such as a wall clock that
	// cannot be gone by. It does not hold what an operator asks for. Whoever
	// implements it calls Changed when its answer changes. Nil: nothing is held.
	Hold func() error
	// Revoke is told of a key that is compromised before that is written anywhere:
	// from when it returns, this node neither signs by it nor publishes it. It waits
	// for nothing. Nil: that is in force with the record.
	Revoke func(keystore.KID, keystore.Fact)
	// ForgetNode makes a node one that may neither sign nor serve any more. Nil:
	// there is no other node than this.
	ForgetNode func(ctx context.Context, name string, by keystore.Fact) error
	// Elapsed is a clock that nobody sets and that counts sleep, from any moment
	// on, such as the time since boot. Nil: Go's monotonic clock.
	Elapsed func() time.Duration
	// Clock returns what is known of Now's clock. Nil: it is right.
	Clock func() Clock
	Log   *slog.Logger // nil: discard
	// Now is the catalog's clock as far as this node can tell, which says when a step
	// is worth trying. Whether it is due the catalog's own clock says, inside the
	// change. Nil: time.Now.
	Now func() time.Time
}

// A Rotator carries out the steps that Plan returns. All methods may be called
// concurrently.
type Rotator struct {
	cfg Config

	mu sync.Mutex
	// sets serialise, each by its lock, what is done to one key set: a key that is
	// being made by one must not be taken for left over by another. Suspend and Resume
	// do not take it, so that nothing holds up stopping.
	sets     map[string]*set
	respec   chan struct{} // capacity 1: the list of key sets has changed
	settling chan struct{} // capacity 1: a suspension waits for the catalog

	records chan struct{} // capacity 1: full while brake and catalog are brought in line
	looks   chan struct{} // capacity 1: full while someone who cannot wait looks

	last   *keystore.View            // guarded by mu: the last view read
	lost   map[keystore.KID]*lostKey // guarded by mu
	owed   []owedCompromise          // guarded by mu: compromises that catalog and log do not have yet
	asides int                       // guarded by mu: goroutines that Wait waits for
	idle   sync.Cond                 // on mu: asides has changed

	turns  int64                          // guarded by mu: comparisons of keystores so far
	rooms  map[string]chan struct{}       // guarded by mu: capacity 1, by keystore; full while it is compared or a key destroyed
	silent map[keystore.KID]time.Duration // guarded by mu: when a version was first seen not to sign, by Elapsed

	brake   sync.Mutex // guards what follows; the disk is never waited for under it
	puts    map[keystore.KID]*putting
	lifting *lift // by whoever has acquired the records; nil: none
	// takeovers are the versions that may be taking over, by the one that signs.
	takeovers map[keystore.KID]Ref
}

// ErrNotConfigured: no step is taken for the key set. It wraps
// keystore.ErrNotFound.
var ErrNotConfigured = fmt.Errorf("%w in the configuration", keystore.ErrNotFound)

// set is what the rotator holds of one key set.
type set struct {
	spec    Spec          // guarded by Rotator.mu
	lock    chan struct{} // capacity 1: full while someone works on the set
	changed chan struct{} // capacity 1
	lastErr string        // guarded by Rotator.mu: why the last pass failed

	failures int // owned by the set's loop
}

// How long the rotator waits for others, at the most.
const (
	generateWithin = 5 * time.Minute
	findWithin     = 30 * time.Second
	commitWithin   = 10 * time.Second
	lookWithin     = 500 * time.Millisecond
	brakeWithin    = time.Second     // the brake file's part of a suspension
	stopWithin     = 2 * time.Second // the catalog's part
	poll           = time.Minute     // between passes, at the most
	pollUnserved   = time.Second     // while something other than time is awaited
	pollOvertaken  = 100 * time.Millisecond
	retryMost      = time.Minute
)

// New returns a Rotator. It does nothing before Ensure names the key sets.
func New(cfg Config) *Rotator {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Elapsed == nil {
		start := time.Now()
		cfg.Elapsed = func() time.Duration { return time.Since(start) }
	}
	if cfg.Hold == nil {
		cfg.Hold = func() error { return nil }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Rotator{
		cfg: cfg, sets: map[string]*set{}, puts: map[keystore.KID]*putting{}, takeovers: map[keystore.KID]Ref{}, lost: map[keystore.KID]*lostKey{},
		rooms: map[string]chan struct{}{}, silent: map[keystore.KID]time.Duration{},
		respec: make(chan struct{}, 1), settling: make(chan struct{}, 1),
		records: make(chan struct{}, 1), looks: make(chan struct{}, 1),
	}
	r.idle.L = &r.mu
	return r
}

func (r *Rotator) now() time.Time { return moment(r.cfg.Now()) }

// Changed tells the rotator that something it waits for may have happened: an
// acknowledgement, a proof, a token that is back, a change in the catalog.
func (r *Rotator) Changed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sets {
		kick(s.changed)
	}
	kick(r.settling)
}

// Moved tells the rotator that the catalog is at another revision, maybe by another
// node, which may have lifted what the brake keeps here.
func (r *Rotator) Moved() {
	if len(r.suspended()) > 0 {
		kick(r.settling)
	}
}

// step tells the loop of a key set that someone else has taken a step of it.
func (r *Rotator) step(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.sets[name]; ok {
		kick(s.changed)
	}
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run rotates until ctx ends and returns when everything it started has ended.
// Each key set has a loop of its own, so that a keystore that hangs holds up its
// own key sets only. A failed pass is tried again: the next one reads the state
// anew, so there is nothing to undo.
func (r *Rotator) Run(ctx context.Context) error {
	defer r.Wait()
	var loops sync.WaitGroup
	defer loops.Wait()
	loops.Go(func() { r.settleLoop(ctx) })
	started := map[string]bool{}
	for {
		for name, s := range r.named() {
			if !started[name] {
				started[name] = true
				loops.Go(func() { r.loop(ctx, name, s) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.respec:
		}
	}
}

func (r *Rotator) named() map[string]*set {
	r.mu.Lock()
	defer r.mu.Unlock()
	sets := make(map[string]*set, len(r.sets))
	for name, s := range r.sets {
		sets[name] = s
	}
	return sets
}

// of returns what is held of a configured key set, and its spec now.
func (r *Rotator) of(name string) (*set, Spec, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sets[name]
	if !ok {
		return nil, Spec{}, fmt.Errorf("key set %q: %w", name, ErrNotConfigured)
	}
	spec := s.spec
	spec.Schedule.DestroyAfter = 0 // see Schedule
	return s, spec, nil
}

// loop works on one key set until ctx ends.
func (r *Rotator) loop(ctx context.Context, name string, s *set) {
	for ctx.Err() == nil {
		wait, err := r.locked(ctx, name, s)
		switch {
		case errors.Is(err, keystore.ErrNotFound) && !r.configured(name):
			wait, err = poll, nil
		case errors.Is(err, keystore.ErrOvertaken): // by another node
			wait, err = pollOvertaken, nil
		}
		if ctx.Err() != nil {
			return
		}
		wait = r.settled(ctx, name, s, wait, err)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-s.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (r *Rotator) configured(name string) bool {
	_, _, err := r.of(name)
	return err == nil
}

func (r *Rotator) locked(ctx context.Context, name string, s *set) (time.Duration, error) {
	if err := s.acquire(ctx); err != nil {
		return 0, err
	}
	defer s.release()
	return r.pass(ctx, name)
}

func (s *set) acquire(ctx context.Context) error {
	select {
	case s.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for another step of the key set: %w", context.Cause(ctx))
	}
}

func (s *set) release() { <-s.lock }

// settled logs how a pass went, once for each change, and returns how long to
// wait until the next.
func (r *Rotator) settled(ctx context.Context, name string, s *set, wait time.Duration, err error) time.Duration {
	text := ""
	if err != nil {
		text = err.Error()
	}
	r.mu.Lock()
	before := s.lastErr
	s.lastErr = text
	r.mu.Unlock()
	if err == nil {
		if before != "" {
			r.cfg.Log.InfoContext(ctx, "rotation goes on", "keyset", name)
		}
		s.failures = 0
		return wait
	}
	if before != text {
		r.cfg.Log.ErrorContext(ctx, "rotation is held up", "keyset", name, "err", err)
	}
	s.failures++
	return backoff(s.failures)
}

// backoff returns how long to wait after so many failures: a second, two, four,
// up to a minute, less up to half so that many do not come back together.
func backoff(failures int) time.Duration {
	d := min(time.Second<<min(failures-1, 10), retryMost)
	return d - rand.N(d/2)
}

// pass takes every step of a key set that is due, one for each version, and
// returns how long to wait until the next. Its caller holds the set's lock.
func (r *Rotator) pass(ctx context.Context, name string) (time.Duration, error) {
	stepped := map[int]bool{}
	for {
		if err := r.cfg.Hold(); err != nil {
			return 0, err
		}
		ks, spec, err := r.agreed(ctx, name)
		if err != nil {
			return 0, err
		}
		r.known(ks)
		again := r.confirm(ctx, ks)
		now := r.now()
		step, why := Plan(r.factsOf(ks), spec.Schedule, now)
		if step == NoStep {
			return min(untilNext(why, now), again), nil
		}
		if stepped[step.Version] {
			return time.Millisecond, nil // the next pass begins anew
		}
		stepped[step.Version] = true
		if err := r.take(ctx, ks, spec, step); err != nil && !errors.Is(err, keystore.ErrOvertaken) {
			return 0, fmt.Errorf("%s version %d of %s: %w", step.Kind, step.Version, name, err)
		}
	}
}

func untilNext(why Why, now time.Time) time.Duration {
	switch {
	case why.Step == NoStep:
		return poll
	case why.At.IsZero():
		return pollUnserved
	}
	return max(min(why.At.Sub(now), poll), time.Millisecond)
}

// view reads the catalog, and remembers what it read for a time when it cannot
// be read.
func (r *Rotator) view(ctx context.Context) (*keystore.View, error) {
	v, err := r.cfg.Catalog.View(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the catalog: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || r.last.Revision() <= v.Revision() { // not one that hung for long
		if r.last == nil || r.last.Revision() < v.Revision() {
			r.noteSilent(v)
		}
		r.last = v
	}
	return v, nil
}

// keySet returns a configured key set as it is in the catalog now.
func (r *Rotator) keySet(ctx context.Context, name string) (*keystore.KeySet, Spec, error) {
	_, spec, err := r.of(name)
	if err != nil {
		return nil, Spec{}, err
	}
	v, err := r.view(ctx)
	if err != nil {
		return nil, Spec{}, err
	}
	ks, ok := v.KeySet(name)
	if !ok {
		return nil, Spec{}, fmt.Errorf("key set %q is not in the catalog: %w", name, keystore.ErrNotFound)
	}
	return ks, spec, nil
}

// agreed is keySet for one who is about to take a step.
func (r *Rotator) agreed(ctx context.Context, name string) (*keystore.KeySet, Spec, error) {
	ks, spec, err := r.keySet(ctx, name)
	if err == nil && r.cfg.Shared {
		err = agrees(ks, spec)
	}
	return ks, spec, err
}

// factsOf is facts with the nodes as they were when the catalog was last read.
func (r *Rotator) factsOf(ks *keystore.KeySet) Facts {
	r.mu.Lock()
	last := r.last
	r.mu.Unlock()
	if last == nil {
		return r.facts(ks, nil)
	}
	return r.facts(ks, last.Nodes())
}

// facts returns what to plan by: the set, with the suspensions that only the
// brake knows yet, the nodes, and what is known of keys and clock here.
func (r *Rotator) facts(ks *keystore.KeySet, nodes []keystore.Node) Facts {
	f := Facts{Set: ks, Proven: r.cfg.Proven, Gone: r.gone, Nodes: nodes, Self: r.cfg.Node}
	if r.cfg.Clock != nil {
		f.Clock = r.cfg.Clock()
	}
	for kid, fact := range r.suspended() {
		if v, ok := f.Set.ByKID(kid); ok && v.Suspended == nil {
			f.Set = f.Set.Clone()
			v, _ = f.Set.ByKID(kid)
			v.Suspended = &fact
		}
	}
	return f
}

// Facts returns what is planned by for a configured key set, and its schedule,
// fresh from the catalog.
func (r *Rotator) Facts(ctx context.Context, name string) (Facts, Schedule, error) {
	ks, spec, err := r.keySet(ctx, name)
	if err != nil {
		return Facts{}, Schedule{}, err
	}
	return r.factsOf(ks), spec.Schedule, nil
}

package audit

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore"
)

// A request is an entry on its way into the log.
type request struct {
	rest    []byte           // the entry after its time
	refused *keystore.Record // for a refusal nobody waits for
	uses    closing          // what it closes
	intent  *keystore.Record // if it is one
	follows string           // the ID of the intent whose outcome it is
	on      *stream          // the one it is on, for Wait
	taken   atomic.Bool      // by the committer
	done    chan struct{}    // receives once the rest is set
	origin  string
	index   int64
	time    time.Time
	err     error
}

func emptyRequest() any { return &request{done: make(chan struct{}, 1)} }

func (l *Log) newRequest(r *keystore.Record) *request {
	q := l.requests.Get().(*request)
	q.rest = appendRest(q.rest[:0], r)
	q.refused, q.err, q.uses = nil, nil, l.uses.closing(r)
	q.taken.Store(false)
	q.intent, q.follows = nil, r.ID
	if isIntent(r) {
		intent := *r
		q.intent, q.follows = &intent, ""
	}
	return q
}

// A stream is a log that goes on: lifecycle, or acts from month to month. One
// committer goroutine owns the shard being written.
type stream struct {
	log     *Log
	monthly bool
	wake    chan struct{} // holds one
	urgent  chan struct{} // holds one: somebody waits, and does nothing else
	wanted  chan struct{} // holds one: somebody waits for what was started
	begun   atomic.Int64  // entries that were started, and that nobody waits for yet
	done    chan struct{} // closed when the committer has ended

	mu     sync.Mutex
	queue  []*request
	failed error
	closed bool
	shard  *shard // set by the committer only; nil until the first act

	// The rest belongs to the committer.
	crowd  crowd
	last   time.Time     // no entry may be before it
	since  time.Time     // when it failed
	delay  time.Duration // until recovery is tried again
	hasher leafHasher
	buf    []byte
	leaves []tlog.Hash
}

const (
	firstDelay  = 100 * time.Millisecond
	longestWait = time.Second
)

func newStream(l *Log, monthly bool) *stream {
	return &stream{
		log: l, monthly: monthly, hasher: newLeafHasher(),
		wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), wanted: make(chan struct{}, 1), done: make(chan struct{}),
		crowd: crowd{pause: l.cfg.pause},
	}
}

// submit hands q to the committer. If it returns nil, q.done will receive.
func (s *stream) submit(q *request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("%w: the audit log is closed", keystore.ErrUnavailable)
	}
	if err := s.log.trouble(); err != nil {
		return err
	}
	if s.failed != nil {
		return fmt.Errorf("%w: audit log: %w", keystore.ErrUnavailable, s.failed)
	}
	s.queue = append(s.queue, q)
	if s.monthly && q.intent != nil {
		s.log.intents.begin(q.intent)
	}
	s.nudge()
	return nil
}

// ended says that q is entered, or why it is not.
func (s *stream) ended(q *request, err error) {
	q.uses.end(err)
	switch {
	case !s.monthly:
	case q.intent != nil && err == nil:
		s.log.intents.place(q.intent.ID, useHead{filepath.Base(s.shard.name), q.index}, q.time)
	case q.intent != nil:
		s.log.intents.close(q.intent.ID)
	case q.follows != "" && err == nil:
		s.log.intents.close(q.follows)
	case q.follows != "":
		s.log.intents.lose(q.follows)
	}
}

func (s *stream) nudge() { tell(s.wake) }

// enter submits q and waits for it.
func (s *stream) enter(ctx context.Context, q *request) (Receipt, error) {
	if err := context.Cause(ctx); err != nil {
		s.ended(q, err)
		return Receipt{}, fmt.Errorf("entering into the audit log: %w", err)
	}
	if err := s.submit(q); err != nil {
		s.ended(q, err)
		return Receipt{}, err
	}
	s.hurry()
	return s.await(ctx, q)
}

// await waits for q, which was submitted.
func (s *stream) await(ctx context.Context, q *request) (Receipt, error) {
	select {
	case <-q.done:
	case <-ctx.Done():
		if entered(q) { // meanwhile
			break
		}
		if s.withdraw(q) {
			s.ended(q, context.Cause(ctx))
			return Receipt{}, fmt.Errorf("entering into the audit log: %w", context.Cause(ctx))
		}
		// The committer has q; it is left to the garbage collector.
		return Receipt{}, fmt.Errorf("%w: whether it is in the audit log: %w", keystore.ErrUncertain, context.Cause(ctx))
	}
	r, err := Receipt{Index: q.index, Time: q.time}, q.err
	if err == nil {
		r.Entry = entryName(q.origin, q.index)
	}
	s.log.requests.Put(q)
	return r, err
}

// entered reports whether it is known by now what became of q.
func entered(q *request) bool {
	select {
	case <-q.done:
		return true
	default:
		return false
	}
}

// withdraw takes q out of the queue, and reports whether it was still there.
func (s *stream) withdraw(q *request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.queue, q)
	if i < 0 {
		return false
	}
	s.queue = slices.Delete(s.queue, i, i+1)
	return true
}

func (s *stream) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *stream) current() *shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shard
}

// run commits until close, and everything that came before it.
func (s *stream) run() {
	defer close(s.done)
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	for {
		select {
		case <-s.wake:
			s.crowd.wait(s.begun.Load(), s.wanted, s.urgent)
		case <-retry.C:
			s.recover()
		}
		batch, closed := s.take()
		s.crowd.took(len(batch), time.Now())
		s.commit(batch)
		if s.health() != nil {
			retry.Reset(s.delay)
		}
		if closed {
			if s.shard != nil {
				s.shard.close()
			}
			return
		}
	}
}

func (s *stream) take() (batch []*request, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, s.queue = s.queue, nil
	for _, q := range batch {
		q.taken.Store(true)
	}
	drain(s.wanted)
	return batch, s.closed
}

func (s *stream) close() {
	s.mu.Lock()
	s.closed = true
	s.nudge()
	s.hurry()
	s.mu.Unlock()
	<-s.done
}

// commit writes everything in batch and releases it, or fails it.
func (s *stream) commit(batch []*request) {
	if err := s.log.trouble(); err != nil {
		s.release(batch, err)
		return
	}
	for len(batch) > 0 {
		n, err := 0, s.health()
		if err == nil {
			n, err = s.group(batch)
		}
		if err != nil {
			s.fail(err)
			s.release(batch, fmt.Errorf("%w: audit log: %w", keystore.ErrUnavailable, err))
			return
		}
		s.release(batch[:n], nil)
		batch = batch[n:]
	}
}

func (s *stream) release(batch []*request, err error) {
	for _, q := range batch {
		s.ended(q, err)
		if q.refused != nil { // nobody waits for it
			s.log.refusals.written(q.refused, err)
		}
		if q.refused != nil || q.uses.many != nil {
			q.refused = nil
			s.log.requests.Put(q)
			continue
		}
		q.err = err
		q.done <- struct{}{}
	}
}

// group writes and syncs as much of batch as goes into the journal at once, and
// returns how many that were.
func (s *stream) group(batch []*request) (int, error) {
	now := s.now()
	if err := s.turn(now); err != nil {
		return 0, err
	}
	h := s.shard
	s.buf, s.leaves = s.buf[:0], s.leaves[:0]
	room, first := h.room(), h.tree.size // only this goroutine changes the tree
	n, lastStart := 0, 0
	for n < len(batch) && len(s.buf) < largestBatch {
		q, start := batch[n], len(s.buf)
		q.origin, q.index, q.time = h.origin, first+int64(n), now
		s.buf = startRecord(s.buf, q.index, first)
		s.buf = appendPrefix(s.buf, q.index, now)
		s.buf = append(s.buf, q.rest...)
		if int64(len(s.buf)) > room {
			s.buf = s.buf[:start]
			break
		}
		sealRecord(s.buf[start:])
		s.leaves = append(s.leaves, s.hasher.sum(s.buf[start+recordHead:]))
		n, lastStart = n+1, start
	}
	if n == 0 {
		return 0, h.grow()
	}
	if err := h.write(s.buf, s.leaves, s.buf[lastStart:lastStart+recordHead]); err != nil {
		return 0, err
	}
	s.last = now
	if !s.monthly {
		s.log.remember(h)
	}
	if first == 0 {
		s.log.hurry() // so that a log is not long without any checkpoint
	}
	return n, nil
}

// now returns the time of the next entry: never before the last one's, nor
// before the month that has begun.
func (s *stream) now() time.Time {
	return later(s.log.cfg.Now().UTC().Truncate(time.Microsecond), s.last)
}

// goOn sets the shard that entries go to, and the time they cannot be before: a
// clock put back to an earlier month finds that month closed, even if the new
// one has no entry yet.
func (s *stream) goOn(next *shard) {
	s.mu.Lock()
	s.shard = next
	s.mu.Unlock()
	s.last = later(s.last, later(next.last, next.begins()))
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// turn makes sure that there is a shard for an entry at now, which is one that
// now returned.
func (s *stream) turn(now time.Time) error {
	if !s.monthly {
		return nil
	}
	name := actsName + "/" + now.Format(monthLayout)
	old := s.shard
	if old != nil && old.name == name {
		return nil
	}
	next := s.log.newShard(name)
	if err := next.create(s.log.cfg.Dir); err != nil {
		next.close()
		return err
	}
	s.goOn(next)
	s.log.opened(next)
	if old != nil {
		old.close()
		s.log.finish(old)
	}
	return nil
}

// fail stops everything until recover has succeeded.
func (s *stream) fail(err error) {
	s.mu.Lock()
	first := s.failed == nil
	s.failed = err
	queue := s.queue
	s.queue = nil
	s.mu.Unlock()
	s.release(queue, fmt.Errorf("%w: audit log: %w", keystore.ErrUnavailable, err))
	if first {
		s.since, s.delay = s.log.cfg.Now(), firstDelay
		if s.shard != nil {
			s.shard.close()
		}
		s.log.cfg.Log.Error("the audit log cannot be written; nothing is released", "log", s.kind(), "err", err)
	}
}

func (s *stream) kind() string {
	if s.monthly {
		return actsName
	}
	return lifecycleName
}

// recover tries to go on where the log was.
func (s *stream) recover() {
	why := s.health()
	if why == nil {
		return
	}
	now := s.now()
	var cut repair
	var err error
	if s.shard != nil {
		cut, err = s.shard.recover()
	}
	if err == nil {
		err = s.turn(now)
	}
	if err != nil {
		s.delay = min(2*s.delay, longestWait)
		if s.shard != nil {
			s.shard.close()
		}
		s.mu.Lock()
		s.failed = err
		s.mu.Unlock()
		return
	}
	s.mu.Lock()
	s.failed = nil
	s.mu.Unlock()
	s.log.cfg.Log.Info("the audit log can be written again", "log", s.kind(), "cut", cut.bytes)
	s.log.repaired(s.shard, cut)
	s.log.note(keystore.Record{
		Principal: self, Action: keystore.ActAuditResume, Outcome: keystore.OutcomeDone,
		Reason: why.Error(),
		Detail: map[string]string{"log": s.kind(), "since": s.since.UTC().Format(TimeLayout)},
	})
}

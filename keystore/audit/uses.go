package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"chancery/keystore"
)

// uses numbers what each key of this node is asked to sign, and knows which
// numbers are not closed yet. Memory holds what is open and one counter for each
// kid; the file holds how far the numbers are.
type uses struct {
	path string

	mu       sync.RWMutex // guards what follows; a writer has the file for itself
	counters map[keystore.KID]*counter
	order    []*counter // by slot
	file     *os.File   // nil: none yet
	broken   bool       // it could not be written: it is made anew
	closed   bool
	head     useHead // as the file has it

	next *settling // owned by who tends
}

// A counter counts the uses of one key.
type counter struct {
	kid  keystore.KID
	slot int64

	writing sync.Mutex // guards what follows, and is taken before mu
	written int64      // last, as the file has it
	settled int64

	mu      sync.Mutex // guards what follows
	last    int64
	open    map[int64]bool // taken and not closed; true: counted
	counted map[keystore.Outcome]spans
}

func newUses(dir string) *uses {
	return &uses{path: filepath.Join(dir, actsName, usesName), counters: map[keystore.KID]*counter{}}
}

// Take returns the number of the use of a key that is about to be: 1 for the
// first that this node asks the key named kid to sign, and so on without a gap.
// The key is asked only after Take has returned. The number is closed by the
// entry whose Record has it as Use, beside the KID: by Act, Lifecycle or Refuse,
// whatever they return. What could not be entered the log closes by itself as
// soon as it can, in an entry of key.use: as unknown, as what it was refused for,
// or, if it was an intent, as failed: after an intent that was not entered the key
// is not to be asked. A number nobody closes is closed as unknown at the next
// start; see also GiveBack.
//
// A process that is killed leaves its numbers behind, in a file. There is no
// sync here: a power cut may lose the last numbers that have no entry yet, which
// are then taken again. Challenges and checkpoints have no numbers.
//
// The error wraps keystore.ErrUnavailable, and then the key is not to be asked.
// Take may be called concurrently.
func (l *Log) Take(kid keystore.KID) (use int64, err error) {
	c, err := l.uses.counter(kid)
	if err != nil {
		return 0, fmt.Errorf("%w: numbering the use of a key: %w", keystore.ErrUnavailable, err)
	}
	n := c.take()
	if err := l.uses.keep(c); err != nil {
		c.count(n, keystore.OutcomeFailed)
		return 0, fmt.Errorf("%w: numbering the use of a key: %w", keystore.ErrUnavailable, err)
	}
	return n, nil
}

// GiveBack says that the key was certainly not asked for the use that Take gave
// a number to, and that no entry has it. It reports whether the number will be
// given again, which is so if none was taken since; otherwise it stays open for
// the entry of an act that failed.
func (l *Log) GiveBack(kid keystore.KID, use int64) bool {
	c := l.uses.known(kid)
	if c == nil || !c.giveBack(use) {
		return false
	}
	_ = l.uses.keep(c) // a number too high at a start is closed as unknown
	return true
}

func (u *uses) known(kid keystore.KID) *counter {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.counters[kid]
}

// counter returns the counter of kid, which is made if there is none.
func (u *uses) counter(kid keystore.KID) (*counter, error) {
	if c := u.known(kid); c != nil {
		return c, nil
	}
	if kid == "" || len(kid) > limitName {
		return nil, fmt.Errorf("%q is no kid", kid)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.counters[kid]; c != nil {
		return c, nil
	}
	if u.closed {
		return nil, errors.New("the audit log is closed")
	}
	c := u.add(useSlot{kid: kid})
	if u.file == nil {
		return c, u.remake()
	}
	return c, nil
}

// add makes a counter that goes on from s. The caller has mu.
func (u *uses) add(s useSlot) *counter {
	u.order = append(u.order, &counter{
		kid: s.kid, slot: int64(len(u.order) + 1), written: s.last, settled: s.settled, last: s.last,
		open: map[int64]bool{}, counted: map[keystore.Outcome]spans{},
	})
	c := u.order[len(u.order)-1]
	u.counters[s.kid] = c
	return c
}

// keep has the file know how far c is, which one caller writes for all that wait.
func (u *uses) keep(c *counter) error {
	u.mu.RLock()
	c.writing.Lock()
	last := c.highest()
	var err error
	if last != c.written {
		err = u.write(c, last)
	}
	c.writing.Unlock()
	u.mu.RUnlock()
	if err == nil {
		return nil
	}
	u.spoil()
	return err
}

// spoil has the file made anew by who tends.
func (u *uses) spoil() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.broken = true
}

// write writes c's slot. The caller has mu for reading, and writing.
func (u *uses) write(c *counter, last int64) error {
	if u.closed {
		return errors.New("the audit log is closed")
	}
	if u.broken || u.file == nil {
		return fmt.Errorf("%s could not be written and is made anew", u.path)
	}
	var b [slotSize]byte
	s := useSlot{c.kid, last, c.settled}
	s.put(b[:])
	if _, err := u.file.WriteAt(b[:], c.slot*slotSize); err != nil {
		return err
	}
	c.written = last
	return nil
}

// remake writes the whole file anew, durably. The caller has mu.
func (u *uses) remake() error {
	slots := make([]useSlot, len(u.order))
	for i, c := range u.order {
		c.written = c.highest()
		slots[i] = useSlot{c.kid, c.written, c.settled}
	}
	f, err := writeUses(u.path, u.head, slots)
	if err != nil {
		return err
	}
	if u.file != nil {
		_ = u.file.Close() // what it held is in the new one
	}
	u.file, u.broken = f, false
	return nil
}

// stands makes sure that the file is the one at its path.
func (u *uses) stands() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || len(u.order) == 0 {
		return nil
	}
	if u.file == nil {
		return u.remake()
	}
	there, err := os.Stat(u.path)
	ours, errOurs := u.file.Stat()
	if err == nil && errOurs == nil && !u.broken && os.SameFile(there, ours) {
		return nil
	}
	return u.remake()
}

func (u *uses) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.file != nil {
		_ = u.file.Close() // nothing is buffered
		u.file = nil
	}
	u.closed = true
}

func (u *uses) all() []*counter {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return slices.Clone(u.order)
}

// highest returns the last number taken.
func (c *counter) highest() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func (c *counter) take() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.open[c.last] = false
	return c.last
}

func (c *counter) giveBack(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if counted, open := c.open[n]; !open || counted || n != c.last {
		return false
	}
	delete(c.open, n)
	c.last--
	return true
}

// close closes n: an entry that has it is durable.
func (c *counter) close(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, n)
}

// count has n entered as o with others, if it is still open.
func (c *counter) count(n int64, o keystore.Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if counted, open := c.open[n]; !open || counted {
		return
	}
	c.open[n] = true
	s := c.counted[o]
	s.add(n, n, place{})
	c.counted[o] = s
}

// leave counts the numbers that an earlier process took and did not close as
// unknown.
func (c *counter) leave(gaps spans) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range gaps {
		for n := g.From; n <= g.To; n++ {
			c.open[n] = true
		}
	}
	if len(gaps) > 0 {
		c.counted[keystore.OutcomeUnknown] = gaps
	}
}

// takeCounted returns what was counted as o, to be entered.
func (c *counter) takeCounted() map[keystore.Outcome]spans {
	c.mu.Lock()
	defer c.mu.Unlock()
	counted := c.counted
	c.counted = map[keystore.Outcome]spans{}
	return counted
}

// entered closes numbers that were counted, or counts them again.
func (c *counter) entered(s spans, o keystore.Outcome, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := c.counted[o]
	for _, x := range s {
		if err != nil {
			again.add(x.From, x.To, place{})
			continue
		}
		for n := x.From; n <= x.To; n++ {
			delete(c.open, n)
		}
	}
	if len(again) > 0 {
		c.counted[o] = again
	}
}

// settledUpTo reports whether no number up to n is open, and up to which all are
// closed for ever: n itself may have been given back, to be taken again.
func (c *counter) settledUpTo(n int64) (last int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := range c.open {
		if at <= n {
			return 0, false
		}
	}
	return min(n, c.last), true
}

// A settling is a point in acts before which only numbers are entered that had
// been taken by then: when those are closed, nobody need read what is before it.
type settling struct {
	head useHead
	last map[*counter]int64
}

// tend writes up to where in acts the numbers are settled, and takes another
// point to settle, up to which point says that nothing else is open; the keeper
// calls it.
func (u *uses) tend(point func() (useHead, bool)) error {
	if u.next != nil && !u.next.settled() {
		return nil
	}
	if u.next != nil {
		if err := u.settle(u.next); err != nil {
			u.spoil()
			return fmt.Errorf("writing the numbers of uses: %w", err)
		}
	}
	u.next = nil
	head, ok := point()
	if !ok {
		return nil
	}
	next := &settling{head, map[*counter]int64{}}
	for _, c := range u.all() { // after the length: what is before it had been taken
		next.last[c] = c.highest()
	}
	u.mu.RLock()
	moved := u.file != nil && next.head != u.head
	u.mu.RUnlock()
	if moved {
		u.next = next
	}
	return nil
}

// settled reports whether the numbers are closed, and leaves out of them what is
// to be taken again.
func (s *settling) settled() bool {
	for c, last := range s.last {
		settled, ok := c.settledUpTo(last)
		if !ok {
			return false
		}
		s.last[c] = settled
	}
	return true
}

// settle makes the file say that everything before s is settled. The slots are
// durable before the head is written: a head that is ahead of them would have
// numbers closed twice.
func (u *uses) settle(s *settling) error {
	u.mu.RLock()
	defer u.mu.RUnlock()
	moved := false
	for c, last := range s.last {
		c.writing.Lock()
		var err error
		if c.settled < last {
			c.settled, moved = last, true
			err = u.write(c, c.highest())
		}
		c.writing.Unlock()
		if err != nil {
			return err
		}
	}
	if moved {
		if err := datasync(u.file); err != nil {
			return err
		}
	}
	if _, err := u.file.WriteAt(s.head.encode(), 0); err != nil {
		return err
	}
	u.head = s.head
	return nil
}

// closeUses settles what can be and lets go of the file. Nothing is entered into
// acts any more.
func (l *Log) closeUses() {
	l.uses.next = nil
	err := l.uses.stands()
	for range 2 { // to take a point, and to settle it
		if err == nil {
			err = l.uses.tend(l.settlePoint)
		}
	}
	if err != nil {
		l.cfg.Log.Warn("the numbers of uses: the next start reads more of the log", "err", err)
	}
	l.uses.close()
}

// errCounted: an entry is not made; what it had to tell is counted.
var errCounted = errors.New("counted with others")

// flushUses hands the numbers that were counted to acts. It does not wait.
func (l *Log) flushUses() {
	for _, c := range l.uses.all() {
		for o, s := range c.takeCounted() {
			for len(s) > 0 {
				var now spans
				now, s = s.cut(limitDetailVal)
				q := l.newRequest(&keystore.Record{
					Principal: self, Action: keystore.ActKeyUse, Outcome: o, KID: c.kid, Count: int(now.count()),
					Detail: map[string]string{"uses": now.String()},
				})
				q.uses = closing{counter: c, outcome: o, many: now}
				if err := l.acts.submit(q); err != nil {
					q.uses.end(err)
				}
			}
		}
	}
}

// A closing is what an entry on its way closes; the zero one closes nothing.
type closing struct {
	counter *counter
	outcome keystore.Outcome // of what cannot be entered
	one     int64
	many    spans // instead of one: numbers that were counted
}

// closing returns what rec closes when it is entered.
func (u *uses) closing(rec *keystore.Record) closing {
	if rec.Use <= 0 {
		return closing{}
	}
	o := rec.Outcome
	switch o {
	case keystore.OutcomeDone:
		o = keystore.OutcomeUnknown
	case keystore.OutcomeIntent:
		o = keystore.OutcomeFailed
	}
	return closing{counter: u.known(rec.KID), outcome: o, one: rec.Use}
}

// end closes the numbers, or counts them if they could not be entered.
func (x closing) end(err error) {
	switch {
	case x.counter == nil:
	case x.many != nil:
		x.counter.entered(x.many, x.outcome, err)
	case err != nil:
		x.counter.count(x.one, x.outcome)
	default:
		x.counter.close(x.one)
	}
}

package audit

import (
	"context"
	"time"

	"chancery/keystore"
)

// A Pending is an act that is on its way into the log.
type Pending interface {
	// Wait returns when the act is on stable storage. Its errors are those of Act. It
	// is to be called once at most, and not after Leave.
	Wait(ctx context.Context) (Receipt, error)
	// Leave is for whoever will not wait: the act is entered all the same.
	Leave()
}

// Start begins to enter rec into acts and does not wait for it: its caller does
// something else meanwhile, and then either waits for it or leaves it. Where many do so
// at a time they are gathered for up to two milliseconds: until one of them is waited
// for, or longer if they come fast. Who enters by Act, or says Hurry, has all written.
func (l *Log) Start(rec keystore.Record) Pending {
	q := l.newRequest(&rec)
	q.on = l.acts
	q.on.begun.Add(1)
	if err := l.acts.submit(q); err != nil {
		l.acts.ended(q, err)
		q.err = err
		q.done <- struct{}{}
	}
	return q
}

// Hurry has what was started written now: nothing else is done meanwhile.
func (l *Log) Hurry() { l.acts.hurry() }

// Wait implements Pending.
func (q *request) Wait(ctx context.Context) (Receipt, error) {
	q.on.begun.Add(-1)
	if !q.taken.Load() {
		tell(q.on.wanted)
	}
	return q.on.await(ctx, q)
}

// Leave implements Pending.
func (q *request) Leave() { q.on.begun.Add(-1) }

func (s *stream) hurry() { tell(s.urgent) }

// tell sends on c, which holds one, unless it has been told already.
func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func drain(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// A crowd is how many entries come, and how fast. Each write of the journal costs the
// same for one entry and for many, and one that was only started is seldom waited for at
// once: its signature takes longer. So while many are on their way to one, nothing is
// written until somebody is back; and while many come fast, a write follows the one
// before it after a pause even so.
type crowd struct {
	pause time.Duration
	thick bool      // many came lately
	at    time.Time // of the last group
	n     int       // that came since
	since time.Time
}

const (
	crowdPause = 2 * time.Millisecond
	crowdRate  = 4 // entries in a millisecond; four callers by themselves do not make as many
	crowdBegun = 4 // entries that nobody waits for yet
	crowdAfter = 5 * time.Millisecond
)

// took is told that n entries were taken.
func (c *crowd) took(n int, now time.Time) {
	c.at = now
	c.n += n
	if took := now.Sub(c.since); took >= crowdAfter { // one group says little
		c.thick = time.Duration(c.n)*time.Millisecond/crowdRate >= took
		c.n, c.since = 0, now
	}
}

// wait waits while more are likely to come, or until one of them is urgent, or wanted
// while they do not come fast. begun is how many nobody waits for yet.
func (c *crowd) wait(begun int64, wanted, urgent <-chan struct{}) {
	until := c.pause
	switch {
	case c.thick:
		until, wanted = time.Until(c.at.Add(c.pause)), nil
	case begun <= crowdBegun:
		drain(urgent) // it was taken for granted
		return
	}
	pause := time.NewTimer(until)
	defer pause.Stop()
	select {
	case <-urgent:
	case <-wanted:
	case <-pause.C:
	}
}

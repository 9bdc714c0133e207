package audit

import (
	"context"
	"time"

	"chancery/keystore"
)

// A Pending is an act that is on its way into the log.
type Pending interface {
	// Wait returns when the act is on stable storage. Its errors are those of Act. It
	// is to be called once at most; an act that nobody waits for is entered as well.
	Wait(ctx context.Context) (Receipt, error)
}

// Start begins to enter rec into acts and does not wait for it: its caller does
// something else meanwhile. Where many do so at a time they are gathered for up to
// two milliseconds, unless somebody enters by Act, or says Hurry.
func (l *Log) Start(rec keystore.Record) Pending {
	q := l.newRequest(&rec)
	if err := l.acts.submit(q); err != nil {
		l.acts.ended(q, err)
		q.err = err
		q.done <- struct{}{}
	}
	q.on = l.acts
	return q
}

// Hurry has what was started written now: nothing else is done meanwhile.
func (l *Log) Hurry() { l.acts.hurry() }

// Wait implements Pending.
func (q *request) Wait(ctx context.Context) (Receipt, error) { return q.on.await(ctx, q) }

func (s *stream) hurry() {
	select {
	case s.urgent <- struct{}{}:
	default:
	}
}

// A crowd is how fast entries come. Each write of the journal costs the same for one
// entry and for many, and one that was only started is seldom waited for at once: its
// signature takes longer. So while many come, a write follows the one before it after
// a pause.
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
	crowdAfter = 5 * time.Millisecond
)

// took is told that n entries were taken.
func (c *crowd) took(n int, now time.Time) {
	c.at = now
	c.n += n
	if took := now.Sub(c.since); took >= crowdAfter { // one group says little
		c.thick = time.Duration(c.n)*time.Millisecond >= crowdRate*took
		c.n, c.since = 0, now
	}
}

// wait waits while more are likely to come, or until one of them is urgent.
func (c *crowd) wait(urgent <-chan struct{}) {
	if !c.thick {
		select {
		case <-urgent: // it was taken for granted
		default:
		}
		return
	}
	select {
	case <-urgent:
	case <-time.After(time.Until(c.at.Add(c.pause))):
	}
}

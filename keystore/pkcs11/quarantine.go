package pkcs11

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"chancery/keystore"
)

// A quarantine keeps a key from ending one worker after the other, each with the
// signatures of all the other keys that are at it. A key whose signatures do not
// verify or for which workers end is refused for a while; then one signature is
// tried.
type quarantine struct {
	bad atomic.Bool // there is something to look at under mu

	mu    sync.Mutex
	marks int       // against it since it last signed
	tries int       // of the pauses, which grow with them
	until time.Time // zero: nothing is refused
	cause error
}

const (
	quarantineMarks = 4 // a worker that ended is one, a wrong signature two
	firstQuarantine = time.Second
	longQuarantine  = 15 * time.Second
)

// failed marks the key. It reports whether the key was in quarantine already.
func (q *quarantine) failed(now func() time.Time, cause error, marks int) (already bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	already = !q.until.IsZero()
	q.marks += marks
	q.cause = cause
	q.bad.Store(true)
	if q.marks >= quarantineMarks {
		q.until = now().Add(min(firstQuarantine<<min(q.tries, 16), longQuarantine))
		q.tries++
	}
	return already
}

// signed takes all marks back.
func (q *quarantine) signed() {
	if !q.bad.Load() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.marks, q.tries, q.until, q.cause = 0, 0, time.Time{}, nil
	q.bad.Store(false)
}

// refuses returns an error that wraps keystore.ErrUnavailable while the key is
// in quarantine. The first after that is let through, for a trial; the others
// are refused until it is known what that came to.
func (q *quarantine) refuses(now func() time.Time) (trial bool, err error) {
	if !q.bad.Load() {
		return false, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.until.IsZero() {
		return false, nil
	}
	at := now()
	if at.Before(q.until) {
		return false, &answerError{keystore.ErrUnavailable, fmt.Sprintf("%v: this key is in quarantine: %v", keystore.ErrUnavailable, q.cause)}
	}
	q.until = at.Add(firstQuarantine)
	return true, nil
}

package audit

import (
	"context"
	"fmt"

	"chancery/keystore"
)

// LifecycleOrigin returns the origin of a node's lifecycle log.
func LifecycleOrigin(host, node string) string {
	return originator(keyName(host, node)).of(lifecycleName)
}

// Head returns how far the lifecycle log has come.
func (l *Log) Head() (origin string, head Head) {
	s := l.lifecycle.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.origin, Head{s.tree.size, s.tree.root()}
}

// Fits returns nil if the lifecycle log was at head once, which something outside
// remembers, and else an error wrapping ErrInconsistent. It reads the log up to
// there. Other errors are of the reading, and of ctx.
func (l *Log) Fits(ctx context.Context, head Head) error {
	s := l.lifecycle.current()
	if n := s.length(); head.Size > n {
		return inconsistent(s.origin, "it has %d entries and had %d", n, head.Size)
	}
	if head.Size == 0 {
		return nil
	}
	at := tree{}
	hasher := newLeafHasher()
	for r, err := range entries(s.dir, 0) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("reading the lifecycle log: %w", err)
		}
		if at.add(hasher.sum(r.entry), nil); at.size == head.Size {
			break
		}
	}
	if at.size != head.Size || at.root() != head.Root {
		return inconsistent(s.origin, "its first %d entries are not the ones remembered", head.Size)
	}
	return nil
}

// Distrust stops the logs for good: nothing is entered, released or signed any
// more, and Health returns err, which says why and what to do.
func (l *Log) Distrust(err error) {
	l.distrusted.CompareAndSwap(nil, &err)
	l.cfg.Log.Error("the audit log is not trusted; nothing is released", "err", err)
}

// trouble returns nil, or why the logs are not trusted.
func (l *Log) trouble() error {
	if err := l.distrusted.Load(); err != nil {
		return fmt.Errorf("%w: audit log: %w", keystore.ErrUnavailable, *err)
	}
	return nil
}

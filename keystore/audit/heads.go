package audit

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"chancery/keystore"
)

// headEvery is how often lifecycle is told how far the acts have come, so that
// whoever keeps only its checkpoints holds the acts too.
const headEvery = time.Hour

// tendEvery is how often the numbers of uses are settled.
const tendEvery = 10 * time.Second

// chores does what the keeper has to do beside checkpoints. What fails is tried
// again at the next round.
func (l *Log) chores(ctx context.Context) {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	now := l.cfg.Now()
	err := l.uses.stands()
	if err == nil && now.Sub(l.tended) >= tendEvery {
		l.tended = now
		_ = l.closeIntents(ctx, l.intents.lost(), "its outcome could not be entered") // Health tells why
		err = l.uses.tend(l.settlePoint)
	}
	l.say(&l.numbering, err, "the numbers of uses")
	if now.Sub(l.headAt) >= headEvery {
		_ = l.enterHead(ctx) // Health tells why
	}
	l.lookAtPeers(ctx, now)
}

// lastChores does what is left of them when acts is closed.
func (l *Log) lastChores(ctx context.Context) error {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	l.closeUses()
	return l.enterHead(ctx)
}

// enterHead enters into lifecycle how far the acts have come, if it does not
// know. The caller has keeping.
func (l *Log) enterHead(ctx context.Context) error {
	var c Checkpoint
	if s := l.acts.current(); s != nil {
		c = s.head()
	}
	if c.Size > 0 && (c.Origin != l.head.Origin || c.Size != l.head.Size) {
		if _, err := l.Lifecycle(ctx, headRecord(keystore.ActAuditHead, c)); err != nil {
			return fmt.Errorf("entering how far the acts have come: %w", err)
		}
		l.head = c
	}
	l.headAt = later(l.headAt, l.cfg.Now())
	return nil
}

// head returns the log as it stands.
func (s *shard) head() Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Checkpoint{s.origin, s.tree.size, s.tree.root()}
}

func headRecord(action keystore.Action, c Checkpoint) keystore.Record {
	return keystore.Record{
		Principal: self, Action: action, Outcome: keystore.OutcomeDone,
		Detail: map[string]string{"origin": c.Origin, "size": strconv.FormatInt(c.Size, 10), "root": c.Root.String()},
	}
}

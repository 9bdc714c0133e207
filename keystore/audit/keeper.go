package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"chancery/keystore"
)

// keep does what happens beside the entries: checkpoints, the ends of months,
// counted refusals, and what the log tells of itself.
func (l *Log) keep(ctx context.Context) {
	defer close(l.stopped)
	if !l.cfg.idle {
		var tending sync.WaitGroup
		tending.Go(func() { l.tend(ctx) })
		defer tending.Wait()
	}
	tick := time.NewTicker(l.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-l.kick:
		}
		if l.refusals.due() {
			l.flushRefusals()
			l.flushUses()
		}
		l.keepOnce(ctx)
	}
}

// keeperPatience is how long one round of checkpoints may take.
const keeperPatience = 10 * time.Second

func (l *Log) keepOnce(ctx context.Context) {
	round, cancel := context.WithTimeout(ctx, keeperPatience)
	defer cancel()
	entering, done := context.WithTimeout(context.WithoutCancel(ctx), keeperPatience) // closing in between would have them entered twice
	defer done()
	l.flushNotes(entering)
	l.chores(entering)
	switch err := l.Checkpoint(round); {
	case err == nil:
		l.say(&l.unsigned, nil, "checkpoints are made again")
	case ctx.Err() == nil:
		l.say(&l.unsigned, err, "no checkpoint was made")
	}
}

// hurry has the keeper look now.
func (l *Log) hurry() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// say keeps a state's error and logs when it begins and ends.
func (l *Log) say(state *error, err error, what string) {
	l.mu.Lock()
	before := *state
	*state = err
	l.mu.Unlock()
	switch {
	case errors.Is(err, ErrNoKey): // not yet; readiness tells while it lasts
	case err != nil && (before == nil || errors.Is(before, ErrNoKey)): // its text may change each time
		l.cfg.Log.Warn(what, "err", err)
	case err == nil && before != nil && !errors.Is(before, ErrNoKey):
		l.cfg.Log.Info(what)
	}
}

// Checkpoint makes the checkpoints that are due, of the logs as they stand now:
// of months that ended, which then get their entry in lifecycle, of acts, and
// last of lifecycle. The keeper calls it every Config.Interval.
func (l *Log) Checkpoint(ctx context.Context) error {
	if err := l.trouble(); err != nil {
		return err
	}
	select {
	case l.publishing <- struct{}{}:
		defer func() { <-l.publishing }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for another checkpoint: %w", context.Cause(ctx))
	}
	var errs []error
	for _, s := range l.takeFinished() {
		if err := l.seal(ctx, s); err != nil {
			errs = append(errs, err)
			l.finish(s)
		}
	}
	if s := l.acts.current(); s != nil {
		errs = append(errs, l.publishShard(ctx, s))
	}
	errs = append(errs, l.publishShard(ctx, l.lifecycle.current()))
	return errors.Join(errs...)
}

// publishShard writes s's new tiles, tells the memory, and writes a checkpoint
// if there is a key. The caller has publishing.
func (l *Log) publishShard(ctx context.Context, s *shard) error {
	t, full := s.snapshot()
	if err := writeTiles(s.dir, full); err != nil {
		s.untake(full)
		return fmt.Errorf("writing tiles: %w", err)
	}
	if t.size == 0 {
		return nil
	}
	c := Checkpoint{s.origin, t.size, t.root()}
	if t.size != s.remembered && l.tell(ctx, c) == nil {
		s.remembered = t.size
	}
	keys, asked, err := l.keys(ctx)
	if t.size == s.signed && (err != nil || slices.Equal(asked, s.asked)) || l.cfg.Keys == nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("no key for checkpoints: %w", err)
	}
	signed, err := l.sign(ctx, keys, c)
	if err != nil {
		return fmt.Errorf("signing a checkpoint: %w", err)
	}
	if err := writeTiles(s.dir, t.edge()); err != nil {
		return fmt.Errorf("writing tiles: %w", err)
	}
	if err := l.handOver(ctx, s, keys, signed.by); err != nil {
		return fmt.Errorf("keeping the last checkpoint of a log key: %w", err)
	}
	if err := replace(filepath.Join(s.dir, checkpointFile), signed.note); err != nil {
		return fmt.Errorf("writing a checkpoint: %w", err)
	}
	s.signed, s.asked = t.size, asked
	return nil
}

// writeTiles writes tiles under dir. A full tile replaces its narrower ones.
func writeTiles(dir string, tiles []tile) error {
	for _, t := range tiles {
		path := filepath.Join(dir, t.path())
		if err := replace(path, t.bytes()); err != nil {
			return err
		}
		if len(t.hashes) == tileWidth {
			if err := os.RemoveAll(path + ".p"); err != nil {
				return err
			}
		}
	}
	return nil
}

// memoryPatience is how long an entry in lifecycle waits for the memory.
const memoryPatience = time.Second

// remember tells the memory of s's head. The committer calls it.
func (l *Log) remember(s *shard) {
	if l.cfg.Memory == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), memoryPatience)
	defer cancel()
	_ = l.tell(ctx, Checkpoint{s.origin, s.tree.size, s.tree.root()}) // logged; the keeper tries again
}

func (l *Log) tell(ctx context.Context, c Checkpoint) error {
	if l.cfg.Memory == nil {
		return nil
	}
	err := l.cfg.Memory.Remember(ctx, c.Origin, c.Size, c.Root)
	if errors.Is(err, keystore.ErrOvertaken) {
		err = nil // it knows more
	}
	l.say(&l.memory, err, "the memory of the audit log's size")
	return err
}

// finish queues a month that ended for its last checkpoint.
func (l *Log) finish(s *shard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finished = append(l.finished, s)
}

func (l *Log) takeFinished() []*shard {
	l.mu.Lock()
	defer l.mu.Unlock()
	shards := l.finished
	l.finished = nil
	return shards
}

// seal makes a month's last checkpoint a leaf of lifecycle.
func (l *Log) seal(ctx context.Context, s *shard) error {
	if err := l.publishShard(ctx, s); err != nil {
		return err
	}
	t, _ := s.snapshot()
	if t.size > 0 && s.signed != t.size {
		return errors.New("a finished month waits for the log key")
	}
	sum := sha256.Sum256([]byte(s.origin))
	rec := keystore.Record{
		ID: hex.EncodeToString(sum[:16]), Principal: self,
		Action: keystore.ActAuditShard, Outcome: keystore.OutcomeDone,
		Detail: map[string]string{
			"origin": s.origin, "size": strconv.FormatInt(t.size, 10), "root": t.root().String(),
		},
	}
	receipt, done, err := l.Find(ctx, rec.ID)
	if err == nil && !done {
		receipt, err = l.Lifecycle(ctx, rec)
	}
	if err != nil {
		return fmt.Errorf("entering the end of a month: %w", err)
	}
	if err := replace(filepath.Join(s.dir, finalName), []byte(receipt.Entry+"\n")); err != nil {
		return err
	}
	l.tendLater()
	return nil
}

func (s *shard) isFinal() bool {
	_, err := os.Stat(filepath.Join(s.dir, finalName))
	return err == nil
}

// loadFinal looks at a closed month: its files and its last checkpoint.
func (s *shard) loadFinal(remembered Head) error {
	packed, err := s.count()
	if err != nil {
		return err
	}
	c, err := s.checkpoint()
	if err != nil {
		return err
	}
	if packed < 0 && len(s.journals) == 0 || packed >= 0 && packed != c.Size || c.Size < remembered.Size || c.Size == remembered.Size && c.Size > 0 && c.Root != remembered.Root {
		return inconsistent(s.origin, "it is not as it was closed %s", restoreHint)
	}
	return nil
}

// note queues what the log tells of itself; it goes to lifecycle when it can.
func (l *Log) note(rec keystore.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, rec)
}

// opened notes that a month has begun, so that one whose files are gone is
// missed by whoever reads the lifecycle.
func (l *Log) opened(s *shard) {
	l.note(keystore.Record{
		Principal: self, Action: keystore.ActAuditShard, Outcome: keystore.OutcomeIntent,
		Detail: map[string]string{"origin": s.origin},
	})
	l.hurry()
}

// tellOf notes that a month has begun if lifecycle does not tell: the process
// may have ended between the two.
func (l *Log) tellOf(ctx context.Context, s *shard) error {
	_, told, err := l.find(ctx, []byte(keystore.ActAuditShard), func(r *keystore.Record) bool {
		return r.Action == keystore.ActAuditShard && r.Detail["origin"] == s.origin
	})
	if err == nil && !told {
		l.opened(s)
	}
	return err
}

// repaired notes a cut.
func (l *Log) repaired(s *shard, cut repair) {
	if cut.bytes == 0 {
		return
	}
	l.cfg.Log.Warn("cut an unacknowledged tail of the audit log", "origin", s.origin, "entry", cut.index, "bytes", cut.bytes)
	l.note(keystore.Record{
		Principal: self, Action: keystore.ActAuditRepair, Outcome: keystore.OutcomeDone,
		Reason: "a torn tail that was never acknowledged was cut",
		Detail: map[string]string{
			"origin": s.origin, "index": strconv.FormatInt(cut.index, 10), "bytes": strconv.FormatInt(cut.bytes, 10),
		},
	})
}

// flushNotes enters what waits; what cannot be entered goes on waiting.
func (l *Log) flushNotes(ctx context.Context) {
	l.mu.Lock()
	notes := l.notes
	l.notes = nil
	l.mu.Unlock()
	for i, rec := range notes {
		if _, err := l.Lifecycle(ctx, rec); err != nil {
			l.mu.Lock()
			l.notes = append(notes[i:], l.notes...)
			l.mu.Unlock()
			return
		}
	}
}

package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore"
)

// A closedMonth is what lifecycle says of a month of acts that ended.
type closedMonth struct {
	name   string // "acts/2026-10"
	origin string
	Head
	prune time.Time // of the entry that says that it is removed; zero: it is kept
	entry int64     // the index of that entry
}

func (m closedMonth) pruned() bool { return !m.prune.IsZero() }

// parseSeal reads size and root of a month from the entry that closes or prunes it.
func parseSeal(detail map[string]string) (Head, error) {
	size, err := strconv.ParseInt(detail["size"], 10, 64)
	root, err2 := tlog.ParseHash(detail["root"])
	if err != nil || err2 != nil || size < 0 {
		return Head{}, errors.New("no size and root of a month")
	}
	return Head{size, root}, nil
}

// closedMonths returns, by origin, what lifecycle says of the months it closed.
func closedMonths(ctx context.Context, lifecycle *shard) (map[string]closedMonth, error) {
	months, limit := map[string]closedMonth{}, lifecycle.length()
	for at, err := range entries(lifecycle.dir, 0) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the months that are closed: %w", err)
		}
		if at.index >= limit {
			break
		}
		if !bytes.Contains(at.entry, []byte(keystore.ActAuditShard)) && !bytes.Contains(at.entry, []byte(keystore.ActAuditPrune)) {
			continue
		}
		e, err := ParseEntry(at.entry)
		if err != nil {
			return nil, fmt.Errorf("looking for the months that are closed: %w", err)
		}
		followClosed(months, &e)
	}
	return months, nil
}

func followClosed(months map[string]closedMonth, e *Entry) {
	origin := e.Detail["origin"]
	m := months[origin]
	switch {
	case e.Outcome != keystore.OutcomeDone:
	case e.Action == keystore.ActAuditShard:
		head, err := parseSeal(e.Detail)
		if err != nil {
			return
		}
		m.name, m.origin, m.Head = NameOf(origin), origin, head
		months[origin] = m
	case e.Action == keystore.ActAuditPrune && m.name != "":
		m.prune, m.entry = e.Time, e.Sequence
		months[origin] = m
	}
}

// tendInterval is how often the closed months are looked at.
const tendInterval = time.Hour

// tend packs and prunes closed months until ctx ends: at the start, when a month
// was closed, and now and then.
func (l *Log) tend(ctx context.Context) {
	tick := time.NewTicker(tendInterval)
	defer tick.Stop()
	for {
		err := l.tendOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		what := "a closed month of acts could not be packed or removed; it is tried again"
		if err == nil {
			what = "closed months of acts are packed and removed as they are due"
		}
		l.say(&l.untended, err, what)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-l.closed:
		}
	}
}

// tendLater has tend look now.
func (l *Log) tendLater() {
	select {
	case l.closed <- struct{}{}:
	default:
	}
}

// tendOnce does what is due, one month at a time, and returns what could not be
// done.
func (l *Log) tendOnce(ctx context.Context) error {
	if l.trouble() != nil {
		return nil // nothing is changed in logs that are not trusted
	}
	byOrigin, err := closedMonths(ctx, l.lifecycle.current())
	if err != nil {
		return err
	}
	there, err := listMonths(l.cfg.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range there {
		s := l.newShard(actsName + "/" + name)
		m, ok := byOrigin[s.origin]
		if !ok || !s.isFinal() { // not closed, or away
			continue
		}
		if err := l.packMonth(ctx, s, m.Head); err != nil {
			errs = append(errs, fmt.Errorf("packing %s: %w", s.origin, err))
		}
	}
	errs = append(errs, l.pruneMonths(ctx, there, byOrigin))
	return errors.Join(errs...)
}

// packMonth puts a pack in the place of a closed month's journals. A crash leaves
// the journals, the pack, or both, and the next time goes on from there.
func (l *Log) packMonth(ctx context.Context, s *shard, sealed Head) error {
	numbers, err := listJournals(s.dir)
	if err != nil {
		return err
	}
	path, rest := packPath(s.dir), l.rest(ctx)
	if len(numbers) == 0 {
		return nil
	}
	if exists(path) {
		err := checkPack(path, s.origin, sealed, rest)
		_, damaged := errors.AsType[damage](err)
		if err == nil {
			return l.dropJournals(s, numbers)
		}
		if !damaged && !errors.Is(err, errNotSealed) {
			return err
		}
	}
	if err := s.roomToPack(numbers); err != nil {
		return err
	}
	unfinished := path + newSuffix
	if err := packJournals(s.dir, unfinished, s.origin, rest); err != nil {
		return err
	}
	if err := l.step("check"); err != nil {
		return err
	}
	if err := checkPack(unfinished, s.origin, sealed, rest); err != nil {
		return errors.Join(err, removeIfThere(unfinished))
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return l.dropJournals(s, numbers)
}

// dropJournals removes the journals that a pack stands for, the last first, so
// that those that are there begin with the first.
func (l *Log) dropJournals(s *shard, numbers []int) error {
	if err := syncDir(s.dir); err != nil {
		return err
	}
	for _, n := range slices.Backward(numbers) {
		if err := l.step("drop"); err != nil {
			return err
		}
		if err := os.Remove(journalPath(s.dir, n)); err != nil {
			return err
		}
	}
	return syncDir(s.dir)
}

// roomToPack returns an error if a pack could take the space that the next
// journals need: it is usually a fifth of the journals, and half at most.
func (s *shard) roomToPack(numbers []int) error {
	need := 4 * s.size
	for _, n := range numbers {
		info, err := os.Stat(journalPath(s.dir, n))
		if err != nil {
			return err
		}
		need += info.Size() / 2
	}
	free, err := freeSpace(s.dir)
	if err == nil && free < need {
		err = fmt.Errorf("%d bytes are free on its disk, and it takes %d to be safe", free, need)
	}
	return err
}

// rest returns what packing calls now and then: it sleeps three times as long as
// passed since the last call, so that packing takes a quarter of one processor
// at most, and ends with ctx.
func (l *Log) rest(ctx context.Context) func() error {
	last := time.Now()
	return func() error {
		err := pause(ctx, 3*time.Since(last))
		last = time.Now()
		return err
	}
}

// step is where tests end the work on closed months, as a crash would.
func (l *Log) step(name string) error {
	if l.cfg.step == nil {
		return nil
	}
	return l.cfg.step(name)
}

// monthOf returns the first moment of the month that a log of acts is named for.
func monthOf(name string) (time.Time, bool) {
	t, err := time.Parse(monthLayout, strings.TrimPrefix(name, actsName+"/"))
	return t, err == nil
}

package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"chancery/keystore"
)

// prunedPrefix begins the name under which a month is removed.
const prunedPrefix = ".pruned-"

// keptMonths is how many of the newest months stay whatever the policy says: the
// one being written, and the one before.
const keptMonths = 2

// pruneGrace is how long after its entry a month is removed at the earliest, so
// that whoever is verifying it comes to the end.
const pruneGrace = time.Hour

// pruneDue reports whether the policy has a month removed at now: its last moment
// is longer ago than keep.
func pruneDue(month time.Time, keep time.Duration, now time.Time) bool {
	return keep > 0 && month.AddDate(0, 1, 0).Add(keep).Before(now)
}

// pruneMonths removes the months that Config.KeepActs no longer keeps: first an
// entry in lifecycle, then, when a checkpoint signs that, the files. there are the
// months that are there, ascending.
func (l *Log) pruneMonths(ctx context.Context, there []string, closed map[string]closedMonth) error {
	errs := []error{l.removeLeft()}
	for _, name := range there[:max(len(there)-keptMonths, 0)] {
		month, _ := monthOf(name)
		m, sealed := closed[originator(keyName(l.cfg.Host, l.cfg.Node)).of(actsName+"/"+name)]
		if !sealed || !pruneDue(month, l.cfg.KeepActs, l.cfg.Now()) {
			continue
		}
		if err := l.pruneMonth(ctx, m); err != nil {
			errs = append(errs, fmt.Errorf("removing %s: %w", m.origin, err))
		}
	}
	return errors.Join(errs...)
}

func (l *Log) pruneMonth(ctx context.Context, m closedMonth) error {
	if !m.pruned() {
		return l.enterPrune(ctx, m)
	}
	if l.cfg.Now().Before(m.prune.Add(pruneGrace)) {
		return nil
	}
	c, err := l.lifecycle.current().checkpoint()
	if err != nil {
		return err
	}
	if c.Size <= m.entry {
		return nil // what nothing signs would not excuse that the month is gone
	}
	if err := l.step("prune"); err != nil {
		return err
	}
	acts := filepath.Join(l.cfg.Dir, actsName)
	name := strings.TrimPrefix(m.name, actsName+"/")
	if err := os.Rename(filepath.Join(acts, name), filepath.Join(acts, prunedPrefix+name)); err != nil {
		return err
	}
	if err := syncDir(acts); err != nil {
		return err
	}
	l.cfg.Log.Info("a month of acts is removed, as the policy says", "origin", m.origin, "policy", prunePolicy(l.cfg.KeepActs))
	return l.removeLeft()
}

func (l *Log) enterPrune(ctx context.Context, m closedMonth) error {
	sum := sha256.Sum256([]byte("prune " + m.origin))
	_, err := l.Lifecycle(ctx, keystore.Record{
		ID: hex.EncodeToString(sum[:16]), Principal: self,
		Action: keystore.ActAuditPrune, Outcome: keystore.OutcomeDone,
		Detail: map[string]string{
			"origin": m.origin, "size": strconv.FormatInt(m.Size, 10), "root": m.Root.String(),
			"policy": prunePolicy(l.cfg.KeepActs),
		},
	})
	return err
}

// prunePolicy is how the policy is stated, in days where it is whole days.
func prunePolicy(keep time.Duration) string {
	const day = 24 * time.Hour
	if keep%day == 0 {
		return fmt.Sprintf("keep_acts %dd", keep/day)
	}
	return "keep_acts " + keep.String()
}

// parsePolicy returns for how long a policy that prunePolicy stated keeps a month.
func parsePolicy(s string) (time.Duration, error) {
	text, ok := strings.CutPrefix(s, "keep_acts ")
	if !ok {
		return 0, fmt.Errorf("policy %.100q: want keep_acts and a duration", s)
	}
	if days, whole := strings.CutSuffix(text, "d"); whole {
		n, err := strconv.ParseInt(days, 10, 32)
		if err != nil || n < 1 || n > 100_000 {
			return 0, fmt.Errorf("policy %.100q: want a number of days", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	return time.ParseDuration(text)
}

// removeLeft removes the months that were given the name of what is removed.
func (l *Log) removeLeft() error {
	acts := filepath.Join(l.cfg.Dir, actsName)
	found, err := os.ReadDir(acts)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, f := range found {
		if name, ok := strings.CutPrefix(f.Name(), prunedPrefix); ok && isMonth(name) {
			errs = append(errs, l.removeMonth(filepath.Join(acts, f.Name()), name))
		}
	}
	return errors.Join(errs...)
}

// removeMonth removes a month's directory for good, and what it or its pack was
// moved to if that bears the month's name.
func (l *Log) removeMonth(dir, name string) error {
	if err := l.step("remove"); err != nil {
		return err
	}
	for _, link := range []string{packPath(dir), filepath.Join(dir, "tile"), dir} {
		if !isLink(link) {
			continue
		}
		if err := removeTarget(link, name); err != nil {
			l.cfg.Log.Warn("what a pruned month was moved to stays: remove it by hand", "month", name, "err", err)
		}
	}
	return os.RemoveAll(dir)
}

// removeTarget removes what link points to. A link made by mistake must not cost
// more than the month: the target, or the directory it is in, has its name.
func removeTarget(link, name string) error {
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return err
	}
	named := strings.Contains(filepath.Base(target), name)
	if filepath.Base(target) == filepath.Base(link) { // .../2026-08/pack
		named = strings.Contains(filepath.Base(filepath.Dir(target)), name)
	}
	if !named {
		return fmt.Errorf("%s does not bear the month's name", target)
	}
	return os.RemoveAll(target)
}

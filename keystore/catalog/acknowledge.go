package catalog

import (
	"context"
	"fmt"
	"time"

	"chancery/keystore"
)

// Opened records, before a node serves a key set that no node has served, that
// from now on one does. Nothing is written if one did before.
//
// The error wraps keystore.ErrOvertaken if versions are not all that are known at
// this moment: caches would keep a set without the others.
func (c *Catalog) Opened(ctx context.Context, keyset string, versions []int) (Change, error) {
	return c.change(ctx, changing, fmt.Sprintf("opening key set %q", keyset), func(tx *transaction, id string) (Change, error) {
		before, err := loadSet(tx, keyset)
		if err != nil {
			return Change{}, err
		}
		if !before.ServedAt.IsZero() {
			return Change{Revision: tx.newest.revision}, errNothing
		}
		if len(versions) == 0 || !sameVersions(before.Known(), versions) {
			return Change{}, fmt.Errorf("key set %q has other versions than %v: %w", keyset, versions, keystore.ErrOvertaken)
		}
		after := before.Clone()
		after.ServedAt = tx.now
		revision, _, err := writeSet(tx, id, before, after)
		return Change{Revision: revision}, err
	})
}

func sameVersions(known []*keystore.Version, numbers []int) bool {
	is := make(map[int]bool)
	for _, n := range numbers {
		is[n] = true
	}
	for _, v := range known {
		if !is[v.Number] {
			return false
		}
	}
	return len(is) == len(known)
}

// Acknowledge records that from at on every set that node serves has these
// versions of the key set. On PostgreSQL at does not count: it is the database's
// clock that says when. If any of it is new, the versions' ServedAt becomes at
// unless it is later, so does the set's unless it has one, the revision advances,
// and recs go into the outbox; otherwise nothing is written. Versions that have
// left the set meanwhile are passed over.
func (c *Catalog) Acknowledge(ctx context.Context, node, keyset string, versions []int, at time.Time, recs ...keystore.Record) (Change, error) {
	at = cut(at)
	if node == "" || at.IsZero() {
		return Change{}, illegal("an acknowledgement needs its node and time")
	}
	return c.change(ctx, changing, fmt.Sprintf("acknowledging key set %q", keyset), func(tx *transaction, id string) (Change, error) {
		if tx.db.shared() {
			at = tx.now
		}
		before, err := loadSet(tx, keyset)
		if err != nil {
			return Change{}, err
		}
		after := before.Clone()
		fresh := false
		for _, number := range versions {
			isNew, err := acknowledge(tx, after, keystore.Ack{Node: node, Version: number, At: at})
			if err != nil {
				return Change{}, err
			}
			fresh = fresh || isNew
		}
		if !fresh {
			return Change{Revision: tx.newest.revision}, errNothing
		}
		if after.ServedAt.IsZero() {
			after.ServedAt = at
		}
		revision, err := advanceSet(tx, id, before, after)
		if err != nil {
			return Change{}, err
		}
		rows, err := putOutbox(tx, id, recs)
		return Change{revision, rows}, err
	})
}

// acknowledge writes a node's word on a version of ks, and reports whether it is
// new.
func acknowledge(tx *transaction, ks *keystore.KeySet, ack keystore.Ack) (isNew bool, err error) {
	v, ok := ks.Version(ack.Version)
	if !ok || v.KID == "" {
		return false, illegal("key set %q has no version %d to serve", ks.Name, ack.Version)
	}
	if !v.State.Known() {
		return false, nil
	}
	n, err := tx.affected(sqlAcknowledge, sealed(ackRow(ks.Name, ack))...)
	if err != nil || n == 0 {
		return false, err
	}
	if v.ServedAt.Before(ack.At) {
		v.ServedAt = ack.At
	}
	return true, nil
}

// advanceSet writes after with a new revision, whether or not anything in its own
// rows differs from before: what nodes have said of it does.
func advanceSet(tx *transaction, id string, before, after *keystore.KeySet) (int64, error) {
	revision, changed, err := writeSet(tx, id, before, after)
	if err != nil || changed {
		return revision, err
	}
	if after.Revision, err = nextRevision(tx, id, after.Name); err != nil {
		return 0, err
	}
	_, err = tx.exec(sqlUpdateKeySet, sealedSet(after)...)
	return after.Revision, err
}

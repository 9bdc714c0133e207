package catalog

import (
	"context"
	"time"

	"chancery/keystore"
)

// View returns a snapshot of the catalog as it is now, with its nodes and what
// the catalog's own clock says. Its ReadAt is the moment before it was read. The
// error wraps keystore.ErrUnavailable, and ErrDamaged too if what was read is not
// what was written.
func (c *Catalog) View(ctx context.Context) (*keystore.View, error) {
	readAt := c.now()
	var view *keystore.View
	err := c.read(ctx, "reading the catalog", func(tx *transaction) error {
		nodes, err := loadNodes(tx)
		if err != nil {
			return err
		}
		sets, err := c.keySets(tx, readAt)
		if err != nil {
			return err
		}
		view = keystore.NewView(tx.newest.revision, readAt, sets).WithNodes(tx.now, nodes)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return view, nil
}

// A listing is all key sets as they were at a change, with the horizons that had
// been raised by then: those of tokens are no changes.
type listing struct {
	at                  time.Time
	revision            int64
	transition          string
	horizons, fractions int64 // sums, of seconds and of the microseconds beyond; each horizon only grows
	sets                []*keystore.KeySet
}

// readAnew is how long a listing is gone by while nothing has changed. What is not
// as it was written is found by then.
const readAnew = 10 * time.Second

// keySets returns all key sets. Where others write too they are asked for again and
// again, and are read anew when something has changed, or after a while.
func (c *Catalog) keySets(tx *transaction, now time.Time) ([]*keystore.KeySet, error) {
	if !tx.db.shared() {
		return loadSets(tx, allSets)
	}
	is := listing{at: now, revision: tx.newest.revision, transition: tx.newest.transition}
	if err := tx.row(sqlHorizons).Scan(&is.horizons, &is.fractions); err != nil {
		return nil, err
	}
	if was := c.listed.Load(); was != nil && was.same(&is) && now.Sub(was.at).Abs() < readAnew {
		return was.sets, nil
	}
	var err error
	if is.sets, err = loadSets(tx, allSets); err != nil {
		return nil, err
	}
	c.listed.Store(&is)
	return is.sets, nil
}

func (l *listing) same(as *listing) bool {
	return l.revision == as.revision && l.transition == as.transition && l.horizons == as.horizons && l.fractions == as.fractions
}

// A selection is the four statements that read key sets with all that belongs to
// them. They take the same arguments.
type selection struct{ keySets, promises, versions, acks string }

var (
	allSets = selection{sqlKeySets, sqlAllPromises, sqlAllVersions, sqlAllAcks}
	oneSet  = selection{sqlKeySet, sqlPromises, sqlVersions, sqlAcks}
)

// loadSets reads key sets.
func loadSets(tx *transaction, from selection, args ...any) ([]*keystore.KeySet, error) {
	type counted struct {
		*keystore.KeySet
		versions, promises int
	}
	rows, err := tx.query(from.keySets, args...)
	if err != nil {
		return nil, err
	}
	list, err := collect(rows, func(s scanner) (counted, error) {
		ks, v, p, err := scanKeySet(s)
		return counted{ks, v, p}, err
	})
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*keystore.KeySet, len(list))
	for _, one := range list {
		byName[one.Name] = one.KeySet
	}
	if err := loadPromises(tx, from.promises, args, byName); err != nil {
		return nil, err
	}
	if err := loadVersions(tx, from.versions, args, byName); err != nil {
		return nil, err
	}
	if err := loadAcks(tx, from.acks, args, byName); err != nil {
		return nil, err
	}
	sets := make([]*keystore.KeySet, len(list))
	for i, one := range list {
		if len(one.Versions) != one.versions || len(one.Promises) != one.promises {
			return nil, damaged("key set %q has %d versions and %d promises, and should have %d and %d",
				one.Name, len(one.Versions), len(one.Promises), one.versions, one.promises)
		}
		sets[i] = one.KeySet
	}
	return sets, nil
}

func loadPromises(tx *transaction, statement string, args []any, sets map[string]*keystore.KeySet) error {
	rows, err := tx.query(statement, args...)
	if err != nil {
		return err
	}
	_, err = collect(rows, func(s scanner) (struct{}, error) {
		name, position, p, err := scanPromise(s)
		if err != nil {
			return struct{}{}, err
		}
		ks, ok := sets[name]
		if !ok || position != len(ks.Promises) {
			return struct{}{}, damaged("promise %d of key set %q stands alone", position, name)
		}
		ks.Promises = append(ks.Promises, p)
		return struct{}{}, nil
	})
	return err
}

func loadVersions(tx *transaction, statement string, args []any, sets map[string]*keystore.KeySet) error {
	rows, err := tx.query(statement, args...)
	if err != nil {
		return err
	}
	_, err = collect(rows, func(s scanner) (struct{}, error) {
		name, v, err := scanVersion(s)
		if err != nil {
			return struct{}{}, err
		}
		ks, ok := sets[name]
		if !ok {
			return struct{}{}, damaged("version %d of key set %q stands alone", v.Number, name)
		}
		ks.Versions = append(ks.Versions, v)
		return struct{}{}, nil
	})
	return err
}

// loadAcks reads what was said of the versions that are known.
func loadAcks(tx *transaction, statement string, args []any, sets map[string]*keystore.KeySet) error {
	rows, err := tx.query(statement, args...)
	if err != nil {
		return err
	}
	_, err = collect(rows, func(s scanner) (struct{}, error) {
		name, a, err := scanAck(s)
		if err != nil {
			return struct{}{}, err
		}
		ks, ok := sets[name]
		if !ok {
			return struct{}{}, damaged("an acknowledgement of key set %q stands alone", name)
		}
		v, ok := ks.Version(a.Version)
		if ok && v.State.Known() && v.Compromised == nil {
			ks.Acks = append(ks.Acks, a)
		}
		return struct{}{}, nil
	})
	return err
}

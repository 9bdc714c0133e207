package catalog

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
)

// A Change tells what a write did.
type Change struct {
	Revision int64   // of the catalog, after it
	Outbox   []int64 // the rows that hold its records, in order
}

// Create adds the key set ks, whose versions, if any, are pending, and puts
// recs into the outbox in the same transaction. It returns an error wrapping
// keystore.ErrExists if the name was ever used, ErrIllegal if ks breaks a rule.
// ks is not changed; its Revision does not count.
func (c *Catalog) Create(ctx context.Context, ks *keystore.KeySet, recs ...keystore.Record) (Change, error) {
	after := ks.Clone()
	after.Revision = 0
	cutSet(after)
	if err := checkNew(after); err != nil {
		return Change{}, err
	}
	return c.change(ctx, changing, fmt.Sprintf("creating key set %q", ks.Name), func(tx *transaction, id string) (Change, error) {
		if _, err := loadSet(tx, ks.Name); err == nil {
			return Change{}, fmt.Errorf("key set %q: %w", ks.Name, keystore.ErrExists)
		} else if !isNotFound(err) {
			return Change{}, err
		}
		if err := checkTaken(tx, after); err != nil {
			return Change{}, err
		}
		var err error
		if after.Revision, err = nextRevision(tx, id, after.Name); err != nil {
			return Change{}, err
		}
		if _, err := tx.exec(sqlInsertKeySet, sealedSet(after)...); err != nil {
			return Change{}, err
		}
		if err := writePromises(tx, after, 0); err != nil {
			return Change{}, err
		}
		for i := range after.Versions {
			if _, err := tx.exec(sqlInsertVersion, sealedVersion(after.Name, &after.Versions[i])...); err != nil {
				return Change{}, err
			}
		}
		rows, err := putOutbox(tx, id, recs)
		return Change{after.Revision, rows}, err
	})
}

// Update is the compare-and-swap. It gives f a copy of the key set as it is in
// the catalog, at a Moment and until Update returns, and writes what f made of it
// together with f's records, or nothing. f is called at most once and
// must not call the catalog's writing methods.
//
// Without a change and without records nothing is written; records alone go
// into the outbox and leave the revision as it is. Update fills in a Record.ID
// that is empty.
//
// Errors wrap keystore.ErrNotFound; keystore.ErrOvertaken if expect is not
// negative and the set's Revision is another; ErrIllegal; ErrUnavailable, and
// then nothing was changed; ErrUncertain if not even that could be found out;
// or are f's own.
func (c *Catalog) Update(ctx context.Context, name string, expect int64, f func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error)) (Change, error) {
	return c.change(ctx, changing, fmt.Sprintf("changing key set %q", name), func(tx *transaction, id string) (Change, error) {
		nodes, err := loadNodes(tx)
		if err != nil {
			return Change{}, err
		}
		before, err := loadSet(tx, name)
		if err != nil {
			return Change{}, err
		}
		if expect >= 0 && before.Revision != expect {
			return Change{}, fmt.Errorf("key set %q is at revision %d, not %d: %w", name, before.Revision, expect, keystore.ErrOvertaken)
		}
		after := before.Clone()
		recs, err := f(keystore.Moment{Now: tx.now, Nodes: nodes}, after)
		if err != nil {
			return Change{}, err
		}
		after = after.Clone() // f may have kept its copy
		cutSet(after)
		if err := checkChange(before, after); err != nil {
			return Change{}, err
		}
		revision, changed, err := writeSet(tx, id, before, after)
		if err != nil {
			return Change{}, err
		}
		if !changed && len(recs) == 0 {
			return Change{Revision: revision}, errNothing
		}
		rows, err := putOutbox(tx, id, recs)
		return Change{revision, rows}, err
	})
}

// RaiseHorizon makes sure, before it returns, that the catalog knows that a
// token signed by kid may live until to. It never lowers the horizon and leaves
// the revision as it is. The error wraps keystore.ErrNotFound, or
// keystore.ErrOvertaken if the version does not sign any more.
func (c *Catalog) RaiseHorizon(ctx context.Context, kid keystore.KID, to time.Time) error {
	to = roundUp(to)
	return c.write(ctx, writing, "raising a horizon", nil, func(tx *transaction) error {
		keyset, v, err := scanVersion(tx.row(tx.locked(sqlVersionByKID, forNoKeyUpdate), string(kid)))
		if err != nil {
			return missing(err, "key %q", kid)
		}
		if v.State != keystore.Active && v.State != keystore.Retiring {
			return fmt.Errorf("key %q is %v: %w", kid, v.State, keystore.ErrOvertaken)
		}
		if !v.ExpHorizon.Before(to) {
			return errNothing
		}
		v.ExpHorizon = to
		_, err = tx.exec(sqlUpdateVersion, sealedVersion(keyset, &v)...)
		return err
	})
}

// RaiseHorizons raises, in one transaction, the horizon of every version of
// purpose jwt that signs or has signed to what by returns for it; a zero time
// leaves it, and so does one that is not later. Versions that are neither active
// nor retiring are not asked about. The revision stays as it is.
//
// It is for a catalog restored from a copy, which may know less than tokens were
// signed for: whoever finds that assumes the worst. by is called inside the
// transaction, with copies, and must not call the catalog's writing methods.
func (c *Catalog) RaiseHorizons(ctx context.Context, by func(*keystore.KeySet, *keystore.Version) time.Time) error {
	return c.write(ctx, writing, "raising the horizons", nil, func(tx *transaction) error {
		horizons := allSets
		horizons.versions = tx.locked(allSets.versions, forNoKeyUpdate)
		sets, err := loadSets(tx, horizons)
		if err != nil {
			return err
		}
		raised := 0
		for _, ks := range sets {
			n, err := raiseSet(tx, ks, by)
			if err != nil {
				return err
			}
			raised += n
		}
		if raised == 0 {
			return errNothing
		}
		return nil
	})
}

// raiseSet raises the horizons of one key set and returns how many it raised.
func raiseSet(tx *transaction, ks *keystore.KeySet, by func(*keystore.KeySet, *keystore.Version) time.Time) (raised int, err error) {
	if ks.Purpose != keystore.PurposeJWT {
		return 0, nil
	}
	for i := range ks.Versions {
		v := &ks.Versions[i]
		if v.State != keystore.Active && v.State != keystore.Retiring {
			continue
		}
		given := ks.Clone()
		to := roundUp(by(given, &given.Versions[i]))
		if !v.ExpHorizon.Before(to) {
			continue
		}
		v.ExpHorizon = to
		if _, err := tx.exec(sqlUpdateVersion, sealedVersion(ks.Name, v)...); err != nil {
			return raised, err
		}
		raised++
	}
	return raised, nil
}

// change runs f in a transaction with a random id, by which a commit whose
// answer was lost is found again. f returns errNothing to write nothing.
func (c *Catalog) change(ctx context.Context, m mode, doing string, f func(tx *transaction, id string) (Change, error)) (Change, error) {
	id := newID()
	var done Change
	happened := func(tx *transaction) (yes bool, err error) {
		return yes, tx.row(sqlHappened, id).Scan(&yes)
	}
	err := c.write(ctx, m, doing, happened, func(tx *transaction) (err error) {
		done, err = f(tx, id)
		return err
	})
	if err != nil {
		return Change{}, err
	}
	return done, nil
}

// newID returns 32 random hexadecimal digits.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, by its contract
	return hex.EncodeToString(b[:])
}

// nextRevision takes the next revision for a change of keyset; it is empty where
// nodes change.
func nextRevision(tx *transaction, id, keyset string) (int64, error) {
	next := head{revision: tx.newest.revision + 1, transition: id, at: tx.now, clock: tx.now, id: tx.newest.id}
	_, err := tx.exec(sqlInsertChange, next.revision, id, keyset, tx.now.UnixMicro())
	if err != nil {
		return 0, err
	}
	tx.newest = next
	return next.revision, nil
}

// loadSet reads a key set that is about to be changed.
func loadSet(tx *transaction, name string) (*keystore.KeySet, error) {
	one := oneSet
	one.versions = tx.locked(oneSet.versions, forNoKeyUpdate) // a horizon is raised meanwhile
	sets, err := loadSets(tx, one, name)
	if err != nil {
		return nil, err
	}
	if len(sets) == 0 {
		return nil, fmt.Errorf("key set %q: %w", name, keystore.ErrNotFound)
	}
	return sets[0], nil
}

// writeSet writes what differs between before and after, which have been
// checked, and returns the catalog's revision after it.
func writeSet(tx *transaction, id string, before, after *keystore.KeySet) (revision int64, changed bool, err error) {
	var writes []*keystore.Version
	for i := range after.Versions {
		v := &after.Versions[i]
		if i >= len(before.Versions) || !sameRow(sealedVersion(after.Name, &before.Versions[i]), sealedVersion(after.Name, v)) {
			writes = append(writes, v)
		}
	}
	if len(writes) == 0 && sameRow(sealedSet(before), sealedSet(after)) {
		return tx.newest.revision, false, nil
	}
	if len(after.Versions) > len(before.Versions) || slices.ContainsFunc(writes, func(v *keystore.Version) bool {
		return v.KID != "" && before.Versions[v.Number-1].KID == ""
	}) {
		if err := checkTaken(tx, after); err != nil {
			return 0, false, err
		}
	}
	if after.Revision, err = nextRevision(tx, id, after.Name); err != nil {
		return 0, false, err
	}
	if _, err := tx.exec(sqlUpdateKeySet, sealedSet(after)...); err != nil {
		return 0, false, err
	}
	if err := writePromises(tx, after, len(before.Promises)); err != nil {
		return 0, false, err
	}
	// What leaves active goes first: at no moment are two active.
	slices.SortStableFunc(writes, func(a, b *keystore.Version) int {
		return activeLast(a) - activeLast(b)
	})
	for _, v := range writes {
		statement := sqlUpdateVersion
		if v.Number > len(before.Versions) {
			statement = sqlInsertVersion
		}
		if _, err := tx.exec(statement, sealedVersion(after.Name, v)...); err != nil {
			return 0, false, err
		}
	}
	return after.Revision, true, nil
}

func activeLast(v *keystore.Version) int {
	if v.State == keystore.Active {
		return 1
	}
	return 0
}

func writePromises(tx *transaction, ks *keystore.KeySet, from int) error {
	for i := from; i < len(ks.Promises); i++ {
		if _, err := tx.exec(sqlInsertPromise, sealed(promiseRow(ks.Name, i, ks.Promises[i]))...); err != nil {
			return err
		}
	}
	return nil
}

// checkTaken holds ks against every other key set of the catalog.
func checkTaken(tx *transaction, ks *keystore.KeySet) error {
	rows, err := tx.query(sqlIdentities, ks.Name)
	if err != nil {
		return err
	}
	taken, err := collect(rows, func(s scanner) (id identity, err error) {
		var keyID, hash []byte
		var kid sql.NullString
		err = s.Scan(&id.keyset, &id.number, &keyID, &kid, &hash)
		copy(id.keyID[:], keyID)
		copy(id.spki[:], hash)
		id.kid = keystore.KID(kid.String)
		return id, err
	})
	if err != nil {
		return err
	}
	return checkUnique(ks, taken)
}

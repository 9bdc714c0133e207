package catalog

import (
	"context"
	"database/sql"

	"chancery/keystore"
)

// View returns a snapshot of the catalog as it is now. Its ReadAt is the moment
// before it was read. The error wraps keystore.ErrUnavailable, and ErrDamaged
// too if what was read is not what was written.
func (c *Catalog) View(ctx context.Context) (*keystore.View, error) {
	readAt := c.now()
	var revision int64
	var sets []*keystore.KeySet
	err := c.read(ctx, "reading the catalog", func(tx *sql.Tx) (err error) {
		if err := tx.QueryRowContext(ctx, sqlRevision).Scan(&revision); err != nil {
			return err
		}
		sets, err = loadSets(querier{ctx, tx}, sqlKeySets, sqlAllPromises, sqlAllVersions)
		return err
	})
	if err != nil {
		return nil, err
	}
	return keystore.NewView(revision, readAt, sets), nil
}

// A querier asks a *sql.Tx or a *sql.Conn under one context.
type querier struct {
	ctx context.Context
	on  interface {
		QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	}
}

func (q querier) query(statement string, args ...any) (*sql.Rows, error) {
	return q.on.QueryContext(q.ctx, statement, args...)
}

// loadSets reads key sets with all that belongs to them. The three statements
// take the same arguments.
func loadSets(q interface {
	query(string, ...any) (*sql.Rows, error)
}, keySets, promises, versions string, args ...any) ([]*keystore.KeySet, error) {
	type counted struct {
		*keystore.KeySet
		versions, promises int
	}
	rows, err := q.query(keySets, args...)
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
	if err := loadPromises(q.query, promises, args, byName); err != nil {
		return nil, err
	}
	if err := loadVersions(q.query, versions, args, byName); err != nil {
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

type queryFunc func(string, ...any) (*sql.Rows, error)

func loadPromises(query queryFunc, statement string, args []any, sets map[string]*keystore.KeySet) error {
	rows, err := query(statement, args...)
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

func loadVersions(query queryFunc, statement string, args []any, sets map[string]*keystore.KeySet) error {
	rows, err := query(statement, args...)
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

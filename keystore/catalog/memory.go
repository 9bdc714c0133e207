package catalog

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"chancery/keystore"
)

// A Head is how long a log was, and the Merkle tree hash it then had.
type Head struct {
	Size int64
	Root [32]byte
}

// Remember keeps the head of a log outside the log, so that a log that was cut
// is noticed. It never goes back: a smaller size, or another root at the same
// size, is an error wrapping keystore.ErrOvertaken.
func (c *Catalog) Remember(ctx context.Context, origin string, size int64, root [32]byte) error {
	return c.write(ctx, writing, fmt.Sprintf("remembering the head of %s", origin), nil, func(tx *transaction) error {
		var was int64
		var wasRoot []byte
		err := tx.row(tx.locked(sqlHead, forNoKeyUpdate), origin).Scan(&was, &wasRoot)
		switch {
		case errors.Is(err, sql.ErrNoRows) && (origin == "" || size < 0):
			return illegal("a head needs its origin and a size")
		case err != nil && !errors.Is(err, sql.ErrNoRows):
			return err
		case err == nil && size < was:
			return fmt.Errorf("its size was %d, not %d: %w", was, size, keystore.ErrOvertaken)
		case err == nil && size == was && !bytes.Equal(root[:], wasRoot):
			return fmt.Errorf("its root at size %d was another: %w", size, keystore.ErrOvertaken)
		case err == nil && size == was:
			return errNothing
		}
		_, err = tx.exec(sqlRemember, origin, size, root[:])
		return err
	})
}

// Recall returns the head last remembered of each log, by origin.
func (c *Catalog) Recall(ctx context.Context) (map[string]Head, error) {
	heads := make(map[string]Head)
	err := c.read(ctx, "recalling the heads of the logs", func(tx *transaction) error {
		rows, err := tx.query(sqlHeads)
		if err != nil {
			return err
		}
		_, err = collect(rows, func(s scanner) (struct{}, error) {
			var origin string
			var head Head
			var root []byte
			err := s.Scan(&origin, &head.Size, &root)
			copy(head.Root[:], root)
			heads[origin] = head
			return struct{}{}, err
		})
		return err
	})
	return heads, err
}

// Secret returns the 32 random bytes of that name, which are made at the first
// call and stay the same for ever. Only making them is a write, which needs the
// node's lease.
func (c *Catalog) Secret(ctx context.Context, name string) (secret [32]byte, err error) {
	doing := fmt.Sprintf("reading the secret %q", name)
	found := false
	err = c.read(ctx, doing, func(tx *transaction) (err error) {
		found, err = readSecret(tx, name, &secret)
		return err
	})
	if err != nil || found {
		return secret, err
	}
	err = c.write(ctx, writing, doing, nil, func(tx *transaction) error {
		rand.Read(secret[:]) // never fails, by its contract
		n, err := tx.affected(sqlInsertSecret, name, secret[:])
		if err != nil || n > 0 {
			return err
		}
		found, err := readSecret(tx, name, &secret) // another node was first
		return nothingIf(found, err)
	})
	if err != nil {
		return [32]byte{}, err
	}
	return secret, nil
}

func readSecret(tx *transaction, name string, secret *[32]byte) (found bool, err error) {
	var value []byte
	err = tx.row(sqlSecret, name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	copy(secret[:], value)
	return err == nil, err
}

func nothingIf(found bool, err error) error {
	if err == nil && found {
		return errNothing
	}
	return err
}

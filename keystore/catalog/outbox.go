package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"chancery/keystore"
)

// An OutboxRow is a record that has not been entered in the log, as far as the
// catalog knows.
type OutboxRow struct {
	ID     int64
	Record keystore.Record // its ID is never empty
	Node   string          // that wrote it, and in whose log it belongs; empty: none had enrolled
	At     time.Time       // by the catalog's clock
}

var recordIDForm = form(`^[0-9a-f]{32}$`)

// putOutbox puts recs into the outbox under the transition's id.
func putOutbox(tx *transaction, id string, recs []keystore.Record) ([]int64, error) {
	var ids []int64
	for _, rec := range recs {
		if rec.ID == "" {
			rec.ID = newID()
		}
		if !recordIDForm().MatchString(rec.ID) {
			return nil, illegal("record id %q is not 32 lower-case hexadecimal digits", rec.ID)
		}
		text, err := json.Marshal(rec)
		if err != nil {
			return nil, fmt.Errorf("encoding a record: %w", err)
		}
		row := []any{id, rec.ID, string(text), tx.now.UnixMicro()}
		var rowID int64
		if err := tx.row(sqlInsertOutbox, append(row, sum(withNode(row, tx.node)), tx.node)...).Scan(&rowID); err != nil {
			return nil, err
		}
		ids = append(ids, rowID)
	}
	return ids, nil
}

// Outbox returns the rows of every node that have not been marked, in the order
// they were written.
func (c *Catalog) Outbox(ctx context.Context) (list []OutboxRow, err error) {
	err = c.read(ctx, "reading the outbox", func(tx *transaction) error {
		rows, err := tx.query(sqlOutbox)
		if err != nil {
			return err
		}
		list, err = collect(rows, scanOutbox)
		return err
	})
	return list, err
}

func scanOutbox(s scanner) (OutboxRow, error) {
	var row OutboxRow
	var transition, recordID, text string
	var at, want int64
	if err := s.Scan(&row.ID, &transition, &recordID, &text, &at, &want, &row.Node); err != nil {
		return OutboxRow{}, err
	}
	if sum(withNode([]any{transition, recordID, text, at}, row.Node)) != want {
		return OutboxRow{}, damaged("outbox row %d does not fit its checksum", row.ID)
	}
	if err := json.Unmarshal([]byte(text), &row.Record); err != nil {
		return OutboxRow{}, damaged("outbox row %d: %v", row.ID, err)
	}
	row.At = time.UnixMicro(at).UTC()
	return row, nil
}

// Mark notes that the row id stands in the log as entry. Doing it again is no
// error; marking it as another entry wraps keystore.ErrExists, and there being
// no such row keystore.ErrNotFound.
func (c *Catalog) Mark(ctx context.Context, id int64, entry string) error {
	return c.write(ctx, writing, "marking the outbox", nil, func(tx *transaction) error {
		var was sql.NullString
		if err := tx.row(tx.locked(sqlEntryOf, forNoKeyUpdate), id).Scan(&was); err != nil {
			return missing(err, "outbox row %d", id)
		}
		switch {
		case entry == "":
			return illegal("a mark names an entry")
		case !was.Valid:
			_, err := tx.exec(sqlMark, entry, id)
			return err
		case was.String != entry:
			return fmt.Errorf("outbox row %d is entry %s: %w", id, was.String, keystore.ErrExists)
		}
		return errNothing
	})
}

// Knows reports whether a record with that Record.ID ever was in the outbox. A
// lifecycle entry that came from the outbox of this catalog and is not known to
// it tells that an older copy of the file is in its place (S08).
func (c *Catalog) Knows(ctx context.Context, recordID string) (yes bool, err error) {
	err = c.read(ctx, "reading the outbox", func(tx *transaction) error {
		return tx.row(sqlKnows, recordID).Scan(&yes)
	})
	return yes, err
}

func isNotFound(err error) bool { return errors.Is(err, keystore.ErrNotFound) }

// missing turns "no such row" into keystore.ErrNotFound.
func missing(err error, format string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), keystore.ErrNotFound)
	}
	return err
}

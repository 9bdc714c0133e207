package catalog

import (
	"context"
)

// An EnteredRow is a record that stands in a node's log as Entry.
type EnteredRow struct {
	OutboxRow
	Entry string
}

// Entered returns the records of a key set that stand in the log of any node, which
// need not be the one that wrote them, in the order they were written.
func (c *Catalog) Entered(ctx context.Context, keyset string) (list []EnteredRow, err error) {
	err = c.read(ctx, "reading what nodes have entered", func(tx *transaction) error {
		rows, err := tx.query(sqlEntered)
		if err != nil {
			return err
		}
		all, err := collect(rows, func(s scanner) (EnteredRow, error) {
			var row EnteredRow
			var err error
			row.OutboxRow, err = scanOutbox(entryLast{s, &row.Entry})
			return row, err
		})
		for _, row := range all {
			if row.Record.KeySet == keyset {
				list = append(list, row)
			}
		}
		return err
	})
	return list, err
}

// entryLast is a scanner of an outbox row with its entry behind it.
type entryLast struct {
	scanner
	entry *string
}

func (s entryLast) Scan(dest ...any) error { return s.scanner.Scan(append(dest, s.entry)...) }

package main

import (
	"maps"
	"time"

	"chancery/keystore"
	"chancery/keystore/catalog"
)

// lateAfter is how long a row of the outbox may wait for its entry without that
// entry saying so. The auditor's report judges timing rules with that leniency.
const lateAfter = time.Second

// dated returns what the log is told of a row at now. One that had to wait, for a
// log that could not be written or a process that was killed, says since when it
// has been so: an entry's own time is when it was entered, and windows counted from
// that would look too short or too long.
func dated(row catalog.OutboxRow, now time.Time) keystore.Record {
	rec := row.Record
	if rec.Detail["at"] != "" || row.At.IsZero() || now.Sub(row.At) < lateAfter {
		return rec
	}
	detail := map[string]string{"at": row.At.UTC().Format(time.RFC3339Nano)}
	maps.Copy(detail, rec.Detail)
	rec.Detail = detail
	return rec
}

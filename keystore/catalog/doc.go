// Package catalog keeps what Chancery knows of its keys: key sets and their
// versions, how far the tokens they signed may live, the certificates that were
// issued, requests that may be repeated, and the memory the logs are compared
// with. It is one SQLite file; nothing else in Chancery speaks SQL.
//
// What it promises:
//
//   - A change is one compare-and-swap. It happened whole, with its records in
//     the outbox, or not at all, also after a crash at any instant. When the
//     answer to a commit is lost, the catalog looks again and says which it was;
//     only if it cannot look is the error keystore.ErrUncertain.
//   - Illegal changes are refused whoever asks: a state only moves forward, what
//     identifies a version never changes, nothing is removed, at most one
//     version of a key set is active and at most MaxKnown are known, and a
//     public key, a KID and a KeyID belong to one version of the whole catalog.
//   - What was committed is on the disk (WAL, synchronous=FULL). A damaged, cut,
//     replaced, foreign or newer file is refused with what is wrong and what to
//     do; none is ever repaired by guessing.
//   - Another process that holds the file makes an error that wraps
//     keystore.ErrUnavailable after two seconds, never a hang. Other processes
//     may read the file at any time; its only writer is the Catalog, and the
//     caller sees to it that there is one (a lock on the data directory).
//
// A record travels like this, so that none is lost and none enters twice:
//
//	Update ──one transaction──> rows + outbox row ──> log entry ──> Mark
//	                                    │                 ▲
//	                                    └── on start: unmarked rows, those the
//	                                        log does not have yet (by Record.ID)
//
// Times are kept as Unix microseconds in UTC; a time given with more is cut,
// except a horizon, which is rounded up.
//
// The Brake is the file that stops keys when the catalog and the log cannot be
// written; see there for its format.
//
//	cat, err := catalog.Open(ctx, catalog.Config{Path: "/var/lib/chancery/catalog.db"})
//	change, err := cat.Update(ctx, "web", revision, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
//		v, _ := ks.Version(2)
//		v.State, v.PublishedAt = keystore.Published, now
//		return []keystore.Record{{Action: keystore.ActKeyPublish, Outcome: keystore.OutcomeDone}}, nil
//	})
package catalog

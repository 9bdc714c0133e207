// Package catalog keeps what Chancery knows of its keys: key sets and their
// versions, how far the tokens they signed may live, the nodes that sign and
// serve by them, the certificates that were issued, requests that may be
// repeated, and the memory the logs are compared with. It is one SQLite file for
// one node, or a PostgreSQL database for several; nothing else in Chancery speaks
// SQL.
//
// What it promises on both:
//
//   - A change is one compare-and-swap. It happened whole, with its records in
//     the outbox, or not at all, also after a crash at any instant. When the
//     answer to a commit is lost, the catalog looks again and says which it was;
//     only if it cannot look is the error keystore.ErrUncertain.
//   - Illegal changes are refused whoever asks: a state only moves forward, what
//     identifies a version never changes, nothing is removed, at most one
//     version of a key set is active and at most MaxKnown are known, and a
//     public key, a KID and a KeyID belong to one version of the whole catalog.
//   - What was committed is on a disk (WAL and synchronous=FULL; a server with
//     fsync, full_page_writes or synchronous_commit off is refused). A catalog
//     that is damaged, cut, replaced, foreign or newer is refused with what is
//     wrong and what to do; none is ever repaired by guessing.
//   - A database that cannot be had makes an error that wraps
//     keystore.ErrUnavailable, never a hang: after two seconds behind another
//     process or node, after ten whatever it is. Only a commit and the look for
//     what became of it outlive their caller's context, by at most five.
//   - Once it has enrolled, a node's writes are refused when its epoch is over
//     (ErrFenced) or its lease to sign has ended (keystore.ErrOvertaken), as
//     found in the same transaction. No lock that a connection holds is trusted
//     for that.
//   - A database that lacks a change that was seen is neither read nor written
//     (ErrBehind): see mark.go for the file that remembers. What takes no turn, see
//     below, is no change in that sense: that a database which took over lacks a
//     horizon or a certificate is not noticed.
//   - Moment.Now, and every time that is written, is by the catalog's clock: the
//     one of Config on SQLite, the server's on PostgreSQL. From one change to the
//     next it never goes back; set back, it stands still until it has caught up.
//     Acknowledge on SQLite, certificates' validity and what callers put into key
//     sets are as given.
//
// In a file the Catalog is the only writer, and the caller sees to it that there
// is one (a lock on the data directory); others may read it at any time. On
// PostgreSQL every node has a Catalog, and changes take turns:
//
//	node a  ─┐                            ┌ keyset, version, promise
//	node b  ─┼─> BEGIN                    │ acknowledgement, node
//	node c  ─┘   SELECT FROM catalog      │ outbox
//	             FOR UPDATE ── one row ──>│ change: revision + 1, transition id
//	             newest change, clock     │
//	             own row of node          │
//	             COMMIT                   └ horizons, certificates, requests, heads
//	                                        and marks take no turn: nodes write
//	                                        rows of their own there
//
// A record travels like this, so that none is lost and none enters twice:
//
//	Update ──one transaction──> rows + outbox row ──> log entry ──> Mark
//	                                    │                 ▲
//	                                    └── on start: unmarked rows, those the
//	                                        log does not have yet (by Record.ID)
//
// An outbox row names the node whose log it belongs in. Those of a node that was
// forgotten stay until another takes them over.
//
// On PostgreSQL everything is in the schema chancery of the database. The role
// needs no more than to own that schema, or CREATE on the database to make it:
//
//	CREATE ROLE chancery LOGIN PASSWORD '…';
//	CREATE DATABASE chancery OWNER chancery;
//
// or, in a database of others, CREATE SCHEMA chancery AUTHORIZATION chancery.
// There are at most seven connections from each node, and no connection pooler
// between that hands a session to others within a transaction's time. PostgreSQL
// 13 is the oldest that does. A replica that may be promoted is best synchronous
// (synchronous_standby_names); with an asynchronous one a failover may lose the
// last changes, every node that saw them then waits for the server that has them,
// and Warnings says so beforehand.
//
// Times are kept as Unix microseconds in UTC; a time given with more is cut,
// except a horizon, which is rounded up. In the words of people, zero bytes and
// what is not UTF-8 become U+FFFD.
//
// The Brake is the file that stops keys when the catalog and the log cannot be
// written; see there for its format.
//
//	cat, err := catalog.Open(ctx, catalog.Config{Path: "/var/lib/chancery/catalog.db"})
//	node, err := cat.Enrol(ctx, catalog.Enrolment{Node: "dev", Identity: id, Holds: holds})
//	change, err := cat.Update(ctx, "web", revision, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
//		v, _ := ks.Version(2)
//		v.State, v.PublishedAt = keystore.Published, at.Now
//		return []keystore.Record{{Action: keystore.ActKeyPublish, Outcome: keystore.OutcomeDone}}, nil
//	})
package catalog

// Package audit keeps the rolls of the chancery: two append-only Merkle logs
// per node. "lifecycle" tells what became of keys, configuration and nodes, and
// is kept for ever; "acts" tells every signature and refusal, in one log per
// month.
//
// # Promises
//
// Act and Lifecycle return a Receipt only after the entry is on stable storage:
// everything that waits is written and synced together, and then everyone is
// released. When a log cannot be written nothing gets a Receipt, Health says
// why, and the log recovers by itself: it closes the file, reads again what it
// had acknowledged, cuts what it had not, and enters the repair. A failed sync
// is never tried again on the same file (the second try says OK and proves
// nothing). What cannot be explained by a torn write is kept as it is and
// refused, with an error wrapping ErrInconsistent.
//
// Refuse never blocks. Refusals have budgets (see Budget); what is over the
// budget is counted by what it was and how it went, and entered once a minute as
// an entry with a Count.
//
// Verify and Entries need no daemon and take no lock: they are right beside a
// running one.
//
//	log, err := audit.Open(ctx, audit.Config{Dir: dir, Host: "localhost:8443", Node: "dev", Memory: mem, Key: key})
//	receipt, err := log.Act(ctx, keystore.Record{Principal: who, Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone})
//	// receipt.Entry is "localhost:8443/audit/dev/acts/2026-11#0"
//	report, err := audit.Verify(ctx, dir, audit.Options{Keys: []string{vkey}})
//
// # What ties the logs together
//
// Each use of a key has a number, from 1 for each kid (Take), which an entry
// closes: that of the act, or one of key.use for several, whose detail "uses" has
// ranges, "17-19,23". So a signature that has no entry is missed by its number.
// The file of the numbers outlives a process that is killed, and its next start
// closes as unknown what that left open. Lifecycle is told once an hour, and at
// the end, how far the acts have come (audit.head), and how far the lifecycle logs
// of other nodes have (audit.peer), each with origin, size and root in its detail:
// what holds one log holds the others. Verify follows all of it.
//
// # On disk
//
//	DIR/lifecycle/journal-1, journal-2, …   the durable thing
//	DIR/lifecycle/checkpoint                C2SP tlog-checkpoint, a signed note
//	DIR/lifecycle/tile/L/NNN[.p/W]          C2SP tlog-tiles, hashes only
//	DIR/acts/2026-11/…                      the same, one per month
//	DIR/acts/2026-10/final                  the month is closed; where lifecycle says so
//	DIR/acts/uses                           how far the numbers of uses are
//
// A log's origin is HOST/audit/NODE/lifecycle or HOST/audit/NODE/acts/YYYY-MM;
// an entry's name is its origin, '#', and its index from 0. Checkpoints are
// signed by the key HOST/audit/NODE. The last checkpoint of a finished month is
// an entry of lifecycle (audit.shard, with origin, size and root in its detail).
//
// Tiles and checkpoints are derived: they are replaced without a sync, and made
// again from the journals when they do not fit. Open finds that out for the logs
// that go on, lifecycle and the last month, as long as they have no more than a
// million entries: beyond that it looks only at the tiles that are not full, so
// that a start stays fast, and at closed months it does not look either. Verify
// always tells. Such tiles are made again at the next start when the log's
// checkpoint, and final if there is one, have been moved away: then its journals
// are read from the beginning, which takes some seconds for each million entries.
//
// A journal is preallocated. It begins with a header of 512 bytes and holds
// records one after the other; zeros follow the last. All integers are
// big-endian, checksums are CRC-32C of everything after them.
//
//	header
//	 0  8  magic "CHANJRN1"
//	 8  4  checksum of bytes 12 to 512
//	12  4  zero
//	16  8  size of the file, in bytes
//	24  8  index of the first entry
//	32  2  length of the origin
//	34  …  origin, then zeros
//
//	record
//	 0  4  checksum of all that follows in the record
//	 4  4  length of the entry, 1 to 16384
//	 8  8  index of the entry
//	16  8  durable: every entry below this index was on stable storage
//	       before this record was written
//	24  …  entry
//
// "durable" tells a torn write from a changed log. A record that cannot be read
// may be cut only if no later record says that it had been durable.
//
// # Entries
//
// An entry is one JSON object in US-ASCII, without spaces, at most 16 KiB, with
// its members in the order of Entry; members that do not apply are absent. In
// strings everything outside 0x20 to 0x7e and the characters " \ < > & are
// escaped: \" and \\, the others as \uxxxx in lower case. Times have six
// decimals. There is one spelling only: what ParseEntry accepts, Append writes
// back to the same bytes. The leaf of the Merkle tree (RFC 6962 Section 2.1) is
// the entry's bytes.
//
//	{"v":1,"seq":41,"time":"2026-11-22T16:15:58.000000Z","principal":"dev:spiffe:spiffe://chancery.dev/issuer","action":"jwt.sign","outcome":"done","keyset":"web"}
//
// A string longer than its member allows ends in "[cut: N bytes]", where N is
// its full length; an attacker's long name never makes an entry fail.
package audit

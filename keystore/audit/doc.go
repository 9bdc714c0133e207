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
//	log, err := audit.Open(ctx, audit.Config{Dir: dir, Host: "localhost:8443", Node: "dev", Memory: mem, Keys: keys})
//	receipt, err := log.Act(ctx, keystore.Record{Principal: who, Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone})
//	// receipt.Entry is "localhost:8443/audit/dev/acts/2026-11#0"
//	report, err := audit.Verify(ctx, dir, audit.Options{Keys: []string{vkey}})
//
// Prove makes a proof that an entry is under the published checkpoint, which
// Check checks without the log. VerifyPublished checks what a node shows to the
// world: checkpoints and tiles, no entries.
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
//	DIR/lifecycle/handover-SIZE             the last checkpoint of a log key that signs no more
//	DIR/lifecycle/witnessed                 the newest that enough witnesses have cosigned
//	DIR/lifecycle/tile/L/NNN[.p/W]          C2SP tlog-tiles, hashes only
//	DIR/acts/2026-11/…                      the same, one per month
//	DIR/acts/2026-10/final                  the month is closed; where lifecycle says so
//	DIR/acts/2026-10/pack                   stands for its journals, see below
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
// or its pack are read from the beginning, which takes some seconds for each million entries.
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
// An older checkpoint is as true as the newest, and leaves what follows under no
// signature. So Verify tells of a checkpoint that is older than one that was kept or
// cosigned, a handover, the seal of its month, or an entry under a newer signature
// says; and of entries that nobody signed for a minute while the log went on.
//
// # Log keys
//
// A log key has successors, and during an overlap a checkpoint has a signature
// by each. A successor is announced in lifecycle, in the detail of its
// key.publish and key.proven entries: purpose "audit", algorithm, and public,
// its SubjectPublicKeyInfo in base64. The last checkpoint that a key signed is
// kept as handover-SIZE before there is one without it, and for ever. So Verify
// goes from a key that an auditor kept to all later ones: a checkpoint or
// handover that a trusted key signed, with the root of the entries, makes the
// keys trusted that entries under it announce. A key that is said to be
// compromised vouches for nothing behind the entry that says so.
//
// # Reviews that go on
//
// A State has, of each log, how many of its first entries were verified and the
// right edge of their tree, and what their entries say together. Verify goes on
// from there: it builds the tree of what is signed now on that edge, so that its
// root is right only if the log is a continuation, and reads what is new. What
// the new entries, a checkpoint that was kept, a handover or a witness say of a
// size below is compared with the tiles, which have to lead to the same root. A
// state has nothing that no checkpoint signs, and is not kept any more once
// anything is wrong.
//
// # Closed months
//
// When lifecycle has sealed a month, a pack takes the place of its journals: it is
// written, synced, read back from the device and compared with the seal, entry by
// entry, and only then are the journals removed. That goes on beside the entries,
// on a quarter of one processor at most and while the disk keeps room for the next
// journals. Where both are there, readers take the pack, and the next start goes
// on. Entries of a busy node take some 70 bytes in it.
//
// A pack is a zstd file (RFC 8878): `zstd -dc pack` prints its entries, a line
// each. What is ours stands in skippable frames, whose first 8 bytes are as that
// RFC says: a number that tells the kind, and the length of what follows in the
// frame, both little-endian. All other integers are big-endian, and checksums are
// CRC-32C.
//
//	header
//	 0  8  frame 0x184d2a50 of 1016 bytes
//	 8  8  magic "CHANPAK1"
//	16  4  checksum of bytes 20 to 1024
//	20  4  zero
//	24  8  size of the file, in bytes
//	32  8  how many entries
//	40  8  where the index begins
//	48  2  length of the origin
//	50  …  origin, then zeros
//
//	mark of a frame, followed by the frame: up to 4096 entries from 0 on, each
//	with a line end, compressed by themselves
//	 0  8  frame 0x184d2a51 of 32 bytes
//	 8  4  checksum of bytes 12 to 40
//	12  4  checksum of the frame that follows
//	16  8  index of its first entry
//	24  4  how many entries
//	28  4  length of the frame
//	32  4  length of its entries with their line ends
//	36  4  zero
//
//	index, behind the last frame
//	 0  8  frame 0x184d2a52 of 16 bytes for each mark:
//	       index of its first entry (8), where the mark stands in the file (8)
//
// What is damaged costs the entries of its frame: reading goes on with the next
// mark.
//
// A closed month may be moved, whole or only its tiles or its pack, with a symbolic
// link or a mount in its place. While what a link points to is away Open warns, as
// nothing is written there any more, and Verify names the month. An empty directory
// is no such link, and is refused.
//
// With Config.KeepActs closed months are removed by that policy, never one of the
// newest two: lifecycle gets an entry (audit.prune, with origin, size, root and
// policy); when a checkpoint signs that, and an hour later at the earliest, the
// month's directory is renamed to acts/.pruned-YYYY-MM and then removed, and with
// it what it was moved to if that bears the month's name. Verify lists such months
// as pruned, and checks one that is still there as any other. A month that is
// gone without such an entry is missed.
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
// EntrySchema says what each member, action and outcome means.
//
// A string longer than its member allows ends in "[cut: N bytes]", where N is
// its full length; an attacker's long name never makes an entry fail.
package audit

// Package pkcs11 keeps private keys on a PKCS#11 token, behind worker processes
// that are allowed to die.
//
// A vendor's module can hang, crash, lie, or keep a stale view until its
// process ends. So the module is loaded into workers: this same binary, executed
// again, each with a socketpair as its only descriptor. A program that imports
// this package needs no line for that: executed as a worker it is one, before its
// main and before most other packages are initialised. A
// worker owns the module and the handles. This side, the [Provider], owns
// deadlines, the PIN ledger, the verification of every signature, and trust.
//
//   - Several workers sign. All requests wait for them in one line, in order,
//     under a context of their own, and go to the worker with least to do; what
//     would wait behind too many is refused at once. See hall.go.
//   - What is slow or rare, to make, find, list and destroy keys, is the clerk's:
//     a worker of its own, which is alone, sees the token afresh, and goes soon.
//     See errand.go.
//   - No answer by the deadline, which runs from when the worker is asked, is
//     SIGKILL. A worker that ends is followed by another, at once the first time,
//     then after a growing pause. They log in one after the other, the first alone.
//   - One process more has loaded the module and waits to be the next worker, since
//     that is most of what a start takes. See reserve.go.
//   - Each worker is one generation. Its number is in every frame, so a late
//     answer of an old generation is never taken for a new one.
//   - Keys are named by CKA_ID and public key; no handle crosses. A key's
//     purpose is in its label, written when it is made and not modifiable, and
//     the worker refuses a message whose form does not fit it.
//   - Errors in what was asked change nothing. Any other error ends the
//     generation. Signing and finding are then tried once more; generating never.
//   - Worker after worker that does nothing useful opens a breaker: callers are
//     refused at once, until the token has been left alone and tried out. A key
//     for which workers end, or whose signatures are wrong, is refused by itself,
//     so that the other keys go on. See breaker.go and quarantine.go.
//   - A key is held ready only after the worker has signed a challenge with it
//     that verifies here. A signature that does not verify here is never
//     returned, and ends the generation.
//   - Where the token's profile asks for it a worker signs with session copies.
//     When a key leaves active, or is destroyed, every worker that held it ends,
//     and with its process its handles and copies.
//   - The module is confined before it is loaded, and what could not be confined
//     is part of the token's status. See confine.go.
//   - One wrong PIN is one attempt, across restarts and retries: an operator who
//     retries has it offered once more only from a file written anew since. See
//     ledger.go.
//   - A token is one provider's at a time, however it is named. See claim.go.
//   - What is particular to a vendor's tokens is a table. See quirks.go.
//
// A frame, in either direction, is
//
//	 0       4            8       12     13
//	+-------+------------+-------+------+------------------
//	| length| generation | id    | verb | body ...
//	+-------+------------+-------+------+------------------
//
// with big-endian numbers, length counting what follows it. In an answer the
// verb is replaced by a status; the id is the request's. Many frames travel in
// one write, in both directions, and answers come in any order. The body of
// sign is the key's name (CKA_ID, then the SHA-256 of its SubjectPublicKeyInfo)
// and the message, that of destroy the key's name, that of login is the PIN, those
// of the slower verbs are JSON. The answer to hello is what confines the worker.
package pkcs11

// Package pkcs11 keeps private keys on a PKCS#11 token, behind a worker process
// that is allowed to die.
//
// A vendor's module can hang, crash, lie, or keep a stale view until its
// process ends. So the module is loaded into a worker: this same binary,
// executed again by [Main], with a socketpair as its only descriptor. The
// worker owns the module and the handles. This side, the [Provider], owns
// deadlines, the PIN ledger, the verification of every signature, and trust.
//
//   - A worker has little before it at a time. Everybody else waits in the daemon,
//     in order, under a context of their own, and what would wait behind too many
//     is refused at once. See room.go.
//   - No answer by the deadline, which runs from when the worker is asked, is
//     SIGKILL. A worker that ends is followed by another, at once the first time,
//     then after a growing pause.
//   - Each worker is one generation. Its number is in every frame, so a late
//     answer of an old generation is never taken for a new one.
//   - Keys are named by CKA_ID and public key; no handle crosses. A key's
//     purpose is in its label, written when it is made and not modifiable, and
//     the worker refuses a message whose form does not fit it.
//   - Errors in what was asked change nothing. Any other error ends the
//     generation. Signing and finding are then tried once more; generating never.
//   - A key is held ready only after the worker has signed a challenge with it
//     that verifies here. A signature that does not verify here is never
//     returned, and ends the generation.
//   - One wrong PIN is one attempt, across restarts and retries: an operator who
//     retries has it offered once more only from a file written anew since. See
//     ledger.go.
//   - A token is one provider's at a time, however it is named. See claim.go.
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
// and the message, that of login is the PIN, those of the slower verbs are JSON.
package pkcs11

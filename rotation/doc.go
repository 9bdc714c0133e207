// Package rotation is everything that happens to keys because time passed.
//
// Plan is the heart: a pure function of a key set, its Schedule and a moment
// that returns the next step, or what holds it. A Rotator carries the steps
// out, each as one compare-and-swap on the catalog that asks Plan again inside,
// so that a crash at any instant leaves the old state or the new one and two
// rotators cannot both win.
//
//	pending ──publish──▶ published ──activate──▶ active ──retire──▶ retiring ──remove──▶ retired ──destroy──▶ destroyed
//	   │                                            (retire: in the swap that activates the next; destroy: on request)
//	   └──abandon──▶ abandoned, when its key never came to be
//
//	 version 1   ━━━━━━━━━━━ signs ━━━━━━━━━━━┿─ known, until the last token it signed has expired, + S ─┤
//	 version 2        ├─ known, at least A + S ─┿━━━━━━━━━━━ signs ━━━━━━━━━━━┿─ known …
//	                  served                    activate
//
// What it promises, by the numbers of the rules that refusals and log entries
// name:
//
//  1. A version signs no earlier than A + S after the last node said that it
//     serves a set with it, or could serve one without it no more. The first version
//     of a set that was never served without it signs as soon as every node serves it.
//  2. A version leaves the set no earlier than S after everything it may have
//     signed has expired.
//  3. Raising A or L counts at once, lowering it when the old one has run out
//     (keystore.InForce), also at nodes that have not learnt of it.
//  4. At most one version of a key set is active.
//  5. A node that has not said so is waited for until its publishing lease ends.
//  6. While the active version is suspended nothing activates, unless an
//     operator asks for a rotation after the suspension; retiring goes on.
//  7. A rotation that an operator asks for passes the same gates; a refusal
//     names the rule and how long it still holds.
//  8. A version whose key is not there, or does not sign, is never activated,
//     and a backend that is down empties no set.
//  9. Steps go by recorded times, one step for each version and pass, and
//     states only move forward. A version signs, or leaves the set, and a key is
//     destroyed, only after as much real time, by a clock that nobody sets or one
//     that is held against a reference, as caches hold a set or what it signed may
//     live.
//  10. A CA key is not destroyed.
//  11. An algorithm that discovery has not listed from the set's first day is
//     refused.
//
// A is the longest any complying cache holds a set, S the clock skew, L the
// longest token lifetime.
//
//	step, why := rotation.Plan(rotation.Facts{Set: set}, schedule, now)
//	if step == rotation.NoStep {
//		fmt.Println(why) // activate version 2: rule 1: caches may hold the old set until 12:00:05
//	}
package rotation

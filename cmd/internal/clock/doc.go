// Package clock tells whether the wall clock can be gone by.
//
// Every token, every certificate and every step of a rotation has its times
// from the wall clock, which anyone with the right may set, and which a virtual
// machine that was paused finds wrong. The time since the boot, sleep included,
// goes on as it is. A Guard compares the two: where they have moved apart by
// more than half the skew that verifiers forgive, the wall clock was stepped, and
// nothing may be signed until it is put right or an operator confirms it
// (rotation rule 9).
//
//	kept, err := clock.Load("/var/lib/chancery/clock") // of a former process
//	g := clock.New(5*time.Minute, kept)
//	g.Feed(clock.Read())                 // about once a second
//	if since, trouble := g.State(); trouble != nil { … }
//
// A clock that is slewed, as time daemons do it, is followed up to SlewRate.
// What goes beyond that adds up, so that many small steps are one. Suspending
// the machine counts on both clocks and is no step.
//
// # The anchor
//
// What a Guard knows outlasts the process in a small file, of one spelling:
//
//	chancery clock 1
//	boot_id 7f0b9a54-5f3e-4c58-9a0f-2b7a1c3d4e5f
//	boot 48612123456789
//	wall 2026-03-01T12:00:00.123456789Z
//	steady 2026-03-01T09:30:00.000000000Z
//	crc32c 1a2b3c4d
//
// boot is nanoseconds since the boot, wall what the wall clock said then by the
// time that is agreed, and steady since when both clocks have agreed; "-" while
// they do not. The checksum is of all the lines before its own.
package clock

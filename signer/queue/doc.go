// Package queue is where requests wait before a keystore, so that one principal
// who asks for much keeps nobody else waiting. It is weighted fair queueing by
// start times (Goyal, Vin, Cheng: Start-time Fair Queueing, SIGCOMM 1996):
//
//	arrive ── room inside, nobody waits ──────────────────────▶ inside the keystore
//	   │                                                            ▲          │
//	   └──▶ a line of each principal, the oldest first ──▶ the line with the least start time
//
// At most a window of work is inside at a time: enough that the keystore's workers
// find their next batch when they have answered one, and so little that who comes
// next waits for milliseconds. What is inside is served first come, first served,
// so the window is also what a quiet principal waits at most behind a loud one: twice
// as much where that one sends batches, whose signatures come and go together.
//
// A line has a start time in virtual time: when its principal has had as much as
// the others, by weight. The line with the least is called, and its start time
// moves on by cost over weight. Virtual time is the start time of who was called
// last; a principal who was away starts there, and saves nothing up. So in any
// interval in which two principals both wait, what they get divided by their
// weights differs by one request of each at most.
//
// A line is bounded, and so are all together. When all are full the youngest of
// the longest line gives way, by weight: who floods is refused, and who asks for
// little is not.
//
//	q := queue.New(queue.Limits{Window: 64}, weightOf)
//	turn, err := q.Enter(ctx, who, 1) // waits; *queue.FullError, or ctx's end
//	defer turn.Leave()
package queue

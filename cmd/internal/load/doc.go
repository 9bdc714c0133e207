// Package load asks a server for tokens over and over and says how fast they came.
//
// A [Caller] is one way of asking: one round trip, and how many tokens it brought.
// There is one for each layer that is measured: HTTP/1.1 with JSON, one token or a
// batch; gRPC, unary, batch and stream; and the same requests to a Vault. They are
// leaner than the clients that programs use, since they share the processors with
// the server they measure: a request is the same bytes every time, and of a reply
// only what is counted is looked at.
//
// [Run] has many callers ask, in one of two ways. In a closed loop each asks again
// as soon as it is answered. In an open loop requests arrive at fixed moments,
// whether the one before is answered or not, and the latency of each counts from
// the moment it was to arrive, not from when a caller had time for it: a server
// that stalls for a second has a second of late answers, not one.
//
//	m, err := load.ParseMix("json=1,grpc=3", "web", 64)
//	outcome, err := load.Run(ctx, load.Plan{Callers: callers, Weights: m.Weights(), Duration: time.Second})
//
// [Bound] is what the processors allow, when each part of a token is known.
package load

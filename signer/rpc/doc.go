// Package rpc serves gRPC, package chancery.v1, on connections that a Door has
// shaken hands with and for which ALPN chose h2.
//
// It is the JSON side's twin: the same Service, the same Gate asked for every call
// and every message of a stream before a byte of it is read, the same limits of
// size before anything is parsed, the same refusals in the log. A refusal is a
// gRPC status with google.rpc.ErrorInfo, whose reason is the api.Code; see Status.
//
//	door := &server.Door{ … }
//	calls := rpc.New(config, rpc.Limits{})
//	go calls.Serve(door.Protocol("h2"))
//	…
//	calls.Shutdown(ctx)
//
// What one client may cost is bounded (Limits): calls open at a time, by
// connection, by client and in all; the time of a call, the reading of its message
// included; headers, CONTINUATION frames, pings and resets (CVE-2023-39325,
// CVE-2023-45288). A call that was cancelled before it was looked at is not looked
// at.
//
// There is no server reflection: it tells every caller what methods there are before
// it is known who asks, and the schema is in the repository. There is no
// grpc.health.v1 either: a client certificate says nothing about who may know how the
// daemon is; the admin listener does (/livez, /readyz). Compressed messages are refused,
// as the JSON side refuses Content-Encoding.
package rpc

package rpc

import "time"

// Limits bound what gRPC connections may cost, beside server.Limits, whose sizes,
// idle time and request timeout hold here too. The zero value of a member means its
// default.
type Limits struct {
	Streams      uint32        // 256: calls open on one connection
	PerClient    int64         // 1024: calls open by one client certificate; a SignJWTStream counts for sixteen
	Calls        int64         // 4096: calls open in all
	InFlight     int           // 64: requests of one SignJWTStream being worked on
	Resets       int           // 1000: RST_STREAM, SETTINGS and PRIORITY frames on one connection, within ResetsWithin; ten times as many resets of ours, and a thousand times as many frames
	ResetsWithin time.Duration // 10 s
	Age          time.Duration // 1 h: of a connection; then the client is told to make another
	StreamAge    time.Duration // 10 min: of a SignJWTStream; then it ends with OK
	PingEvery    time.Duration // 20 s: a client that asks more often whether we are there is cut off
}

func (l Limits) withDefaults() Limits {
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&l.ResetsWithin, 10*time.Second)
	or(&l.Age, time.Hour)
	or(&l.StreamAge, 10*time.Minute)
	or(&l.PingEvery, 20*time.Second)
	if l.Streams == 0 {
		l.Streams = 256
	}
	if l.PerClient == 0 {
		l.PerClient = 1024
	}
	if l.Calls == 0 {
		l.Calls = 4096
	}
	if l.InFlight == 0 {
		l.InFlight = 64
	}
	if l.Resets == 0 {
		l.Resets = 1000
	}
	return l
}

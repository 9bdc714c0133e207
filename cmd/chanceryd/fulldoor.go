package main

import (
	"log/slog"
	"sync"
	"time"

	"chancery/cmd/internal/telemetry"
	"chancery/signer/server"
)

// tellFullEvery is how often the log says at most that a door is full, for each limit:
// who is turned away must not be able to fill it.
const tellFullEvery = time.Minute

// A fullDoor counts the connections that a door has no room for, and has the log say so
// now and then.
type fullDoor struct {
	name    string
	metrics *telemetry.Metrics
	log     *slog.Logger

	mu     sync.Mutex // guards what follows
	told   map[server.Bound]time.Time
	untold map[server.Bound]int // since then
}

func newFullDoor(name string, m *telemetry.Metrics, log *slog.Logger) *fullDoor {
	for _, b := range []server.Bound{server.BoundConnections, server.BoundPerPeer} {
		m.ConnectionsBounded(name, string(b))
	}
	return &fullDoor{name: name, metrics: m, log: log, told: make(map[server.Bound]time.Time), untold: make(map[server.Bound]int)}
}

// refused is told of a connection that was closed for b.
func (f *fullDoor) refused(peer string, b server.Bound) {
	f.metrics.ConnectionRefused(f.name, string(b))
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if at, ok := f.told[b]; ok && now.Sub(at) < tellFullEvery {
		f.untold[b]++
		return
	}
	f.log.Warn("a connection was closed at once: too many are open", "door", f.name, "limit", string(b), "peer", peer,
		"more_since_last_told", f.untold[b], "told_again_after", tellFullEvery.String())
	f.told[b], f.untold[b] = now, 0
}

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/telemetry"
	"chancery/signer"
	"chancery/signer/limit"
	"chancery/signer/queue"
	"chancery/signer/rpc"
	"chancery/signer/server"
)

// shares is what each principal may have of this node, and where they wait for it.
type shares struct {
	limits *limit.Limiter
	queues map[string]*signer.Queue // by keystore
}

func newShares(cfg *config.Config, now func() time.Time, m *telemetry.Metrics) *shares {
	s := &shares{limits: limit.New(cfg.LimitConfig(), now), queues: make(map[string]*signer.Queue)}
	for name := range cfg.Keystores {
		waited := m.Durations("chancery_queue_wait_seconds", "Time a request waited for its turn at a keystore, if it had to.",
			map[string]string{"keystore": name})
		s.queues[name] = queue.New(cfg.Queue(name), s.limits.Weight, waited)
	}
	s.metrics(m)
	return s
}

func (s *shares) queue(keystore string) *signer.Queue { return s.queues[keystore] }

// set puts the limits of another configuration in force.
func (s *shares) set(cfg *config.Config) {
	s.limits.Set(cfg.LimitConfig())
	for _, q := range s.queues {
		q.Reweigh()
	}
}

// metrics tells of queues by keystore and of refusals by cause. No metric tells of a
// principal: whoever has a certificate would make one. The log has who it was.
func (s *shares) metrics(m *telemetry.Metrics) {
	const refused, help = "chancery_requests_limited_total", "Requests refused because too much was asked for, by the limit; a line is that of a principal, a queue all of them."
	for name, q := range s.queues {
		of := map[string]string{"keystore": name}
		m.Gauge("chancery_queue_waiting", "Requests that wait for their turn at a keystore.", of, func() float64 { return float64(q.Stats().Waiting) })
		m.Gauge("chancery_queue_principals", "Principals that have a request waiting there.", of, func() float64 { return float64(q.Stats().Lines) })
		m.Gauge("chancery_queue_inside", "Work that is at a keystore, in signatures on an elliptic curve.", of, func() float64 { return float64(q.Stats().Inside) })
		m.Counter("chancery_queue_turns_total", "Turns at a keystore, by whether the request had to wait.",
			map[string]string{"keystore": name, "waited": "no"}, func() float64 { return float64(q.Stats().AtOnce) })
		m.Counter("chancery_queue_turns_total", "Turns at a keystore, by whether the request had to wait.",
			map[string]string{"keystore": name, "waited": "yes"}, func() float64 { return float64(q.Stats().Waited) })
		m.Counter("chancery_queue_left_total", "Requests whose time ended, or whose caller went, while they waited.", of, func() float64 { return float64(q.Stats().Left) })
	}
	sum := func(count func(queue.Stats) uint64) func() float64 {
		return func() (n float64) {
			for _, q := range s.queues {
				n += float64(count(q.Stats()))
			}
			return n
		}
	}
	m.Counter(refused, help, map[string]string{"limit": "line"}, sum(func(s queue.Stats) uint64 { return s.RefusedOwn }))
	m.Counter(refused, help, map[string]string{"limit": "queue"}, sum(func(s queue.Stats) uint64 { return s.RefusedAll }))
	for _, c := range limit.Causes() {
		m.Counter(refused, help, map[string]string{"limit": string(c)}, func() float64 { return float64(s.limits.Refused(c)) })
	}
	m.Counter("chancery_quota_alerts_total", "Alerts that a principal has had its quota of signatures.", nil, func() float64 { return float64(s.limits.Alerts()) })
}

// doorLimits returns what is configured of a listener as package server takes it.
func doorLimits(l config.DoorLimits) server.Limits {
	return server.Limits{
		Handshake: l.Handshake, ReadHeader: l.ReadHeader, Read: l.Read, Write: l.Write, Idle: l.Idle,
		Connections: l.Connections, PerPeer: l.PerPeer, HeaderBytes: l.HeaderBytes,
		MaxBody: int64(l.Body), MaxBatchBody: int64(l.BatchBody), RequestTimeout: l.RequestTimeout,
	}
}

// grpcLimits returns what is configured of a listener as package rpc takes it.
func grpcLimits(l config.GRPCLimits) rpc.Limits {
	return rpc.Limits{
		Streams: uint32(l.Streams), PerClient: int64(l.PerClient), Calls: int64(l.Calls), InFlight: l.InFlight, Resets: l.Resets,
	}
}

// otherDescriptors is what a node has open beside connections: logs, catalog, files,
// listeners, workers, and connections to a Vault or a database.
const otherDescriptors = 256

// descriptors returns how many the listeners of a configuration may need, with what
// else a node has open.
func descriptors(cfg *config.Config) int {
	n := otherDescriptors + server.Limits{}.MostConnections() // the admin listener's
	for _, l := range []config.DoorLimits{cfg.Listeners.Signing.Limits, cfg.Listeners.Ops.Limits, cfg.Listeners.Public.Limits} {
		n += doorLimits(l).MostConnections()
	}
	return n
}

// fewDescriptors says what is wrong if a process may have less than that open, or
// nothing. The runtime has raised the soft limit to the hard one by now (package os).
func fewDescriptors(need int) string {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur >= uint64(need) {
		return ""
	}
	return fmt.Sprintf("the listeners may need %d descriptors, and a process may have %d: further connections would wait, and files could not be opened", need, lim.Cur)
}

const descriptorsHint = "LimitNOFILE= of the unit, ulimit -n, or lower connections of listeners"

func checkDescriptors(cfg *config.Config) []config.Finding {
	if text := fewDescriptors(descriptors(cfg)); text != "" {
		return []config.Finding{cfg.At("listeners", config.Warning, text, descriptorsHint)}
	}
	return nil
}

func (n *node) warnOfDescriptors(cfg *config.Config) {
	if text := fewDescriptors(descriptors(cfg)); text != "" {
		n.log.Warn(text, "hint", descriptorsHint)
	}
}

package pkcs11

import (
	"syscall"
	"time"
)

// Quick returns cfg with a cheap PIN ledger and workers that follow each other soon.
func Quick(cfg Config) Config {
	cfg.cost, cfg.pause = hashCost{passes: 1, kibibytes: 64}, 20*time.Millisecond
	return cfg
}

// Waiting returns how many wait to sign.
func (p *Provider) Waiting() int { return p.rooms.signing.waiting() }

func (r *room) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.line.Len()
}

// WorkerPID returns the process of the worker that serves, or 0.
func (p *Provider) WorkerPID() int {
	if g := p.ready.Load(); g != nil && !g.isEnded() {
		return g.cmd.Process.Pid
	}
	return 0
}

// SignalWorker sends a signal to the worker that serves.
func (p *Provider) SignalWorker(s syscall.Signal) error {
	return syscall.Kill(p.WorkerPID(), s)
}

// LabelOf is what a key's label must be.
var LabelOf = labelOf

// taken returns how many of a signing room's places are.
func (r *room) taken() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return placesPerSigner - r.free
}

// PlacesPerSigner is how many requests a signing thread has at most.
const PlacesPerSigner = placesPerSigner

func (g *generation) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

// deadlines returns those of what is asked and not answered.
func (g *generation) deadlines() []time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []time.Time
	for _, c := range g.calls {
		all = append(all, c.deadline)
	}
	return all
}

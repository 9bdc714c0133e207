package pkcs11

import (
	"context"
	"syscall"
	"time"

	"chancery/keystore"
)

// Quick returns cfg with a cheap PIN ledger, workers that follow each other soon
// and, if cfg does not say, one worker.
func Quick(cfg Config) Config {
	if cfg.Workers == 0 {
		cfg.Workers = 1
	}
	cfg.cost, cfg.pause = hashCost{passes: 1, kibibytes: 64}, 20*time.Millisecond
	return cfg
}

// Waiting returns how many wait to sign.
func (p *Provider) Waiting() int { return p.hall.waiting() }

func (h *hall) waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.line.Len()
}

func (r *room) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.line.Len()
}

// WorkerPID returns the process of the one worker that serves, or 0.
func (p *Provider) WorkerPID() int {
	if pids := p.WorkerPIDs(); len(pids) == 1 {
		return pids[0]
	}
	return 0
}

// WorkerPIDs returns the processes of all that serve.
func (p *Provider) WorkerPIDs() (pids []int) {
	for _, g := range p.hall.workers() {
		pids = append(pids, g.cmd.Process.Pid)
	}
	return pids
}

// SignalWorker sends a signal to the worker that serves.
func (p *Provider) SignalWorker(s syscall.Signal) error {
	return syscall.Kill(p.WorkerPID(), s)
}

// LabelOf is what a key's label must be.
var LabelOf = labelOf

func (r *room) isFree() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.free > 0
}

// taken returns how many of the workers' places are.
func (h *hall) taken() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.open {
		n += g.seats.taken
	}
	return n
}

// PlacesPerSigner is how many requests a signing thread has at most.
const PlacesPerSigner = placesPerSigner

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

// SignUnverified returns what signs with k and does not look at the signature.
func SignUnverified(of keystore.Key) func(ctx context.Context, message []byte) ([]byte, error) {
	k := of.(*key)
	return func(ctx context.Context, message []byte) (sig []byte, err error) {
		err = k.p.served(ctx, 2, func(g *generation, at *place) error {
			if k.slots[g.slot].by.Load() != g.number {
				if err := k.holdOnce(ctx, g); err != nil {
					return err
				}
			}
			sig, err = g.ask(ctx, at, verbSign, k.p.cfg.Deadlines.Sign, k.name[:], message)
			return err
		})
		return sig, err
	}
}

// Signed returns how much each worker that serves has signed for callers.
func Signed(p *Provider) (n []int64) {
	for _, g := range p.hall.workers() {
		n = append(n, g.signed.Load())
	}
	return n
}

// ClerkPID returns the process of the clerk, or 0. Nobody may use it meanwhile.
func ClerkPID(p *Provider) int {
	if g := p.clerk.worker; g != nil && !g.isEnded() {
		return g.cmd.Process.Pid
	}
	return 0
}

// RulesOf returns what a module may read and write.
func RulesOf(c Confinement, module string, env map[string]string) (read, write []string) {
	r := c.rules(module, env)
	return r.Read, r.Write
}

// HasTrouble reports whether the leader does not serve.
func HasTrouble(p *Provider) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble != nil
}

// Holding returns the processes that hold a key.
func Holding(p *Provider, id keystore.KeyID) (pids []int) {
	for _, g := range p.hall.holding(id) {
		pids = append(pids, g.cmd.Process.Pid)
	}
	return pids
}

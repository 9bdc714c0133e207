package pkcs11

import (
	"cmp"
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// The reserve is one process that has been executed and confined, has loaded the
// module, and waits to become the next worker, whichever slot that is for. To be
// executed and to load is most of what a start takes, so whoever waits for another
// worker waits half as long. It has not initialised the module: it has seen nothing
// of the token, has no session, and knows no PIN.
//
// It was confined when it was executed, to the files that there were. Whatever it
// meets before it has offered a PIN may come of that, so it says nothing of the
// token, and one that is executed now is tried instead.
type reserve struct {
	give  chan *generation // whoever starts a worker may receive here
	there chan struct{}    // may be received from while a reserve waits
	waits atomic.Bool      // one is offered: who receives it waits for handOver at the most
	spent chan struct{}    // closed when no worker is left, and none will be started
}

func (r *reserve) init() {
	r.give, r.there, r.spent = make(chan *generation), make(chan struct{}), make(chan struct{})
}

// keepReserve has a reserve while the token serves, until Close, and then waits
// for those it gave: the kernel takes this thread for their parent.
func (p *Provider) keepReserve() {
	runtime.LockOSThread()
	defer func() { <-p.reserve.spent }()
	for failures := 1; p.awaitReady(); failures++ {
		g, err := p.execute()
		waits := time.Now()
		if err == nil && p.offer(g) {
			failures = 0
			continue
		}
		if err == nil && time.Since(waits) >= goodService {
			failures = 1
		}
		if g != nil {
			g.end(cmp.Or(err, errClosed)) // it has ended, or the provider is closed
			err = g.reap()
		}
		if p.ctx.Err() != nil {
			return
		}
		p.cfg.Log.Debug("the reserve ended", "keystore", p.cfg.Name, "err", err)
		select {
		case <-time.After(jitter(backoff(failures, longPause))):
		case <-p.ctx.Done():
		}
	}
}

// handOver is how long the goroutine of a reserve may take to hand it over: it is
// locked to a thread, which may have to wait for a processor.
const handOver = 50 * time.Millisecond

// take returns the reserve, or nil if there is none.
func (r *reserve) take() *generation {
	patience := time.Duration(0)
	if r.waits.Load() {
		patience = handOver
	}
	select {
	case g := <-r.give:
		return g
	case <-time.After(patience):
		return nil
	}
}

// offer waits until someone takes the reserve and has made a worker of it, or has
// failed to. It returns false if it was not taken.
func (p *Provider) offer(g *generation) bool {
	r := &p.reserve
	p.cfg.Log.Debug("a reserve waits", "keystore", p.cfg.Name, "pid", g.cmd.Process.Pid)
	r.waits.Store(true)
	defer r.waits.Store(false)
	for given := false; !given; {
		select {
		case r.give <- g:
			given = true
			r.waits.Store(false)
		case r.there <- struct{}{}:
		case <-g.ended: // nobody asked it for that
			return false
		case <-p.ctx.Done():
			return false
		}
	}
	select {
	case <-g.tried:
	case <-p.ctx.Done():
	}
	return true
}

// execute executes a worker and has it load the module. The generation it returns
// with an error is to be ended; without one there is none. The calling goroutine
// is locked to its thread.
func (p *Provider) execute() (*generation, error) {
	g, err := startGeneration(p.numbers.Add(1), p.cfg, func(g *generation) { p.hall.remove(g) })
	if err != nil {
		return nil, err
	}
	// Whoever closes the provider does not wait for a module that hangs.
	stop := context.AfterFunc(p.ctx, func() { g.end(errClosed) })
	defer stop()
	if err := p.greet(g); err != nil {
		return g, err
	}
	_, err = g.ask(context.Background(), nil, verbLoad, p.cfg.Deadlines.Start, []byte(p.cfg.Module))
	return g, err
}

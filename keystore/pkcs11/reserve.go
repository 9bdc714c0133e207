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
type reserve struct {
	give  chan *generation // whoever starts a worker may receive here
	spent chan struct{}    // closed when no worker is left, and none will be started
	waits atomic.Bool      // one has loaded the module
}

func (r *reserve) init() {
	r.give, r.spent = make(chan *generation), make(chan struct{})
}

// keepReserve has a reserve while the token serves, until Close, and then waits
// for those it gave: the kernel takes this thread for their parent.
func (p *Provider) keepReserve() {
	runtime.LockOSThread()
	defer func() { <-p.reserve.spent }()
	for failures := 1; p.awaitReady(); failures++ {
		g, err := p.load()
		if err == nil && p.offer(g) {
			failures = 0
			continue
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

// offer waits until someone takes the reserve and has made a worker of it, or has
// failed to. It returns false if it was not taken.
func (p *Provider) offer(g *generation) bool {
	r := &p.reserve
	r.waits.Store(true)
	defer r.waits.Store(false)
	select {
	case r.give <- g:
	case <-g.ended: // nobody asked it for that
		return false
	case <-p.ctx.Done():
		return false
	}
	r.waits.Store(false)
	select {
	case <-g.tried:
	case <-p.ctx.Done():
	}
	return true
}

// reserveAnswers is how long the reserve may take to say that it lives. What ends a
// worker may have ended it too, which is not known at once.
const reserveAnswers = time.Second

// loaded returns a worker that has loaded the module: the reserve if there is one.
func (p *Provider) loaded(slot int) (*generation, error) {
	select {
	case g := <-p.reserve.give:
		_, err := g.ask(context.Background(), nil, verbHello, reserveAnswers, []byte{protocolVersion})
		if err == nil {
			g.slot = slot
			return g, nil
		}
		close(g.tried)
		g.end(err)
		g.reap()
	default:
	}
	g, err := p.load()
	if g != nil {
		g.slot = slot
	}
	return g, err
}

// load executes a worker and has it load the module. The generation it returns
// with an error is to be ended; without one there is none. The calling goroutine
// is locked to its thread.
func (p *Provider) load() (*generation, error) {
	g, err := startGeneration(p.numbers.Add(1), p.cfg, func(g *generation) { p.hall.remove(g) })
	if err != nil {
		return nil, err
	}
	// Whoever closes the provider does not wait for a module that hangs.
	stop := context.AfterFunc(p.ctx, func() { g.end(errClosed) })
	defer stop()
	return g, p.greet(g)
}

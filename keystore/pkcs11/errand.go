package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"chancery/keystore"
)

// clerkPatience is how long the clerk waits for another errand before it goes.
const clerkPatience = 2 * time.Second

// The clerk is a worker of its own for what is slow or rare: to generate, find,
// list and destroy. It is started when it is needed and goes soon after, so it
//
//   - keeps no signature waiting, though a device may take minutes for a key;
//   - is alone, so that never two of them generate or destroy on one token;
//   - sees the token afresh: some modules show a process what it saw at first.
type clerk struct {
	worker *generation    // nil: none
	coming chan candidate // one that is starting, though who asked for it may have gone; nil: none
}

// A candidate is a clerk who has come, or why none did.
type candidate struct {
	worker *generation
	err    error
}

// errand has the clerk do f, and once more if the clerk ended under it. fresh
// asks for a clerk who has not seen the token before. f must be harmless to
// repeat unless its error wraps keystore.ErrUncertain.
func (p *Provider) errand(ctx context.Context, fresh bool, f func(*generation, *place) error) error {
	at, err := p.errands.enter(ctx)
	if err != nil {
		return fmt.Errorf("keystore %s: %w", p.cfg.Name, err)
	}
	defer at.leave()
	return repeat(ctx, 2, func(bool) error {
		if err := p.awaitServing(ctx); err != nil {
			return err
		}
		g, err := p.hire(ctx, fresh)
		if err != nil {
			return err
		}
		return f(g, at)
	})
}

// hire returns the clerk. Its caller has the one place of the errands. There is
// never more than one: whoever comes after one who did not wait for the clerk
// waits for the same, and if he asked for a fresh one, has it go first.
func (p *Provider) hire(ctx context.Context, fresh bool) (*generation, error) {
	c := &p.clerk
	for {
		if c.coming == nil {
			if g := c.worker; g != nil {
				if !fresh && !g.isEnded() && !g.isTold() {
					return g, nil
				}
				if err := p.dismiss(ctx, g); err != nil {
					return nil, err
				}
				c.worker = nil
			}
			if c.coming = p.engage(); c.coming == nil {
				return nil, errClosed
			}
			fresh = false // this one is
		}
		select {
		case come := <-c.coming:
			c.coming, c.worker = nil, come.worker
			if come.err != nil || !fresh {
				return come.worker, come.err
			}
		case <-ctx.Done():
			return nil, gaveUp(ctx)
		}
	}
}

// engage starts a clerk, who is looked after until he has gone. It returns nil
// at Close.
func (p *Provider) engage() chan candidate {
	hired := make(chan candidate, 1)
	begun := p.begin(func() {
		runtime.LockOSThread() // the kernel may take this thread for the parent
		g, err := p.start(clerkSlot)
		if err == nil {
			hired <- candidate{g, nil}
			p.attend(g)
			return
		}
		if g != nil {
			g.end(err)
			if cause := g.reap(); errors.Is(err, errEnded) {
				err = fmt.Errorf("%w: %w", errEnded, cause)
			} else {
				p.doubt()
				err = p.refusal(err)
			}
		}
		hired <- candidate{nil, err}
	})
	if !begun {
		return nil
	}
	return hired
}

// doubt looks after the workers, when a clerk has met a token that is not what
// it was: sessions that are open, and copies, may work on for a while.
func (p *Provider) doubt() {
	p.begin(func() {
		ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Deadlines.Start)
		defer cancel()
		if err := p.Probe(ctx); err != nil {
			p.cfg.Log.Debug("a probe failed", "keystore", p.cfg.Name, "err", err)
		}
	})
}

// attend waits until the clerk has nothing more to do, and sends it away.
func (p *Provider) attend(g *generation) {
	tick := time.NewTicker(clerkPatience / 4)
	defer tick.Stop()
	for {
		select {
		case <-g.ended:
			if err := g.reap(); !g.isTold() && p.ctx.Err() == nil {
				p.cfg.Log.Warn("the clerk ended", "keystore", p.cfg.Name, "generation", g.number, "err", err)
			}
			return
		case <-p.ctx.Done():
			g.stop(p.cfg.Deadlines.Close, errClosed)
		case <-tick.C:
			if g.retire(clerkPatience) {
				g.stop(p.cfg.Deadlines.Close, errTold)
			}
		}
	}
}

// errTold is why a worker ended that did not go of itself when it was told to.
var errTold = errors.New("it was told to go and did not in time")

// begin runs f in a goroutine that Close waits for. It returns false at Close.
func (p *Provider) begin(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return false
	}
	p.crew.Go(f)
	return true
}

// dismiss tells a worker to go, once all that it was asked has been answered,
// and waits until its process is gone. It goes too if ctx ends meanwhile.
func (p *Provider) dismiss(ctx context.Context, g *generation) error {
	empty := p.hall.remove(g)
	p.settle()
	begun := p.begin(func() {
		select {
		case <-empty:
		case <-g.ended:
		case <-time.After(p.cfg.Deadlines.Sign):
		case <-p.ctx.Done():
		}
		g.stop(p.cfg.Deadlines.Close, errTold)
	})
	if !begun {
		return errClosed
	}
	select {
	case <-g.reaped:
		return nil
	case <-ctx.Done():
		return gaveUp(ctx)
	}
}

// Drop implements keystore.Provider. Every worker that held the key ends, one
// after the other, so that the others sign meanwhile. With its process go its
// handles and its session copies: it returns when the processes are gone.
func (p *Provider) Drop(ctx context.Context, id keystore.KeyID) error {
	if err := p.relieve(ctx, p.hall.holding(id)); err != nil {
		return fmt.Errorf("dropping key %s: %w", id, err)
	}
	return nil
}

// relieve has others take the place of these workers, one after the other.
// They all go, though nobody may wait for that any more.
func (p *Provider) relieve(ctx context.Context, workers []*generation) error {
	var errs []error
	for _, g := range workers {
		errs = append(errs, p.awaitAnother(ctx, g), p.dismiss(ctx, g))
	}
	return errors.Join(errs...)
}

// anotherWithin is how long a worker that is to go waits for another one to
// take its place.
const anotherWithin = 2 * time.Second

// awaitAnother waits a while until a worker serves beside g, and until a reserve
// waits to be the next: one worker alone serves for as short as can be.
func (p *Provider) awaitAnother(ctx context.Context, g *generation) error {
	if p.cfg.Workers == 1 {
		return nil
	}
	patience := time.NewTimer(anotherWithin)
	defer patience.Stop()
	for {
		_, changed, _ := p.state()
		var there chan struct{}
		if slices.ContainsFunc(p.hall.workers(), func(other *generation) bool { return other != g }) {
			there = p.reserve.there // before, it is the one that is about to serve beside g
		}
		select {
		case <-changed:
		case <-there:
			return nil
		case <-g.ended:
			return nil
		case <-patience.C:
			return nil
		case <-ctx.Done():
			return gaveUp(ctx)
		}
	}
}

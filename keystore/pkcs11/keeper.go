package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"chancery/keystore"
)

// A trouble is why a token does not serve, and the state that is.
type trouble struct {
	state keystore.TokenState
	err   error
}

func (t *trouble) Error() string { return t.err.Error() }
func (t *trouble) Unwrap() error { return t.err }

// waits reports whether only an operator ends the trouble.
func (t *trouble) waits() bool {
	switch t.state {
	case keystore.TokenUnavailable, keystore.TokenStarting, keystore.TokenFailed:
		return false
	}
	return true
}

// A life is what became of one worker.
type life struct {
	served  time.Duration // 0: it never came to serve
	useful  bool          // it signed for callers, or served for long
	died    bool          // its process ended of itself
	told    bool          // it ended because it was told to
	crashed bool          // it ended of itself before it came to serve
	err     error         // why it ended
}

// keep starts one worker after the other in a slot, until Close. It is locked to
// its thread, which the kernel takes for the parent of those that it executes.
//
// The worker of slot 0 leads: it alone meets what stops a token, and hears
// operators. The others start in its wake, while some worker serves, and what
// keeps one of them from starting is no trouble of the token.
func (p *Provider) keep(slot int) {
	runtime.LockOSThread()
	var order chan<- error // an operator's retry that waits to hear
	failures, crashes := 0, 0
	for slot == 0 || p.awaitReady() {
		l := p.live(slot, func() {
			if order != nil {
				order <- nil
				order = nil
			}
		})
		if p.ctx.Err() != nil {
			return
		}
		failures++
		if l.useful || l.told {
			failures = 1
		}
		crashes++
		if !l.crashed {
			crashes = 0
		}
		if l.told { // an operator who waits hears of the next one
			continue
		}
		if slot == 0 {
			order = p.rest(l, failures, crashes, order)
		} else {
			p.pause(l, failures, crashes)
		}
		if p.ctx.Err() != nil {
			return
		}
	}
}

// awaitReady waits until the token serves. It returns false at Close.
func (p *Provider) awaitReady() bool {
	for {
		state, changed, _ := p.state()
		if state == keystore.TokenReady && p.ctx.Err() == nil {
			return true
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return false
		}
	}
}

// pauseAfter returns how long a slot stays empty.
func pauseAfter(l life, failures, crashes int, served time.Duration) time.Duration {
	longest := longPause
	switch {
	case l.served > 0:
		longest = served
	case crashes >= crashLoop:
		longest = loopPause
	}
	return jitter(backoff(failures, longest))
}

// pause is rest for the workers that do not lead.
func (p *Provider) pause(l life, failures, crashes int) {
	wait := pauseAfter(l, failures, crashes, p.cfg.pause)
	if t := new(trouble); errors.As(l.err, &t) && t.waits() {
		wait = jitter(loopPause) // the leader will meet it too, if it is the token's
	}
	if l.served == 0 && failures > 1 {
		p.cfg.Log.Warn("a worker does not start; others serve", "keystore", p.cfg.Name, "err", l.err, "pause", wait.Round(time.Millisecond).String())
	}
	select {
	case <-time.After(wait):
	case <-p.ctx.Done():
	}
}

// rest waits until it is time for another generation. An operator's retry that
// is still to hear hears what it came to. rest returns the one that ended the
// wait, if one did.
func (p *Provider) rest(l life, failures, crashes int, order chan<- error) chan<- error {
	t := &trouble{keystore.TokenUnavailable, l.err}
	if crashes >= crashLoop {
		t = &trouble{keystore.TokenFailed, fmt.Errorf(
			"%d workers in a row ended as they started, the last one: %w (hint: look into the module, then `chancery token retry %s`)",
			crashes, l.err, p.cfg.Name)}
	}
	errors.As(l.err, &t)
	var timer <-chan time.Time // never, for an operator
	if !t.waits() {
		timer = time.After(pauseAfter(l, failures, crashes, p.cfg.pause))
	}
	// A worker that only died is as good as starting; callers wait for it.
	if t.waits() || failures > 1 && l.served == 0 || order != nil {
		if n := len(p.hall.workers()); n > 0 {
			p.cfg.Log.Warn("a worker does not start; others serve", "keystore", p.cfg.Name, "err", t.err, "others", n)
		}
		p.mu.Lock()
		p.trouble = t
		p.mu.Unlock()
		p.settle()
	}
	if order != nil {
		order <- p.refusal(t.err)
	}
	for {
		select {
		case <-timer:
			return nil
		case <-p.ctx.Done():
			return nil
		case order := <-p.orders:
			err := p.permit(t.state)
			if err == nil {
				return order
			}
			order <- p.refusal(err)
		}
	}
}

// live runs one generation from its start until its process is gone. up is
// called once it serves. The calling goroutine is locked to its thread.
func (p *Provider) live(slot int, up func()) life {
	if slot == 0 {
		slow := p.watchStart()
		defer slow.Stop()
	}
	g, err := p.start(slot)
	if g == nil {
		return life{err: err}
	}
	// A worker that is told to go is stopped by its keeper's provider alone.
	stopped := make(chan struct{})
	stop := context.AfterFunc(p.ctx, func() {
		g.stop(p.cfg.Deadlines.Close, errClosed)
		close(stopped)
	})
	defer func() {
		if !stop() {
			<-stopped
		}
	}()
	switch {
	case err != nil:
		crashed := errors.Is(err, errEnded) && !errors.Is(err, errFault) && !errors.Is(err, errLate)
		g.end(err)
		cause := g.reap()
		if errors.Is(err, errEnded) {
			err = cause
		}
		return life{crashed: crashed, err: err}
	case p.hall.add(g, p.cfg.Signers*placesPerSigner):
		return p.serve(g, up)
	}
	told := !p.hall.hasEnded(g) // it has seen what is no more
	g.stop(p.cfg.Deadlines.Close, errTold)
	return life{told: told, crashed: !told, err: g.reap()}
}

// serve is live from when the hall is open to the worker.
func (p *Provider) serve(g *generation, up func()) life {
	p.mu.Lock()
	if g.slot == 0 { // what another one met, or did not, ends nothing that the leader waits for
		p.trouble, p.leading = nil, true
	}
	p.mu.Unlock()
	p.settle()
	up() // not before: whoever has heard of it may count on it
	<-g.ended
	if !g.isTold() {
		p.mu.Lock()
		p.deaths++
		p.mu.Unlock()
	}
	p.settle()
	l := life{served: time.Since(g.began), died: g.died(), told: g.isTold(), err: g.reap()}
	p.hall.gone(g)
	l.useful = g.signed.Load() >= useful || l.served >= goodService
	if p.ctx.Err() == nil && !l.told {
		p.cfg.Log.Warn("worker ended", "keystore", p.cfg.Name, "generation", g.number, "served", l.served.Round(time.Millisecond).String(),
			"signatures", g.signed.Load(), "err", l.err)
		p.lost(g, l)
	}
	return l
}

// startPatience is how long callers wait for a worker that starts. Most start
// in a fraction of it; those behind a module that hangs take Deadlines.Start.
const startPatience = 2 * time.Second

// watchStart has callers refused, rather than wait out their deadlines, when the
// leader is starting for long.
func (p *Provider) watchStart() *time.Timer {
	p.mu.Lock()
	p.leading = false
	p.mu.Unlock()
	return time.AfterFunc(startPatience, func() {
		p.mu.Lock()
		slow := !p.leading && p.trouble == nil
		if slow {
			p.trouble = &trouble{keystore.TokenUnavailable, fmt.Errorf("its worker has been starting for more than %v", startPatience)}
		}
		p.mu.Unlock()
		if slow {
			p.settle()
		}
	})
}

// start makes a worker ready to serve: the reserve if there is one, or else one
// that it executes. The generation it returns with an error is to be ended;
// without one there is none.
func (p *Provider) start(slot int) (*generation, error) {
	if g := p.reserve.take(); g != nil {
		err := p.startReserve(g, slot)
		if err == nil || g.offered || g.lives && errors.Is(err, errLate) || p.ctx.Err() != nil {
			return g, err
		}
		g.end(err)
		p.cfg.Log.Debug("the reserve did not come to serve", "keystore", p.cfg.Name, "err", err, "ended", g.reap())
	}
	g, err := p.execute()
	if err == nil {
		err = p.startOn(g, slot)
	}
	return g, err
}

// reserveAnswers is how long a reserve may take to say that it lives, which asks
// nothing of the module. Nobody has looked after it while it waited.
const reserveAnswers = 500 * time.Millisecond

// startReserve is startOn for a reserve, if it lives.
func (p *Provider) startReserve(g *generation, slot int) error {
	if _, err := g.ask(p.ctx, nil, verbHello, reserveAnswers, []byte{protocolVersion}); err != nil {
		close(g.tried)
		return err
	}
	g.lives = true
	return p.startOn(g, slot)
}

// startOn makes a worker that has loaded the module ready to serve in a slot.
func (p *Provider) startOn(g *generation, slot int) error {
	defer close(g.tried)
	// Whoever closes the provider does not wait for a module that hangs.
	stop := context.AfterFunc(p.ctx, func() { g.end(errClosed) })
	defer stop()
	g.slot = slot
	err := p.bring(g)
	g.began = time.Now()
	return err
}

// lost has the breaker know of a worker that ended, over something that it was
// asked, after it had come to serve.
func (p *Provider) lost(g *generation, l life) {
	// A kill from outside says nothing of what the token does with what it is asked,
	// and a key in quarantine nothing of the other keys.
	if !g.asked || g.expected.Load() {
		return
	}
	p.mu.Lock()
	// One that died after a few signatures served somebody; one that answered
	// with a fault, or not at all, may do so to everybody who is not a challenge.
	few := int64(useful)
	if l.died {
		few = 1
	}
	opened := p.breaker.ended(p.cfg.Now(), g.signed.Load() >= few || l.served >= breakerWindow)
	if opened {
		p.broken = fmt.Errorf("%d workers in a row ended before each had signed %d times, the last one: %w", breakerEnds, useful, l.err)
	}
	p.mu.Unlock()
	if opened {
		p.settle()
		select {
		case p.tripped <- struct{}{}: // guard takes it, once for each time the breaker opens
		case <-p.ctx.Done():
		}
	}
}

// guard leaves a token alone when the breaker has opened, then tries it out, and
// lets callers in again when it signs. An operator's retry ends the pause.
func (p *Provider) guard() {
	for {
		select {
		case <-p.tripped:
		case <-p.ctx.Done():
			return
		}
		for p.ctx.Err() == nil && !p.mended() {
		}
	}
}

// mended waits for the breaker's pause and tries the token out.
func (p *Provider) mended() bool {
	p.mu.Lock()
	pause := jitter(p.breaker.pause())
	waits := p.trouble != nil && p.trouble.waits()
	p.mu.Unlock()
	var order chan<- error
	orders := p.orders
	if waits || len(p.hall.workers()) == 0 {
		orders = nil // it is the leader's, who waits for an operator or soon starts one
	}
	select {
	case <-time.After(pause):
	case order = <-orders:
	case <-p.ctx.Done():
		return false
	}
	err := p.tryOut()
	p.mu.Lock()
	if err == nil {
		p.breaker.passed(p.cfg.Now())
		p.broken = nil
	} else {
		p.breaker.failed()
	}
	p.mu.Unlock()
	p.settle()
	if order != nil {
		if err != nil {
			err = p.refusal(err)
		}
		order <- err
	}
	return err == nil
}

// tryOut has each worker sign with the probe key, many times over.
func (p *Provider) tryOut() error {
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Deadlines.Start)
	defer cancel()
	workers := p.hall.workers()
	for len(workers) == 0 {
		select {
		case <-time.After(firstPause):
		case <-ctx.Done():
			return gaveUp(ctx)
		}
		workers = p.hall.workers()
	}
	for _, g := range workers {
		for range tryout {
			if err := p.probeOn(ctx, g); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle makes the state what follows from the workers, from what is wrong with
// the token and from the breaker, and tells whoever waits for that.
func (p *Provider) settle() {
	p.telling.Lock() // so that states are told in the order they had
	defer p.telling.Unlock()
	workers := len(p.hall.workers())
	p.mu.Lock()
	old := p.status
	s := &p.status
	var reason error
	switch {
	case p.ctx.Err() != nil:
		s.State, reason = keystore.TokenUnavailable, errClosed
	case p.trouble != nil && p.trouble.waits() && workers == 0:
		s.State, reason = p.trouble.state, p.trouble.err
	case p.broken != nil:
		s.State, reason = keystore.TokenUnavailable, p.broken
	case workers > 0:
		s.State = keystore.TokenReady
	case p.trouble != nil:
		s.State, reason = p.trouble.state, p.trouble.err
	default:
		s.State = keystore.TokenStarting
	}
	s.Workers, s.Restarts = workers, p.deaths
	s.Err, p.reason = "", nil
	if reason != nil {
		s.Err, p.reason = reason.Error(), p.refusal(reason)
	}
	if s.State != old.State {
		s.Since = p.cfg.Now()
	}
	now, refusal := p.status, p.reason
	if now != old {
		close(p.changed)
		p.changed = make(chan struct{})
	}
	p.mu.Unlock()
	p.hall.refuse(refusal)
	if now.State == old.State && now.Err == old.Err {
		return
	}
	level := slog.LevelInfo
	if now.Err != "" && p.ctx.Err() == nil { // a close that was asked for is no trouble
		level = slog.LevelWarn
	}
	p.cfg.Log.Log(p.ctx, level, "token state", "keystore", now.Keystore, "label", now.Label, "serial", now.Serial,
		"state", now.State, "err", now.Err, "restarts", now.Restarts)
	if p.cfg.OnState != nil {
		p.cfg.OnState(now)
	}
}

// refusal is what reason is to callers: an error that wraps ErrUnavailable, and
// of the other sentinels the one that says why. The sentinels that reason may
// wrap besides would be about another thing to them than they are here: a probe
// key that is not found is no key of theirs.
func (p *Provider) refusal(reason error) error {
	for _, kind := range []error{keystore.ErrPINRejected, keystore.ErrTokenChanged, keystore.ErrAmbiguous, keystore.ErrUnsupported} {
		if errors.Is(reason, kind) {
			return &answerError{errors.Join(keystore.ErrUnavailable, kind), fmt.Sprintf("keystore %s: %v", p.cfg.Name, reason)}
		}
	}
	text := reason.Error()
	if !errors.Is(reason, keystore.ErrUnavailable) {
		text = keystore.ErrUnavailable.Error() + ": " + text
	}
	return &answerError{keystore.ErrUnavailable, fmt.Sprintf("keystore %s: %s", p.cfg.Name, text)}
}

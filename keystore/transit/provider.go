package transit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"chancery/keystore"
)

// A Provider keeps keys in one mount of the Transit engine.
type Provider struct {
	cfg     Config
	cluster *cluster
	login   *login
	ctx     context.Context // ends at Close
	cancel  context.CancelFunc
	crew    sync.WaitGroup
	wake    chan struct{} // capacity 1: something has changed that the state depends on
	looking chan struct{} // capacity 1: full while someone looks

	telling sync.Mutex // one change of state after the other; taken before mu

	mu       sync.Mutex // guards what follows
	status   keystore.TokenStatus
	changed  chan struct{} // closed when status changes
	seen     bool          // a look has had an outcome
	doubt    bool          // a request has shown that the next one may be another
	problem  error         // of the last look: why the mount does not serve; nil: it does
	blocked  error         // of the last look: why nothing of it is to be asked; nil: it may be
	lacks    string        // what the token may not do, without which keys sign
	version  string        // of the engine, as Vault says
	accessor string        // of the mount
	anew     bool          // the next look takes whichever mount is there
	excess   string
	open     map[string]*key // keys in use, by name
	next     string          // the first of them whose turn it is to be looked at
	asked    uint64          // the token whose rights were looked at last
	closing  bool
}

var (
	_ keystore.Provider = (*Provider)(nil)
	_ keystore.Retrier  = (*Provider)(nil)
)

var errClosed = fmt.Errorf("%w: closed", keystore.ErrUnavailable)

// Open starts to log in and returns at once. Its errors are about the
// configuration; whatever is wrong with Vault is a state, which Status tells and
// operations wait for or fail with.
func Open(cfg Config) (*Provider, error) {
	p, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	p.crew.Go(func() { p.cluster.watch(p.ctx, p.cfg.Deadlines.Health) })
	p.crew.Go(func() { p.login.run(p.ctx) })
	p.crew.Go(p.keep)
	return p, nil
}

// prepare makes a provider that does nothing yet.
func prepare(cfg Config) (*Provider, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("keystore %q: %w", cfg.Name, err)
	}
	cfg.fill()
	p := &Provider{
		cfg: cfg, wake: make(chan struct{}, 1), looking: make(chan struct{}, 1), changed: make(chan struct{}), open: make(map[string]*key),
		status: keystore.TokenStatus{Keystore: cfg.Name, Label: cfg.Mount, State: keystore.TokenStarting, Since: cfg.Now()},
	}
	p.login = newLogin(&p.cfg, p.kick)
	p.cluster = &cluster{login: p.login, trial: p.trial, changed: func() { p.login.wake(); p.kick() }}
	p.login.cluster = p.cluster
	for _, a := range cfg.Addresses {
		s, err := newServer(&p.cfg, a)
		if err != nil {
			return nil, fmt.Errorf("keystore %q: %w", cfg.Name, err)
		}
		p.cluster.servers = append(p.cluster.servers, s)
	}
	if err := p.recall(); err != nil {
		return nil, fmt.Errorf("keystore %q: %w", cfg.Name, err)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

func (c *Config) fill() {
	if c.Mount == "" {
		c.Mount = DefaultMount
	}
	if c.RSABits == 0 {
		c.RSABits = keystore.RSABits
	}
	if c.Waiting <= 0 {
		c.Waiting = DefaultWaiting
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Deadlines = c.Deadlines.withDefaults()
}

// Close ends what is under way, revokes the token if a login made it, and waits
// until that is done. Operations fail from now on.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.cancel()
	p.crew.Wait()
	p.settle()
	for _, s := range p.cluster.servers {
		s.close()
	}
	return nil
}

// start runs f in a goroutine that Close waits for. It returns false once the
// provider closes.
func (p *Provider) start(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return false
	}
	p.crew.Go(f)
	return true
}

// within returns a context for work that has no caller: until d is over or the
// provider closes.
func (p *Provider) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(p.ctx, d)
}

// joined returns ctx, ended also by Close, with errClosed as its cause.
func (p *Provider) joined(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ctx, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

// gaveUp is what a caller gets whose ctx is over, or leaves too little time.
func gaveUp(ctx context.Context) error {
	cause := cmp.Or(context.Cause(ctx), context.DeadlineExceeded)
	if errors.Is(cause, keystore.ErrUnavailable) {
		return cause
	}
	return fmt.Errorf("%w: waiting for Vault: %w", keystore.ErrUnavailable, cause)
}

// await waits while the provider starts. It returns an error if nothing can be
// asked: closed, no token, or a mount that waits for an operator.
func (p *Provider) await(ctx context.Context) error {
	for {
		p.mu.Lock()
		state, changed, closing, blocked := p.status.State, p.changed, p.closing, p.blocked
		p.mu.Unlock()
		switch {
		case closing:
			return errClosed
		case blocked != nil:
			return blocked
		case state != keystore.TokenStarting:
			err, _ := p.login.problem()
			return err
		}
		if ctx.Err() != nil {
			return gaveUp(ctx)
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return errClosed
		case <-ctx.Done():
			return gaveUp(ctx)
		}
	}
}

// Status implements keystore.Provider.
func (p *Provider) Status() []keystore.TokenStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []keystore.TokenStatus{p.status}
}

// kick has the state looked after. It does not wait.
func (p *Provider) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// How long a look that failed is left.
const (
	lookAgain   = time.Second
	lookLongest = 2 * time.Second // callers are refused meanwhile
)

// keep keeps the state true: it looks at the mount when a server or a token has
// come or gone, and again after a look that failed.
func (p *Provider) keep() {
	wait := lookAgain
	for p.ctx.Err() == nil {
		p.settle()
		var again <-chan time.Time
		if p.reachable() == nil && p.lookDue() {
			d := p.cfg.Deadlines
			ctx, cancel := p.within(4*d.Read + d.Create + d.Sign)
			err := p.look(ctx)
			cancel()
			if err != nil {
				p.unseen(err)
				again = time.After(jitter(wait))
				wait = min(2*wait, lookLongest)
			} else {
				wait = lookAgain
			}
			p.settle()
		}
		select {
		case <-p.wake:
		case <-again:
		case <-p.ctx.Done():
		}
	}
}

// unseen notes a first look that came to no end: operations are not to wait for
// another one.
func (p *Provider) unseen(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.seen {
		p.seen, p.problem = true, err
	}
}

// reachable returns why nothing can be asked; nil: it can.
func (p *Provider) reachable() error {
	if err := p.cluster.trouble(); err != nil {
		return err
	}
	err, known := p.login.problem()
	if !known {
		return errStarting
	}
	return err
}

var errStarting = fmt.Errorf("%w: not logged in yet", keystore.ErrUnavailable)

// lookDue reports whether the mount is to be looked at: it was not, or not with
// this token, or did not serve, or is in doubt.
func (p *Provider) lookDue() bool {
	number := p.login.generation()
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.seen || p.doubt || p.problem != nil || p.asked != number
}

// settle makes the state what it is, and tells of a change.
func (p *Provider) settle() {
	p.telling.Lock()
	defer p.telling.Unlock()
	next := p.judge()
	p.mu.Lock()
	was := p.status
	news := next.State != was.State || next.Err != was.Err || next.Serial != was.Serial || next.Unconfined != was.Unconfined
	if next.State == was.State {
		next.Since = was.Since
	}
	p.status = next
	if news {
		close(p.changed)
		p.changed = make(chan struct{})
	}
	p.mu.Unlock()
	if news {
		level := slog.LevelInfo
		if next.State != keystore.TokenReady && next.State != keystore.TokenStarting && !p.isClosing() {
			level = slog.LevelWarn
		}
		p.cfg.Log.Log(context.Background(), level, "token state", "keystore", next.Keystore, "label", next.Label, "serial", next.Serial,
			"state", next.State, "err", next.Err)
	}
	if news && p.cfg.OnState != nil {
		p.cfg.OnState(next)
	}
}

func (p *Provider) isClosing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closing
}

// judge returns what the state is now.
func (p *Provider) judge() keystore.TokenStatus {
	down := p.reachable()
	warning := p.login.told()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := keystore.TokenStatus{
		Keystore: p.cfg.Name, Label: p.cfg.Mount, Serial: p.accessor, Since: p.cfg.Now(),
		Module: strings.TrimSpace("transit " + p.version), Unconfined: p.excess, State: keystore.TokenReady, Err: cmp.Or(warning, p.lacks),
	}
	var refused *rejected
	switch {
	case p.closing:
		s.State, s.Err = keystore.TokenUnavailable, errClosed.Error()
	case errors.Is(down, errStarting):
		s.State = keystore.TokenStarting
	case errors.As(down, &refused):
		s.State, s.Err = keystore.TokenAuthRejected, down.Error()
	case isKind(down, sealed):
		s.State, s.Err = keystore.TokenSealed, down.Error()
	case down != nil:
		s.State, s.Err = keystore.TokenUnavailable, down.Error()
	case !p.seen:
		s.State = keystore.TokenStarting
	case errors.Is(p.problem, keystore.ErrTokenChanged):
		s.State, s.Err = keystore.TokenChanged, p.problem.Error()
	case p.problem != nil:
		s.State, s.Err = keystore.TokenUnavailable, p.problem.Error()
	}
	return s
}

// Retry implements keystore.Retrier: it logs in anew, whatever was refused, and
// takes the mount that is there for the one to use.
func (p *Provider) Retry(ctx context.Context, token string) error {
	s := p.Status()[0]
	if token == "" || token != s.Serial && token != s.Label {
		return fmt.Errorf("token %q: %w", token, keystore.ErrNotFound)
	}
	if err := p.cluster.trouble(); err != nil { // it is looked at each second
		return err
	}
	if err := p.login.retry(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	p.anew = errors.Is(p.problem, keystore.ErrTokenChanged) // which they have seen
	p.mu.Unlock()
	err := p.Probe(ctx)
	p.mu.Lock()
	p.anew = false
	p.mu.Unlock()
	return err
}

// Probe implements keystore.Provider. It also looks whether the mount and the
// keys in use are what they were.
func (p *Provider) Probe(ctx context.Context) error {
	p.mu.Lock()
	blocked := p.blocked
	p.mu.Unlock()
	if err := p.await(ctx); err != nil && (blocked == nil || p.ctx.Err() != nil) {
		return err
	}
	ctx, cancel := p.joined(ctx)
	defer cancel()
	err := p.look(ctx)
	p.settle()
	return err
}

// ProbeKey names the mount's probe key, which List shows like any other.
func (p *Provider) ProbeKey() (keystore.KeyRef, bool) {
	return keystore.KeyRef{ID: probeID, Algorithm: probeAlgorithm}, true
}

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chancery/keystore"
	"chancery/keystore/pkcs11/internal/confine"
)

// A Config says which token, by which module.
type Config struct {
	Name   string            // of the keystore, for states and files
	Module string            // absolute path of the PKCS#11 module
	URI    string            // RFC 7512: the token, and the file with its PIN; see ParseURI
	Env    map[string]string // the whole environment of the module, such as SOFTHSM2_CONF
	// Credentials is the directory of the service manager's credentials
	// (systemd.exec(5), $CREDENTIALS_DIRECTORY), for a URI that names one.
	Credentials string
	// Confinement is what the module may do beyond what every module needs.
	Confinement Confinement
	StateDir    string           // for the PIN ledger and the token's identity; made with mode 0700 if absent
	Log         *slog.Logger     // nil: nothing is logged
	Now         func() time.Time // nil: time.Now
	Deadlines   Deadlines
	OnState     func(keystore.TokenStatus) // called at each change, one after the other; it must not wait
	Workers     int                        // processes that sign; 0: DefaultWorkers
	Signers     int                        // signing threads of each; 0: 1
	Verify      Verify                     // which signatures are verified; empty: VerifyAll
	Waiting     int                        // how many may wait to sign before others are refused; 0: DefaultWaiting

	// OwnToken says that this program made the token and its PIN file, so that a
	// login whose answer a crash has hidden may be tried again.
	OwnToken bool

	cost  hashCost      // of what the ledger keeps; zero: costOfRefused
	pause time.Duration // zero: servedPause
}

// Deadlines are how long a worker may take before it is killed, from when it is
// asked: what waits in the daemon for its turn has its caller's context only.
// Zero values stand for the defaults. A caller's context ends only that
// caller's wait.
type Deadlines struct {
	Start    time.Duration // each of executing, loading the module, listing tokens; 10 s
	Login    time.Duration // 10 s
	Sign     time.Duration // 2 s
	Find     time.Duration // finding one key, 5 s
	List     time.Duration // 30 s
	Generate time.Duration // 2 min
	Close    time.Duration // for the module to finalise when the provider closes; 500 ms
}

func (d Deadlines) withDefaults() Deadlines {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&d.Start, 10 * time.Second}, {&d.Login, 10 * time.Second}, {&d.Sign, 2 * time.Second},
		{&d.Find, 5 * time.Second}, {&d.List, 30 * time.Second}, {&d.Generate, 2 * time.Minute},
		{&d.Close, 500 * time.Millisecond},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return d
}

// How many processes a provider has.
const (
	DefaultWorkers = 2
	MaxWorkers     = 8

	clerkSlot = MaxWorkers // the slots below are those of workers that sign
)

// A Provider keeps keys on one PKCS#11 token.
type Provider struct {
	cfg     Config
	uri     URI
	pin     string   // the file to read it from
	memory  *os.File // that file, if it is in memory only
	hall    hall
	errands room            // for the clerk
	probing room            // so that of many probes one is asked for
	ctx     context.Context // ends at Close
	cancel  context.CancelFunc
	crew    sync.WaitGroup    // all its goroutines
	done    chan struct{}     // closed when they have ended
	orders  chan chan<- error // operators' retries, answered with the outcome
	tripped chan struct{}     // the breaker has opened
	numbers atomic.Uint32     // of generations
	views   atomic.Uint32     // of the token
	noted   atomic.Bool       // a note was written
	reserve reserve

	// Whoever has put an element here starts a worker, and owns the next three.
	starting chan struct{}
	anew     bool // the next try takes whichever token is there
	claimed  claim
	budget   budget

	clerk clerk // belongs to who has the place of the errands

	telling sync.Mutex // one change of state after the other; taken before mu

	mu      sync.Mutex
	status  keystore.TokenStatus
	reason  error         // why status is not ready
	changed chan struct{} // closed when status changes
	trouble *trouble      // why the leader does not serve; nil: it does, or is starting
	breaker breaker
	broken  error // why the breaker is open; nil: it is not
	leading bool  // the leader has come to serve
	deaths  int   // of workers that had come to serve and were not told to go
	closing bool  // nothing is begun any more
	probe   *key  // nil before the first login
}

var (
	_ keystore.Provider = (*Provider)(nil)
	_ keystore.Retrier  = (*Provider)(nil)
)

var errClosed = fmt.Errorf("%w: closed", keystore.ErrUnavailable)

// Open starts a worker for the token and returns at once. Its errors are about
// the configuration; whatever is wrong with the token is a state, which Status
// tells and operations wait for or fail with.
func Open(cfg Config) (*Provider, error) {
	uri, err := check(&cfg)
	if err != nil {
		return nil, fmt.Errorf("keystore %q: %w", cfg.Name, err)
	}
	file, memory, err := pinFile(uri, cfg.Credentials)
	if err != nil {
		return nil, fmt.Errorf("keystore %q: %w", cfg.Name, err)
	}
	p := &Provider{
		cfg: cfg, uri: uri, pin: file, memory: memory, hall: hall{limit: cfg.Waiting},
		errands: room{free: 1, limit: cfg.Waiting}, probing: room{free: 1, limit: cfg.Waiting},
		done: make(chan struct{}), orders: make(chan chan<- error), changed: make(chan struct{}),
		tripped: make(chan struct{}, 1), starting: make(chan struct{}, 1),
		status: keystore.TokenStatus{
			Keystore: cfg.Name, Label: uri.Label, Serial: uri.Serial, Module: cfg.Module,
			State: keystore.TokenStarting, Since: cfg.Now(), Sampled: cfg.Verify == VerifySampled,
		},
	}
	p.reserve.init()
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for slot := range cfg.Workers {
		p.crew.Go(func() { p.keep(slot) })
	}
	p.crew.Go(p.guard)
	spared := make(chan struct{})
	go func() {
		defer close(spared)
		p.keepReserve()
	}()
	go func() { // ends before Close returns
		defer close(p.done)
		<-p.ctx.Done()
		p.mu.Lock()
		p.closing = true
		p.mu.Unlock()
		p.settle() // everybody is refused from now on, not when the last worker has gone
		p.crew.Wait()
		close(p.reserve.spent)
		<-spared
		p.release()
		p.memory.Close() // nil has nothing to close
		p.settle()
	}()
	return p, nil
}

func goodName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsRune("._-", rune(s[0])) && isPlain(s, "")
}

// check fills in cfg's defaults.
func check(cfg *Config) (URI, error) {
	if os.Getenv(workerEnv) != "" {
		return URI{}, errors.New("a worker cannot have workers")
	}
	if !goodName(cfg.Name) {
		return URI{}, errors.New("its name must have 1 to 64 lower-case letters, digits, '.', '_' or '-'")
	}
	uri, err := ParseURI(cfg.URI)
	if err != nil {
		return URI{}, err
	}
	if !filepath.IsAbs(cfg.Module) {
		return URI{}, fmt.Errorf("module %q is not an absolute path", cfg.Module)
	}
	cfg.Module = filepath.Clean(cfg.Module)
	if err := confine.CheckModule(cfg.Module); err != nil && !errors.Is(err, fs.ErrNotExist) { // which is a state
		return URI{}, err
	}
	if _, err := cfg.confinementEnv(); err != nil {
		return URI{}, fmt.Errorf("confinement: %w", err)
	}
	for name := range cfg.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || RefusedVariable(name) {
			return URI{}, fmt.Errorf("environment variable %q is refused", name)
		}
	}
	if cfg.StateDir == "" {
		return URI{}, errors.New("it has no state directory")
	}
	if cfg.StateDir, err = filepath.Abs(cfg.StateDir); err != nil {
		return URI{}, err
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return URI{}, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Workers == 0 {
		cfg.Workers = DefaultWorkers
	}
	if cfg.Workers < 1 || cfg.Workers > MaxWorkers {
		return URI{}, fmt.Errorf("%d workers: want 1 to %d", cfg.Workers, MaxWorkers)
	}
	if cfg.Signers == 0 {
		cfg.Signers = 1
	}
	if cfg.Signers < 1 || cfg.Signers > 16 {
		return URI{}, fmt.Errorf("%d signing threads: want 1 to 16", cfg.Signers)
	}
	if cfg.Verify == "" {
		cfg.Verify = VerifyAll
	}
	if cfg.Verify != VerifyAll && cfg.Verify != VerifySampled {
		return URI{}, fmt.Errorf("verify %q: want %s or %s", cfg.Verify, VerifyAll, VerifySampled)
	}
	if cfg.cost == (hashCost{}) {
		cfg.cost = costOfRefused
	}
	if cfg.pause == 0 {
		cfg.pause = servedPause
	}
	if cfg.Waiting == 0 {
		cfg.Waiting = DefaultWaiting
	}
	if cfg.Waiting < 0 {
		return URI{}, fmt.Errorf("room for %d requests", cfg.Waiting)
	}
	cfg.Deadlines = cfg.Deadlines.withDefaults()
	return uri, nil
}

// Close lets the workers finalise their modules, for Deadlines.Close at most, and
// waits until they are gone. Operations fail from now on.
func (p *Provider) Close() error {
	p.cancel()
	<-p.done
	return nil
}

// Status implements keystore.Provider.
func (p *Provider) Status() []keystore.TokenStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []keystore.TokenStatus{p.status}
}

// ProbeKey names the token's probe key, which List shows like any other. It
// returns false before the first login.
func (p *Provider) ProbeKey() (keystore.KeyRef, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.probe == nil {
		return keystore.KeyRef{}, false
	}
	return p.probe.ref, true
}

// Generate implements keystore.Provider.
func (p *Provider) Generate(ctx context.Context, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) (spki []byte, err error) {
	if err := checkKey(id, purpose, alg); err != nil {
		return nil, err
	}
	err = p.errand(ctx, false, func(g *generation, at *place) error {
		spki, err = p.generate(ctx, g, at, id, purpose, alg)
		return err
	})
	if err != nil {
		return nil, err
	}
	return spki, nil
}

func checkKey(id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) error {
	if id.IsZero() {
		return errors.New("the zero key id names no key")
	}
	if _, err := keystore.ParsePurpose(string(purpose)); err != nil {
		return err
	}
	if _, err := keystore.ParseAlgorithm(string(alg)); err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnsupported, err)
	}
	if purpose == keystore.PurposeDigest && alg.Hash() == 0 {
		return fmt.Errorf("%w: %s for purpose %s", keystore.ErrUnsupported, alg, purpose)
	}
	return nil
}

// generate's errors wrap keystore.ErrUncertain once the worker has been asked,
// except where it said that it has made nothing.
func (p *Provider) generate(ctx context.Context, g *generation, at *place, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) ([]byte, error) {
	spki, err := g.ask(ctx, at, verbGenerate, p.cfg.Deadlines.Generate, keyBody(id, purpose, alg))
	switch {
	case err == nil:
		if err := p.selfTest(ctx, g, at, id, purpose, alg, spki); err != nil {
			return nil, fmt.Errorf("%w: key %s was generated, its self-test failed: %w", keystore.ErrUncertain, id, err)
		}
		return spki, nil
	case errors.Is(err, keystore.ErrExists), errors.Is(err, keystore.ErrUnsupported), errors.Is(err, errNotAsked):
		return nil, err
	}
	return nil, fmt.Errorf("%w: generating key %s: %w", keystore.ErrUncertain, id, err)
}

// Find implements keystore.Provider.
func (p *Provider) Find(ctx context.Context, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) (spki []byte, err error) {
	if err := checkKey(id, purpose, alg); err != nil {
		return nil, err
	}
	find := func(g *generation, at *place) error {
		spki, err = g.ask(ctx, at, verbFind, p.cfg.Deadlines.Find, keyBody(id, purpose, alg))
		if err != nil {
			return err
		}
		return p.selfTest(ctx, g, at, id, purpose, alg, spki)
	}
	// By a worker that signs, which is not held up by a key that takes long to make.
	err = repeat(ctx, 2, func(bool) error {
		g, err := p.anyWorker(ctx)
		if err != nil {
			return err
		}
		at, err := g.desk.enter(ctx)
		if err != nil {
			return err
		}
		defer at.leave()
		g.finds(id)
		return find(g, at)
	})
	if errors.Is(err, keystore.ErrNotFound) {
		err = p.errand(ctx, true, find) // a module may show a process what it saw at first
	}
	if err != nil {
		return nil, err
	}
	return spki, nil
}

// selfTest proves that the halves of a key that the worker holds belong together.
func (p *Provider) selfTest(ctx context.Context, g *generation, at *place, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm, spki []byte) error {
	k, err := p.newKey(keystore.KeyRef{ID: id, Algorithm: alg, SPKI: spki}, purpose)
	if err != nil {
		return err
	}
	return k.challenge(ctx, g, at)
}

// Open implements keystore.Provider.
func (p *Provider) Open(ctx context.Context, ref keystore.KeyRef, purpose keystore.Purpose) (keystore.Key, error) {
	if err := checkKey(ref.ID, purpose, ref.Algorithm); err != nil {
		return nil, err
	}
	k, err := p.newKey(ref, purpose)
	if err != nil {
		return nil, err
	}
	if err := k.open(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// List implements keystore.Provider. It also shows public keys that have no
// private half.
func (p *Provider) List(ctx context.Context) (list []keystore.Object, err error) {
	// By a process that sees what is there now.
	err = p.errand(ctx, true, func(g *generation, at *place) error {
		body, err := g.ask(ctx, at, verbList, p.cfg.Deadlines.List)
		if err != nil {
			return err
		}
		list = nil
		return unmarshalAnswer(body, &list)
	})
	return list, err
}

// Probe implements keystore.Provider: each worker makes a signature, and looks
// after the session that is else used but seldom.
func (p *Provider) Probe(ctx context.Context) error {
	if err := p.awaitServing(ctx); err != nil {
		return err
	}
	at, err := p.probing.enter(ctx)
	if err != nil {
		return err
	}
	defer at.leave()
	workers := p.hall.workers()
	errs := make([]error, len(workers))
	var all sync.WaitGroup
	for i, g := range workers {
		all.Go(func() { errs[i] = p.probeOn(ctx, g) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// probeOn has one worker sign with the probe key.
func (p *Provider) probeOn(ctx context.Context, g *generation) error {
	p.mu.Lock()
	k := p.probe
	p.mu.Unlock()
	at, err := g.desk.enter(ctx) // not beside a search that takes long
	if err != nil {
		return err
	}
	defer at.leave()
	if _, err := g.ask(ctx, at, verbProbe, p.cfg.Deadlines.Sign); err != nil {
		return err
	}
	return k.challenge(ctx, g, at)
}

// Retry implements keystore.Retrier. Its errors wrap one of keystore's.
func (p *Provider) Retry(ctx context.Context, token string) error {
	s := p.Status()[0]
	if token == "" || !slices.Contains([]string{s.Serial, s.Label, p.uri.Serial, p.uri.Label}, token) {
		return fmt.Errorf("token %q: %w", token, keystore.ErrNotFound)
	}
	outcome := make(chan error, 1)
	for {
		p.mu.Lock()
		fine, changed := p.status.State == keystore.TokenReady && p.trouble == nil, p.changed
		p.mu.Unlock()
		if fine { // not while others serve and the leader waits for an operator
			return nil
		}
		select {
		case p.orders <- outcome:
			select {
			case err := <-outcome:
				return err
			case <-p.done:
				return errClosed
			case <-ctx.Done():
				return fmt.Errorf("%w: retrying: %w", keystore.ErrUnavailable, context.Cause(ctx))
			}
		case <-changed:
		case <-p.done:
			return errClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: retrying: %w", keystore.ErrUnavailable, context.Cause(ctx))
		}
	}
}

func (p *Provider) state() (state keystore.TokenState, changed <-chan struct{}, reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status.State, p.changed, p.reason
}

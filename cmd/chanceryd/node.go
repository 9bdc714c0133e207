package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/audit/witness"
	"chancery/keystore/catalog"
	"chancery/keystore/pkcs11"
	"chancery/rotation"
	"chancery/signer"
	"chancery/signer/server"
)

// grace is how long requests in progress may take at shutdown.
const grace = 10 * time.Second

// node introduces the rooms to each other and runs them.
type node struct {
	ownTokens bool

	log         *slog.Logger
	metrics     *telemetry.Metrics
	config      atomic.Pointer[config.Config]
	gates       gates
	revocations *revocations
	clock       *clockKeeper
	now         func() time.Time // the clock's

	lock      *flock.Flock
	catalog   *catalog.Catalog
	brake     *brake
	audit     *audit.Log
	heads     *tokenHeads
	anchors   *anchors
	feeder    atomic.Pointer[witness.Feeder] // nil: no witnesses
	forget    func()                         // ends what the tokens remember; nil: nothing
	overlap   overlap
	providers map[string]keystore.Provider
	leases    *leases
	views     *views
	horizons  *horizons
	keys      *keyring
	steps     *steps
	cas       *authorities
	rotator   *rotation.Rotator
	comparing *comparing
	stops     *stops
	left      []keystore.Record // intents that a former process left open
	service   *signer.Service
	shares    *shares
	public    *server.Public
	publisher *publisher
	histories *histories
	admin     http.Handler
	doors     *doors

	refused   atomic.Pointer[time.Time] // when the last reload was; nil: it was not
	enrolled  bool                      // the catalog knows this node
	started   func()                    // ends what only a start needs; nil: nothing
	lostLease bool                      // as last told; owned by keepLeases
	owed      *debts
	tokenMu   sync.Mutex // one state of a token entered after the other
	told      told
	running   atomic.Bool // everything has been introduced
	binary    chan string // the hash of this program, once
	wg        sync.WaitGroup
	stop      context.CancelFunc
}

// errLocked: another daemon serves the data directory.
var errLocked = errors.New("another daemon holds the data directory")

// nodeOptions are what a node is started with beside its configuration.
type nodeOptions struct {
	ownTokens bool // this program made the tokens and their PIN files
	clocks    clocks
	log       *slog.Logger
}

// startNode opens everything cfg names and starts serving. What it has opened
// is closed again if it fails.
func startNode(ctx context.Context, cfg *config.Config, o nodeOptions) (*node, error) {
	n := &node{
		ownTokens: o.ownTokens,
		log:       o.log, metrics: telemetry.New(version()),
		providers: make(map[string]keystore.Provider), owed: newDebts(o.log), binary: make(chan string, 1),
	}
	n.clock = newClockKeeper(o.clocks, cfg.Node, n.owed, o.log, n.changed)
	n.now = n.clock.Now
	n.stops = newStops(n.now, func(s keystore.TokenStatus) {
		if n.enterToken(s) {
			n.changed()
		}
	})
	n.config.Store(cfg)
	n.wg.Go(func() { n.binary <- fileHash("/proc/self/exe") }) // while the token logs in
	for _, step := range []func(context.Context) error{
		n.openData, n.openKeystores, n.openLog, n.openOutside, n.introduce, n.publish, n.openDoors, n.run,
	} {
		if err := step(ctx); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

// openData takes the data directory, looks at the clock, and opens the catalog and
// the brake file.
func (n *node) openData(ctx context.Context) error {
	cfg := n.config.Load()
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	n.lock = flock.New(filepath.Join(cfg.Data, "lock"))
	got, err := n.lock.TryLock()
	if err != nil {
		return fmt.Errorf("locking the data directory: %w", err)
	}
	if !got {
		return fmt.Errorf("%w %s", errLocked, cfg.Data)
	}
	n.clock.Open(filepath.Join(cfg.Data, "clock"), cfg.SmallestSkew())
	n.clock.metrics(n.metrics)
	n.leases = &leases{
		shared: cfg.Catalog.Shared(), publishing: cfg.Catalog.PublishingLease, apart: cfg.SmallestSkew() / 2,
		boot: sinceBoot, now: n.now,
	}
	if n.catalog, err = n.openCatalog(ctx, cfg); err != nil {
		return fmt.Errorf("opening the catalog: %w", err)
	}
	n.views, n.horizons = &views{catalog: n.catalog, leases: n.leases}, newHorizons(n.catalog)
	if n.brake, err = openBrake(filepath.Join(cfg.Data, "brake"), n.views); err != nil {
		return fmt.Errorf("opening the brake file: %w", err)
	}
	return nil
}

// openKeystores starts a worker for each token, and opens each mount of a Vault.
// One in trouble keeps nothing from starting: it is a state.
func (n *node) openKeystores(context.Context) error {
	for name, ks := range n.config.Load().Keystores {
		open := n.openToken
		if ks.Transit != nil {
			open = n.openTransit
		}
		p, err := open(name, ks)
		if err != nil {
			return fmt.Errorf("keystore %q: %w", name, err)
		}
		n.providers[name] = &stoppable{p, name, n.stops}
	}
	return nil
}

func (n *node) openToken(name string, ks config.Keystore) (keystore.Provider, error) {
	return pkcs11.Open(pkcs11.Config{
		Name: name, Module: ks.PKCS11.Module, URI: ks.PKCS11.Token, Env: ks.PKCS11.Env, StateDir: filepath.Join(n.config.Load().Data, "tokens"),
		Credentials: os.Getenv("CREDENTIALS_DIRECTORY"), Log: n.log, Now: n.now, OnState: n.tokenState,
		OwnToken: n.ownTokens, Workers: ks.PKCS11.Workers, Verify: ks.PKCS11.Verify, Confinement: pkcs11.Confinement(ks.PKCS11.Confine),
	})
}

// changed has everyone who waits for a token look again.
func (n *node) changed() {
	if n.running.Load() {
		n.publisher.Kick()
		n.rotator.Changed()
	}
}

// introduce makes the rotator, the service and the publisher.
func (n *node) introduce(ctx context.Context) error {
	cfg := n.config.Load()
	n.cas = &authorities{
		config: n.config.Load, catalog: n.catalog, keys: n.keys, log: n.audit, now: n.now, changed: n.kick, slog: n.log,
		certs: make(map[caVersion]*x509.Certificate), retries: make(map[caVersion]*certRetries),
	}
	if err := n.cas.Load(ctx, cfg.AuthorityKeySets()); err != nil {
		return err
	}
	if err := n.refuseOurOwn(ctx, cfg); err != nil {
		return err
	}
	n.revocations = newRevocations(n.gates.lists, n.owed, n.log, n.now, n.metrics)
	if err := n.gates.load(cfg, n.now, n.revocations.refused); err != nil {
		return err
	}
	if err := keepPolicy(cfg, n.gates.policy()); err != nil { // before a door is open
		return err
	}
	var forget func(context.Context, string, keystore.Fact) error
	if n.leases.shared {
		forget = n.forgetNode
	}
	n.rotator = rotation.New(rotation.Config{
		Node: cfg.Node, Shared: n.leases.shared, Catalog: n.steps, Keys: n.keys, Audit: n.audit, Brake: n.brake,
		Proven: n.keys.Proven, Foreign: n.isProbe, Keystores: sortedKeys(n.providers),
		Forget: n.keys.Forget, Revoke: n.revoke, ForgetNode: forget, Hold: n.clock.Held, Clock: n.rotationClock, Elapsed: sinceBoot, Now: n.steps.Now, Log: n.log,
	})
	n.comparing = newComparing(n.rotator, n.stops, n.keys, n.metrics, n.log)
	tokenMetrics(n.metrics, n.providers)
	salt, err := n.catalog.Secret(ctx, "request-digests")
	if err != nil {
		return fmt.Errorf("reading the salt of request digests: %w", err)
	}
	rotations := n.rotations(cfg)
	n.shares = newShares(cfg, n.now, n.metrics)
	n.service, err = signer.New(signer.Config{
		Policy: n.gates.policy, View: n.signable, Settings: n.settings, Digests: n.digests, Profile: n.claimsProfile, Authority: n.authority,
		Keys: n.keys, Log: n.audit, Horizons: n.horizons,
		Certificates: &issued{config: n.config.Load, catalog: n.catalog, cas: n.cas, gates: &n.gates, now: n.now},
		Rotations:    rotations,
		Tokens:       &tokens{n.providers, n.comparing},
		Nodes:        n.nodes(cfg),
		Clock:        clockConfirmer{n.clock, n.audit, make(chan struct{}, 1)},
		Queue:        n.shares.queue, Limits: n.shares.limits,
		Salt: salt, Now: n.now,
	})
	if err != nil {
		return err
	}
	n.public = &server.Public{Node: cfg.Node, Logs: os.DirFS(filepath.Join(cfg.Data, "audit")), Log: n.log, Now: n.now, Lease: func() error { return n.leases.serve(n.views.Began()) }}
	n.histories = newHistories(n.views, n.kick, n.now, n.log)
	n.histories.lives, n.histories.sign = rotations.lives, n.service.SignHistory
	n.publisher = &publisher{
		histories: n.histories,
		node:      cfg.Node, config: n.config.Load, views: n.views, steps: n.steps, keys: n.keys, cas: n.cas,
		public: n.public, vkeys: n.logKeys, vkey: filepath.Join(cfg.Data, "audit.vkey"), log: n.log, now: n.now, hold: n.clock.Held,
		rotate: n.rotator.Changed, kick: make(chan struct{}, 1), served: make(map[string]map[int]bool), first: make(map[string]bool), last: make(map[string]documents),
	}
	n.comparing.disputes = &disputes{cfg.Node, n.views, n.steps, n.public, n.publisher, rotations.lives}
	return nil
}

// lost and found tell the rotator of keys that do not do what they are asked,
// and of those that do again.
func (n *node) lost(kid keystore.KID, err error) { n.rotator.Lost(kid, err) }

func (n *node) found(kid keystore.KID) { n.rotator.Found(kid) }

// revoke takes a key out of everything here, before that is written anywhere.
func (n *node) revoke(kid keystore.KID, fact keystore.Fact) {
	n.views.Revoke(kid, fact)
	n.kick()
}

// moved has the publisher look at another snapshot, and the rotator if it keeps
// what that may have lifted.
func (n *node) moved() {
	n.kick()
	if n.rotator != nil {
		n.rotator.Moved()
	}
}

// slow says why nothing is signed for a moment, which a machine that does too much
// or a disk that hangs makes long.
func (n *node) slow() {
	n.log.Warn("a change takes long to reach the log: nothing is signed until it has", "after", enforceWithin)
}

// kick has the publisher look again; rooms call it when something changed.
func (n *node) kick() {
	if n.publisher != nil {
		n.publisher.Kick()
	}
}

// publish has what was published before this start published again, before any
// door opens: a key that signs must never be one that nobody can look up.
func (n *node) publish(ctx context.Context) error {
	if err := n.firstView(ctx); err != nil {
		return fmt.Errorf("reading the catalog: %w", err)
	}
	if err := n.closeIntents(ctx); err != nil {
		return err
	}
	n.warnOfLeftSets()
	if err := n.ensure(ctx, n.config.Load()); err != nil {
		return err
	}
	if err := n.restate(ctx); err != nil {
		return err
	}
	if err := n.assumeTheWorst(ctx); err != nil {
		return err
	}
	_, read := n.views.Published()
	view, err := n.views.Current()
	if err != nil {
		return err
	}
	if _, err := n.publisher.publish(ctx, view); err != nil {
		n.log.Warn("not everything is published; it is tried again", "err", err)
	}
	n.leases.published(read)
	return nil
}

// warnOfLeftSets tells of key sets that the world still knows and the
// configuration does not.
func (n *node) warnOfLeftSets() {
	view, err := n.views.Current()
	if err != nil {
		return
	}
	for _, set := range view.KeySets() {
		if _, ok := n.config.Load().KeySets[set.Name]; !ok && set.Purpose == keystore.PurposeJWT && len(set.Known()) > 0 {
			n.log.Warn("a key set is not in the configuration any more: it stays published, and neither signs nor rotates", "keyset", set.Name)
		}
	}
}

// assumeTheWorst raises the exp horizon of each JWT version to what it may have
// signed until now, as if the catalog were a copy that knows less than was
// signed. Rotation rule 2 then holds for a restored catalog too.
func (n *node) assumeTheWorst(ctx context.Context) error {
	now := n.now()
	err := n.catalog.RaiseHorizons(ctx, func(set *keystore.KeySet, v *keystore.Version) time.Time {
		longest := max(v.MaxLifetime, keystore.InForce(set.Promises, now).MaxLifetime)
		if v.State == keystore.Active {
			return now.Add(longest)
		}
		return v.StoppedAt.Add(config.Lease + longest)
	})
	if err != nil {
		return fmt.Errorf("raising the exp horizons: %w", err)
	}
	return nil
}

// run starts the goroutines; Close ends them.
func (n *node) run(ctx context.Context) error {
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	n.running.Store(true)
	n.wg.Go(func() { n.clock.Run(ctx) })
	n.wg.Go(func() { n.publisher.Run(ctx) })
	n.wg.Go(func() { n.histories.Run(ctx) })
	n.wg.Go(func() { n.rotate(ctx) })
	for _, s := range tokenStates(n.providers) { // what changed while nobody listened
		n.comparing.Token(s)
	}
	n.wg.Go(func() { n.owed.Run(ctx, n.audit) })
	n.wg.Go(func() { n.horizons.Run(ctx) })
	n.wg.Go(func() { n.anchors.Run(ctx, n.now) })
	if f := n.feeder.Load(); f != nil {
		n.wg.Go(func() { f.Run(ctx) })
	}
	if n.leases.shared {
		n.started()
		n.leases.metrics(n.metrics, n.views.Began)
		n.wg.Go(func() { n.keepLeases(ctx) })
	}
	for _, name := range sortedKeys(n.providers) {
		n.wg.Go(func() { n.probe(ctx, name, n.providers[name]) })
	}
	n.wg.Go(func() { n.revocations.Run(ctx) })
	n.wg.Go(func() { n.doors.sweep(ctx, n.now) })
	n.publisher.Kick()
	return nil
}

// rotate finishes what a crash left, and then rotates.
func (n *node) rotate(ctx context.Context) {
	n.awaitTokens(ctx)
	n.comparing.compare(ctx)
	n.wg.Go(func() { n.comparing.Run(ctx) })
	if err := n.rotator.Run(ctx); err != nil && ctx.Err() == nil {
		n.log.Error("rotation ended", "err", err)
	}
}

// Close ends everything in the reverse order of its beginning.
func (n *node) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if n.doors != nil {
		n.doors.Close(ctx)
	}
	if n.started != nil {
		n.started()
	}
	if n.stop != nil {
		n.stop()
	}
	n.wg.Wait()
	if n.rotator != nil {
		n.rotator.Wait()
	}
	if n.keys != nil {
		n.keys.Close()
	}
	if n.cas != nil {
		n.cas.Wait()
	}
	if n.audit != nil {
		n.closeLog()
	}
	if n.forget != nil {
		n.forget()
	}
	n.leave() // the log's memory is in the catalog
	for name, p := range n.providers {
		if err := p.Close(); err != nil {
			n.log.Warn("closing a keystore failed", "keystore", name, "err", err)
		}
	}
	if n.brake != nil {
		if err := n.brake.Close(); err != nil {
			n.log.Warn("closing the brake file failed", "err", err)
		}
	}
	if n.catalog != nil {
		if err := n.catalog.Close(); err != nil {
			n.log.Warn("closing the catalog failed", "err", err)
		}
	}
	n.clock.Close()
	if n.lock != nil {
		n.lock.Close()
	}
}

// closeLog enters the stop and closes the log, with time of its own: requests
// may have used up all the grace.
func (n *node) closeLog() {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if n.stop != nil {
		rec := keystore.Record{Principal: "chancery", Action: keystore.ActStop, Outcome: keystore.OutcomeDone}
		if _, err := n.audit.Lifecycle(ctx, rec); err != nil {
			n.log.Warn("entering the stop failed", "err", err)
		}
	}
	if err := n.audit.Close(ctx); err != nil {
		n.log.Warn("closing the log failed", "err", err)
	}
}

package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/signer/rpc"
	"chancery/signer/server"
)

func serveCommand(c clocks) *cobra.Command {
	var path string
	var verbose bool
	cmd := &cobra.Command{
		Use: "serve --config FILE", Short: "Serve as configured", Args: noArgs,
		Long: `Open the keystores, the catalog and the log that the configuration names, and serve.
It starts worker processes, which hold the PKCS#11 modules. SIGTERM has it finish
what it was asked and end; SIGHUP has it read the configuration again, of which a
faulty one changes nothing.`,
		Example: `  chanceryd serve --config /etc/chancery/chancery.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			if err := refuseDev(cfg); err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, path, nodeOptions{clocks: c, log: newLogger(verbose)}, func(context.Context, *node) error { return nil })
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "the configuration file")
	cmd.Flags().BoolVar(&verbose, "verbose", false, "log more")
	required(cmd, "config")
	return cmd
}

// serve runs a node until SIGTERM or SIGINT; SIGHUP reloads. started is called
// once, when the doors are open; its context ends with the node.
func serve(ctx context.Context, cfg *config.Config, path string, o nodeOptions, started func(context.Context, *node) error) error {
	if os.Getenv("GOGC") == "" { // little lives long here: 4 MB more for 4 % of the signatures
		debug.SetGCPercent(200)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	n, err := startUnlessStopped(ctx, cfg, o)
	if n == nil {
		return err
	}
	defer n.Close()
	ctx, cancel := context.WithCancel(ctx)
	announced := make(chan error, 1)
	var wg sync.WaitGroup
	h := &herald{log: o.log, status: n.status, progress: n.progress}
	wg.Go(func() { announced <- started(ctx, n) })
	wg.Go(func() { h.Run(ctx) })
	wg.Go(func() { h.Watch(ctx) })
	defer wg.Wait()
	defer cancel()
	defer h.Stopping()
	ready := false // has been said to systemd
	for {
		select {
		case err := <-announced:
			if err != nil {
				return err
			}
			ready = true
			l := cfg.Listeners
			o.log.Info("serving", "node", cfg.Node, "public_url", cfg.PublicURL, "signing", cmp.Or(l.Signing.Socket, l.Signing.TCP),
				"ops", cmp.Or(l.Ops.Socket, l.Ops.TCP), "admin", cmp.Or(l.Admin.Socket, l.Admin.TCP))
			h.Ready()
		case err := <-n.doors.failed:
			return err
		case s := <-signals:
			if s == syscall.SIGHUP {
				if ready {
					h.Reloading()
				}
				n.reload(ctx, path)
				if ready {
					h.Ready()
				}
				continue
			}
			o.log.Info("stopping", "signal", s.String())
			return nil
		}
	}
}

// startUnlessStopped is startNode, which may wait for long, as for a database that
// is away. It returns neither node nor error if SIGTERM or SIGINT comes meanwhile.
func startUnlessStopped(ctx context.Context, cfg *config.Config, o nodeOptions) (*node, error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	n, err := startNode(ctx, cfg, o)
	if err != nil && ctx.Err() != nil {
		o.log.Info("stopping before it has started", "held up by", err)
		return nil, nil
	}
	return n, err
}

// openDoors listens and serves. Every listener is opened before any is served.
func (n *node) openDoors(context.Context) error {
	cfg := n.config.Load()
	n.doors = newDoors(n.log)
	guarded := server.Config{
		Service: n.service, Gate: n.gates.signing, Log: n.log, Observe: n.metrics.Request,
		Entries: entries{cfg.Node, filepath.Join(cfg.Data, "audit")}, Now: n.now,
	}
	ops := guarded
	ops.Gate, ops.Limits = n.gates.ops, doorLimits(cfg.Listeners.Ops.Limits)
	guarded.Limits, guarded.Admit = doorLimits(cfg.Listeners.Signing.Limits), n.service.Admit // stopping is never too much
	n.warnOfDescriptors(cfg)
	signing, err := n.doors.hold(listenGuarded(cfg.Listeners.Signing))
	if err != nil {
		return fmt.Errorf("signing listener: %w", err)
	}
	operating, err := n.doors.hold(listenGuarded(cfg.Listeners.Ops))
	if err != nil {
		return fmt.Errorf("ops listener: %w", err)
	}
	public, err := n.doors.holdOne(net.Listen("tcp", cfg.Listeners.Public.TCP))
	if err != nil {
		return fmt.Errorf("public listener: %w", err)
	}
	admin, err := n.doors.holdOne(listenAdmin(cfg.Listeners.Admin))
	if err != nil {
		return fmt.Errorf("admin listener: %w", err)
	}
	n.doors.guard(server.Signing(guarded), rpc.New(guarded, grpcLimits(cfg.Listeners.Signing.Limits.GRPC)), guarded.Limits, n.gates.signing, n.refusedHandshake("signing"), n.full("signing"), signing...)
	n.doors.guard(server.Ops(ops), nil, ops.Limits, n.gates.ops, n.refusedHandshake("ops"), n.full("ops"), operating...)
	n.doors.open(n.public, doorLimits(cfg.Listeners.Public.Limits), n.full("public"), public, n.publicTLS())
	n.admin = server.Admin(n.checks(), n.metrics.Handler())
	n.doors.open(n.admin, server.Limits{}, n.full("admin"), admin, nil)
	return nil
}

// listenGuarded returns what it has opened, also with an error.
func listenGuarded(l config.Guarded) ([]net.Listener, error) {
	var open []net.Listener
	if l.Socket != "" {
		s, err := server.ListenUnix(l.Socket)
		if err != nil {
			return open, err
		}
		open = append(open, s)
	}
	if l.TCP != "" {
		s, err := net.Listen("tcp", l.TCP)
		if err != nil {
			return open, err
		}
		open = append(open, s)
	}
	return open, nil
}

func listenAdmin(l config.Admin) (net.Listener, error) {
	if l.Socket != "" {
		return server.ListenUnix(l.Socket)
	}
	return net.Listen("tcp", l.TCP)
}

func (n *node) publicTLS() *tls.Config {
	if n.gates.current.Load().public == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // relying parties are not ours to choose
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return n.gates.current.Load().public, nil
		},
	}
}

// refusedHandshake enters a failed handshake on the unauthenticated budget.
func (n *node) refusedHandshake(door string) func(peer string, err error) {
	return func(peer string, err error) {
		n.metrics.HandshakeFailed()
		n.audit.Refuse(keystore.Record{
			Action: keystore.ActHandshake, Outcome: keystore.OutcomeRefused, Reason: server.HandshakeReason(err),
			Detail: map[string]string{"door": door, "peer": peer, "certificate": server.HandshakeCertificate(err)},
		})
	}
}

// full returns what is told of connections that a door has no room for.
func (n *node) full(door string) func(peer string, b server.Bound) {
	return newFullDoor(door, n.metrics, n.log).refused
}

// checks are the conditions of readiness. The first ones are those without which
// nothing is signed.
func (n *node) checks() []server.Check {
	checks := []server.Check{
		{Name: "clock", Run: n.clock.Trouble},
		{Name: "catalog", Run: func() error {
			_, err := n.views.Current()
			return cmp.Or(err, n.horizons.Trouble())
		}},
		{Name: "log", Run: n.audit.Health},
		{Name: "checkpoints", Run: n.audit.Unsigned},
		{Name: "configuration", Run: never, Warn: n.reloadWarning},
		{Name: "closed months", Run: never, Note: func() string { return textOf(n.audit.Untended()) }},
		{Name: "revocation lists", Run: never, Warn: n.revocations.warning},
		{Name: "witnesses", Run: never, Note: n.witnessNote, Warn: n.witnessWarning},
		{Name: "clock synchronised", Run: n.unsynchronised, Note: n.unsynchronisedNote},
	}
	for _, name := range sortedKeys(n.providers) {
		checks = append(checks, server.Check{Name: "keystore " + name, Run: func() error { return tokenTrouble(n.providers[name].Status()) },
			Note: func() string { return givenUp(n.providers[name].Status()) }})
		if _, ok := notesOf(n.providers[name]); ok {
			checks = append(checks, server.Check{Name: "memory of " + name, Run: func() error { return n.heads.Trouble(name) },
				Note: func() string { return n.heads.Note(name) }})
		}
	}
	for _, at := range n.anchors.all {
		checks = append(checks, server.Check{Name: "anchor " + at.name, Run: never, Warn: at.Trouble})
	}
	for _, name := range sortedKeys(n.config.Load().KeySets) {
		checks = append(checks, server.Check{Name: "keyset " + name, Run: func() error { return n.keySetTrouble(name) }, Note: func() string {
			if err := n.rotator.Disagrees(name); err != nil {
				return "no step is taken here: " + err.Error()
			}
			return n.handoverNote(name)
		}})
	}
	return checks
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// never fails: what somebody outside does, or does not do, keeps nobody from signing.
func never() error { return nil }

// givenUp tells what the processes of a module could not be kept from, or what a
// Vault lets Chancery do beyond what it needs, and that not every signature is
// verified.
func givenUp(status []keystore.TokenStatus) string {
	var notes []string
	for _, s := range status {
		if s.Unconfined != "" {
			notes = append(notes, "not confined: "+s.Unconfined)
		}
		if s.Sampled {
			notes = append(notes, "one of sixteen signatures is verified")
		}
	}
	return strings.Join(notes, "; ")
}

func tokenTrouble(status []keystore.TokenStatus) error {
	for _, s := range status {
		if s.State != keystore.TokenReady {
			return fmt.Errorf("token %s is %s", cmp.Or(s.Label, s.Serial, s.Keystore), s.State)
		}
	}
	return nil
}

// operatorNeeded returns why the node or a token does not serve, if that does not pass by
// itself, or nobody knows when.
func (n *node) operatorNeeded() error {
	if trouble := n.clock.Trouble(); trouble != nil {
		return trouble
	}
	for _, s := range tokenStates(n.providers) {
		if s.State == keystore.TokenUnavailable && n.config.Load().Keystores[s.Keystore].Transit != nil {
			return fmt.Errorf("keystore %s is %s: %s", s.Keystore, s.State, s.Err) // it may be another machine's
		}
		switch s.State {
		case keystore.TokenStarting, keystore.TokenReady, keystore.TokenUnavailable, keystore.TokenFailed:
		default:
			return fmt.Errorf("token %s is %s: %s", cmp.Or(s.Label, s.Serial, s.Keystore), s.State, s.Err)
		}
	}
	return nil
}

func (n *node) keySetTrouble(name string) error {
	view, err := n.views.Current()
	if err != nil {
		return err
	}
	if n.clock.Trouble() != nil {
		return errClock
	}
	set, ok := view.KeySet(name)
	if !ok {
		return errors.New("not made yet")
	}
	v, ok := set.Active()
	switch {
	case !ok:
		return n.silence(set)
	case v.Compromised != nil:
		return fmt.Errorf("%w, which is not on record yet", errCompromised)
	case v.Suspended != nil:
		return errSuspended
	case !n.keys.Proven(v.KID):
		return errors.New("the active version has not been seen signing by this node")
	case n.rotator.Trouble(v.KID) != "":
		return fmt.Errorf("the active version: %s", n.rotator.Trouble(v.KID))
	}
	if p, err := n.keys.Provider(v.Keystore); err != nil {
		return err
	} else if err := tokenTrouble(p.Status()); err != nil {
		return fmt.Errorf("it cannot sign: %w", err)
	}
	return nil
}

// errSuspended and errCompromised: an operator stopped the key set, or ended its
// key when no other could sign.
var (
	errSuspended   = errors.New("suspended")
	errCompromised = errors.New("its key is compromised")
)

// silence says why a key set has no version that signs.
func (n *node) silence(set *keystore.KeySet) error {
	gap, ok := n.rotator.Gap(set)
	switch {
	case !ok:
		return errors.New("no version signs yet")
	case gap.Until.IsZero():
		return fmt.Errorf("%w, and nothing signs: %s", errCompromised, gap.Text)
	}
	return fmt.Errorf("%w, and nothing signs until about %s: %s", errCompromised, until(gap.Until), gap.Text)
}

// stoppedByOperator reports whether that is why a key set does not sign.
func stoppedByOperator(err error) bool {
	return errors.Is(err, errSuspended) || errors.Is(err, errCompromised)
}

// ready reports whether every configured key set signs, or would if no operator
// had stopped it.
func (n *node) ready() bool {
	for name := range n.config.Load().KeySets {
		if err := n.keySetTrouble(name); err != nil && !stoppedByOperator(err) {
			return false
		}
	}
	for _, a := range n.config.Load().Authorities {
		view, err := n.views.Current()
		if err != nil {
			return false
		}
		set, ok := view.KeySet(a.KeySet)
		if !ok {
			return false
		}
		v, ok := set.Active()
		if !ok && stoppedByOperator(n.silence(set)) {
			continue
		}
		if !ok || !n.cas.has(a.KeySet, v.Number) {
			return false
		}
	}
	return true
}

// loadConfig loads a configuration, or returns an error that holds every
// finding.
func loadConfig(path string) (*config.Config, error) {
	cfg, findings := config.Load(path)
	var lines []string
	for _, f := range findings {
		if f.Severity == config.Error {
			lines = append(lines, f.String())
		}
	}
	if len(lines) > 0 {
		return nil, hinted{fmt.Errorf("the configuration has errors:\n%s", strings.Join(lines, "\n")), "chanceryd check --config " + path}
	}
	return cfg, nil
}

func required(cmd *cobra.Command, flag string) {
	if err := cmd.MarkFlagRequired(flag); err != nil {
		panic(err) // the flag is defined in the lines above the call
	}
}

func isUsage(err error) bool {
	text := err.Error()
	return strings.HasPrefix(text, "unknown command") || strings.HasPrefix(text, "required flag") || strings.HasPrefix(text, "unknown flag")
}

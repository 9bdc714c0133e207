package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/devpki"
	"chancery/signer/api"
	"chancery/softhsm"
)

// devLabel is the label of the token chanceryd dev makes.
const devLabel = "chancery-dev"

// readyWithin is how long chanceryd dev waits for every key set to sign.
const readyWithin = 2 * time.Minute

func devCommand(c clocks) *cobra.Command {
	d := devOptions{clocks: c}
	cmd := &cobra.Command{
		Use: "dev --dir DIR", Short: "Everything on one machine, to try it", Args: noArgs,
		Long: `Makes a SoftHSM token, a development root, client certificates and a
configuration in DIR, and serves them on loopback. A second start in the same
DIR continues where the first one was.

With --transit there is a second keystore, vault, in the Transit engine of that
Vault, and a key set, vaulted, whose keys are made there. With --postgres the catalog
is in that database, and another node beside this one is made by --join DIR. The
flags are for the first start.`,
		Example: `  chanceryd dev --dir dev
  chanceryd dev --dir dev-fast --fast`,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&d.dir, "dir", "", "the directory that holds everything")
	cmd.Flags().StringVar(&d.module, "module", "", "another PKCS#11 module than SoftHSM's (first start only)")
	cmd.Flags().BoolVar(&d.fast, "fast", false, "rotate every 20 s, to watch it (first start only)")
	cmd.Flags().IntVar(&d.ports, "ports", 0, "the first of three TCP ports in a row; 0: free ones (first start only)")
	cmd.Flags().BoolVar(&d.verbose, "verbose", false, "log more")
	d.vault.flags(cmd.Flags(), " (first start only)")
	d.cluster.flags(cmd.Flags(), " (first start only)")
	required(cmd, "dir")
	return cmd
}

type devOptions struct {
	clocks        clocks
	dir, module   string
	fast, verbose bool
	ports         int // the first of three in a row; 0: free ones
	vault         devVault
	cluster       devCluster
}

// devState is what the first start was told, kept in DIR/dev.json.
type devState struct {
	Fast   bool     `json:"fast"`
	Ports  int      `json:"ports,omitempty"`
	Module string   `json:"module"`
	Dir    string   `json:"dir"` // where it was made: its configuration names files there
	Vault  devVault `json:"transit,omitzero"`
	// Cluster is what was said of several nodes.
	Cluster devCluster `json:"cluster,omitzero"`
}

func (d devOptions) run(ctx context.Context) error {
	dir, err := d.directory()
	if err != nil {
		return err
	}
	if d.vault, err = d.vault.checked(); err != nil {
		return err
	}
	if d.cluster, err = d.cluster.checked(); err != nil {
		return err
	}
	log := newLogger(d.verbose)
	if err := d.alone(ctx, dir, log); err != nil {
		return err
	}
	path := filepath.Join(dir, "config.yaml")
	cfg, err := loadConfig(path)
	if err != nil {
		return err
	}
	defer watchToken(ctx, dir, log)()
	err = serve(ctx, cfg, path, nodeOptions{ownTokens: true, clocks: d.clocks, log: log}, func(ctx context.Context, n *node) error { return d.announce(ctx, dir, cfg, n) })
	if errors.Is(err, errLocked) {
		return err // whoever holds the directory serves what is there
	}
	if gone := os.Remove(filepath.Join(dir, "endpoints.json")); err == nil && !errors.Is(gone, fs.ErrNotExist) {
		return gone
	}
	return err
}

// watchToken puts back the token in dir when a login that was killed has torn it,
// until stop is called.
func watchToken(ctx context.Context, dir string, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		softhsm.Watch(ctx, tokenHome(dir), func(token string, err error) { tellMended(log, token, err) })
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

func tellMended(log *slog.Logger, token string, err error) {
	if err != nil {
		log.Error("a SoftHSM token that an interrupted login had torn could not be put back", "token", token, "err", err)
		return
	}
	log.Warn("a SoftHSM token that an interrupted login had torn was put back", "token", token)
}

// directory returns --dir as an absolute path that everything in it can have.
func (d devOptions) directory() (string, error) {
	if d.dir == "" {
		return "", usageError{hinted{errors.New("--dir is empty"), "chanceryd dev --dir DIR"}}
	}
	dir, err := filepath.Abs(d.dir)
	if err != nil {
		return "", err
	}
	if n := len(filepath.Join(dir, config.DevSocket)); n > config.MaxSocket {
		return "", usageError{hinted{
			fmt.Errorf("the directory's path has %d bytes, %d too many for the sockets in it", len(dir), n-config.MaxSocket), "use a shorter --dir",
		}}
	}
	// SoftHSM's configuration file has no way to write these.
	if strings.ContainsFunc(dir, func(r rune) bool { return r == '#' || r == '=' || r < ' ' || r == 0x7f }) {
		return "", usageError{hinted{fmt.Errorf("the directory's path %q holds '#', '=' or a control character", dir), "use another --dir"}}
	}
	return dir, nil
}

// alone prepares dir while no other daemon does, or serves it. Whatever dir says
// of one that serves no more goes.
func (d devOptions) alone(ctx context.Context, dir string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(dir, "lock")) // the node's own, until it takes it
	got, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("locking the directory: %w", err)
	}
	if !got {
		return fmt.Errorf("%w %s", errLocked, dir)
	}
	defer lock.Close()
	if err := os.Remove(filepath.Join(dir, "endpoints.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.prepare(ctx, dir, log)
}

// prepare makes what is missing in dir.
func (d devOptions) prepare(ctx context.Context, dir string, log *slog.Logger) error {
	state, first, err := d.state(dir)
	if err != nil {
		return err
	}
	opts := config.DevOptions{Node: state.Cluster.Node, Dir: dir, Fast: state.Fast, Transit: state.Vault.keystore(), Postgres: state.Cluster.postgres()}
	if joins := state.Cluster.Join != ""; joins && first {
		if state, opts, err = state.joined(dir); err != nil {
			return err
		}
	}
	if err := devpki.Ensure(dir, time.Now()); err != nil {
		return fmt.Errorf("making the development root: %w", err)
	}
	mended, err := softhsm.Mend(tokenHome(dir))
	if err != nil {
		return err
	}
	for _, token := range mended {
		tellMended(log, token, nil)
	}
	if !first {
		return nil
	}
	if state.Cluster.Join == "" {
		token, err := d.token(ctx, dir, state.Module)
		if err != nil {
			return err
		}
		opts.Module, opts.Token, opts.Env = token.Module, token.URI(), token.Env()
	}
	ports, err := d.listeners()
	if err != nil {
		return err
	}
	opts.APIPort, opts.PublicPort, opts.AdminPort = ports[0], ports[1], ports[2]
	text, err := config.Dev(opts)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, "config.yaml"), text, 0o600); err != nil {
		return err
	}
	b, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, "dev.json"), append(b, '\n'), 0o600)
}

// tokenHome is where the SoftHSM token of dir lives.
func tokenHome(dir string) string { return filepath.Join(dir, "softhsm") }

// token makes the token, or finds the one an interrupted first start made.
func (d devOptions) token(ctx context.Context, dir, module string) (*softhsm.Token, error) {
	home := tokenHome(dir)
	if t, err := softhsm.Open(home, devLabel); err == nil {
		return withModule(t, module), nil
	}
	if err := os.RemoveAll(home); err != nil { // half of a first start
		return nil, err
	}
	t, err := softhsm.Create(ctx, home, devLabel)
	if err != nil {
		return nil, fmt.Errorf("making a SoftHSM token in %s: %w", home, err)
	}
	return withModule(t, module), nil
}

func withModule(t *softhsm.Token, module string) *softhsm.Token {
	if module != "" {
		t.Module = module
	}
	return t
}

// state reads what the first start was told; first reports that there was none
// or that it did not finish.
func (d devOptions) state(dir string) (s devState, first bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "dev.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "catalog.db")); !errors.Is(err, fs.ErrNotExist) {
			return s, false, hinted{errors.New("the directory has been served, and its dev.json is missing"), "put it back, or use another --dir"}
		}
		module := d.module
		if module != "" {
			if module, err = filepath.Abs(module); err != nil {
				return s, false, err
			}
		}
		return devState{Fast: d.fast, Ports: d.ports, Module: module, Dir: dir, Vault: d.vault, Cluster: d.cluster}, true, nil
	}
	if err != nil {
		return s, false, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, false, fmt.Errorf("reading dev.json: %w", err)
	}
	if s.Dir != "" && !sameDir(s.Dir, dir) { // the first builds did not keep it
		return s, false, hinted{fmt.Errorf("the directory was made as %s, and its configuration names files there", s.Dir), "move it back, or use another --dir"}
	}
	if d.fast && !s.Fast {
		return s, false, usageError{hinted{errors.New("--fast is for the first start only, and this directory was started without it"), "use another --dir"}}
	}
	if d.ports != 0 && d.ports != s.Ports {
		return s, false, usageError{hinted{errors.New("--ports is for the first start only, and this directory has others"), "change them in config.yaml, or use another --dir"}}
	}
	if d.module != "" {
		if abs, err := filepath.Abs(d.module); err != nil || abs != s.Module {
			return s, false, usageError{hinted{errors.New("--module is for the first start only, and this directory has another one"), "use another --dir"}}
		}
	}
	if d.vault != (devVault{}) && d.vault != s.Vault {
		return s, false, usageError{hinted{errors.New("--transit and what belongs to it are for the first start only, and this directory was started otherwise"), "use another --dir"}}
	}
	if d.cluster != (devCluster{}) && d.cluster != s.Cluster {
		return s, false, usageError{hinted{errors.New("--postgres, --join and --node are for the first start only, and this directory was started otherwise"), "use another --dir"}}
	}
	return s, false, nil
}

// shellWord returns s as a shell reads it back.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_./-", r))
	}
	if !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// sameDir reports whether two paths are of one directory.
func sameDir(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// The ports chanceryd dev chooses from lie below those that systems give to
// outgoing connections: a port that such a connection holds while the daemon is
// stopped would keep it from starting again.
const (
	firstPort = 15000
	lastPort  = 32000
	portTries = 1000
)

// listeners returns the ports of the API, of what is public, and of what is for
// administrators.
func (d devOptions) listeners() ([]int, error) {
	if d.ports == 0 {
		return freePorts(3)
	}
	if d.ports < 1 || d.ports > 65535-2 {
		return nil, usageError{fmt.Errorf("--ports %d is not between 1 and %d", d.ports, 65535-2)}
	}
	return []int{d.ports, d.ports + 1, d.ports + 2}, nil
}

// freePorts returns n loopback ports that nothing listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	var last error
	for range portTries {
		if len(ports) == n {
			return ports, nil
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			last = err
			continue
		}
		defer l.Close() // all at once, so that they differ
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("looking for a free port: %w", last)
}

// announce waits until every key set signs, writes endpoints.json and tells a
// person what to try. A token that waits for an operator is not waited for: it
// takes the endpoints to help it.
func (d devOptions) announce(ctx context.Context, dir string, cfg *config.Config, n *node) error {
	within, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); !n.ready(); {
		if trouble := n.operatorNeeded(); trouble != nil {
			tick.Stop()
			n.log.Warn("not every key set signs: an operator is needed", "err", trouble)
			return d.write(dir, cfg)
		}
		select {
		case <-within.Done():
			tick.Stop()
			if ctx.Err() != nil {
				return nil // stopped before it was ready
			}
			n.log.Warn("not every key set signs yet; see /readyz?verbose")
			return d.write(dir, cfg)
		case <-tick.C:
		}
	}
	if err := d.write(dir, cfg); err != nil {
		return err
	}
	fmt.Print(strings.ReplaceAll(welcome, "DIR", shellWord(d.dir)))
	return nil
}

func (d devOptions) write(dir string, cfg *config.Config) error {
	l := cfg.Listeners
	_, port, err := net.SplitHostPort(l.Signing.TCP)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(api.Endpoints{
		Socket: l.Signing.Socket, Ops: l.Ops.Socket, API: "https://localhost:" + port,
		Public: "http://" + l.Public.TCP, Admin: "http://" + l.Admin.TCP,
	}, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, "endpoints.json"), append(b, '\n'), 0o644)
}

const welcome = `chanceryd is ready. Its keys are in a SoftHSM token; its root key is a file, so
this is for trying things out. In another terminal:

  chancery --dir DIR sign jwt --keyset web --claims '{"sub":"alice"}'
  chancery --dir DIR keys list
  chancery --dir DIR rotation plan web
  chancery --dir DIR rotation now web --reason "to see it" --watch
  chancery --dir DIR audit verify
`

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/load"
	"chancery/signer/client"
)

type benchFlags struct {
	callers     []int
	duration    time.Duration
	warmup      time.Duration
	keyset      string
	batch       int
	layers      []string
	mix         string
	rate        float64
	connections int
	verify      string
	bound       bool
	histogram   bool
	slow        int
	pid         int
	disk        string
	start       bool
	vault       []string // what chanceryd bench-token is told of a Vault; empty: nothing
}

// The layers that chanceryd measures, below the daemon.
const (
	layerRaw    = "raw"
	layerWorker = "worker"
)

// defaultBatch is how many tokens a batch has where nobody says.
const defaultBatch = 64

func (a *app) benchCommand() *cobra.Command {
	f := benchFlags{}
	c := &cobra.Command{
		Use:   "bench [-- COMMAND...]",
		Short: "Measure signatures a second, layer by layer, and what of the possible that is",
		Long: "Measure signatures a second, layer by layer: the token alone in one process (raw), one\n" +
			"worker process and as many as the daemon has (worker), and the whole daemon by JSON and\n" +
			"by gRPC, one token in a request, many on a stream, and in batches, with every token in the\n" +
			"log. Each caller asks again as soon as it is answered; with --rate requests arrive at\n" +
			"fixed moments, and latency counts from the moment a request was to arrive.\n\n" +
			"Raw, worker and the parts of a token are measured by chanceryd, on a SoftHSM token of its\n" +
			"own or, with --transit, on a Vault, in whose mount it makes a key and destroys it. From\n" +
			"the parts comes the bound: the processors, over the CPU time of a signature, a\n" +
			"verification, an entry of the log, and a request that has nothing done.",
		Example: "  chancery --dir dev bench --callers 1,16,64 --duration 3s\n" +
			"  chancery --dir dev bench --mix grpc/web=3,json/legacy=1 --rate 500 --callers 64\n" +
			"  chancery --dir dev bench --start -- chanceryd dev --dir dev",
		Args: func(cmd *cobra.Command, args []string) error {
			if f.start == (len(args) == 0) {
				return usagef("bench: --start, and what it starts, go together: bench --start -- chanceryd serve --config FILE")
			}
			return nil
		},
	}
	fs := c.Flags()
	fs.IntSliceVar(&f.callers, "callers", []int{1, 16, 64}, "how many ask at a time, one run for each number")
	fs.DurationVar(&f.duration, "duration", 2*time.Second, "how long each run is measured")
	fs.DurationVar(&f.warmup, "warmup", 0, "before each run, which does not count (default: a fifth of --duration)")
	fs.StringVar(&f.keyset, "keyset", "web", "key set to sign with")
	fs.IntVar(&f.batch, "batch", defaultBatch, "tokens in a batch; without --layers and --mix only batches are measured of the daemon")
	fs.StringSliceVar(&f.layers, "layers", benchLayers, "what is measured")
	fs.StringVar(&f.mix, "mix", "", "in place of the daemon's layers, all of these at a time: LAYER[/KEYSET][*BATCH][=WEIGHT],…")
	fs.Float64Var(&f.rate, "rate", 0, "requests that arrive in a second, for whichever caller is free (default: a caller asks when it is answered)")
	fs.IntVar(&f.connections, "connections", 0, "connections that the callers share by gRPC (default: one for sixteen)")
	fs.StringVar(&f.verify, "verify", "all", "which signatures the daemon verifies, as its keystore is configured: all or sampled")
	fs.BoolVar(&f.bound, "bound", true, "measure the parts of a token, and what the processors allow")
	fs.BoolVar(&f.histogram, "histogram", false, "draw the latencies of each run of the daemon (of a single one always)")
	fs.IntVar(&f.slow, "slow", 0, "hold so many slow and silent connections meanwhile")
	fs.IntVar(&f.pid, "pid", 0, "the daemon's process, whose CPU time and memory are read (default: whose socket it is)")
	fs.StringVar(&f.disk, "disk", "", "a directory on the disk of the daemon's log (default: --dir)")
	fs.BoolVar(&f.start, "start", false, "measure the time from the execution of COMMAND to its first signature, and end it")
	vault := []string{"transit", "transit-token-file", "transit-ca", "transit-mount"}
	for i, usage := range []string{"the address of the Vault that the key set is in", "the file with a token to use it by", "the certificates it is known by", "where its Transit engine is"} {
		fs.String(vault[i], "", usage)
	}
	c.RunE = does(func(ctx context.Context, args []string) error {
		for _, name := range vault {
			if flag := fs.Lookup(name); flag.Changed {
				f.vault = append(f.vault, "--"+name, flag.Value.String())
			}
		}
		if fs.Changed("batch") && !fs.Changed("layers") {
			f.layers = []string{layerRaw, layerWorker, load.JSONBatch, load.GRPCBatch}
		}
		if !fs.Changed("warmup") {
			f.warmup = f.duration / 5
		}
		if f.disk == "" {
			f.disk = a.dir
		}
		if err := f.check(); err != nil {
			return err
		}
		if f.start {
			return a.benchStart(ctx, f, args)
		}
		return a.bench(ctx, f)
	})
	return c
}

// benchLayers are all there are.
var benchLayers = append([]string{layerRaw, layerWorker}, load.Layers...)

func (f benchFlags) check() error {
	if f.duration <= 0 || f.warmup < 0 || f.batch < 1 || f.batch > 256 || len(f.callers) == 0 || f.rate < 0 || f.slow < 0 {
		return usagef("bench: --duration and --callers are positive, --batch is 1 to 256, --warmup, --rate and --slow are not negative")
	}
	for _, n := range f.callers {
		if n < 1 || n > 10000 {
			return usagef("bench: %d callers: between 1 and 10000", n)
		}
	}
	for _, l := range f.layers {
		if !slices.Contains(benchLayers, l) {
			return usagef("bench: --layers %s: there are %s", l, strings.Join(benchLayers, ", "))
		}
	}
	if _, ok := load.Verified(f.verify, ""); !ok {
		return usagef("bench: --verify %s: all or sampled", f.verify)
	}
	if _, err := f.mixes(); err != nil {
		return usagef("bench: --mix: %v", err)
	}
	return nil
}

// mixes are what the daemon is asked, one run after the other: what --mix says, or
// each layer by itself.
func (f benchFlags) mixes() ([]load.Mix, error) {
	if f.mix != "" {
		m, err := load.ParseMix(f.mix, f.keyset, f.batch)
		return []load.Mix{m}, err
	}
	var all []load.Mix
	for _, layer := range f.layers {
		if layer == layerRaw || layer == layerWorker {
			continue
		}
		m, err := load.ParseMix(layer, f.keyset, f.batch)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// below reports whether chanceryd is to measure what is below the daemon.
func (f benchFlags) below() bool {
	return f.mix == "" && (slices.Contains(f.layers, layerRaw) || slices.Contains(f.layers, layerWorker))
}

func (a *app) bench(ctx context.Context, f benchFlags) error {
	b, err := a.newBench(ctx, f)
	if err != nil {
		return err
	}
	if err := b.run(ctx); err != nil {
		return err
	}
	b.report.compare()
	if a.json {
		return json.NewEncoder(a.out).Encode(b.report)
	}
	return a.printBench(b.report, f.histogram)
}

// A bench is one run of the command.
type bench struct {
	benchFlags
	asked      []load.Mix
	algorithms map[string]string // by key set
	daemon     string            // chanceryd; empty: not found, which missing says
	missing    error
	at         *benchTarget
	line       *progressLine
	report     benchReport
}

// newBench looks up what is to be measured.
func (a *app) newBench(ctx context.Context, f benchFlags) (*bench, error) {
	c, err := a.connect(roleIssuer)
	if err != nil {
		return nil, err
	}
	b := &bench{benchFlags: f, algorithms: map[string]string{}, line: &progressLine{w: a.err, live: isTerminal(a.err)}, report: newReport(f)}
	if b.asked, err = f.mixes(); err != nil {
		return nil, err
	}
	for _, name := range f.keysets(b.asked) {
		set, err := c.KeySet(ctx, name)
		if err != nil {
			return nil, err
		}
		b.algorithms[name] = set.Algorithm
	}
	cfg, _, err := a.settings(roleIssuer)
	if err != nil {
		return nil, err
	}
	if b.at, err = newBenchTarget(ctx, cfg, f.pid); err != nil {
		return nil, err
	}
	b.note("CPU time and memory of the daemon", b.at.unseen)
	b.daemon, b.missing = findDaemon()
	return b, nil
}

// keysets are those that are asked for, --keyset first.
func (f benchFlags) keysets(mixes []load.Mix) []string {
	var names []string
	if f.mix == "" {
		names = append(names, f.keyset)
	}
	for _, m := range mixes {
		for _, p := range m {
			if !slices.Contains(names, p.KeySet) {
				names = append(names, p.KeySet)
			}
		}
	}
	return names
}

// note keeps why something is not measured; a nil error is nothing to tell.
func (b *bench) note(what string, err error) {
	if err != nil {
		b.report.Notes = append(b.report.Notes, fmt.Sprintf("%s: not measured: %s", what, clean(strings.TrimSpace(err.Error()))))
	}
}

func (b *bench) run(ctx context.Context) error {
	if err := b.measureBelow(ctx); err != nil {
		return err
	}
	stop := b.dawdle(ctx)
	defer stop()
	for _, m := range b.asked {
		for _, n := range b.callers {
			spoken, err := b.measure(ctx, m, n)
			if err != nil {
				return err
			}
			if !spoken {
				break
			}
		}
	}
	return nil
}

// newBenchTarget finds the daemon for callers, and its process.
func newBenchTarget(ctx context.Context, cfg client.Config, pid int) (*benchTarget, error) {
	t, err := load.NewTarget(cfg.Endpoint, cfg.ServerName, cfg.Certificate, cfg.Roots)
	if err != nil {
		return nil, err
	}
	b := &benchTarget{Target: t}
	if pid == 0 {
		pid, b.unseen = t.PeerPID(ctx)
	}
	if b.unseen == nil {
		b.family, b.unseen = load.NewFamily(pid)
	}
	return b, nil
}

// A benchTarget is a server, and its processes where they can be seen.
type benchTarget struct {
	load.Target
	family *load.Family // nil: unseen says why
	unseen error
}

var errNoDaemon = errors.New("chanceryd is neither beside this command nor in the PATH")

// findDaemon looks for chanceryd beside this executable, then in the PATH.
func findDaemon() (string, error) {
	if path := besideSelf(); path != "" {
		return path, nil
	}
	path, err := exec.LookPath(daemonName())
	if err != nil {
		return "", errNoDaemon
	}
	return path, nil
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/cmd/internal/load"
	"chancery/signer/client"
)

func daemonName() string {
	if runtime.GOOS == "windows" {
		return "chanceryd.exe"
	}
	return "chanceryd"
}

// besideSelf returns the chanceryd in the directory of this executable; empty:
// there is none.
func besideSelf() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	path := filepath.Join(filepath.Dir(self), daemonName())
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return path
}

// A tokenPart is what chanceryd measured of one token's parts.
type tokenPart struct {
	Algorithm   string `json:"algorithm"`
	Concurrency int    `json:"concurrency"` // how many waited for an entry of the log at a time
	load.Parts
	RPC string `json:"rpc,omitempty"` // the protocol that the RPC floor is of
}

// A belowReport is what chanceryd bench-token prints.
type belowReport struct {
	Results []measurement `json:"results"`
	Parts   []tokenPart   `json:"parts"`
}

// measureBelow has chanceryd measure the token, the workers and the parts of a
// token. That it cannot is a note.
func (b *bench) measureBelow(ctx context.Context) error {
	bound := b.bound && len(b.vault) == 0 && b.plain()
	if !b.below() && !bound {
		return nil
	}
	if b.missing != nil {
		b.note("the token alone, and the bound", b.missing)
		return nil
	}
	b.line.say("measuring the token: raw, and through workers")
	below, err := b.benchToken(ctx, bound)
	b.line.wipe()
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		b.note("the token alone, and the bound", err)
		return nil
	}
	for _, m := range below.Results {
		if b.mix == "" && (slices.Contains(b.layers, m.Layer) || m.Layer == "provider" && slices.Contains(b.layers, layerWorker)) {
			b.report.Results = append(b.report.Results, m)
		}
	}
	if !bound {
		return nil
	}
	b.line.say("measuring requests that have nothing done")
	b.report.Parts, err = b.floors(ctx, below.Parts)
	b.line.wipe()
	if err != nil && ctx.Err() != nil {
		return err
	}
	b.note("the bound", err)
	return nil
}

// plain reports whether there is a bound: each run asks one kind of request, as
// fast as it is answered.
func (b *bench) plain() bool {
	return b.rate == 0 && len(b.asked) > 0 && !slices.ContainsFunc(b.asked, func(m load.Mix) bool { return len(m) > 1 })
}

// benchToken runs chanceryd bench-token.
func (b *bench) benchToken(ctx context.Context, parts bool) (below belowReport, err error) {
	var algorithms []string
	for _, alg := range b.algorithms {
		if !slices.Contains(algorithms, alg) {
			algorithms = append(algorithms, alg)
		}
	}
	slices.Sort(algorithms)
	args := []string{"bench-token", "--json", "--algorithms", strings.Join(algorithms, ","), "--callers", list(b.callers), "--duration", b.duration.String()}
	if parts {
		args = append(args, "--parts", list(b.concurrencies()))
		if b.disk != "" {
			args = append(args, "--disk", b.disk)
		}
	}
	out, err := exec.CommandContext(ctx, b.daemon, append(args, b.vault...)...).Output()
	if err != nil {
		return below, explained("chanceryd bench-token", err)
	}
	if err := json.Unmarshal(out, &below); err != nil {
		return below, fmt.Errorf("reading what chanceryd bench-token printed: %w", err)
	}
	return below, nil
}

// explained adds what a command wrote to standard error last.
func explained(what string, err error) error {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("%s: %w: %s", what, err, lastLine(e.Stderr))
	}
	return fmt.Errorf("%s: %w", what, err)
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

func list(numbers []int) string {
	words := make([]string, len(numbers))
	for i, n := range numbers {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ",")
}

// mostEntries is how many entries are waited for at a time when the log is
// measured: with more an entry costs the same.
const mostEntries = 1024

// concurrency is how many entries a run waits for at a time.
func concurrency(callers, batch int) int { return min(callers*max(1, batch), mostEntries) }

func (b *bench) concurrencies() []int {
	var all []int
	for _, m := range b.asked {
		for _, n := range b.callers {
			if c := concurrency(n, m[0].Batch); !slices.Contains(all, c) {
				all = append(all, c)
			}
		}
	}
	return all
}

// protocol is what the RPC floor of a layer is measured by.
func protocol(layer string) string {
	if layer == load.JSON || layer == load.JSONBatch {
		return load.JSON
	}
	return load.GRPC
}

// floors measures, for each protocol and number of callers, what a request costs
// that has nothing done, and returns the parts with it.
func (b *bench) floors(ctx context.Context, parts []tokenPart) (all []tokenPart, err error) {
	f, err := startFloor(ctx, b.daemon)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	var failed error
	for _, m := range b.asked {
		for _, n := range b.callers {
			proto, c := protocol(m[0].Layer), concurrency(n, m[0].Batch)
			if slices.ContainsFunc(all, func(p tokenPart) bool { return p.RPC == proto && p.Concurrency == c }) {
				continue
			}
			cost, err := f.measure(ctx, b.benchFlags, proto, n)
			if err != nil {
				failed = fmt.Errorf("by %s: %w", proto, err)
				break
			}
			for _, p := range parts {
				if p.Concurrency == c {
					p.RPC, p.Floor = proto, cost
					all = append(all, p)
				}
			}
		}
	}
	return all, failed
}

// A floorProcess is chanceryd bench-floor.
type floorProcess struct {
	cmd     *exec.Cmd
	in      io.Closer
	keyset  string
	service float64 // CPU time of the Service by itself, µs
	target  load.Target
	family  *load.Family
}

func startFloor(ctx context.Context, daemon string) (f *floorProcess, err error) {
	f = &floorProcess{cmd: exec.CommandContext(ctx, daemon, "bench-floor")}
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	f.cmd.Stderr = &said
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = f.read(line)
	}
	if err != nil {
		f.stop()
		return nil, fmt.Errorf("chanceryd bench-floor: %w: %s", err, lastLine(said.Bytes()))
	}
	return f, nil
}

func (f *floorProcess) read(line []byte) error {
	var ready struct {
		Endpoint, Cert, Key, CA, KeySet string
		Service                         float64 `json:"service_us"`
	}
	if err := json.Unmarshal(line, &ready); err != nil {
		return err
	}
	cfg, err := client.LoadConfig(ready.Endpoint, ready.Cert, ready.Key, ready.CA)
	if err != nil {
		return err
	}
	f.keyset, f.service = ready.KeySet, ready.Service
	if f.target, err = load.NewTarget(cfg.Endpoint, "", cfg.Certificate, cfg.Roots); err != nil {
		return err
	}
	f.family, err = load.NewFamily(f.cmd.Process.Pid)
	return err
}

// stop ends the process, which ends with its standard input.
func (f *floorProcess) stop() {
	f.in.Close()
	_ = f.cmd.Wait() // how it ends is of no interest
}

// measure returns the CPU time, of both ends together, of a request by a protocol,
// less that of the Service, in microseconds.
func (f *floorProcess) measure(ctx context.Context, flags benchFlags, proto string, callers int) (float64, error) {
	ways, err := load.Open(ctx, f.target, load.Mix{{Layer: proto, KeySet: f.keyset, Weight: 1}}, callers, connectionsOf(flags, callers))
	if err != nil {
		return 0, err
	}
	defer load.Close(ways)
	w := &usageWatch{family: f.family}
	o, err := load.Run(ctx, load.Plan{Callers: ways, Weights: []int{1}, Warmup: flags.warmup, Duration: max(flags.duration, 100*time.Millisecond), Edge: w.edge})
	if err != nil {
		return 0, err
	}
	cpu, err := w.perToken(o.Total().Requests)
	if err != nil {
		return 0, err
	}
	cost := cpu.Client + cpu.Daemon - f.service
	if cost <= 0 {
		return 0, errors.New("so little CPU time was used that it cannot be told: a longer --duration")
	}
	return cost, nil
}

func connectionsOf(f benchFlags, callers int) int {
	if f.connections > 0 {
		return f.connections
	}
	return load.Connections(callers)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type benchFlags struct {
	callers  []int
	duration time.Duration
	keyset   string
	batch    int
	vault    []string // what chanceryd bench-token is told of a Vault; empty: nothing
}

// A measurement is how fast one layer signs with so many callers. Times are
// those of one request, in microseconds; a request of a batch is several tokens.
type measurement struct {
	Layer     string  `json:"layer"` // raw; worker or provider; daemon
	Algorithm string  `json:"algorithm"`
	Callers   int     `json:"callers"`
	Batch     int     `json:"batch,omitempty"`
	Rate      float64 `json:"rate"` // signatures a second
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	Ratio     float64 `json:"ratio,omitempty"` // to the best raw rate
	Refused   int64   `json:"refused,omitempty"`
}

type benchReport struct {
	Results []measurement `json:"results"`
}

func (a *app) benchCommand() *cobra.Command {
	f := benchFlags{}
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure signatures a second: the token alone, the worker, the daemon",
		Long: "Measure signatures a second in three layers: the token alone in one process (raw), the\n" +
			"worker process, and the whole daemon by HTTP/JSON over its socket, with every token\n" +
			"verified and in the log. Each caller keeps one connection and asks again as soon as it\n" +
			"is answered. Raw and worker are measured by `chanceryd bench-token` on a SoftHSM token of\n" +
			"its own or, with --transit, on a Vault, in whose mount it makes a key and destroys it.",
		Example: "  chancery --dir dev bench --callers 1,16,64 --duration 3s",
		Args:    noArgs,
	}
	c.Flags().IntSliceVar(&f.callers, "callers", []int{1, 16, 64}, "how many ask at a time, one run for each number")
	c.Flags().DurationVar(&f.duration, "duration", 3*time.Second, "how long each run lasts")
	c.Flags().StringVar(&f.keyset, "keyset", "web", "key set to sign with")
	c.Flags().IntVar(&f.batch, "batch", 0, "tokens in a request, by /v1/sign/jwt/batch (default: one, by /v1/sign/jwt)")
	vault := []string{"transit", "transit-token-file", "transit-ca", "transit-mount"}
	for i, usage := range []string{"the address of the Vault that the key set is in", "the file with a token to use it by", "the certificates it is known by", "where its Transit engine is"} {
		c.Flags().String(vault[i], "", usage)
	}
	c.RunE = does(func(ctx context.Context, _ []string) error {
		for _, name := range vault {
			if flag := c.Flags().Lookup(name); flag.Changed {
				f.vault = append(f.vault, "--"+name, flag.Value.String())
			}
		}
		if f.duration <= 0 || f.batch < 0 || len(f.callers) == 0 {
			return usagef("bench: --duration, --batch and --callers are positive")
		}
		for _, n := range f.callers {
			if n < 1 || n > 10000 {
				return usagef("bench: %d callers: between 1 and 10000", n)
			}
		}
		return a.bench(ctx, f)
	})
	return c
}

func (a *app) bench(ctx context.Context, f benchFlags) error {
	c, err := a.connect(roleIssuer)
	if err != nil {
		return err
	}
	set, err := c.KeySet(ctx, f.keyset)
	if err != nil {
		return err
	}
	line := &progressLine{w: a.err, live: isTerminal(a.err)}
	report := benchReport{Results: []measurement{}}
	line.say("measuring the token: raw, and through the worker")
	layers, err := benchToken(ctx, set.Algorithm, f)
	line.wipe()
	if err != nil {
		fmt.Fprintln(a.err, "warning: the token alone is not measured:", clean(err.Error()))
	}
	report.Results = append(report.Results, layers...)
	cfg, _, err := a.settings(roleIssuer)
	if err != nil {
		return err
	}
	for _, n := range f.callers {
		m, err := measureDaemon(ctx, cfg, f, n, line)
		line.wipe()
		if err != nil {
			return fmt.Errorf("measuring the daemon with %d callers: %w", n, err)
		}
		m.Algorithm = set.Algorithm
		report.Results = append(report.Results, m)
	}
	report.compare()
	if a.json {
		return json.NewEncoder(a.out).Encode(report)
	}
	a.printBench(report)
	return nil
}

// compare sets each result's ratio to the best raw rate.
func (r *benchReport) compare() {
	raw := 0.0
	for _, m := range r.Results {
		if m.Layer == "raw" {
			raw = max(raw, m.Rate)
		}
	}
	for i := range r.Results {
		if raw > 0 {
			r.Results[i].Ratio = r.Results[i].Rate / raw
		}
	}
}

func (a *app) printBench(r benchReport) {
	var rows [][]string
	micros := func(us float64) string {
		return time.Duration(us * float64(time.Microsecond)).Round(time.Microsecond).String()
	}
	refused := int64(0)
	for _, m := range r.Results {
		layer := m.Layer
		if m.Batch > 1 {
			layer = fmt.Sprintf("%s, batches of %d", layer, m.Batch)
		}
		ratio := "-"
		if m.Ratio > 0 {
			ratio = fmt.Sprintf("%.0f %%", 100*m.Ratio)
		}
		rows = append(rows, []string{
			layer, m.Algorithm, strconv.Itoa(m.Callers), fmt.Sprintf("%.0f", m.Rate), micros(m.P50), micros(m.P99), ratio,
		})
		refused += m.Refused
	}
	a.printTable([]string{"layer", "algorithm", "callers", "signatures/s", "p50", "p99", "of best raw"}, rows)
	if refused > 0 {
		a.printf("%s requests were told to come back later\n", strconv.FormatInt(refused, 10))
	}
}

// benchToken has chanceryd measure the layers below the daemon.
func benchToken(ctx context.Context, algorithm string, f benchFlags) ([]measurement, error) {
	path, err := findDaemon()
	if err != nil {
		return nil, err
	}
	callers := strings.Trim(strings.ReplaceAll(fmt.Sprint(f.callers), " ", ","), "[]")
	args := append([]string{"bench-token", "--json", "--algorithms", algorithm, "--callers", callers, "--duration", f.duration.String()}, f.vault...)
	out, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			return nil, fmt.Errorf("chanceryd bench-token: %w: %s", err, e.Stderr)
		}
		return nil, err
	}
	var report benchReport
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, fmt.Errorf("reading what chanceryd bench-token printed: %w", err)
	}
	return report.Results, nil
}

// findDaemon looks for chanceryd beside this executable, then in the PATH.
func findDaemon() (string, error) {
	name := "chanceryd"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	return exec.LookPath(name)
}

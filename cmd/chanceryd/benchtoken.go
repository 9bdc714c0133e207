package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
	"chancery/softhsm"
)

// A tokenRate is what one layer reached.
type tokenRate struct {
	Layer     string  `json:"layer"` // "raw": by nobody's help; "worker", "provider": as the daemon does, verified
	Algorithm string  `json:"algorithm"`
	Workers   int     `json:"workers,omitempty"` // processes; of the layer "worker"
	Callers   int     `json:"callers"`
	Rate      float64 `json:"rate"` // signatures per second
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`

	count int // signatures
}

func benchTokenCommand() *cobra.Command {
	var b tokenBench
	cmd := &cobra.Command{
		Use: "bench-token [--json]", Short: "Measure what a token or a Vault signs, for chancery bench", Args: noArgs,
		Long: `Makes a throw-away SoftHSM token with keys of its own and measures signatures
per second: raw, in this process on the token object, and through one worker and
through as many as the daemon has, each verified. With --transit it measures a Vault, in whose mount it makes keys
and destroys them: raw, by direct calls, one for each signature, and through the
provider. No key of a running daemon is used.`,
		Example: `  chanceryd bench-token --callers 1,16 --algorithms ES256
  chanceryd bench-token --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			measure := b.run
			if b.vault != (devVault{}) {
				measure = b.transit
			}
			results, err := measure(cmd.Context())
			if err != nil {
				return err
			}
			if b.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(tokenReport{results, b.measured})
			}
			for _, r := range results {
				fmt.Fprintf(cmd.OutOrStdout(), "%-9s %-6s %3d callers %10.0f/s  p50 %8.0f µs  p99 %8.0f µs\n",
					r.name(), r.Algorithm, r.Callers, r.Rate, r.P50, r.P99)
			}
			for _, p := range b.measured {
				fmt.Fprintf(cmd.OutOrStdout(), "%-6s %3d at a time: CPU of a worker %.1f µs, of a verification %.1f µs, of an entry %.1f µs\n",
					p.Algorithm, p.Concurrency, p.Sign, p.Verify, p.Log)
			}
			return nil
		},
	}
	b.vault.flags(cmd.Flags(), "")
	cmd.Flags().BoolVar(&b.json, "json", false, "print JSON")
	cmd.Flags().DurationVar(&b.duration, "duration", time.Second, "how long each measurement takes")
	cmd.Flags().StringSliceVar(&b.algorithms, "algorithms", []string{"ES256", "RS256", "EdDSA"}, "what to sign with")
	cmd.Flags().IntSliceVar(&b.callers, "callers", []int{1, 16, 64}, "how many sign at once through the worker")
	cmd.Flags().IntSliceVar(&b.parts, "parts", nil, "measure also the CPU time of the parts of a token, with so many at a time")
	cmd.Flags().StringVar(&b.disk, "disk", "", "a directory on the disk of the log, for --parts (default: that of temporary files)")
	return cmd
}

type tokenReport struct {
	Results []tokenRate `json:"results"`
	Parts   []tokenPart `json:"parts,omitempty"`
}

type tokenBench struct {
	json       bool
	duration   time.Duration
	algorithms []string
	callers    []int
	parts      []int
	disk       string
	vault      devVault // zero: a token

	measured []tokenPart
}

// name is the layer and, of workers, how many there were.
func (r tokenRate) name() string {
	if r.Workers > 0 {
		return fmt.Sprintf("%s ×%d", r.Layer, r.Workers)
	}
	return r.Layer
}

// rawCallers are how many goroutines sign raw; the best of them is the token's
// rate.
var rawCallers = []int{1, 2, 4}

func (b *tokenBench) run(ctx context.Context) ([]tokenRate, error) {
	dir, err := os.MkdirTemp("", "chancery-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	token, err := softhsm.Create(ctx, dir, "bench")
	if err != nil {
		return nil, err
	}
	cfg := pkcs11.Config{
		Name: "bench", Module: token.Module, URI: token.URI(), Env: token.Env(),
		StateDir: filepath.Join(dir, "state"), Log: newLogger(false),
	}
	refs, err := b.keys(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var results []tokenRate
	for _, workers := range []int{1, pkcs11.DefaultWorkers} {
		cfg.Workers = workers
		rates, err := b.workers(ctx, cfg, refs)
		if err != nil {
			return nil, err
		}
		results = append(results, rates...)
	}
	raw, err := b.raw(cfg, refs)
	return append(raw, results...), err
}

// keys makes a key for each algorithm.
func (b *tokenBench) keys(ctx context.Context, cfg pkcs11.Config) (refs []keystore.KeyRef, err error) {
	provider, err := pkcs11.Open(cfg)
	if err != nil {
		return nil, err
	}
	defer provider.Close()
	for _, name := range b.algorithms {
		alg, err := keystore.ParseAlgorithm(name)
		if err != nil {
			return nil, usageError{err}
		}
		id := keystore.NewKeyID()
		spki, err := provider.Generate(ctx, id, keystore.PurposeJWT, alg)
		if err != nil {
			return nil, fmt.Errorf("making a key for %s: %w", alg, err)
		}
		refs = append(refs, keystore.KeyRef{ID: id, Algorithm: alg, SPKI: spki})
	}
	return refs, nil
}

// workers measures with cfg.Workers of them and, with as many as the daemon has,
// the parts of a token.
func (b *tokenBench) workers(ctx context.Context, cfg pkcs11.Config, refs []keystore.KeyRef) (results []tokenRate, err error) {
	provider, err := pkcs11.Open(cfg)
	if err != nil {
		return nil, err
	}
	defer provider.Close()
	for _, ref := range refs {
		rates, err := b.worker(ctx, provider, ref)
		if err != nil {
			return nil, err
		}
		for i := range rates {
			rates[i].Workers = cfg.Workers
		}
		results = append(results, rates...)
		if cfg.Workers != pkcs11.DefaultWorkers {
			continue
		}
		for _, n := range b.parts {
			p, err := b.part(ctx, provider, ref, n)
			if err != nil {
				return nil, fmt.Errorf("measuring the parts of a token by %s, %d at a time: %w", ref.Algorithm, n, err)
			}
			b.measured = append(b.measured, p)
		}
	}
	return results, nil
}

// message is as long as a JWT's signing input usually is.
var message = []byte("eyJhbGciOiJFUzI1NiIsImtpZCI6ImZyb20tYS1iZW5jaG1hcmsiLCJ0eXAiOiJKV1QifQ." +
	"eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJhdWQiOiJzZXJ2aWNlIiwiaWF0IjoxLCJleHAiOjJ9")

func (b *tokenBench) worker(ctx context.Context, p keystore.Provider, ref keystore.KeyRef) ([]tokenRate, error) {
	key, err := p.Open(ctx, ref, keystore.PurposeJWT)
	if err != nil {
		return nil, err
	}
	var rates []tokenRate
	for _, n := range b.callers {
		r, err := b.measure(n, func(int) error {
			_, err := key.Sign(ctx, message)
			return err
		})
		if err != nil {
			return nil, err
		}
		r.Layer, r.Algorithm = "worker", string(ref.Algorithm)
		rates = append(rates, r)
	}
	return rates, nil
}

func (b *tokenBench) raw(cfg pkcs11.Config, refs []keystore.KeyRef) ([]tokenRate, error) {
	raw, err := pkcs11.NewInProcess(cfg)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	var rates []tokenRate
	for _, ref := range refs {
		for _, n := range rawCallers {
			signers := make([]func([]byte) ([]byte, error), n)
			for i := range signers {
				if signers[i], err = raw.Signer(ref, keystore.PurposeJWT); err != nil {
					return nil, err
				}
			}
			r, err := b.measure(n, func(i int) error {
				_, err := signers[i](message)
				return err
			})
			if err != nil {
				return nil, err
			}
			r.Layer, r.Algorithm = "raw", string(ref.Algorithm)
			rates = append(rates, r)
		}
	}
	return rates, nil
}

// measure has n callers do one thing after another for the bench's duration.
func (b *tokenBench) measure(n int, do func(caller int) error) (tokenRate, error) {
	var wg sync.WaitGroup
	took := make([][]time.Duration, n)
	errs := make([]error, n)
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			for time.Since(start) < b.duration && errs[i] == nil {
				begun := time.Now()
				errs[i] = do(i)
				took[i] = append(took[i], time.Since(begun))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	all := slices.Concat(took...)
	slices.Sort(all)
	at := func(q float64) float64 {
		return float64(all[min(len(all)-1, int(q*float64(len(all))))]) / float64(time.Microsecond)
	}
	for _, err := range errs {
		if err != nil {
			return tokenRate{}, err
		}
	}
	return tokenRate{Callers: n, count: len(all), Rate: float64(len(all)) / elapsed.Seconds(), P50: at(0.5), P99: at(0.99)}, nil
}

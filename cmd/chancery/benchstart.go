package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"chancery/cmd/internal/load"
)

// startWithin is how long a daemon may take to its first signature.
const startWithin = 2 * time.Minute

// A startReport is how long a daemon took from its execution.
type startReport struct {
	First float64      `json:"first_signature_ms"`
	PSS   *load.Memory `json:"pss,omitempty"`
}

// benchStart executes a command and measures the time until a token is signed.
func (a *app) benchStart(ctx context.Context, f benchFlags, command []string) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if a.askFirst(ctx, f) == nil {
		return errServed
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	first, err := a.firstSignature(ctx, f, ended)
	report := startReport{First: float64(first.Sub(began)) / float64(time.Millisecond)}
	if family, e := load.NewFamily(cmd.Process.Pid); err == nil && e == nil {
		if memory, e := family.Memory(); e == nil {
			report.PSS = &memory
		}
	}
	cancel()
	if err != nil {
		return err
	}
	<-ended
	if a.json {
		return json.NewEncoder(a.out).Encode(report)
	}
	a.printf("first signature %s after the execution\n", load.Micros(report.First*1000))
	return nil
}

var (
	errServed = errors.New("somebody signs there already: end that first")
	errEnded  = errors.New("the command ended before it signed")
)

// firstSignature asks until a token comes, and returns when it did.
func (a *app) firstSignature(ctx context.Context, f benchFlags, ended <-chan error) (time.Time, error) {
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	var last error
	for {
		if last = a.askFirst(ctx, f); last == nil {
			return time.Now(), nil
		}
		select {
		case err := <-ended:
			return time.Time{}, errors.Join(errEnded, err)
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("waiting for a first signature: %w", last)
		case <-pause.C:
		}
	}
}

// askFirst connects and asks for one token, in the plainest way.
func (a *app) askFirst(ctx context.Context, f benchFlags) error {
	cfg, _, err := a.settings(roleIssuer)
	if err != nil {
		return err
	}
	t, err := load.NewTarget(cfg.Endpoint, cfg.ServerName, cfg.Certificate, cfg.Roots)
	if err != nil {
		return err
	}
	ways, err := load.Open(ctx, t, load.Mix{{Layer: load.JSON, KeySet: f.keyset, Weight: 1}}, 1, 1)
	if err != nil {
		return err
	}
	defer load.Close(ways)
	_, err = ways[0][0].Ask()
	return err
}

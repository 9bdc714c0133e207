package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/keystore"
)

// awaitServing waits while the token is starting.
func (p *Provider) awaitServing(ctx context.Context) error {
	for {
		state, changed, reason := p.state()
		switch {
		case p.ctx.Err() != nil:
			return errClosed
		case ctx.Err() != nil:
			return gaveUp(ctx)
		case state == keystore.TokenReady:
			return nil
		case state != keystore.TokenStarting:
			return reason
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

// anyWorker returns one that serves, the one with least to do.
func (p *Provider) anyWorker(ctx context.Context) (*generation, error) {
	for {
		if err := p.awaitServing(ctx); err != nil {
			return nil, err
		}
		if g := p.hall.idlest(); g != nil {
			return g, nil
		}
		select { // the state is about to follow
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, gaveUp(ctx)
		}
	}
}

// served has a worker do f, the one that has least to do, and others until it was
// tried so often if the worker ended under it. f must be harmless to repeat.
func (p *Provider) served(ctx context.Context, tries int, f func(*generation, *place) error) error {
	return repeat(ctx, tries, func(again bool) error {
		at, err := p.hall.enter(ctx, again)
		if errors.Is(err, keystore.ErrOverloaded) {
			return fmt.Errorf("keystore %s: %w", p.cfg.Name, err)
		}
		if err != nil {
			return err
		}
		defer at.leave()
		return f(at.worker, at)
	})
}

// repeat does f until it was tried so often while the worker ended under it. If
// that was before anything was asked, it does not count; not even that goes on
// for ever.
func repeat(ctx context.Context, most int, f func(again bool) error) error {
	const uncounted = 100
	for tries, failures := 0, 0; ; tries++ {
		err := f(tries > 0)
		if !errors.Is(err, errEnded) || errors.Is(err, keystore.ErrUncertain) || ctx.Err() != nil {
			return err
		}
		if !errors.Is(err, errNotAsked) {
			failures++
		}
		if failures == most || tries == uncounted {
			return err
		}
	}
}

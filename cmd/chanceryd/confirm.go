package main

import (
	"context"
	"fmt"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// clockConfirmer is the clock as signer sees it.
type clockConfirmer struct {
	*clockKeeper
	log  *audit.Log
	turn chan struct{} // capacity 1: taken by the one who confirms
}

// Confirm has the node go by the wall clock as it is now, once rec is entered. Of
// a step that comes meanwhile nothing is confirmed.
func (k clockConfirmer) Confirm(ctx context.Context, rec keystore.Record) (api.ClockConfirmReply, error) {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return api.ClockConfirmReply{}, fmt.Errorf("waiting for another confirmation: %w", context.Cause(ctx))
	}
	k.mu.Lock()
	k.feed()
	_, trouble := k.guard.State()
	offset := k.guard.Offset()
	k.mu.Unlock()
	if trouble == nil {
		return api.ClockConfirmReply{}, api.Errorf(api.CodeConflict, "wall clock and boot time agree: there is nothing to confirm")
	}
	entry, err := k.enter(ctx, rec, offset)
	if err != nil {
		e := api.Errorf(api.CodeAuditUnavailable, "the log cannot be written, so nothing is confirmed").Because(err)
		e.RetryAfter = 1
		return api.ClockConfirmReply{}, e
	}
	k.mu.Lock()
	confirmed := k.guard.Confirm(offset, k.read())
	k.mu.Unlock()
	if !confirmed {
		return api.ClockConfirmReply{}, api.Errorf(api.CodeConflict, "the clock was put right meanwhile")
	}
	k.slog.Warn("an operator confirmed the wall clock: signing goes on", "offset", offset.String(), "by", rec.Principal)
	k.keep()
	k.changed()
	return api.ClockConfirmReply{Node: k.node, Offset: offset.Round(time.Millisecond).Seconds(), Entry: entry}, nil
}

// enter enters a confirmation, after the step that it is of.
func (k clockConfirmer) enter(ctx context.Context, rec keystore.Record, offset time.Duration) (string, error) {
	if err := k.owed.pay(ctx, k.log); err != nil {
		return "", err
	}
	rec.Detail = map[string]string{"node": k.node, "offset": offset.String()}
	receipt, err := k.log.Lifecycle(ctx, rec)
	return receipt.Entry, err
}

package signer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"chancery/keystore"
)

// horizons remembers how far the catalog's exp horizon of each kid reaches, so
// that a token within it costs no write. A token beyond it is signed only after
// the horizon has been raised (rotation rule 2).
type horizons struct {
	mu   sync.Mutex
	kids map[keystore.KID]*horizon
}

type horizon struct {
	turn chan struct{} // capacity 1: taken while raising, so that one write serves all who wait
	to   time.Time     // owned by whoever has the turn
}

func (h *horizons) of(v *keystore.Version) *horizon {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kids == nil {
		h.kids = make(map[keystore.KID]*horizon)
	}
	k, ok := h.kids[v.KID]
	if !ok {
		k = &horizon{turn: make(chan struct{}, 1), to: v.ExpHorizon}
		h.kids[v.KID] = k
	}
	return k
}

// raiseWithin bounds the write that raises a horizon.
const raiseWithin = 3 * time.Second

// cover makes sure that the catalog holds a horizon of at least exp for v
// before v signs a token that expires then. It raises it to now + 2 L, or to
// exp where that is later.
func (s *Service) cover(ctx context.Context, v *keystore.Version, exp, now time.Time, longest time.Duration) error {
	h := s.horizons.of(v)
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the exp horizon of %s: %w", v.KID, context.Cause(ctx))
	}
	if !exp.After(h.to) {
		return nil
	}
	to := now.Add(2 * longest)
	if exp.After(to) {
		to = exp
	}
	ctx, cancel := Within(ctx, raiseWithin)
	defer cancel()
	if err := s.Horizons.RaiseHorizon(ctx, v.KID, to); err != nil {
		return fmt.Errorf("raising the exp horizon of %s: %w", v.KID, err)
	}
	h.to = to
	return nil
}

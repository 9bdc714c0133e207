package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer"
	"chancery/signer/jwks"
	"chancery/signer/server"
)

// histories has the historical key sets signed and keeps them, in memory: after a
// start they are signed anew. One is made when a version has left its set, or is
// compromised, and else once a day, so that whoever reads one knows how old it is.
// While its key set signs nothing the last one stays, unless its own key has left:
// nobody could check it.
type histories struct {
	views *views
	lives func(ctx context.Context, keyset string) (*audit.KeyLives, error)
	sign  func(ctx context.Context, keyset string, keys []byte) (signer.SignedHistory, error)
	made  func() // called after one was made
	now   func() time.Time
	log   *slog.Logger
	kick  chan struct{} // capacity 1

	retry map[string]time.Time // when to try again what failed; owned by Run

	mu   sync.Mutex             // guards what follows
	kept map[string]keptHistory // by key set
}

// A keptHistory is one that was signed.
type keptHistory struct {
	past   [sha256.Size]byte // which versions had left, and how
	at     time.Time
	signed signer.SignedHistory
}

const (
	historyEvery  = 24 * time.Hour   // how old one grows
	historyRetry  = time.Minute      // after one could not be made
	historyWithin = 10 * time.Second // how long making one may take
)

func newHistories(v *views, made func(), now func() time.Time, log *slog.Logger) *histories {
	return &histories{
		views: v, made: made, now: now, log: log, kick: make(chan struct{}, 1),
		retry: make(map[string]time.Time), kept: make(map[string]keptHistory),
	}
}

// Kick has it look whether one is to be made. It does not wait.
func (h *histories) Kick() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// Run makes histories until ctx ends, when it is kicked.
func (h *histories) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.kick:
		}
		h.pass(ctx)
	}
}

// pass makes those that are due.
func (h *histories) pass(ctx context.Context) {
	view, _ := h.views.Published()
	if view == nil {
		return
	}
	for _, set := range view.KeySets() {
		past, any := digestPast(set)
		if set.Purpose != keystore.PurposeJWT || !any || !h.due(set, past) {
			continue
		}
		signed, err := h.make(ctx, set)
		if errors.Is(err, errNotEntered) {
			continue // the next snapshot comes when it is
		}
		if err != nil {
			if ctx.Err() == nil && h.retry[set.Name].IsZero() {
				h.log.Warn("the history of the keys is not signed; it is tried again", "keyset", set.Name, "err", err)
			}
			h.retry[set.Name] = h.now().Add(historyRetry)
			continue
		}
		delete(h.retry, set.Name)
		h.mu.Lock()
		h.kept[set.Name] = keptHistory{past, h.now(), signed}
		h.mu.Unlock()
		h.made()
	}
}

// due reports whether the history of a set is to be made now. Where the set does
// not sign there is nothing to try.
func (h *histories) due(set *keystore.KeySet, past [sha256.Size]byte) bool {
	v, ok := set.Active()
	if !ok || !v.Signs() || h.now().Before(h.retry[set.Name]) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	kept, ok := h.kept[set.Name]
	return !ok || kept.past != past || h.now().Sub(kept.at) >= historyEvery || !isKnownIn(set, kept.signed.KID)
}

// Document returns the signed history of a set, if there is one that can be
// checked by the keys the set is served with.
func (h *histories) Document(set *keystore.KeySet) (server.Document, bool) {
	if h == nil {
		return server.Document{}, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	kept, ok := h.kept[set.Name]
	if !ok {
		return server.Document{}, false
	}
	if !isKnownIn(set, kept.signed.KID) {
		return server.Document{Withheld: "the history was signed by a key that has left the set, and is being signed anew"}, true
	}
	body := []byte(kept.signed.Token)
	return server.Document{Body: body, ETag: jwks.ETag(body), ContentType: "application/jwk-set+jwt", MaxAge: maxAge(set)}, true
}

// make has the history of a set signed, as the log tells it.
func (h *histories) make(ctx context.Context, set *keystore.KeySet) (signer.SignedHistory, error) {
	ctx, cancel := context.WithTimeout(ctx, historyWithin)
	defer cancel()
	lives, err := h.lives(ctx, set.Name)
	if err != nil {
		return signer.SignedHistory{}, err
	}
	keys, err := pastKeys(set, lives)
	if err != nil {
		return signer.SignedHistory{}, err
	}
	list, err := jwks.Historical(keys)
	if err != nil {
		return signer.SignedHistory{}, err
	}
	return h.sign(ctx, set.Name, list)
}

func isKnownIn(set *keystore.KeySet, kid keystore.KID) bool {
	return slices.ContainsFunc(set.Known(), func(v *keystore.Version) bool { return v.KID == kid })
}

// hasLeft reports whether the world knew a version, and knows it no more.
func hasLeft(v *keystore.Version) bool {
	gone := v.State == keystore.Retired || v.State == keystore.Destroyed || v.Compromised != nil
	return gone && !v.PublishedAt.IsZero()
}

// digestPast tells one past of a set from another; false: no version has left it.
func digestPast(set *keystore.KeySet) (sum [sha256.Size]byte, any bool) {
	var text []byte
	for i := range set.Versions {
		if v := &set.Versions[i]; hasLeft(v) {
			text = fmt.Appendf(text, "%d %v\n", v.Number, v.Compromised != nil)
		}
	}
	return sha256.Sum256(text), len(text) > 0
}

// errNotEntered: the log does not have yet that a version has left its set.
var errNotEntered = errors.New("that it has left the set is not entered yet")

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// pastKeys returns the keys a set has had, with their lives from the log. What the
// log does not have of one is an error: a history is whole, or there is none. The
// public key is the row's where entries from before it was entered have none; its
// thumbprint is the kid in the log.
func pastKeys(set *keystore.KeySet, lives *audit.KeyLives) ([]jwks.HistoricalKey, error) {
	var keys []jwks.HistoricalKey
	for i := range set.Versions {
		v := &set.Versions[i]
		if !hasLeft(v) {
			continue
		}
		l, ok := lives.Version(set.Name, v.Number)
		if !ok || l.KID != v.KID {
			return nil, fmt.Errorf("the log does not have version %d of %s with its kid", v.Number, set.Name)
		}
		left, ok := l.Reached(keystore.Retired)
		known, ok2 := l.Reached(keystore.Published)
		if !ok || !ok2 || v.Compromised != nil && l.Compromised == nil {
			return nil, fmt.Errorf("version %d of %s: %w", v.Number, set.Name, errNotEntered)
		}
		pub, err := v.Public()
		if err != nil {
			return nil, fmt.Errorf("version %d of %s: %w", v.Number, set.Name, err)
		}
		key := jwks.HistoricalKey{Public: pub, Algorithm: v.Algorithm, KID: v.KID, IssuedAt: known.At}
		if signs, ok := l.Reached(keystore.Active); ok {
			key.NotBefore = signs.At
		}
		// What was said and what was entered may go by two clocks.
		key.Expires = latest(left.At, key.IssuedAt, key.NotBefore)
		if c := l.Compromised; c != nil {
			// An operator's words are for the log, not for everyone.
			key.Revoked, key.Reason = c.At, jwks.ReasonCompromised
		}
		keys = append(keys, key)
	}
	return keys, nil
}

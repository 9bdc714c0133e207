package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// An overlap is while former log keys sign checkpoints beside the active one.
type overlap struct {
	// answered reports whether every witness has answered for the log key kid of set,
	// which ends the overlap with those before it. Nil: there are no witnesses.
	answered func(set *keystore.KeySet, kid keystore.KID) bool
	held     []*keystore.Version // whose keys were open at the last checkpoint; owned by who makes them
}

// auditKeys returns the keys that sign checkpoints: the active log key and,
// during an overlap, the former ones that can be opened. The log asks for them
// once at a time.
func (n *node) auditKeys(ctx context.Context) (audit.Keys, error) {
	view, err := n.views.Current()
	if err != nil {
		return audit.Keys{}, fmt.Errorf("%w: %w", audit.ErrNoKey, err)
	}
	for _, set := range view.KeySets() {
		if set.Purpose != keystore.PurposeAudit {
			continue
		}
		if v, ok := set.Active(); ok && v.Signs() {
			return n.signersOf(ctx, set, v)
		}
	}
	return audit.Keys{}, fmt.Errorf("%w: no version of purpose audit is active", audit.ErrNoKey)
}

// signersOf opens the active version's key and those of the former ones.
func (n *node) signersOf(ctx context.Context, set *keystore.KeySet, active *keystore.Version) (audit.Keys, error) {
	key, err := n.keys.Open(ctx, set, active)
	if err != nil {
		return audit.Keys{}, err
	}
	keys, held := audit.Keys{Active: key}, []*keystore.Version{active}
	for _, v := range formers(set, n.overlap.answered, n.now()) {
		key, err := n.openFormer(ctx, set, v)
		if err != nil { // the ring tells of it, and the active key signs for itself
			continue
		}
		keys.Former, held = append(keys.Former, key), append(held, v)
	}
	for _, old := range n.overlap.held {
		if !slices.ContainsFunc(held, func(v *keystore.Version) bool { return v.KID == old.KID }) {
			n.keys.drop(ctx, old, dropAfter)
		}
	}
	n.overlap.held = held
	return keys, nil
}

// formerWithin is how long opening a former key may keep a checkpoint waiting.
const formerWithin = 2 * time.Second

func (n *node) openFormer(ctx context.Context, set *keystore.KeySet, v *keystore.Version) (keystore.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, formerWithin)
	defer cancel()
	return n.keys.Open(ctx, set, v)
}

// formers returns the versions that sign checkpoints beside the active one: until
// every witness has answered for one that came after it, or, without witnesses,
// for as long as a cache may hold the list of log keys. Log keys are known for
// ever, so that being known ends no overlap.
func formers(set *keystore.KeySet, answered func(*keystore.KeySet, keystore.KID) bool, now time.Time) []*keystore.Version {
	cached := keystore.InForce(set.Promises, now).CacheFor
	var vs []*keystore.Version
	for i := range set.Versions {
		v := &set.Versions[i]
		if v.State != keystore.Retiring || v.Suspended != nil || v.Compromised != nil {
			continue
		}
		over := !now.Before(v.StoppedAt.Add(cached))
		if answered != nil {
			over = slices.ContainsFunc(set.Versions, func(next keystore.Version) bool {
				return next.Number > v.Number && !next.ActivatedAt.IsZero() && answered(set, next.KID)
			})
		}
		if !over {
			vs = append(vs, v)
		}
	}
	return vs
}

// logKeys returns the vkeys of every version of an audit key set that was ever
// known, by number.
func (n *node) logKeys(set *keystore.KeySet) ([]string, error) {
	var keys []string
	for i := range set.Versions {
		v := &set.Versions[i]
		if v.SPKI == nil || v.State == keystore.Pending || v.State == keystore.Abandoned || !n.keys.Proven(v.KID) {
			continue
		}
		pub, err := v.Public()
		if err != nil {
			return nil, err
		}
		key, err := n.audit.VKey(v.Algorithm, pub)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

package main

import (
	"context"
	"fmt"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// auditKeys returns the keys that sign checkpoints: the active log key and,
// during an overlap, the former ones that can be opened.
func (n *node) auditKeys(ctx context.Context) (audit.Keys, error) {
	view, err := n.views.Current()
	if err != nil {
		return audit.Keys{}, fmt.Errorf("%w: %w", audit.ErrNoKey, err)
	}
	for _, set := range view.KeySets() {
		if set.Purpose != keystore.PurposeAudit {
			continue
		}
		v, ok := set.Active()
		if !ok || !v.Signs() {
			continue
		}
		active, err := n.keys.Open(ctx, set, v)
		if err != nil {
			return audit.Keys{}, err
		}
		keys := audit.Keys{Active: active}
		for _, v := range formers(set, v, n.answered) {
			if key, err := n.openFormer(ctx, set, v); err == nil { // otherwise the ring tells
				keys.Former = append(keys.Former, key)
			}
		}
		return keys, nil
	}
	return audit.Keys{}, fmt.Errorf("%w: no version of purpose audit is active", audit.ErrNoKey)
}

// formerWithin is how long opening a former key may keep a checkpoint waiting.
const formerWithin = 2 * time.Second

func (n *node) openFormer(ctx context.Context, set *keystore.KeySet, v *keystore.Version) (keystore.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, formerWithin)
	defer cancel()
	return n.keys.Open(ctx, set, v)
}

// formers returns the versions that sign checkpoints beside the active one: an
// overlap lasts until every witness has answered for the active key, if that is
// known, and no longer than the former is retiring.
func formers(set *keystore.KeySet, active *keystore.Version, answered func(keystore.KID) bool) []*keystore.Version {
	if answered != nil && answered(active.KID) {
		return nil
	}
	var vs []*keystore.Version
	for i := range set.Versions {
		if v := &set.Versions[i]; isFormer(set, v) {
			vs = append(vs, v)
		}
	}
	return vs
}

// isFormer reports whether v, of set, may sign checkpoints though it is not the
// active version.
func isFormer(set *keystore.KeySet, v *keystore.Version) bool {
	return set.Purpose == keystore.PurposeAudit && v.State == keystore.Retiring && v.Suspended == nil && v.Compromised == nil
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

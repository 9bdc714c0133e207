package main

import (
	"context"
	"fmt"
	"path/filepath"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/rotation"
)

// restate enters how key sets are configured where that is not what this node's log
// says of them. A node that takes no step of a set has nothing to say of it.
func (n *node) restate(ctx context.Context) error {
	cfg := n.config.Load()
	entered := make(map[string]map[string]string)
	for at, err := range audit.EntriesContext(ctx, filepath.Join(cfg.Data, "audit"), audit.Filter{Log: "lifecycle"}) {
		if err != nil {
			return fmt.Errorf("reading how key sets were configured: %w", err)
		}
		if e := &at.Entry; e.Action == keystore.ActKeySetCreate || e.Action == keystore.ActKeySetConfigure {
			entered[e.KeySet] = e.Detail
		}
	}
	for _, rec := range rotation.Restated(specs(cfg), entered) {
		if n.rotator.Disagrees(rec.KeySet) != nil {
			continue
		}
		if _, err := n.audit.Lifecycle(ctx, rec); err != nil {
			return fmt.Errorf("entering how key set %s is configured: %w", rec.KeySet, err)
		}
	}
	return nil
}

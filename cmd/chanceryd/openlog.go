package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// openLog opens the log, has what else remembers it compared with it, and enters
// the start.
func (n *node) openLog(ctx context.Context) error {
	cfg := n.config.Load()
	n.heads = newTokenHeads(n.providers, n.log, n.changed)
	n.heads.metrics(n.metrics)
	remembering := memory{n.catalog, n.heads}
	if cfg.Audit.Witnesses != nil {
		n.overlap.answered = n.witnessesKnow
	}
	var err error
	n.audit, err = audit.Open(ctx, audit.Config{
		Dir: filepath.Join(cfg.Data, "audit"), Host: cfg.PublicHost(), Node: cfg.Node, Now: n.now, Log: n.log,
		Memory: remembering, Keys: n.auditKeys, Peers: n.peers(), KeepActs: cfg.Audit.KeepActs,
	})
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	n.heads.log, n.heads.known = n.audit, remembering.Recall
	n.forget = n.heads.start(ctx)
	n.keys = &keyring{
		providers: n.providers, await: n.heads.Await, log: n.audit, slog: n.log, changed: n.kick, lost: n.lost, found: n.found,
		open: make(map[keystore.KID]keystore.Key), opening: make(map[keystore.KID]*opening), busy: make(map[string]bool), failing: make(map[string]string),
		closing: make(chan struct{}),
	}
	before, err := readLifecycle(filepath.Join(cfg.Data, "audit"))
	if err != nil {
		return err
	}
	n.keys.proven, n.left = before.proven, before.open
	if err := n.refuseOlderCatalog(ctx, before.last); err != nil {
		return err
	}
	n.stopAgain(before.stopped)
	n.steps = newSteps(cfg.Node, n.catalog, n.audit, n.views, n.keys, n.metrics, n.moved, n.slow)
	if _, err := n.audit.Lifecycle(ctx, n.startRecord(cfg)); err != nil {
		return fmt.Errorf("entering the start: %w", err)
	}
	return n.enrol(ctx, cfg)
}

// errCatalogOlder: the catalog does not know a step that the log has.
var errCatalogOlder = errors.New("the catalog is not the one that wrote the lifecycle log")

// refuseOlderCatalog returns an error if the catalog was lost or replaced by an
// older copy: it does not know the last of its own steps in the log.
func (n *node) refuseOlderCatalog(ctx context.Context, last keystore.Record) error {
	if last.ID == "" {
		return nil
	}
	known, err := n.catalog.Knows(ctx, last.ID)
	if err != nil {
		return fmt.Errorf("comparing catalog and log: %w", err)
	}
	if !known {
		return hinted{
			fmt.Errorf("%w: it does not know %s of %s version %d", errCatalogOlder, last.Action, last.KeySet, last.Version),
			"restore the newest copy of catalog.db; an older one would sign with keys the world no longer knows",
		}
	}
	return nil
}

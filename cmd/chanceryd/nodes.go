package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/rotation"
	"chancery/signer"
	"chancery/signer/api"
)

// nodes is the nodes of the catalog as operators see them.
type nodes struct {
	self    string
	read    func(ctx context.Context) (*keystore.View, error)
	awaited func(view *keystore.View) []rotation.Awaited
	// forget fences a node in the catalog and returns what it is then, and the entry.
	// It is nil where a catalog has one node.
	forget func(ctx context.Context, name string, by keystore.Fact) (keystore.Node, string, error)
}

// nodes returns the nodes of this node's catalog.
func (n *node) nodes(cfg *config.Config) *nodes {
	all := &nodes{self: cfg.Node, awaited: n.rotator.Awaited, read: func(ctx context.Context) (*keystore.View, error) {
		view, _, err := n.views.Read(ctx)
		return view, err
	}}
	if cfg.Catalog.Shared() {
		all.forget = n.steps.Forget
	}
	return all
}

// forgetNode fences a node whose keys were taken away.
func (n *node) forgetNode(ctx context.Context, name string, by keystore.Fact) error {
	_, _, err := n.steps.Forget(ctx, name, by)
	return err
}

func (n *nodes) List(ctx context.Context) (signer.Fleet, error) {
	view, err := n.read(ctx)
	if err != nil {
		return signer.Fleet{}, fmt.Errorf("reading the nodes: %w", err)
	}
	fleet := signer.Fleet{Self: n.self, Clock: view.Clock()}
	for _, one := range view.Nodes() {
		if one.Forgotten == nil || one.MayServe(view.Clock()) { // what was forgotten before counts for caches alone
			fleet.Nodes = append(fleet.Nodes, one)
		}
	}
	for _, a := range n.awaited(view) {
		fleet.Awaited = append(fleet.Awaited, signer.Awaited(a))
	}
	return fleet, nil
}

func (n *nodes) Forget(ctx context.Context, name string, by keystore.Fact) (api.ForgetReply, error) {
	if n.forget == nil {
		return api.ForgetReply{}, api.Errorf(api.CodeConflict, "this catalog has one node")
	}
	forgotten, entry, err := n.forget(ctx, name, by)
	if errors.Is(err, keystore.ErrNotFound) {
		return api.ForgetReply{}, err
	}
	if err != nil {
		return api.ForgetReply{}, wireError(err)
	}
	reply := api.ForgetReply{Name: forgotten.Name, Entry: entry}
	if until, ok := forgotten.ServedUntil(); ok {
		reply.ServedUntil = timeOrNull(until)
	}
	return reply, nil
}

// rotations returns the rotation engine as signer sees it.
func (n *node) rotations(cfg *config.Config) *rotations {
	r := &rotations{
		rotator: n.rotator, keys: n.keys, comparing: n.comparing, node: cfg.Node, logDir: filepath.Join(cfg.Data, "audit"),
		handovers: n.handovers, now: n.now,
	}
	if cfg.Catalog.Shared() {
		r.anywhere = n.enteredAnywhere
	}
	return r
}

// enteredAnywhere returns what any node has entered of a key set, as far as the
// catalog has it: each step, and not how a key was made or proven.
func (n *node) enteredAnywhere(ctx context.Context, keyset string) ([]rotation.Entered, error) {
	rows, err := n.catalog.Entered(ctx, keyset)
	if err != nil {
		return nil, err
	}
	var entered []rotation.Entered
	for _, row := range rows {
		if row.Record.Outcome != keystore.OutcomeIntent { // its outcome is in the node's log alone
			entered = append(entered, rotation.Entered{Record: row.Record, Time: row.At, Entry: row.Entry})
		}
	}
	return entered, nil
}

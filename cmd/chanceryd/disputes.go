package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/rotation"
	"chancery/signer/server"
)

// disputes finds where log, catalog and what this node serves say different things
// of a version.
type disputes struct {
	node      string
	views     *views
	steps     *steps
	public    *server.Public
	publisher *publisher
	lives     func(ctx context.Context, keyset string) (*audit.KeyLives, error)
}

// find compares all three. The order matters: every step of the first look at the
// catalog has been entered and published before log and publication are read, and
// the second look is later than both.
func (d *disputes) find(ctx context.Context) ([]rotation.Mismatch, error) {
	before, _, err := d.views.Read(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := d.steps.View(ctx); err != nil {
		return nil, err
	}
	lives := make(map[string]*audit.KeyLives)
	for _, set := range before.KeySets() {
		if lives[set.Name], err = d.lives(ctx, set.Name); err != nil {
			return nil, err
		}
	}
	served, err := d.served(ctx, before)
	if err != nil {
		return nil, err
	}
	after, _, err := d.views.Read(ctx)
	if err != nil {
		return nil, err
	}
	var all []rotation.Mismatch
	laid, _ := d.views.Published() // with what is compromised and not in the catalog yet
	for _, set := range before.KeySets() {
		row, ok := after.KeySet(set.Name)
		if !ok {
			continue
		}
		all = append(all, rotation.CompareLog(set, row, lives[set.Name])...)
		kids, some := served[set.Name]
		if now, ok := laid.KeySet(set.Name); ok && some {
			all = append(all, rotation.ComparePublished(set, now, d.node, kids)...)
		}
	}
	return all, nil
}

// served returns what this node serves of each key set, by kid. What is withheld is
// no set, and nothing is a set while the snapshot is not published yet.
func (d *disputes) served(ctx context.Context, view *keystore.View) (map[string][]keystore.KID, error) {
	served := make(map[string][]keystore.KID)
	if !d.publisher.reach(ctx, view.Revision()) {
		return served, nil
	}
	for _, set := range view.KeySets() {
		doc, _ := d.public.Published(jwksPath(set))
		if set.Purpose != keystore.PurposeJWT || doc.Withheld != "" {
			continue
		}
		kids, err := kidsIn(doc.Body)
		if err != nil {
			return nil, fmt.Errorf("reading what is published of %s: %w", set.Name, err)
		}
		served[set.Name] = kids
	}
	return served, nil
}

// kidsIn returns the kids of a JWK set; of nothing, none.
func kidsIn(body []byte) ([]keystore.KID, error) {
	kids := []keystore.KID{}
	if len(body) == 0 {
		return kids, nil
	}
	var set struct {
		Keys []struct {
			KID keystore.KID `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, err
	}
	for _, k := range set.Keys {
		kids = append(kids, k.KID)
	}
	return kids, nil
}

// reachWithin is how long a snapshot may take to be published. A keystore that hangs
// can hold that up.
const reachWithin = 2 * time.Second

// reach waits until what a snapshot of this revision says has been published, or of
// a newer one; false: not in time.
func (p *publisher) reach(ctx context.Context, revision int64) bool {
	ctx, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for p.reached.Load() < revision {
		p.Kick()
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// dispute adds to found what is in dispute in these keystores. What kept it from
// being looked for is an error of each.
func (c *comparing) dispute(ctx context.Context, found *rotation.Reconciliation, only string) {
	if c.disputes == nil {
		return
	}
	all, err := c.disputes.find(ctx)
	if only != "" {
		all = slices.DeleteFunc(all, func(m rotation.Mismatch) bool { return m.Keystore != only })
	}
	if err == nil && only == "" {
		c.mu.Lock()
		c.disputed = len(all)
		c.mu.Unlock()
	}
	if err == nil {
		err = c.rotator.Enter(ctx, all)
	}
	if err != nil {
		err = fmt.Errorf("comparing the log, the catalog and what is published: %w", err)
	}
	found.Mismatches = append(found.Mismatches, all...)
	for i := range found.Keystores {
		found.Keystores[i].Err = errors.Join(found.Keystores[i].Err, err)
	}
}

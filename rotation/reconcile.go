package rotation

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chancery/keystore"
)

// An Orphan is a private key in a keystore that no version names. It is
// reported, never used, and never deleted.
type Orphan struct {
	Keystore string
	Object   keystore.Object
}

// A Missing is a version whose private key its keystore does not have.
type Missing struct {
	KeySet   string
	Version  int
	Keystore string
}

// Reconciliation is how catalog and keystores compare.
type Reconciliation struct {
	Orphans []Orphan
	Missing []Missing
}

// Reconcile finishes what a crash left: pending versions are published or
// abandoned, before anything else is done. Then it compares the catalog with
// what the keystores hold, both ways, and enters each orphan once; versions
// whose keys are missing are not activated any more. It goes on past what fails
// and returns those errors together: a keystore that is down now is to be
// compared when it is up again. It may be called at any time.
func (r *Rotator) Reconcile(ctx context.Context) (Reconciliation, error) {
	var errs []error
	for name, s := range r.named() {
		if err := r.finishAll(ctx, name, s); err != nil {
			errs = append(errs, fmt.Errorf("key set %s: %w", name, err))
		}
	}
	view, err := r.view(ctx)
	if err != nil {
		return Reconciliation{}, errors.Join(append(errs, err)...)
	}
	var all Reconciliation
	rows := rowsByKeystore(view)
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if err := r.compare(ctx, name, rows[name], &all); err != nil {
			errs = append(errs, fmt.Errorf("keystore %s: %w", name, err))
		}
	}
	return all, errors.Join(errs...)
}

func (r *Rotator) finishAll(ctx context.Context, name string, s *set) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	defer kick(s.changed)
	ks, _, err := r.keySet(ctx, name)
	if err != nil {
		return err
	}
	for _, v := range ks.InState(keystore.Pending) {
		if err := r.finish(ctx, ks, v); err != nil {
			return err
		}
	}
	return nil
}

// row is a version that should have a private key.
type row struct {
	keyset  string
	version *keystore.Version
}

// rowsByKeystore returns what each keystore should hold, by key id.
func rowsByKeystore(view *keystore.View) map[string]map[string]row {
	rows := map[string]map[string]row{}
	for _, ks := range view.KeySets() {
		for i := range ks.Versions {
			v := &ks.Versions[i]
			if rows[v.Keystore] == nil {
				rows[v.Keystore] = map[string]row{}
			}
			rows[v.Keystore][v.KeyID.String()] = row{ks.Name, v}
		}
	}
	return rows
}

// compare looks at one keystore.
func (r *Rotator) compare(ctx context.Context, name string, rows map[string]row, all *Reconciliation) error {
	p, err := r.cfg.Keys.Provider(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, findWithin)
	defer cancel()
	objects, err := p.List(ctx)
	if err != nil {
		return err
	}
	// Rows precede keys: a key that was made meanwhile has one by now.
	view, err := r.view(ctx)
	if err != nil {
		return err
	}
	newer := rowsByKeystore(view)[name]
	held := map[string]bool{}
	for _, o := range objects {
		// A key that is there though its row was abandoned is an orphan too.
		if at, ok := newer[o.ID]; ok && at.version.State != keystore.Abandoned {
			held[o.ID] = !slices.Contains(o.Missing, "private half")
			continue
		}
		if r.cfg.Foreign != nil && r.cfg.Foreign(name, o) {
			continue
		}
		all.Orphans = append(all.Orphans, Orphan{name, o})
		if err := r.enterOrphan(ctx, name, o); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		v := rows[id].version
		if gone := v.State == keystore.Pending || v.State == keystore.Abandoned || v.State == keystore.Destroyed; !gone && !held[id] {
			all.Missing = append(all.Missing, Missing{rows[id].keyset, v.Number, name})
			r.Lost(v.KID, fmt.Errorf("keystore %s does not have it: %w", name, keystore.ErrNotFound))
		} else if !gone {
			r.Found(v.KID)
		}
	}
	return nil
}

// enterOrphan tells the log of a key that no version names, once.
func (r *Rotator) enterOrphan(ctx context.Context, keystoreName string, o keystore.Object) error {
	hash := keystore.HashSPKI(fmt.Appendf(nil, "orphan %q %q %q %q %x", keystoreName, o.Token, o.ID, o.Label, o.SPKI))
	id := hex.EncodeToString(hash[:16])
	if _, known, err := r.cfg.Audit.Find(ctx, id); err != nil || known {
		return err
	}
	_, err := r.cfg.Audit.Lifecycle(ctx, keystore.Record{
		ID: id, Principal: System, Action: keystore.ActKeyOrphan, Outcome: keystore.OutcomeDone,
		Reason: "a private key that no version names; it is not used",
		Detail: map[string]string{"keystore": keystoreName, "token": o.Token, "key_id": o.ID, "label": o.Label, "type": o.Type},
	})
	return err
}

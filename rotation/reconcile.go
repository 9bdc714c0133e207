package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"chancery/keystore"
)

// Compared is how one keystore was compared.
type Compared struct {
	Keystore string
	Objects  int   // what the keystore listed
	Err      error // why it could not be compared, or not all could be finished or entered; nil: it was
	// Seen reports whether the keystore was listed, whatever Err says.
	Seen bool
	// Turn counts up: of two comparisons of a keystore the later has the greater.
	Turn int64
}

// Reconciliation is how catalog and keystores compare.
type Reconciliation struct {
	At         time.Time
	Keystores  []Compared // by name
	Mismatches []Mismatch // by keystore
}

// Err returns the errors of all keystores joined, or nil.
func (r *Reconciliation) Err() error {
	var errs []error
	for _, k := range r.Keystores {
		if k.Err != nil {
			errs = append(errs, fmt.Errorf("keystore %s: %w", k.Keystore, k.Err))
		}
	}
	return errors.Join(errs...)
}

// Reconcile finishes what a crash left: pending versions are published or
// abandoned, before anything else is done. Then it compares the catalog with
// what the keystores hold, both ways, and enters each mismatch once; versions
// whose keys are missing are not activated any more. Nothing else is changed,
// and nothing in a keystore is used or deleted. only names the one keystore to
// compare; empty: every one that is configured or that a version is in.
//
// A keystore that cannot be compared holds up no other and has its error in the
// answer: it is to be compared when it is up again. Reconcile itself returns an
// error if the catalog cannot be read, and one wrapping keystore.ErrNotFound if
// there is no keystore of that name. It may be called at any time.
func (r *Rotator) Reconcile(ctx context.Context, only string) (Reconciliation, error) {
	view, err := r.view(ctx)
	if err != nil {
		return Reconciliation{}, err
	}
	names := r.keystores(view)
	if only != "" {
		if !slices.Contains(names, only) {
			return Reconciliation{}, fmt.Errorf("keystore %q: %w", only, keystore.ErrNotFound)
		}
		names = []string{only}
	}
	finished, errs := r.finishLeft(ctx, view, names)
	found := Reconciliation{At: r.now(), Keystores: make([]Compared, len(names))}
	each := make([][]Mismatch, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			var c Compared
			c, each[i] = r.compare(ctx, name)
			c.Err = errors.Join(errs[name], c.Err)
			found.Keystores[i] = c
		})
	}
	wg.Wait()
	for i, name := range names {
		found.Mismatches = append(append(found.Mismatches, finished[name]...), each[i]...)
	}
	return found, nil
}

// keystores returns the names of those that are configured or that a version is
// in.
func (r *Rotator) keystores(view *keystore.View) []string {
	names := map[string]bool{}
	for _, name := range r.cfg.Keystores {
		names[name] = true
	}
	for name := range rowsByKeystore(view) {
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// finishLeft finishes the pending versions of every key set in these keystores.
// It takes half the time that ctx leaves, so that comparing has the rest.
func (r *Rotator) finishLeft(ctx context.Context, view *keystore.View, names []string) (map[string][]Mismatch, map[string]error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	var mu sync.Mutex // guards what follows
	finished, errs := map[string][]Mismatch{}, map[string]error{}
	var wg sync.WaitGroup
	for name, s := range r.named() {
		left := pendingIn(view, name, names)
		if left == "" {
			continue
		}
		wg.Go(func() {
			done, err := r.finishAll(ctx, name, s, names)
			mu.Lock()
			defer mu.Unlock()
			for _, m := range done {
				finished[m.Keystore] = append(finished[m.Keystore], m)
			}
			if err != nil {
				errs[left] = errors.Join(errs[left], fmt.Errorf("key set %s: %w", name, err))
			}
		})
	}
	wg.Wait()
	return finished, errs
}

// pendingIn returns the first of these keystores that a pending version of a key
// set is in, or "".
func pendingIn(view *keystore.View, name string, names []string) string {
	ks, ok := view.KeySet(name)
	if !ok {
		return ""
	}
	for _, v := range ks.InState(keystore.Pending) {
		if slices.Contains(names, v.Keystore) {
			return v.Keystore
		}
	}
	return ""
}

// finishAll finishes the pending versions of one key set.
func (r *Rotator) finishAll(ctx context.Context, name string, s *set, names []string) (done []Mismatch, err error) {
	if err := s.acquire(ctx); err != nil {
		return nil, err
	}
	defer s.release()
	defer kick(s.changed)
	ks, _, err := r.keySet(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, v := range ks.InState(keystore.Pending) {
		if !slices.Contains(names, v.Keystore) {
			continue
		}
		switch err := r.finish(ctx, ks, v); {
		case errors.Is(err, errElsewhere):
			continue
		case err != nil:
			return done, err
		}
		if m, ok := r.ended(ctx, name, v); ok {
			done = append(done, m)
		}
	}
	return done, nil
}

// ended tells what became of a version that was pending.
func (r *Rotator) ended(ctx context.Context, name string, was *keystore.Version) (Mismatch, bool) {
	ks, _, err := r.keySet(ctx, name)
	if err != nil {
		return Mismatch{}, false
	}
	v, ok := ks.Version(was.Number)
	if !ok || v.State == keystore.Pending {
		return Mismatch{}, false
	}
	m := Mismatch{
		Kind: KeyAdopted, What: "its key was found after an interruption, and published",
		Keystore: v.Keystore, KeySet: name, Version: v.Number, KID: v.KID, State: v.State,
		Object: keystore.Object{ID: v.KeyID.String()}, Entry: r.entryOf(ctx, v.KeyID.String()),
	}
	if v.State == keystore.Abandoned {
		m.Kind, m.What = KeyFinished, "its key never came to be, and it is abandoned"
	}
	m.Todo = todo(&m)
	return m, true
}

// compare looks at one keystore, alone: a key that is being destroyed is not
// compared meanwhile.
func (r *Rotator) compare(ctx context.Context, name string) (Compared, []Mismatch) {
	c := Compared{Keystore: name}
	fail := func(err error) (Compared, []Mismatch) {
		c.Err = err
		return c, nil
	}
	p, err := r.cfg.Keys.Provider(name)
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, findWithin)
	defer cancel()
	leave, err := r.enterKeystore(ctx, name)
	if err != nil {
		return fail(err)
	}
	defer leave()
	r.mu.Lock()
	r.turns++
	c.Turn = r.turns
	r.mu.Unlock()
	before, err := r.view(ctx)
	if err != nil {
		return fail(err)
	}
	objects, err := p.List(ctx)
	if err != nil {
		return fail(err)
	}
	c.Seen, c.Objects = true, len(objects)
	after, err := r.view(ctx) // rows precede keys: one that was made meanwhile has a row by now
	if err != nil {
		return fail(err)
	}
	rows := rowsByKeystore(after)[name]
	found := mismatches(name, rowsByKeystore(before)[name], rows, objects, func(o keystore.Object) bool {
		return r.cfg.Foreign != nil && r.cfg.Foreign(name, o)
	})
	r.tellLost(name, rows, found)
	for i := range found {
		if err := r.enterMismatch(ctx, &found[i]); err != nil {
			c.Err = errors.Join(c.Err, fmt.Errorf("entering what was found: %w", err))
		}
	}
	return c, found
}

// tellLost notes which versions have lost their keys, and which have them. Of a key
// that is there and not as it has to be, only the key itself can tell whether it
// does what it is asked.
func (r *Rotator) tellLost(name string, rows map[string]row, found []Mismatch) {
	missing, odd := map[keystore.KID]bool{}, map[keystore.KID]bool{}
	for _, m := range found {
		missing[m.KID] = missing[m.KID] || m.Kind == KeyMissing
		odd[m.KID] = true
	}
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		switch v := rows[id].version; {
		case missing[v.KID]:
			r.Lost(v.KID, fmt.Errorf("keystore %s does not have it: %w", name, keystore.ErrNotFound))
		case held(v.State) && !odd[v.KID]:
			r.Found(v.KID)
		}
	}
}

// enterMismatch tells the log of a mismatch, once.
func (r *Rotator) enterMismatch(ctx context.Context, m *Mismatch) error {
	rec := mismatchRecord(m)
	if rec.Action == "" {
		return nil
	}
	receipt, known, err := r.cfg.Audit.Find(ctx, rec.ID)
	if err == nil && !known {
		receipt, err = r.cfg.Audit.Lifecycle(ctx, rec)
	}
	if err == nil {
		m.Entry = receipt.Entry
	}
	return err
}

// enterKeystore waits to be the only one that compares a keystore or destroys a
// key of it.
func (r *Rotator) enterKeystore(ctx context.Context, name string) (leave func(), err error) {
	r.mu.Lock()
	room, ok := r.rooms[name]
	if !ok {
		room = make(chan struct{}, 1)
		r.rooms[name] = room
	}
	r.mu.Unlock()
	select {
	case room <- struct{}{}:
		return func() { <-room }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("another comparison of the keystore is under way: %w: %w", keystore.ErrUnavailable, context.Cause(ctx))
	}
}

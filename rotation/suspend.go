package rotation

import (
	"context"
	"fmt"
	"time"

	"chancery/keystore"
)

// A Brake keeps suspensions where neither log nor catalog is needed. It takes
// effect on signing at once, in memory, also when Put fails to write.
type Brake interface {
	// Suspended returns what it keeps.
	Suspended() map[keystore.KID]keystore.Fact
	Put(kid keystore.KID, fact keystore.Fact) error
	Remove(kid keystore.KID) error
}

// A Suspension is the outcome of a suspend or a resume.
type Suspension struct {
	Ref
	Suspended bool
	Durable   bool   // it survives a restart
	Entry     string // empty while the catalog or the log cannot be written
}

// Suspend stops a version from signing, by default the active one: at once,
// also when neither catalog nor log can be written. Then the record follows.
// It waits for no other operation on the key set. Suspending the active version
// stops its key set: nothing activates until a resume or a rotation is asked
// for.
//
// It returns an error wrapping keystore.ErrNotFound if there is no such version,
// or none that could sign.
func (r *Rotator) Suspend(ctx context.Context, by, name string, kid keystore.KID, reason string) (Suspension, error) {
	v, err := r.target(ctx, name, kid)
	if err != nil {
		return Suspension{}, err
	}
	s := Suspension{Ref: Ref{v.Number, v.KID}, Suspended: true}
	if v.Suspended != nil {
		s.Durable, s.Entry = true, r.entryOf(ctx, requestID(string(v.KID), v.Suspended))
		return s, nil
	}
	fact, err := r.pull(v.KID, keystore.Fact{At: r.now(), By: by, Reason: reason})
	s.Durable = err == nil
	if err != nil {
		r.cfg.Log.ErrorContext(ctx, "the brake file cannot be written", "keyset", name, "kid", v.KID, "err", err)
	}
	s.Entry, err = r.recordStop(ctx, name, v.KID, fact)
	if err != nil {
		r.cfg.Log.ErrorContext(ctx, "a suspension is in force, its record has to wait", "keyset", name, "kid", v.KID, "err", err)
		kick(r.settling)
		return s, nil
	}
	s.Durable = true
	return s, nil
}

// recordStop records a suspension that the brake has. Should a resumption have
// let go of it meanwhile, then this suspension is the later one of the two, and
// is put on the brake anew.
func (r *Rotator) recordStop(ctx context.Context, name string, kid keystore.KID, fact keystore.Fact) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if err := r.acquireRecords(ctx); err != nil {
		return "", err
	}
	defer r.releaseRecords()
	if _, ok := r.suspended()[kid]; !ok {
		fact.At = r.now()
	}
	fact, _ = r.pull(kid, fact) // what could not be written was said before
	return r.recordSuspension(ctx, name, kid, fact)
}

// acquireRecords waits to be the only one that brings brake and catalog in line.
func (r *Rotator) acquireRecords(ctx context.Context) error {
	select {
	case r.records <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for another suspension or resumption: %w", context.Cause(ctx))
	}
}

func (r *Rotator) releaseRecords() { <-r.records }

// target returns the version an operator means, from the catalog, or while that
// cannot be read from what was read last.
func (r *Rotator) target(ctx context.Context, name string, kid keystore.KID) (*keystore.Version, error) {
	within, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	view, err := r.view(within)
	if err != nil {
		r.mu.Lock()
		view = r.last
		r.mu.Unlock()
	}
	if view == nil {
		return nil, err
	}
	ks, ok := view.KeySet(name)
	if !ok {
		return nil, fmt.Errorf("key set %q: %w", name, keystore.ErrNotFound)
	}
	v, ok := ks.Active()
	if kid != "" {
		v, ok = ks.ByKID(kid)
	}
	if !ok || !v.State.Known() {
		return nil, fmt.Errorf("key set %q has no such version that signs or may sign: %w", name, keystore.ErrNotFound)
	}
	return v, nil
}

// pull puts a suspension on the brake and returns it, or the one that is there
// already.
func (r *Rotator) pull(kid keystore.KID, fact keystore.Fact) (keystore.Fact, error) {
	r.brake.Lock()
	defer r.brake.Unlock()
	if kept, ok := r.cfg.Brake.Suspended()[kid]; ok {
		fact = kept
	}
	return fact, r.cfg.Brake.Put(kid, fact)
}

// suspended returns what the brake keeps.
func (r *Rotator) suspended() map[keystore.KID]keystore.Fact {
	r.brake.Lock()
	defer r.brake.Unlock()
	return r.cfg.Brake.Suspended()
}

// recordSuspension writes a suspension to catalog and log. A version that is
// suspended there already, or can never sign again, is left as it is. Its caller
// has acquired the records.
func (r *Rotator) recordSuspension(ctx context.Context, name string, kid keystore.KID, fact keystore.Fact) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	// A crash between a resumption and the brake's release has the same suspension
	// recorded a second time; its entry needs a name of its own.
	again := r.entryOf(ctx, requestID(string(kid), &fact)) != ""
	return r.cfg.Catalog.Update(ctx, name, -1, func(ks *keystore.KeySet) ([]keystore.Record, error) {
		v, ok := ks.ByKID(kid)
		if !ok || v.Suspended != nil || !v.State.Known() {
			return nil, nil
		}
		v.Suspended = &fact
		rec := stopped(ks, v, keystore.ActSuspend, fact)
		if again {
			rec.ID = ""
		}
		return []keystore.Record{rec}, nil
	})
}

func stopped(ks *keystore.KeySet, v *keystore.Version, action keystore.Action, fact keystore.Fact) keystore.Record {
	rec := record(ks, v, action, Why{Rule: 6, Text: fact.Reason})
	rec.ID, rec.Principal = requestID(string(v.KID), &fact), fact.By
	rec.Detail = map[string]string{"at": fact.At.Format(time.RFC3339Nano)}
	return rec
}

// Resume lets a suspended version sign again, by default the active one. It
// needs the catalog and the log: only when both have it is the brake let go.
// Resuming a version that is not suspended changes nothing.
//
// It returns an error wrapping keystore.ErrNotFound if there is no such version,
// and one wrapping keystore.ErrOvertaken if someone has suspended it meanwhile.
func (r *Rotator) Resume(ctx context.Context, by, name string, kid keystore.KID, reason string) (Suspension, error) {
	if err := r.cfg.Audit.Health(); err != nil {
		return Suspension{}, fmt.Errorf("the log: %w", err)
	}
	if _, err := r.view(ctx); err != nil {
		return Suspension{}, err
	}
	v, err := r.target(ctx, name, kid)
	if err != nil {
		return Suspension{}, err
	}
	if err := r.acquireRecords(ctx); err != nil {
		return Suspension{}, fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	defer r.releaseRecords()
	held, braked := r.suspended()[v.KID]
	unsaid := braked && r.entryOf(ctx, requestID(string(v.KID), &held)) == ""
	fact := keystore.Fact{At: r.now(), By: by, Reason: reason}
	entry, err := r.commit(ctx, name, func(ks *keystore.KeySet) ([]keystore.Record, error) {
		return resume(ks, v.KID, fact, held, braked, unsaid)
	})
	if err != nil {
		return Suspension{}, fmt.Errorf("recording the resumption: %w", err)
	}
	if err := r.letGo(v.KID, held, braked); err != nil {
		return Suspension{}, err
	}
	r.Changed()
	return Suspension{Ref: Ref{v.Number, v.KID}, Durable: true, Entry: entry}, nil
}

// resume lifts the suspension of a version inside the swap. One that only the
// brake knew, and the log does not, is entered first, so that the log has both.
func resume(ks *keystore.KeySet, kid keystore.KID, fact, held keystore.Fact, braked, unsaid bool) ([]keystore.Record, error) {
	v, ok := ks.ByKID(kid)
	if !ok || v.Suspended == nil && !braked {
		return nil, nil
	}
	var records []keystore.Record
	if v.Suspended == nil && unsaid {
		records = append(records, stopped(ks, v, keystore.ActSuspend, held))
	}
	v.Suspended = nil
	return append(records, stopped(ks, v, keystore.ActResume, fact)), nil
}

// letGo takes a suspension off the brake, unless it is a newer one than was
// resumed.
func (r *Rotator) letGo(kid keystore.KID, held keystore.Fact, braked bool) error {
	r.brake.Lock()
	defer r.brake.Unlock()
	now, ok := r.cfg.Brake.Suspended()[kid]
	if !ok {
		return nil
	}
	if !braked || !now.At.Equal(held.At) || now.By != held.By {
		return fmt.Errorf("%s suspended it again: %w", now.By, keystore.ErrOvertaken)
	}
	if err := r.cfg.Brake.Remove(kid); err != nil {
		return fmt.Errorf("letting go of the brake: %w", err)
	}
	return nil
}

// Settle brings suspensions that only the brake knows into the catalog and the
// log, and lets go of those whose versions can never sign again. What cannot be
// written stays on the brake.
//
// A crash between a resumption and the brake's release leaves the version
// suspended: stopping is easier than starting.
func (r *Rotator) Settle(ctx context.Context) error {
	kept := r.suspended()
	if len(kept) == 0 {
		return nil
	}
	if err := r.acquireRecords(ctx); err != nil {
		return err
	}
	defer r.releaseRecords()
	kept = r.suspended()
	view, err := r.view(ctx)
	if err != nil {
		return err
	}
	for _, ks := range view.KeySets() {
		for kid, fact := range kept {
			v, ok := ks.ByKID(kid)
			switch {
			case !ok:
			case !v.State.Known():
				err = r.letGo(kid, fact, true)
			case v.Suspended == nil:
				_, err = r.recordSuspension(ctx, ks.Name, kid, fact)
			}
			if err != nil {
				return fmt.Errorf("settling the suspension of %s: %w", kid, err)
			}
		}
	}
	return nil
}

// settleLoop settles when something has waited for it, and now and then.
func (r *Rotator) settleLoop(ctx context.Context) {
	failures := 0
	for {
		wait := poll
		if err := r.Settle(ctx); err != nil && ctx.Err() == nil {
			failures++
			wait = backoff(failures)
			if failures == 1 {
				r.cfg.Log.ErrorContext(ctx, "a suspension's record has to wait", "err", err)
			}
		} else {
			failures = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.settling:
		case <-timer.C:
		}
		timer.Stop()
	}
}

package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
)

// A Suspension is the outcome of a suspend or a resume.
type Suspension struct {
	Ref
	Suspended bool
	Durable   bool   // it survives a restart
	Entry     string // empty while the catalog or the log cannot be written
}

// Suspend stops a version from signing, by default the active one: at once,
// also when neither catalog nor log can be written. Then the record follows.
// It waits for no other operation on the key set, and for a disk that hangs no
// more than a few seconds; what is not written by then is not in the answer.
// Suspending the active version stops its key set: nothing activates until a
// resume or a rotation is asked for. A version that is about to take over, in a
// swap that is under way, is suspended as well, and is then the answer's. That
// ctx ends stops no suspension.
//
// It returns an error wrapping keystore.ErrNotFound if there is no such version,
// or none that could sign.
func (r *Rotator) Suspend(ctx context.Context, by, name string, kid keystore.KID, reason string) (Suspension, error) {
	ctx = context.WithoutCancel(ctx)
	v, err := r.target(ctx, name, kid)
	if err != nil {
		return Suspension{}, err
	}
	asked := keystore.Fact{At: r.now(), By: by, Reason: reason}
	s := r.suspend(ctx, name, v, asked)
	// What was looked at may be old: the key set may have another active version by
	// now. Each look comes after a record, and so after any swap before that.
	for range 3 {
		again, err := r.target(ctx, name, kid)
		if err != nil || again.KID == s.KID || again.State != keystore.Active || again.Suspended != nil || r.isBraked(again.KID) {
			break
		}
		s = r.suspend(ctx, name, again, asked)
	}
	return s, nil
}

// suspend stops v, and who is about to take over from it.
func (r *Rotator) suspend(ctx context.Context, name string, v *keystore.Version, asked keystore.Fact) Suspension {
	// The brake is pulled though v may seem to be suspended: what was looked at may
	// be old, and a resumption under way. It is pulled before anything is waited for,
	// and before it is asked who takes over: a swap that has not looked at the brake
	// yet will see it.
	pulled := r.pull(v.KID, asked)
	var heir *putting
	next, taken := r.takeover(v)
	if taken {
		heir = r.pull(next.KID, asked)
	}
	s := r.stopped(ctx, name, Ref{v.Number, v.KID}, v.Suspended, pulled, asked)
	if taken {
		s = r.stopped(ctx, name, next, nil, heir, asked)
	}
	return s
}

// stopped waits a little for the brake's disk and records what has been pulled.
// was is the suspension that the catalog has of the version, or nil.
func (r *Rotator) stopped(ctx context.Context, name string, v Ref, was *keystore.Fact, pulled *putting, asked keystore.Fact) Suspension {
	s := Suspension{Ref: v, Suspended: true}
	within, cancel := context.WithTimeout(ctx, brakeWithin)
	err := pulled.wait(within)
	cancel()
	s.Durable = err == nil
	if err != nil {
		r.cfg.Log.ErrorContext(ctx, "the brake file cannot be written", "keyset", name, "kid", v.KID, "err", err)
	}
	s.Entry, err = r.recordStop(ctx, name, v.KID, asked)
	r.step(name)
	if err != nil {
		r.cfg.Log.ErrorContext(ctx, "a suspension is in force, its record has to wait", "keyset", name, "kid", v.KID, "err", err)
		kick(r.settling)
		return s
	}
	s.Durable = true
	if s.Entry == "" && was != nil { // it was recorded before
		s.Entry = r.entrySoon(ctx, requestID(string(v.KID), was))
	}
	return s
}

// recordStop records a suspension that the brake has. Should a resumption have
// let go of it meanwhile, or another node have lifted what the brake keeps from
// before, then this suspension is the later one of the two, and is put on the brake
// anew. What outlasts the answer keeps the records until it is done, so that a later
// resumption comes after it.
func (r *Rotator) recordStop(ctx context.Context, name string, kid keystore.KID, asked keystore.Fact) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	if err := r.acquireRecords(ctx); err != nil {
		return "", err
	}
	return bounded(ctx, r, func() (string, error) {
		defer r.releaseRecords()
		if fact, ok := r.suspended()[kid]; ok {
			entry, err := r.recordSuspension(ctx, name, kid, fact)
			if !errors.Is(err, errLifted) {
				return entry, err
			}
		}
		asked.At = r.now()
		p, err := r.pullAnew(ctx, kid, asked)
		if err != nil {
			return "", err
		}
		_ = p.wait(ctx) // what could not be written was said before
		return r.recordSuspension(ctx, name, kid, p.fact)
	})
}

// entrySoon is entryOf for those who cannot wait: "" if the log does not answer.
func (r *Rotator) entrySoon(ctx context.Context, id string) string {
	entry, err := look(ctx, r, stopWithin, func(ctx context.Context) (string, error) { return r.entryOf(ctx, id), nil })
	if err != nil {
		return ""
	}
	return entry
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
// cannot be read soon, from what was read last.
func (r *Rotator) target(ctx context.Context, name string, kid keystore.KID) (*keystore.Version, error) {
	view, err := look(ctx, r, lookWithin, r.view)
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

// recordSuspension writes a suspension to catalog and log. A version that is
// suspended there already, or can never sign again, is left as it is; on a shared
// catalog the brake then keeps what stands there, which is what another node lifts,
// and what another node has put in its place meanwhile is suspended with it. Its
// caller has acquired the records.
func (r *Rotator) recordSuspension(ctx context.Context, name string, kid keystore.KID, fact keystore.Fact) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	// A crash between a resumption and the brake's release has the same suspension
	// recorded a second time; its entry needs a name of its own.
	again, err := r.recorded(ctx, requestID(string(kid), &fact))
	if err != nil {
		return "", err
	}
	var stands *keystore.Fact
	entry, err := r.cfg.Catalog.Update(ctx, name, -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		v, ok := ks.ByKID(kid)
		if !ok || !v.State.Known() {
			return nil, nil
		}
		if stands = v.Suspended; stands != nil {
			return nil, nil
		}
		if again && r.cfg.Shared {
			return nil, errLifted
		}
		v.Suspended = &fact
		rec := factRecord(ks, v, keystore.ActSuspend, fact)
		if again {
			rec.ID = ""
		}
		recs := []keystore.Record{rec}
		if heir := heirOf(ks, v, fact); heir != nil && r.cfg.Shared {
			heir.Suspended = &fact
			recs = append(recs, factRecord(ks, heir, keystore.ActSuspend, fact))
		}
		return recs, nil
	})
	if err == nil && stands != nil && r.cfg.Shared && !(stands.At.Equal(fact.At) && stands.By == fact.By) {
		p, err := r.pullAnew(ctx, kid, *stands)
		if err != nil {
			return "", err
		}
		_ = p.wait(ctx) // in force it is; that it could not be written was said before
	}
	return entry, err
}

// heirOf returns the version that signs in place of v since it was suspended, by a
// step of a node that could not know of that, or nil. Nothing of the key set was to
// activate then.
func heirOf(ks *keystore.KeySet, v *keystore.Version, fact keystore.Fact) *keystore.Version {
	active, ok := ks.Active()
	signed := !v.ActivatedAt.IsZero() && !v.ActivatedAt.After(fact.At)
	if !ok || !signed || active.Number == v.Number || active.Suspended != nil || !active.ActivatedAt.After(fact.At) {
		return nil
	}
	return active
}

// recorded reports whether a record with that id is in the log of this node, or was
// left to the log of any.
func (r *Rotator) recorded(ctx context.Context, id string) (bool, error) {
	if r.entryOf(ctx, id) != "" {
		return true, nil
	}
	known, err := r.cfg.Catalog.Knows(ctx, id)
	if err != nil {
		return false, fmt.Errorf("whether that was recorded: %w", err)
	}
	return known, nil
}

// errLifted: the suspension was recorded, and another node has lifted it.
var errLifted = errors.New("another node has resumed it")

// factRecord is what the log is told of a fact beside the state of v.
func factRecord(ks *keystore.KeySet, v *keystore.Version, action keystore.Action, fact keystore.Fact) keystore.Record {
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
	if v.Compromised != nil { // and its record waits
		return Suspension{}, &Kept{Rule: 6, Text: fmt.Sprintf("rule 6: version %d is compromised: it never signs again", v.Number)}
	}
	if err := r.acquireRecords(ctx); err != nil {
		return Suspension{}, fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	defer r.releaseRecords()
	was := v.Suspended
	if braked, ok := r.suspended()[v.KID]; ok {
		was = &braked
	}
	s, err := r.lift(ctx, name, v, by, reason)
	if err != nil {
		return s, err
	}
	for _, heir := range r.heirs(ctx, name, v, was) {
		if _, err := r.lift(ctx, name, heir, by, reason); err != nil {
			return s, fmt.Errorf("resuming version %d as well: %w", heir.Number, err)
		}
	}
	r.Changed()
	return s, nil
}

// heirs returns the published versions of a key set that were suspended
// together with v, the active one, because a swap to them was under way that
// came to nothing.
func (r *Rotator) heirs(ctx context.Context, name string, v *keystore.Version, was *keystore.Fact) []*keystore.Version {
	view, err := r.view(ctx)
	if err != nil || was == nil || v.State != keystore.Active {
		return nil
	}
	ks, ok := view.KeySet(name)
	if !ok {
		return nil
	}
	return slices.DeleteFunc(ks.InState(keystore.Published), func(u *keystore.Version) bool {
		fact := u.Suspended
		if braked, ok := r.suspended()[u.KID]; ok {
			fact = &braked
		}
		return fact == nil || !fact.At.Equal(was.At) || fact.By != was.By
	})
}

// lift resumes one version. Its caller has acquired the records.
func (r *Rotator) lift(ctx context.Context, name string, v *keystore.Version, by, reason string) (Suspension, error) {
	l, err := r.beginLift(v.KID)
	if err != nil {
		return Suspension{}, err
	}
	defer r.endLift()
	said, err := r.recorded(ctx, requestID(string(v.KID), &l.held))
	if err != nil {
		return Suspension{}, err
	}
	unsaid := l.braked && !said
	fact := keystore.Fact{At: r.now(), By: by, Reason: reason}
	entry, err := r.commit(ctx, name, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		return resume(ks, l, fact, unsaid)
	})
	if err != nil {
		return Suspension{}, fmt.Errorf("recording the resumption: %w", err)
	}
	if err := r.letGo(l); err != nil {
		return Suspension{}, err
	}
	return Suspension{Ref: Ref{v.Number, v.KID}, Durable: true, Entry: entry}, nil
}

// resume lifts the suspension of a version inside the swap. One that only the
// brake knew, and the log does not, is entered first, so that the log has both.
func resume(ks *keystore.KeySet, l *lift, fact keystore.Fact, unsaid bool) ([]keystore.Record, error) {
	v, ok := ks.ByKID(l.kid)
	if !ok || v.Suspended == nil && !l.braked {
		return nil, nil
	}
	var records []keystore.Record
	if v.Suspended == nil && unsaid {
		records = append(records, factRecord(ks, v, keystore.ActSuspend, l.held))
	}
	v.Suspended = nil
	return append(records, factRecord(ks, v, keystore.ActResume, fact)), nil
}

// Settle brings compromises that wait for it, and suspensions that only the brake
// knows, into the catalog and the log, and lets go of those whose versions can
// never sign again. What cannot be written stays on the brake.
//
// A crash between a resumption and the brake's release leaves the version
// suspended: stopping is easier than starting. On a shared catalog a suspension
// that was recorded and is there no more was lifted, maybe by another node.
func (r *Rotator) Settle(ctx context.Context) error {
	if err := r.payOwed(ctx); err != nil {
		return err
	}
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
				err = r.takeOff(kid)
			default: // what is seen may have the brake laid over it; the swap sees the catalog
				var entry string
				entry, err = r.recordSuspension(ctx, ks.Name, kid, fact)
				if entry != "" {
					r.step(ks.Name)
				}
				if errors.Is(err, errLifted) {
					err = r.takeOff(kid)
				}
			}
			if err != nil {
				return fmt.Errorf("settling the suspension of %s: %w", kid, err)
			}
		}
	}
	return nil
}

// takeOff takes off the brake what can never sign again. Its caller has
// acquired the records.
func (r *Rotator) takeOff(kid keystore.KID) error {
	l, err := r.beginLift(kid)
	if err != nil {
		return err
	}
	defer r.endLift()
	return r.letGo(l)
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
				r.cfg.Log.ErrorContext(ctx, "the record of a suspension or a compromise has to wait", "err", err)
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

package rotation

import (
	"context"
	"fmt"

	"chancery/keystore"
)

// A Brake keeps suspensions where neither log nor catalog is needed. It takes
// effect on signing at once, in memory, also when Put fails to write.
//
// All methods may be called concurrently. Put and Remove may wait for the disk;
// Suspended does not, not even while one of them does.
type Brake interface {
	// Suspended returns what it keeps. The map is the caller's.
	Suspended() map[keystore.KID]keystore.Fact
	// Put is in force before it waits for anything.
	Put(kid keystore.KID, fact keystore.Fact) error
	// Remove lifts the suspension that is there when it is called. One that is put
	// meanwhile should stay in force; the rotator puts it once more to be sure.
	Remove(kid keystore.KID) error
}

// putting is a suspension on its way to the brake.
type putting struct {
	fact keystore.Fact
	done chan struct{} // closed at the end
	err  error         // set by then
}

// wait waits until the suspension is kept and returns why it is not, or why
// that is not known yet.
func (p *putting) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("the brake does not answer: %w: %w", keystore.ErrUnavailable, context.Cause(ctx))
	}
}

// lift is a suspension that is being taken off the brake.
type lift struct {
	kid    keystore.KID
	held   keystore.Fact  // what the brake kept when it began
	braked bool           // whether it kept any
	again  *keystore.Fact // guarded by Rotator.brake: a suspension asked for since then
}

// pull puts a suspension on the brake, or the one that is there already. It
// waits neither for the disk nor for other suspensions: the caller may wait for
// what it returns.
func (r *Rotator) pull(kid keystore.KID, fact keystore.Fact) *putting {
	r.brake.Lock()
	defer r.brake.Unlock()
	if p, ok := r.puts[kid]; ok {
		return p
	}
	kept, ok := r.suspended()[kid]
	switch l := r.lifting; {
	case l != nil && l.kid == kid: // what is kept is on its way out
		if l.again == nil {
			l.again = &fact
		}
		fact = *l.again
	case ok:
		fact = kept
	}
	return r.put(kid, fact)
}

// put has the brake keep a suspension. Its caller holds brake, and there is none on
// its way.
func (r *Rotator) put(kid keystore.KID, fact keystore.Fact) *putting {
	p := &putting{fact: fact, done: make(chan struct{})}
	r.puts[kid] = p
	r.aside(func() {
		p.err = r.cfg.Brake.Put(kid, fact)
		r.brake.Lock()
		delete(r.puts, kid)
		r.brake.Unlock()
		close(p.done)
	})
	return p
}

// pullAnew puts a suspension on the brake in place of the one that is there. The
// version does not sign meanwhile. Its caller has acquired the records.
func (r *Rotator) pullAnew(ctx context.Context, kid keystore.KID, fact keystore.Fact) (*putting, error) {
	for {
		r.brake.Lock()
		before, ok := r.puts[kid]
		if !ok {
			defer r.brake.Unlock()
			return r.put(kid, fact), nil
		}
		r.brake.Unlock()
		_ = before.wait(ctx) // whoever put it says what could not be written
		if ctx.Err() != nil {
			return nil, fmt.Errorf("the brake does not answer: %w: %w", keystore.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// suspended returns what the brake keeps.
func (r *Rotator) suspended() map[keystore.KID]keystore.Fact { return r.cfg.Brake.Suspended() }

// beginLift begins to take a suspension off the brake, which leaves it on until
// letGo. From now on a suspension is a newer one than is lifted. One that is on
// its way to the brake is newer, too: an error wrapping keystore.ErrOvertaken.
// The caller has acquired the records, and calls endLift.
func (r *Rotator) beginLift(kid keystore.KID) (*lift, error) {
	r.brake.Lock()
	defer r.brake.Unlock()
	if p, ok := r.puts[kid]; ok {
		return nil, fmt.Errorf("%s is suspending it: %w", p.fact.By, keystore.ErrOvertaken)
	}
	l := &lift{kid: kid}
	l.held, l.braked = r.suspended()[kid]
	r.lifting = l
	return l, nil
}

func (r *Rotator) endLift() {
	r.brake.Lock()
	defer r.brake.Unlock()
	r.lifting = nil
}

// overtaken returns the suspension that was asked for since l began, or nil.
func (r *Rotator) overtaken(l *lift) *keystore.Fact {
	r.brake.Lock()
	defer r.brake.Unlock()
	return l.again
}

// letGo takes a suspension off the brake, unless there is a newer one.
func (r *Rotator) letGo(l *lift) error {
	if again := r.overtaken(l); again != nil {
		return fmt.Errorf("%s suspended it again: %w", again.By, keystore.ErrOvertaken)
	}
	if !l.braked {
		return nil
	}
	if err := r.cfg.Brake.Remove(l.kid); err != nil {
		return fmt.Errorf("letting go of the brake: %w", err)
	}
	again := r.overtaken(l)
	if again == nil {
		return nil
	}
	// Put and Remove met, and either may have come first.
	if err := r.cfg.Brake.Put(l.kid, *again); err != nil {
		return fmt.Errorf("%s suspended it again: %w: %w", again.By, keystore.ErrOvertaken, err)
	}
	return fmt.Errorf("%s suspended it again: %w", again.By, keystore.ErrOvertaken)
}

// swap is commit for a step that activates a version. Until someone has read
// the catalog after it, a suspension of the version that retires by it is one
// of the version that takes over, too: nobody knows which of them is active.
func (r *Rotator) swap(ctx context.Context, ks *keystore.KeySet, step Step, f func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error)) (string, error) {
	from, ok := ks.Version(step.From)
	next, there := ks.Version(step.Version)
	if ok && there {
		r.brake.Lock()
		r.takeovers[from.KID] = Ref{next.Number, next.KID}
		r.brake.Unlock()
	}
	return r.commit(ctx, ks.Name, f)
}

// takeover returns the version that may be taking over from v, the active one.
func (r *Rotator) takeover(v *keystore.Version) (Ref, bool) {
	r.brake.Lock()
	defer r.brake.Unlock()
	next, ok := r.takeovers[v.KID]
	return next, ok && v.State == keystore.Active
}

// known forgets who takes over in a key set that has just been read from the
// catalog, under the set's lock.
func (r *Rotator) known(ks *keystore.KeySet) {
	r.brake.Lock()
	defer r.brake.Unlock()
	for i := range ks.Versions {
		delete(r.takeovers, ks.Versions[i].KID)
	}
}

// isBraked reports whether the brake keeps a suspension of kid.
func (r *Rotator) isBraked(kid keystore.KID) bool {
	_, ok := r.suspended()[kid]
	return ok
}

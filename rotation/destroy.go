package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/keystore"
)

// destroyWithin bounds what a keystore may take to destroy a key and prove it.
const destroyWithin = 30 * time.Second

// A Destroying is a version's private key that an operator wants destroyed. KID
// or Version names the version.
type Destroying struct {
	By      string // the operator, as a principal
	KeySet  string
	Version int
	KID     keystore.KID
	Reason  string
}

// A Destruction is one that was done.
type Destruction struct {
	Ref
	Entry string
}

// Kept refuses to destroy a key that is not one to destroy, whatever the time.
type Kept struct {
	Rule int    // the rule that keeps it; 0: its state does
	Text string // why
}

func (e *Kept) Error() string { return e.Text }

// Destroyable returns nil if the private key of v may be destroyed at now, and
// otherwise a *TooEarly or a *Kept that says why not. silent is how long v has
// been seen not to sign, by a clock that nobody sets. It is pure.
//
// Rule 2 is held against the wall clock and, since that may have been set, rule
// 9 against real time: what v signed lives for the longest lifetime at most.
// Destroying what was destroyed is allowed, so that a key that is there again
// can be taken away.
func Destroyable(ks *keystore.KeySet, sch Schedule, v *keystore.Version, now time.Time, silent time.Duration) error {
	switch {
	case ks.Purpose == keystore.PurposeCA:
		return &Kept{Rule: 10, Text: "rule 10: a CA key is kept until its last certificate has expired and one CRL more is out, which nothing here proves yet"}
	case ks.Purpose == keystore.PurposeAudit:
		return &Kept{Rule: 9, Text: "rule 9: keys of the log are kept"}
	}
	p := planner{sch: sch, now: now}
	early := func(rule int, wait time.Duration, format string, args ...any) error {
		return &TooEarly{Rule: rule, RetryAfter: wait, SignsFrom: now.Add(wait), Text: fmt.Sprintf("rule %d: ", rule) + fmt.Sprintf(format, args...)}
	}
	switch v.State {
	case keystore.Retired, keystore.Retiring:
	case keystore.Destroyed:
		return nil
	case keystore.Abandoned:
		return &Kept{Text: fmt.Sprintf("version %d is abandoned: its key never came to be", v.Number)}
	case keystore.Active:
		return &Kept{Text: fmt.Sprintf("version %d is active: only a retired one is destroyed (hint: `chancery rotation now %s` has its successor sign)", v.Number, ks.Name)}
	default:
		return &Kept{Text: fmt.Sprintf("version %d is %s: only a retired one is destroyed", v.Number, v.State)}
	}
	if v.ActivatedAt.IsZero() { // it has signed nothing
		return nil
	}
	if v.State == keystore.Retired && v.Compromised != nil { // what it signed is rejected already
		return nil
	}
	until, ok := keptUntil(ks, sch, v, now)
	if !ok {
		return &Kept{Rule: 2, Text: fmt.Sprintf("rule 2: what version %d signed never expires", v.Number)}
	}
	if until.After(now) {
		return early(2, until.Sub(now), "tokens it signed may be valid until %s", p.clock(until))
	}
	if v.State == keystore.Retiring {
		return early(2, time.Second, "version %d is about to leave the set", v.Number)
	}
	life := v.MaxLifetime
	if life <= 0 {
		life = lifetime(ks, sch, now)
	}
	if left := sch.Lease + life + sch.Skew - silent; left > 0 {
		return early(9, left, "it has been seen not to sign for %v, which is to be %v of real time, counted anew from each start",
			silent.Truncate(time.Second), sch.Lease+life+sch.Skew)
	}
	return nil
}

// Destroy ends the private key of a retired version, for ever: the log has the
// intent before the keystore is asked, and the version is destroyed when the
// keystore has proven that the key is gone. A destruction that was cut short is
// run again. Once it has begun, it goes on though ctx ends.
//
// It returns a *Kept or *TooEarly if the key is not to be destroyed, or not yet;
// an error wrapping keystore.ErrNotFound if there is no such version; one
// wrapping keystore.ErrUncertain if the key may or may not be there still; and
// whatever else the keystore, the catalog or the log have to say.
func (r *Rotator) Destroy(ctx context.Context, req Destroying) (Destruction, error) {
	s, _, err := r.of(req.KeySet)
	if err != nil {
		return Destruction{}, err
	}
	if err := s.acquire(ctx); err != nil {
		return Destruction{}, fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	defer s.release()
	defer kick(s.changed)
	if err := r.cfg.Audit.Health(); err != nil {
		return Destruction{}, fmt.Errorf("the log: %w", err)
	}
	ks, spec, err := r.keySet(ctx, req.KeySet)
	if err != nil {
		return Destruction{}, err
	}
	v, err := r.destroyable(r.factsOf(ks), spec.Schedule, req)
	if err != nil {
		return Destruction{}, err
	}
	p, err := r.cfg.Keys.Provider(v.Keystore)
	if err != nil {
		return Destruction{}, err
	}
	if err := reachable(p); err != nil { // an intent each time it is down would be no use
		return Destruction{}, fmt.Errorf("keystore %s: %w", v.Keystore, err)
	}
	leave, err := r.enterKeystore(ctx, v.Keystore)
	if err != nil {
		return Destruction{}, err
	}
	defer leave()
	return r.destroy(ctx, p, spec.Schedule, v, req)
}

// destroy carries it out. Its caller has the set's lock and the keystore's.
func (r *Rotator) destroy(ctx context.Context, p keystore.Provider, sch Schedule, v *keystore.Version, req Destroying) (Destruction, error) {
	id := keystore.NewKeyID().String()
	_, err := r.commit(ctx, req.KeySet, func(at keystore.Moment, now *keystore.KeySet) ([]keystore.Record, error) {
		again, err := r.destroyable(r.facts(now, at.Nodes), sch, req)
		if err != nil {
			return nil, err
		}
		return []keystore.Record{destruction(now, again, req, id, keystore.OutcomeIntent)}, nil
	})
	if err != nil {
		return Destruction{}, fmt.Errorf("recording the intent: %w", err)
	}
	if r.cfg.Forget != nil {
		r.cfg.Forget(v.KID)
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyWithin)
	err = p.Destroy(within, v.Ref())
	cancel()
	if err != nil {
		return Destruction{}, errors.Join(fmt.Errorf("destroying version %d of %s: %w", v.Number, req.KeySet, err), r.undestroyed(ctx, v, req, id, err))
	}
	entry, err := r.commit(ctx, req.KeySet, func(at keystore.Moment, now *keystore.KeySet) ([]keystore.Record, error) {
		row, ok := now.Version(v.Number)
		if !ok || row.KeyID != v.KeyID {
			return nil, fmt.Errorf("version %d: %w", v.Number, keystore.ErrOvertaken)
		}
		if row.State == keystore.Retired {
			row.State, row.DestroyedAt = keystore.Destroyed, later(at.Now, row.RetiredAt)
		}
		return []keystore.Record{destruction(now, row, req, id, keystore.OutcomeDone)}, nil
	})
	if err != nil {
		return Destruction{}, fmt.Errorf("the key is gone, and recording that failed; run it again: %w", err)
	}
	r.mu.Lock()
	delete(r.lost, v.KID)
	delete(r.silent, v.KID)
	r.mu.Unlock()
	return Destruction{Ref: Ref{v.Number, v.KID}, Entry: entry}, nil
}

// undestroyed enters that a destruction failed, or that it is not known.
func (r *Rotator) undestroyed(ctx context.Context, v *keystore.Version, req Destroying, id string, cause error) error {
	outcome := keystore.OutcomeFailed
	if !settles(cause) {
		outcome = keystore.OutcomeUnknown
	}
	rec := destruction(&keystore.KeySet{Name: req.KeySet}, v, req, id, outcome)
	rec.Detail["cause"] = brief(cause)
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitWithin)
	defer cancel()
	if _, err := r.cfg.Audit.Lifecycle(within, rec); err != nil {
		return fmt.Errorf("entering how the destruction went: %w", err)
	}
	return nil
}

// destruction is what the log is told of a destruction.
func destruction(ks *keystore.KeySet, v *keystore.Version, req Destroying, id string, outcome keystore.Outcome) keystore.Record {
	rec := record(ks, v, keystore.ActKeyDestroy, Why{Rule: 9, Text: req.Reason})
	rec.ID, rec.Principal, rec.Outcome = id, req.By, outcome
	rec.Detail = map[string]string{"keystore": v.Keystore, "key_id": v.KeyID.String()}
	return rec
}

// destroyable returns the version that req names, if its key may be destroyed
// now.
func (r *Rotator) destroyable(f Facts, sch Schedule, req Destroying) (*keystore.Version, error) {
	ks := f.Set
	v, ok := ks.ByKID(req.KID)
	if req.KID == "" {
		v, ok = ks.Version(req.Version)
	}
	if !ok || req.Version != 0 && v.Number != req.Version {
		return nil, fmt.Errorf("key set %q has no such version: %w", ks.Name, keystore.ErrNotFound)
	}
	now := r.now()
	if err := Destroyable(ks, sch, v, now, r.silentFor(v.KID)); err != nil {
		return v, err
	}
	return v, dropped(f, v, now)
}

// dropped returns nil if no node can hold the key of a retired version any more:
// each one that may sign goes by a snapshot in which the key set is as it is now.
func dropped(f Facts, v *keystore.Version, now time.Time) error {
	for i := range f.Nodes {
		if n := &f.Nodes[i]; n.Name != f.Self && n.MaySign(now) && n.Revision < f.Set.Revision && v.State != keystore.Destroyed {
			return &TooEarly{Rule: 9, RetryAfter: time.Second, SignsFrom: now.Add(time.Second), Text: fmt.Sprintf(
				"rule 9: node %s goes by revision %d still, and may hold the key of version %d", n.Name, n.Revision, v.Number)}
		}
	}
	return nil
}

// reachable returns nil unless every token of the provider is down. One that is
// stopped signs nothing, and destroys.
func reachable(p keystore.Provider) error {
	for _, s := range p.Status() {
		if s.State == keystore.TokenStopped {
			return nil
		}
	}
	return up(p)
}

// noteSilent notes which versions do not sign, by a clock that nobody sets. Its
// caller holds mu.
func (r *Rotator) noteSilent(view *keystore.View) {
	at := r.cfg.Elapsed()
	for _, ks := range view.KeySets() {
		for i := range ks.Versions {
			v := &ks.Versions[i]
			if _, known := r.silent[v.KID]; known || v.State != keystore.Retiring && v.State != keystore.Retired {
				continue
			}
			r.silent[v.KID] = at
		}
	}
}

// silentFor returns how long a version has been seen not to sign.
func (r *Rotator) silentFor(kid keystore.KID) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, ok := r.silent[kid]
	if !ok {
		return 0
	}
	return r.cfg.Elapsed() - since
}

package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
)

// Ensure brings the catalog in line with the configured key sets, and has the
// rotator look after these from now on: sets that do not exist are created, and
// a change of what is promised, or of algorithm or keystore of the next version,
// is recorded. It is to be called before anything acts by the new
// configuration: a longest lifetime that rises has to count before the first
// such token is signed. After an error the sets to look after are those of
// before, and some may be changed in the catalog: Ensure with the specs of
// before takes that back.
//
// A purpose is for ever: a spec with another one is an error. A set that is
// configured no more stays in the catalog as it is, and no step is taken for it.
func (r *Rotator) Ensure(ctx context.Context, specs []Spec) error {
	view, err := r.view(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, spec := range specs {
		if ctx.Err() != nil { // each of them may take as long as a commit
			errs = append(errs, context.Cause(ctx))
			break
		}
		if err := r.ensure(ctx, view, spec); err != nil {
			errs = append(errs, fmt.Errorf("key set %s: %w", spec.Name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.adopt(specs)
	return nil
}

// ensure is Ensure for one key set, as a snapshot has it.
func (r *Rotator) ensure(ctx context.Context, view *keystore.View, spec Spec) error {
	ks, ok := view.KeySet(spec.Name)
	if ok {
		return r.configure(ctx, ks, spec)
	}
	err := r.create(ctx, spec)
	if !errors.Is(err, keystore.ErrExists) {
		return err
	}
	if view, err = r.view(ctx); err != nil { // another node has made it since
		return err
	}
	if ks, ok = view.KeySet(spec.Name); !ok {
		return fmt.Errorf("the catalog has it, and does not show it: %w", keystore.ErrOvertaken)
	}
	return r.configure(ctx, ks, spec)
}

// adopt makes specs the ones to look after.
func (r *Rotator) adopt(specs []Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.sets
	r.sets = make(map[string]*set, len(specs))
	for _, spec := range specs {
		s, ok := old[spec.Name]
		if !ok {
			s = &set{lock: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
		}
		s.spec = spec
		r.sets[spec.Name] = s
		kick(s.changed)
	}
	kick(r.respec)
}

func (r *Rotator) create(ctx context.Context, spec Spec) error {
	ks := NewSet(spec, r.now())
	_, err := r.cfg.Catalog.Create(ctx, ks, keystore.Record{
		Principal: System, Action: keystore.ActKeySetCreate, Outcome: keystore.OutcomeDone, KeySet: spec.Name,
		Reason: "it is in the configuration", Detail: particulars(spec),
	})
	return err
}

// configure records what has changed in the configuration of a key set.
func (r *Rotator) configure(ctx context.Context, ks *keystore.KeySet, spec Spec) error {
	if ks.Purpose != spec.Purpose {
		return fmt.Errorf("its purpose is %s for ever and cannot become %s (hint: choose another name)", ks.Purpose, spec.Purpose)
	}
	if err := listed(ks, spec); err != nil {
		return err
	}
	if _, changed := reconfigured(ks, spec, r.now()); !changed {
		return nil
	}
	_, err := r.commit(ctx, ks.Name, func(at keystore.Moment, now *keystore.KeySet) ([]keystore.Record, error) {
		if err := listed(now, spec); err != nil {
			return nil, err
		}
		next, changed := reconfigured(now, spec, at.Now)
		if !changed {
			return nil, nil
		}
		*now = *next
		return []keystore.Record{{
			Principal: System, Action: keystore.ActKeySetConfigure, Outcome: keystore.OutcomeDone, KeySet: ks.Name,
			Reason: "the configuration has changed", Rule: "rotation/3", Detail: particulars(spec),
		}}, nil
	})
	return err
}

// listed returns an error if verifiers of a set that has been served may not
// know the algorithm that its next version is to have (rule 11).
func listed(ks *keystore.KeySet, spec Spec) error {
	known := slices.ContainsFunc(ks.Versions, func(v keystore.Version) bool { return v.Algorithm == spec.Algorithm })
	if ks.Purpose != keystore.PurposeJWT || ks.ServedAt.IsZero() || known || len(ks.Announced) == 0 || slices.Contains(ks.Announced, spec.Algorithm) {
		return nil
	}
	return fmt.Errorf("rule 11: discovery has listed %v from its first day, some verifiers read that once, and %s is not in it "+
		"(hint: make a new key set; list in `algorithms` from the start what a key set may use later)", ks.Announced, spec.Algorithm)
}

// reconfigured returns ks as spec wants it. A promise that changes is added to
// those before it, which count until they have run out (rule 3).
func reconfigured(ks *keystore.KeySet, spec Spec, now time.Time) (*keystore.KeySet, bool) {
	next := ks.Clone()
	next.Algorithm, next.Keystore = spec.Algorithm, spec.Keystore
	changed := next.Algorithm != ks.Algorithm || next.Keystore != ks.Keystore
	first := ks.ServedAt.IsZero() || len(ks.Announced) == 0 // or made before this was kept
	if first && !slices.Equal(ks.Announced, spec.announced()) {
		next.Announced, changed = spec.announced(), true
	}
	want := spec.Schedule.promise(now)
	var last keystore.Promise
	if n := len(ks.Promises); n > 0 {
		last = ks.Promises[n-1]
		want.At = last.At
	}
	if want != last {
		want.At = later(now, last.At)
		next.Promises = append(next.Promises, want)
		for i := range next.Versions {
			if v := &next.Versions[i]; maySign(v, spec.Schedule, now) {
				v.MaxLifetime = max(v.MaxLifetime, want.MaxLifetime)
			}
		}
		changed = true
	}
	return next, changed
}

// ErrDisagree: the key set was configured otherwise by another node, which is in
// force. It wraps keystore.ErrUnavailable: it passes when both are configured alike.
var ErrDisagree = fmt.Errorf("%w: another node has configured the key set otherwise (hint: give every node the same configuration, and restart them one after another)", keystore.ErrUnavailable)

// agrees returns nil if what the catalog says is what this node is configured to
// do with the key set. A node with another configuration takes no step of it, by
// windows that are not in force.
func agrees(ks *keystore.KeySet, spec Spec) error {
	var differs []string
	if n := len(ks.Promises); n > 0 && spec.Schedule.promise(ks.Promises[n-1].At) != ks.Promises[n-1] {
		differs = append(differs, "max_age, cache_for or max_ttl")
	}
	if ks.Algorithm != spec.Algorithm {
		differs = append(differs, "algorithm")
	}
	if ks.Keystore != spec.Keystore {
		differs = append(differs, "keystore")
	}
	if len(differs) == 0 {
		return nil
	}
	return fmt.Errorf("%s of key set %s: %w", strings.Join(differs, ", "), ks.Name, ErrDisagree)
}

// Disagrees returns why this node takes no step of a configured key set, if that is
// because another one has configured it otherwise, as the catalog was when it was
// last read; it wraps ErrDisagree. It asks neither catalog nor keystore.
func (r *Rotator) Disagrees(name string) error {
	_, spec, err := r.of(name)
	r.mu.Lock()
	last := r.last
	r.mu.Unlock()
	if err != nil || last == nil || !r.cfg.Shared {
		return nil
	}
	if ks, ok := last.KeySet(name); ok {
		return agrees(ks, spec)
	}
	return nil
}

// Disagreeing returns of how many configured key sets Disagrees says something.
func (r *Rotator) Disagreeing() int {
	r.mu.Lock()
	names := slices.Collect(maps.Keys(r.sets))
	r.mu.Unlock()
	n := 0
	for _, name := range names {
		if r.Disagrees(name) != nil {
			n++
		}
	}
	return n
}

// maySign reports whether some node may sign by v at now: it is active, or was
// until less than a lease ago.
func maySign(v *keystore.Version, sch Schedule, now time.Time) bool {
	return v.State == keystore.Active || v.State == keystore.Retiring && !now.After(v.StoppedAt.Add(sch.Lease))
}

func particulars(spec Spec) map[string]string {
	return map[string]string{
		"purpose": string(spec.Purpose), "algorithm": string(spec.Algorithm), "keystore": spec.Keystore,
		"rotate_every": spec.Schedule.Every.String(), "max_age": spec.Schedule.MaxAge.String(),
		"cache_for": spec.Schedule.CacheFor.String(), "skew": spec.Schedule.Skew.String(),
		"max_ttl": spec.Schedule.Lifetime.String(),
	}
}

package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// take carries out one step that Plan returned for ks.
func (r *Rotator) take(ctx context.Context, ks *keystore.KeySet, spec Spec, step Step) error {
	if err := r.cfg.Audit.Health(); err != nil {
		return fmt.Errorf("the log: %w", err)
	}
	switch step.Kind {
	case Generate:
		return r.generate(ctx, ks, spec, nil)
	case Publish:
		v, _ := ks.Version(step.Version)
		return r.finish(ctx, ks, v)
	case Activate:
		v, _ := ks.Version(step.Version)
		if err := r.prove(ctx, ks, v); err != nil {
			return err
		}
	case Remove:
	default:
		return fmt.Errorf("no way to %s", step.Kind)
	}
	_, err := r.swap(ctx, ks, step, func(at keystore.Moment, now *keystore.KeySet) ([]keystore.Record, error) {
		return r.replan(at, now, spec, step)
	})
	return err
}

// commit updates the catalog. It is not interrupted by ctx, only by its own
// deadline, so that a stop does not leave it open whether it happened.
func (r *Rotator) commit(ctx context.Context, name string, f func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error)) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitWithin)
	defer cancel()
	return r.cfg.Catalog.Update(ctx, name, -1, f)
}

// replan asks Plan again inside the swap, by the set as it is there and the
// time it is then, and applies the step if it still is the one to take.
// Otherwise someone was here first: keystore.ErrOvertaken.
func (r *Rotator) replan(at keystore.Moment, ks *keystore.KeySet, spec Spec, step Step) ([]keystore.Record, error) {
	now := at.Now
	again, why := Plan(r.facts(ks, at.Nodes), spec.Schedule, now)
	if again != step {
		return nil, fmt.Errorf("%s version %d is not the next step any more: %w", step.Kind, step.Version, keystore.ErrOvertaken)
	}
	return apply(ks, spec.Schedule, step, why, now)
}

// generate records a pending version, has its key made, and publishes it. The
// row is durable before the keystore is asked, and names the key to be, so that
// a crash leaves a row to finish and never a nameless key. asked is a rotation
// that is asked for and not recorded yet.
func (r *Rotator) generate(ctx context.Context, ks *keystore.KeySet, spec Spec, asked *keystore.Fact) error {
	p, err := r.cfg.Keys.Provider(ks.Keystore)
	if err != nil {
		return err
	}
	// A row for each attempt on a keystore that is down would be no use.
	if err := up(p); err != nil {
		return fmt.Errorf("keystore %s: %w", ks.Keystore, err)
	}
	var v keystore.Version
	_, err = r.commit(ctx, ks.Name, func(at keystore.Moment, now *keystore.KeySet) (recs []keystore.Record, err error) {
		if now.Keystore != ks.Keystore { // p is of another one
			return nil, fmt.Errorf("the next version is to be made in %s by now: %w", now.Keystore, keystore.ErrOvertaken)
		}
		v, recs, err = r.pend(at, now, spec, asked)
		return recs, err
	})
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, generateWithin)
	spki, err := p.Generate(within, v.KeyID, ks.Purpose, v.Algorithm)
	cancel()
	return r.conclude(ctx, ks, &v, spki, err, nil)
}

// up returns nil if the provider has a token that is ready, or none at all to
// tell of.
func up(p keystore.Provider) error {
	status := p.Status()
	for _, s := range status {
		if s.State == keystore.TokenReady {
			return nil
		}
	}
	if len(status) == 0 {
		return nil
	}
	why := ""
	if status[0].Err != "" {
		why = ": " + status[0].Err
	}
	return fmt.Errorf("token %s is %s%s: %w", status[0].Label, status[0].State, why, keystore.ErrUnavailable)
}

// pend adds the pending row, if a version is still to be generated. Its record
// is the intent entry; row, key, intent and outcome share one name.
func (r *Rotator) pend(at keystore.Moment, ks *keystore.KeySet, spec Spec, asked *keystore.Fact) (keystore.Version, []keystore.Record, error) {
	f := r.facts(ks, at.Nodes)
	f.Rotate = asked
	now := at.Now
	step, why, ok := find(Waits(f, spec.Schedule, now), Generate)
	if !ok || why.At.IsZero() || why.At.After(now) {
		return keystore.Version{}, nil, fmt.Errorf("no version is to be generated any more: %w", keystore.ErrOvertaken)
	}
	v := keystore.Version{
		Number: step.Version, Algorithm: ks.Algorithm, Keystore: ks.Keystore,
		KeyID: keystore.NewKeyID(), State: keystore.Pending, Maker: r.cfg.Node, CreatedAt: now,
	}
	ks.Versions = append(ks.Versions, v)
	rec := record(ks, &v, keystore.ActKeyGenerate, why)
	rec.Outcome = keystore.OutcomeIntent
	if asked != nil {
		rec.Principal, rec.Reason = asked.By, asked.Reason
	}
	return v, []keystore.Record{named(rec, &v)}, nil
}

func find(waits []Why, kind Kind) (Step, Why, bool) {
	for _, w := range waits {
		if w.Step.Kind == kind {
			return w.Step, w, true
		}
	}
	return NoStep, Why{}, false
}

// named gives a record of v's generation its name and particulars.
func named(rec keystore.Record, v *keystore.Version) keystore.Record {
	rec.ID = v.KeyID.String()
	rec.Detail = map[string]string{"algorithm": string(v.Algorithm), "keystore": v.Keystore}
	return rec
}

// errElsewhere: a pending version's key is being made by another node.
var errElsewhere = fmt.Errorf("another node is making the key: %w", keystore.ErrOvertaken)

// finish brings a pending version that an earlier attempt left to its end: its
// key is adopted if it is there and good, and the row abandoned if not. One that
// another node may be making is left alone, with an error wrapping errElsewhere.
func (r *Rotator) finish(ctx context.Context, ks *keystore.KeySet, v *keystore.Version) error {
	if (planner{Facts: r.factsOf(ks), now: r.now()}).makesElsewhere(v) {
		return fmt.Errorf("version %d, by node %s: %w", v.Number, v.Maker, errElsewhere)
	}
	p, err := r.cfg.Keys.Provider(v.Keystore)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, findWithin)
	spki, err := p.Find(within, v.KeyID, ks.Purpose, v.Algorithm)
	cancel()
	err = r.conclude(ctx, ks, v, spki, err, map[string]string{"found": "after an interruption"})
	if err != nil && settles(err) {
		r.cfg.Log.WarnContext(ctx, "a version's key never came to be", "keyset", ks.Name, "version", v.Number, "err", err)
		return nil
	}
	return err
}

// conclude enters how the generation of v went, and publishes or abandons it.
// It returns cause, if there is one. What may or may not have happened stays
// pending, for finish to look at.
func (r *Rotator) conclude(ctx context.Context, ks *keystore.KeySet, v *keystore.Version, spki []byte, cause error, detail map[string]string) error {
	kid, err := identify(v, spki)
	if cause == nil {
		cause = err
	}
	rec := named(record(ks, v, keystore.ActKeyGenerate, Why{Rule: 8}), v)
	for k, s := range detail {
		rec.Detail[k] = s
	}
	switch {
	case cause == nil:
		rec.KID = kid
	case settles(cause):
		rec.Outcome, rec.Reason = keystore.OutcomeFailed, brief(cause)
	default:
		return cause
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitWithin)
	defer cancel()
	if _, err := r.cfg.Audit.Lifecycle(within, rec); err != nil {
		return fmt.Errorf("entering how the generation went: %w", err)
	}
	_, err = r.commit(ctx, ks.Name, func(at keystore.Moment, now *keystore.KeySet) ([]keystore.Record, error) {
		return outcome(at, now, v, kid, spki, cause)
	})
	if err != nil {
		return err
	}
	return cause
}

// settles reports whether err of Generate or Find says for certain that no key
// of that name can ever be used.
func settles(err error) bool {
	for _, final := range []error{
		keystore.ErrNotFound, keystore.ErrExists, keystore.ErrAmbiguous,
		keystore.ErrAttributes, keystore.ErrUnsupported, keystore.ErrSignature,
	} {
		if errors.Is(err, final) && !errors.Is(err, keystore.ErrUncertain) && !errors.Is(err, keystore.ErrUnavailable) {
			return true
		}
	}
	return false
}

// brief returns what an error says, cut to what fits an entry.
func brief(err error) string {
	return strings.ToValidUTF8(fmt.Sprintf("%.512s", err.Error()), "")
}

// identify returns the KID of the key whose public half is spki, if it is one
// of v's algorithm.
func identify(v *keystore.Version, spki []byte) (keystore.KID, error) {
	if spki == nil {
		return "", keystore.ErrNotFound
	}
	pub, err := keystore.ParsePublic(spki)
	if err != nil {
		return "", fmt.Errorf("%w: %w", keystore.ErrAttributes, err)
	}
	if err := v.Algorithm.Fits(pub); err != nil {
		return "", fmt.Errorf("%w: %w", keystore.ErrAttributes, err)
	}
	return keystore.Thumbprint(pub)
}

// outcome publishes or abandons a pending version, inside the swap.
func outcome(at keystore.Moment, ks *keystore.KeySet, v *keystore.Version, kid keystore.KID, spki []byte, cause error) ([]keystore.Record, error) {
	row, ok := ks.Version(v.Number)
	if !ok || row.State != keystore.Pending || row.KeyID != v.KeyID {
		return nil, fmt.Errorf("version %d is pending no more: %w", v.Number, keystore.ErrOvertaken)
	}
	now := at.Now
	if cause != nil {
		row.State, row.DestroyedAt = keystore.Abandoned, now
		return []keystore.Record{record(ks, row, keystore.ActKeyAbandon, Why{Rule: 8, Text: brief(cause)})}, nil
	}
	row.State, row.KID, row.SPKI = keystore.Published, kid, spki
	row.PublishedAt = later(now, row.CreatedAt)
	rec := record(ks, row, keystore.ActKeyPublish, Why{Rule: 8, Text: "its key is there and signs"})
	rec.Detail = audit.Announcement(ks.Purpose, row)
	return []keystore.Record{rec}, nil
}

// expected returns when v may sign as far as it can be told: if no node serves
// it yet, or not every one, a full window from now.
func expected(f Facts, sch Schedule, v *keystore.Version, now time.Time) time.Time {
	last, waits, _ := evidence(f, v, now)
	if v.ServedAt.IsZero() || len(waits) > 0 {
		return now.Add(cacheFor(f.Set, sch, now) + sch.Skew)
	}
	at, _ := signsFrom(f, sch, v, last, now)
	return at
}

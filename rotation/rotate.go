package rotation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"chancery/keystore"
)

// A Request is a rotation an operator asks for.
type Request struct {
	By     string // the operator, as a principal
	KeySet string
	Reason string
	Now    bool // at once or not at all
}

// A Ref names a version. The zero Ref is no version.
type Ref struct {
	Version int
	KID     keystore.KID
}

// A Rotation is one that was asked for.
type Rotation struct {
	From, To  Ref       // From is zero if the first version has not signed yet
	SignsFrom time.Time // when To signs at the earliest
	Entry     string    // where the request stands in the log
}

// TooEarly refuses a rotation or a destruction now: a rule allows it only later.
type TooEarly struct {
	Rule       int           // the rule that holds it
	RetryAfter time.Duration // how long it still does, as far as it can be told
	SignsFrom  time.Time     // the earliest moment
	Text       string        // what it waits for
}

func (e *TooEarly) Error() string {
	return fmt.Sprintf("too early by %v: %s", e.RetryAfter.Round(time.Millisecond), e.Text)
}

// TooMany refuses another version: as many are known as may be.
type TooMany struct {
	Known      int
	RetryAfter time.Duration // until the next one leaves the set; 0: not known
}

func (e *TooMany) Error() string {
	return fmt.Sprintf("%d versions are known and no more than %d may be (rule 2)", e.Known, MaxKnown)
}

// Rotate has the key set's successor activated at the earliest safe moment. If
// there is no successor, one is generated and published first, for as long as
// ctx allows. Asking again while the rotation is pending returns the same
// answer. With Now it activates at once, or refuses with *TooEarly and changes
// nothing.
//
// It returns an error wrapping keystore.ErrNotFound for a key set that is not
// configured, *TooMany if no version more may be known, and whatever the
// keystore, the catalog or the log have to say.
func (r *Rotator) Rotate(ctx context.Context, req Request) (Rotation, error) {
	s, _, err := r.of(req.KeySet)
	if err != nil {
		return Rotation{}, err
	}
	if err := s.acquire(ctx); err != nil {
		return Rotation{}, fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	defer s.release()
	defer kick(s.changed) // the loop has slept through the steps taken here
	if err := r.cfg.Audit.Health(); err != nil {
		return Rotation{}, fmt.Errorf("the log: %w", err)
	}
	asked := &keystore.Fact{At: r.now(), By: req.By, Reason: req.Reason}
	if req.Now {
		return r.rotateNow(ctx, req.KeySet, asked)
	}
	return r.rotateSoon(ctx, req.KeySet, asked)
}

// rotateSoon makes sure of a successor, and records the request. Its caller
// holds the set's lock.
func (r *Rotator) rotateSoon(ctx context.Context, name string, asked *keystore.Fact) (Rotation, error) {
	// A pending row of an earlier attempt is finished first, and a successor that
	// has lost its key is left; if it comes to nothing another is made. One that
	// another node is making is waited for a while.
	const attempts = 4
	began := time.Now()
	for tried := 0; tried < attempts; {
		ks, spec, err := r.agreed(ctx, name)
		if err != nil {
			return Rotation{}, err
		}
		f := r.factsOf(ks)
		f.Rotate = asked
		p := planner{Facts: f, sch: spec.Schedule, now: r.now()}
		if next, _ := p.successor(); next != nil {
			switch err := r.prove(ctx, ks, next); {
			case err == nil:
				return r.request(ctx, ks, spec, next, asked)
			case !settles(err):
				return Rotation{}, err
			}
			if err := r.doubt(ctx, ks, next); err != nil {
				return Rotation{}, err
			}
			tried++
			continue // it has lost its key, and another one is made; or it was found
		}
		switch err = r.prepare(ctx, ks, spec, p, asked); {
		case errors.Is(err, errElsewhere):
			if time.Since(began) > makerWithin || pause(ctx, lookAgain) != nil {
				return Rotation{}, err
			}
			continue
		case err != nil && !errors.Is(err, keystore.ErrOvertaken):
			return Rotation{}, err
		}
		tried++
	}
	return Rotation{}, fmt.Errorf("no successor came to be: %w", keystore.ErrUnavailable)
}

// A successor that another node is making is waited for by who asks for a rotation,
// and looked for so often.
const (
	makerWithin = 5 * time.Second
	lookAgain   = 100 * time.Millisecond
)

// pause waits, and returns why it was for less than d.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// prepare generates and publishes a successor.
func (r *Rotator) prepare(ctx context.Context, ks *keystore.KeySet, spec Spec, p planner, asked *keystore.Fact) error {
	if pending := ks.InState(keystore.Pending); len(pending) > 0 {
		return r.finish(ctx, ks, pending[0])
	}
	waits := Waits(p.Facts, p.sch, p.now)
	_, why, ok := find(waits, Generate)
	switch {
	case !ok:
		return fmt.Errorf("no version is to be generated: %w", keystore.ErrOvertaken)
	case why.Rule == 2:
		e := &TooMany{Known: len(ks.Known())}
		if _, next, ok := find(waits, Remove); ok && next.At.After(p.now) {
			e.RetryAfter = next.At.Sub(p.now)
		}
		return e
	case why.At.After(p.now):
		return fmt.Errorf("%s: %w", why.Text, keystore.ErrUnavailable)
	}
	return r.generate(ctx, ks, spec, asked)
}

// request records that a rotation to next is asked for, and answers.
func (r *Rotator) request(ctx context.Context, ks *keystore.KeySet, spec Spec, next *keystore.Version, asked *keystore.Fact) (Rotation, error) {
	now := r.now()
	answer := Rotation{
		To:        Ref{next.Number, next.KID},
		SignsFrom: later(expected(r.factsOf(ks), spec.Schedule, next, now), now),
	}
	p := planner{Facts: r.factsOf(ks), sch: spec.Schedule, now: now}
	active, ok := ks.Active()
	pending := p.asked()
	switch {
	case ok:
		answer.From = Ref{active.Number, active.KID}
	case pending == nil && !p.askedFor():
		return answer, nil // it signs as soon as it may without being asked
	}
	if pending != nil {
		answer.Entry = r.entryOf(ctx, requestID(ks.Name, pending))
		return answer, nil
	}
	entry, err := r.commit(ctx, ks.Name, func(at keystore.Moment, now *keystore.KeySet) ([]keystore.Record, error) {
		if v, signs := now.Active(); signs != ok || ok && v.Number != active.Number {
			return nil, fmt.Errorf("version %d signs no more: %w", answer.From.Version, keystore.ErrOvertaken)
		}
		if now.Keystore != ks.Keystore || now.Algorithm != ks.Algorithm { // version next is not the next one
			return nil, fmt.Errorf("the next version is to be %s in %s by now: %w", now.Algorithm, now.Keystore, keystore.ErrOvertaken)
		}
		now.RotateBy = asked
		return []keystore.Record{requested(now, answer, asked)}, nil
	})
	if err != nil {
		return Rotation{}, fmt.Errorf("recording the rotation: %w", err)
	}
	answer.Entry = entry
	return answer, nil
}

// rotateNow activates the successor in the same update that records the
// request, if Plan would do so now. Its caller holds the set's lock.
func (r *Rotator) rotateNow(ctx context.Context, name string, asked *keystore.Fact) (Rotation, error) {
	ks, spec, err := r.agreed(ctx, name)
	if err != nil {
		return Rotation{}, err
	}
	f := r.factsOf(ks)
	f.Rotate = asked
	now := r.now()
	step, why, ok := find(Waits(f, spec.Schedule, now), Activate)
	if !ok || why.At.IsZero() || why.At.After(now) {
		return Rotation{}, tooEarly(f, spec.Schedule, now, why, ok)
	}
	next, _ := ks.Version(step.Version)
	if err := r.prove(ctx, ks, next); err != nil {
		return Rotation{}, err
	}
	answer := Rotation{To: Ref{next.Number, next.KID}}
	if active, ok := ks.Active(); ok {
		answer.From = Ref{active.Number, active.KID}
	}
	answer.Entry, err = r.swap(ctx, ks, step, func(at keystore.Moment, set *keystore.KeySet) ([]keystore.Record, error) {
		return r.forced(at, set, spec, step, asked, &answer)
	})
	if err != nil {
		return Rotation{}, err
	}
	return answer, nil
}

// forced asks again inside the swap and activates. The request's record comes
// last, so that its entry is the answer's.
func (r *Rotator) forced(at keystore.Moment, ks *keystore.KeySet, spec Spec, step Step, asked *keystore.Fact, answer *Rotation) ([]keystore.Record, error) {
	f := r.facts(ks, at.Nodes)
	f.Rotate = asked
	now := at.Now
	again, why, ok := find(Waits(f, spec.Schedule, now), Activate)
	if !ok || again != step || why.At.IsZero() || why.At.After(now) {
		return nil, fmt.Errorf("version %d is not the next one any more: %w", step.Version, keystore.ErrOvertaken)
	}
	answer.SignsFrom = now
	rec := requested(ks, *answer, asked)
	ks.RotateBy = asked
	records, err := apply(ks, spec.Schedule, step, why, now)
	ks.RotateBy = nil
	return append(records, rec), err
}

// tooEarly says which rule holds a rotation now, and for how long.
func tooEarly(f Facts, sch Schedule, now time.Time, why Why, planned bool) *TooEarly {
	e := &TooEarly{Rule: why.Rule, SignsFrom: why.At, Text: why.Text}
	if !planned {
		e.Rule, e.Text = 1, "rule 1: there is no successor that has been published"
	}
	if e.SignsFrom.IsZero() {
		e.SignsFrom = now.Add(cacheFor(f.Set, sch, now) + sch.Skew)
	}
	e.RetryAfter = e.SignsFrom.Sub(now)
	return e
}

// requested is the record of a rotation that an operator asks for.
func requested(ks *keystore.KeySet, to Rotation, asked *keystore.Fact) keystore.Record {
	return keystore.Record{
		ID: requestID(ks.Name, asked), Principal: asked.By, Action: keystore.ActRotate, Outcome: keystore.OutcomeDone,
		KeySet: ks.Name, Version: to.To.Version, KID: to.To.KID, Reason: asked.Reason, Rule: "rotation/7",
		Detail: map[string]string{
			"from":       strconv.Itoa(to.From.Version),
			"signs_from": to.SignsFrom.Format(time.RFC3339Nano),
		},
	}
}

// requestID names the record of something asked for of a key set, or of a
// version by its kid, so that its entry is found again from the fact alone.
func requestID(of string, asked *keystore.Fact) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %d", of, asked.By, asked.At.UnixMicro()))
	return hex.EncodeToString(sum[:16])
}

// entryOf returns where the record with that id stands in the log, or "".
func (r *Rotator) entryOf(ctx context.Context, id string) string {
	receipt, ok, err := r.cfg.Audit.Find(ctx, id)
	if err != nil || !ok {
		return ""
	}
	return receipt.Entry
}

package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
	"chancery/rotation"
	"chancery/signer/api"
)

// rotations is the rotation engine as signer sees it, in the words of the wire.
type rotations struct {
	rotator   *rotation.Rotator
	keys      *keyring
	comparing *comparing
	node      string // whose log it is
	logDir    string
	// anywhere returns what any node has entered of a key set. Nil: there are no
	// others.
	anywhere func(ctx context.Context, keyset string) ([]rotation.Entered, error)
	// handovers returns what former log keys of a key set wait for.
	handovers func(keyset string) []api.Wait
	now       func() time.Time
}

func (r *rotations) Rotate(ctx context.Context, by, keyset, reason string, now bool) (api.RotateReply, error) {
	req := rotation.Request{By: by, KeySet: keyset, Reason: reason, Now: now}
	res, err := r.rotator.Rotate(ctx, req)
	// A step that another node has just taken is no conflict: it is in that node's log
	// before long, or in this one's.
	for began := r.now(); errors.Is(err, errElsewhere) && ctx.Err() == nil && r.now().Sub(began) < enforceWithin; {
		select {
		case <-ctx.Done():
		case <-time.After(lookAgain):
			res, err = r.rotator.Rotate(ctx, req)
		}
	}
	if err != nil {
		return api.RotateReply{}, wireError(err)
	}
	return api.RotateReply{
		From:      api.VersionRef{Version: res.From.Version, KID: string(res.From.KID)},
		To:        api.VersionRef{Version: res.To.Version, KID: string(res.To.KID)},
		SignsFrom: res.SignsFrom.UTC(), Entry: res.Entry,
	}, nil
}

func (r *rotations) Suspend(ctx context.Context, by, keyset string, kid keystore.KID, reason string) (api.SuspendReply, error) {
	res, err := r.rotator.Suspend(ctx, by, keyset, kid, reason)
	if err != nil {
		return api.SuspendReply{}, wireError(err)
	}
	return api.SuspendReply{Version: res.Version, KID: string(res.KID), Suspended: res.Suspended, Durable: res.Durable, Entry: res.Entry}, nil
}

func (r *rotations) Resume(ctx context.Context, by, keyset string, kid keystore.KID, reason string) (api.SuspendReply, error) {
	res, err := r.rotator.Resume(ctx, by, keyset, kid, reason)
	if err != nil {
		return api.SuspendReply{}, wireError(err)
	}
	if res.Entry == "" { // nothing was done, so nothing was entered
		return api.SuspendReply{}, api.Errorf(api.CodeConflict, "version %d is not suspended", res.Version)
	}
	return api.SuspendReply{Version: res.Version, KID: string(res.KID), Suspended: res.Suspended, Durable: res.Durable, Entry: res.Entry}, nil
}

func (r *rotations) Destroy(ctx context.Context, by, keyset string, kid keystore.KID, version int, reason string) (api.DestroyReply, error) {
	res, err := r.rotator.Destroy(ctx, rotation.Destroying{By: by, KeySet: keyset, KID: kid, Version: version, Reason: reason})
	if err != nil {
		return api.DestroyReply{}, destroyError(err)
	}
	r.comparing.Kick() // it may have stopped its keystore
	return api.DestroyReply{Version: res.Version, KID: string(res.KID), State: keystore.Destroyed.String(), Entry: res.Entry}, nil
}

// destroyError is wireError for what a keystore says of a key it was to destroy.
func destroyError(err error) error {
	switch {
	case errors.Is(err, keystore.ErrAmbiguous):
		return api.Errorf(api.CodeConflict,
			"what goes by the key's id in its keystore is not that pair alone; nothing was destroyed (hint: `chancery keys reconcile` shows what is there)").Because(err)
	case errors.Is(err, keystore.ErrUncertain):
		e := api.Errorf(api.CodeBackendUnavailable, "the key may be there still, or not: ask for the same again").Because(err)
		e.RetryAfter = 1
		return e
	}
	return wireError(err)
}

// wireError says what an operator may know of a refusal of the engine.
func wireError(err error) error {
	if early, ok := errors.AsType[*rotation.TooEarly](err); ok {
		e := api.Errorf(api.CodeTooEarly, "%s", early.Text)
		e.Rule = early.Rule
		e.RetryAfter = max(1, int64((early.RetryAfter+time.Second-1)/time.Second))
		return e
	}
	if kept, ok := errors.AsType[*rotation.Kept](err); ok {
		e := api.Errorf(api.CodeConflict, "%s", kept.Text)
		e.Rule = kept.Rule
		return e
	}
	if many, ok := errors.AsType[*rotation.TooMany](err); ok {
		e := api.Errorf(api.CodeConflict, "%v", many)
		e.RetryAfter = int64((many.RetryAfter + time.Second - 1) / time.Second)
		return e
	}
	switch {
	case errors.Is(err, rotation.ErrNotConfigured):
		return api.Errorf(api.CodeNotFound, "the key set is not in the configuration").Because(err)
	case errors.Is(err, keystore.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "no such version in the key set").Because(err)
	case errors.Is(err, rotation.ErrDisagree):
		return api.Errorf(api.CodeConflict, "this node and another one are configured differently, and it takes no step (hint: give every node the same configuration, and restart them one after another)").Because(err)
	case errors.Is(err, keystore.ErrOvertaken):
		e := api.Errorf(api.CodeConflict, "another change came first; look and ask again").Because(err)
		e.RetryAfter = 1
		return e
	case errors.Is(err, errCatalog), errors.Is(err, errStale), errors.Is(err, errLeaseOver), errors.Is(err, errClocks),
		errors.Is(err, catalog.ErrFenced), errors.Is(err, catalog.ErrBehind):
		e := api.Errorf(api.CodeLeaseExpired, "the key catalog cannot be read or written").Because(err)
		e.RetryAfter = 1
		return e
	case errors.Is(err, errUnentered):
		e := api.Errorf(api.CodeAuditUnavailable, "the log cannot be written, so the step is not in force").Because(err)
		e.RetryAfter = 1
		return e
	}
	return err
}

// KeySet describes a key set as the catalog has it now, or as this node's snapshot
// does where that cannot be had.
func (r *rotations) KeySet(ctx context.Context, set *keystore.KeySet) (api.KeySet, error) {
	f, schedule, err := r.rotator.Facts(ctx, set.Name)
	if err != nil { // not configured any more, or the catalog is down
		f, schedule = rotation.Facts{Set: set, Proven: r.keys.Proven}, rotation.Schedule{}
	}
	set = f.Set
	reply := api.KeySet{
		Name: set.Name, Purpose: string(set.Purpose), Algorithm: string(set.Algorithm), Keystore: set.Keystore,
		Revision: set.Revision, Versions: make([]api.Version, 0, len(set.Versions)),
	}
	now := r.now()
	windows := rotation.Windows(f, schedule, now)
	f.Gone = r.rotator.Trouble // one answer is enough to tell
	alarms := rotation.Alarms(f, schedule, now)
	for i := range set.Versions {
		v := &set.Versions[i]
		w := windows[v.Number]
		reply.Versions = append(reply.Versions, api.Version{
			Version: v.Number, KID: string(v.KID), State: v.State.String(), NIST: v.State.NIST(), Keystore: v.Keystore,
			PublishedAt: timeOrNull(v.PublishedAt), SignsFrom: timeOrNull(w.SignsFrom), SignsUntil: timeOrNull(w.SignsUntil),
			RetiresAt: timeOrNull(w.RetiresAt), ExpHorizon: timeOrNull(v.ExpHorizon),
			Suspended: v.Suspended != nil, Compromised: v.Compromised != nil, Alarms: alarms[v.Number],
			Algorithm: string(v.Algorithm), PublicKey: r.publicKey(set, v),
		})
	}
	return reply, nil
}

// publicKey returns in PEM by what the signatures of a digest key set are verified:
// for it this reply is what a JWKS is for others. A row is a claim: only a version
// that this node has seen sign is known here.
func (r *rotations) publicKey(set *keystore.KeySet, v *keystore.Version) string {
	known := v.State.Known() && v.Compromised == nil && r.keys.Proven(v.KID)
	if set.Purpose != keystore.PurposeDigest || !known {
		return ""
	}
	pub, err := v.Public()
	if err != nil {
		return ""
	}
	if kid, err := keystore.Thumbprint(pub); err != nil || kid != v.KID {
		return "" // the row has changed since
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: v.SPKI}))
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (r *rotations) Plan(ctx context.Context, keyset string) (api.Plan, error) {
	o, err := r.rotator.Outlook(ctx, keyset)
	if err != nil {
		return api.Plan{}, wireError(err)
	}
	plan := api.Plan{Steps: make([]api.PlanStep, 0, len(o.Steps)), Held: o.Next.String(), Waits: make([]api.Wait, 0, len(o.Waits))}
	for _, p := range o.Steps {
		plan.Steps = append(plan.Steps, api.PlanStep{
			At: p.At.UTC(), Version: p.Version, Step: string(p.Kind), Rule: p.Rule, HeldBy: p.HeldBy,
		})
	}
	for _, w := range o.Waits {
		plan.Waits = append(plan.Waits, waitOf(w, o.Now))
	}
	plan.Waits = append(plan.Waits, r.handovers(keyset)...)
	if o.Asked != nil {
		plan.Asked = &api.Asked{At: o.Asked.At.UTC(), By: o.Asked.By, Reason: o.Asked.Reason}
	}
	return plan, nil
}

func waitOf(w rotation.Why, now time.Time) api.Wait {
	return api.Wait{
		Step: string(w.Step.Kind), Version: w.Step.Version, At: timeOrNull(w.At), RetryAfter: secondsUntil(w.At, now),
		Rule: w.Rule, Text: w.Text, Since: timeOrNull(w.Since), Nodes: w.Nodes,
	}
}

// entered returns what any node has entered of a key set, in the order of time.
func (r *rotations) entered(ctx context.Context, keyset string) ([]rotation.Entered, error) {
	var entered []rotation.Entered
	for at, err := range audit.EntriesContext(ctx, r.logDir, audit.Filter{Log: "lifecycle", KeySet: keyset}) {
		if err != nil {
			return nil, fmt.Errorf("reading the lifecycle log: %w", err)
		}
		entered = append(entered, rotation.Entered{Record: at.Entry.Record, Time: at.Entry.Time, Entry: at.Name()})
	}
	if r.anywhere != nil {
		all, err := r.anywhere(ctx, keyset)
		if err != nil {
			return nil, fmt.Errorf("reading the steps of other nodes: %w", err)
		}
		entered = append(entered, without(all, entered)...)
		slices.SortStableFunc(entered, func(a, b rotation.Entered) int { return a.Time.Compare(b.Time) })
	}
	return entered, nil
}

// lives returns the lives of the versions of a key set, as the logs have them.
func (r *rotations) lives(ctx context.Context, keyset string) (*audit.KeyLives, error) {
	entered, err := r.entered(ctx, keyset)
	if err != nil {
		return nil, err
	}
	lives := audit.NewKeyLives()
	for i := range entered {
		lives.Add(&entered[i].Record, entered[i].Time, entered[i].Entry)
	}
	return lives, nil
}

func (r *rotations) History(ctx context.Context, keyset string) (api.History, error) {
	entered, err := r.entered(ctx, keyset)
	if err != nil {
		return api.History{}, err
	}
	history := api.History{Events: []api.Event{}}
	for _, e := range rotation.History(entered, keyset) {
		history.Events = append(history.Events, api.Event{
			At: e.At.UTC(), Version: e.Version, Event: e.Event, By: e.By, Reason: e.Reason, Entry: e.Entry,
		})
	}
	return history, nil
}

// without returns what of all is not among ours, whoever took the step: nodes enter
// steps for each other.
func without(all, ours []rotation.Entered) []rotation.Entered {
	type entry struct {
		id      string
		outcome keystore.Outcome
	}
	here := make(map[entry]bool)
	for _, e := range ours {
		here[entry{e.Record.ID, e.Record.Outcome}] = true
	}
	return slices.DeleteFunc(all, func(e rotation.Entered) bool { return here[entry{e.Record.ID, e.Record.Outcome}] })
}

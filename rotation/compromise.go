package rotation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
)

// ErrNotForgotten: the keys are taken from a node, and it is a node still.
var ErrNotForgotten = errors.New("the node could not be forgotten")

// A Compromising is what an operator says is in other hands: one version, every
// key of a keystore, or a node with every key it could use. KeySet, Keystore or
// Node is set.
type Compromising struct {
	By     string // the operator, as a principal
	Reason string

	KeySet   string
	KID      keystore.KID // of KeySet's version; empty: the active one
	Keystore string       // by its name in the configuration
	Node     string
}

// A Compromise is what became of one version, as far as it can be told when it is
// asked.
type Compromise struct {
	Ref
	KeySet  string
	Purpose keystore.Purpose
	Fact    keystore.Fact  // since when, by whom and why
	Before  keystore.State // its state until then
	Already bool           // it was compromised before this was asked
	// Recorded: catalog and log have it. Until then the version neither signs nor
	// is published on this node, and it is recorded as soon as it can be.
	Recorded bool
	Durable  bool   // that it does not sign survives a restart
	Entry    string // empty while it is not recorded

	Exposure   Exposure
	Lifetime   time.Duration // the longest that something it signed may live; 0: for ever
	ExpHorizon time.Time     // no token it signed on any node outlives this; zero: none is known
	Successor  Ref           // signs in its place; zero: none does, or it was not signing
	SignsSince time.Time     // since when
	// RejectedUntil is until when verifiers may reject Successor's tokens, because
	// on_gap is sign_early. Zero: none does.
	RejectedUntil time.Time
	Gap           *Gap // nil: there is and was none
}

// covers reports whether v of ks is one that c is about. Of a node these are the
// keys the world knows or is about to know: what left the published set deceives
// nobody who looks.
func (c Compromising) covers(ks *keystore.KeySet, v *keystore.Version) bool {
	switch {
	case v.State == keystore.Destroyed || v.State == keystore.Abandoned:
		return false
	case c.Node != "":
		return v.State.Known() || v.State == keystore.Pending
	case c.Keystore != "":
		return v.Keystore == c.Keystore
	}
	return ks.Name == c.KeySet && v.KID != "" && v.KID == c.KID
}

// scope is c for the log.
func (c Compromising) scope() string {
	switch {
	case c.Node != "":
		return "node " + c.Node
	case c.Keystore != "":
		return "keystore " + c.Keystore
	}
	return "key"
}

// Compromise says that keys are in other hands. It cannot be taken back. Each of
// them stops signing and leaves the published set at once, on this node also when
// neither catalog nor log can be written: then the record follows, and Recorded
// says so. It waits for no other operation on a key set. A successor that rule 1
// already allows signs in the same change; otherwise the answer states the gap.
// Asking again of one version changes nothing and answers the same; of a keystore or
// a node it takes what has been made since, too. That ctx ends stops none of it.
//
// It returns an error wrapping keystore.ErrNotFound if there is no such version or
// node; a *Kept for the only node; and beside the answer one wrapping
// ErrNotForgotten if the keys were taken from a node that could not be forgotten.
func (r *Rotator) Compromise(ctx context.Context, req Compromising) ([]Compromise, error) {
	ctx = context.WithoutCancel(ctx)
	view, err := r.looked(ctx)
	if err != nil {
		return nil, err
	}
	if req, err = r.meant(view, req); err != nil {
		return nil, err
	}
	fact := keystore.Fact{At: r.now(), By: req.By, Reason: req.Reason}
	all, err := r.takeAway(ctx, view, req, fact)
	if err != nil || req.Node == "" {
		return all, err
	}
	if err := r.cfg.ForgetNode(ctx, req.Node, fact); err != nil {
		return all, fmt.Errorf("%w: %w", ErrNotForgotten, err)
	}
	return all, nil
}

// takeAway stops every version that req is about, and then records it.
func (r *Rotator) takeAway(ctx context.Context, view *keystore.View, req Compromising, fact keystore.Fact) ([]Compromise, error) {
	var sets []*keystore.KeySet
	var pulled []*putting
	for _, ks := range view.KeySets() { // every one of them stops before anything is waited for
		if here := r.halt(ks, req, fact); here != nil {
			sets, pulled = append(sets, ks), append(pulled, here...)
		}
	}
	if len(sets) == 0 {
		return nil, fmt.Errorf("%s: no version of any key set is affected: %w", req.scope(), keystore.ErrNotFound)
	}
	braked := r.kept(ctx, pulled)
	var all []Compromise
	down := false
	for _, ks := range sets {
		err := keystore.ErrUnavailable
		if !down { // one disk that hangs is waited for once
			err = r.recordCompromise(ctx, ks.Name, req, 0)
		}
		if err != nil {
			down = true
			r.owe(owedCompromise{ks.Name, req, newestCovered(ks, req)})
			r.cfg.Log.ErrorContext(ctx, "a compromise is in force here, its record has to wait", "keyset", ks.Name, "scope", req.scope(), "err", err)
		}
		r.step(ks.Name)
		all = append(all, r.compromises(ctx, ks, view.Nodes(), req, fact, err == nil, braked)...)
	}
	for _, c := range all {
		if r.cfg.Forget != nil && c.KID != "" {
			r.cfg.Forget(c.KID)
		}
	}
	kick(r.settling)
	return all, nil
}

// looked returns the catalog's snapshot, or while that cannot be read soon, the
// last one.
func (r *Rotator) looked(ctx context.Context) (*keystore.View, error) {
	view, err := look(ctx, r, lookWithin, r.view)
	if err == nil {
		return view, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		return nil, err
	}
	return r.last, nil
}

// meant returns req with the version named that it means.
func (r *Rotator) meant(view *keystore.View, req Compromising) (Compromising, error) {
	if req.Node != "" {
		return req, r.forgettable(view, req.Node)
	}
	if req.Keystore != "" {
		return req, nil
	}
	ks, ok := view.KeySet(req.KeySet)
	if !ok {
		return req, fmt.Errorf("key set %q: %w", req.KeySet, keystore.ErrNotFound)
	}
	v, ok := ks.Active()
	if req.KID != "" {
		v, ok = ks.ByKID(req.KID)
	}
	if !ok {
		return req, fmt.Errorf("key set %q has no such version: %w", req.KeySet, keystore.ErrNotFound)
	}
	req.KID = v.KID
	return req, nil
}

// forgettable returns nil if the node is another one than this.
func (r *Rotator) forgettable(view *keystore.View, name string) error {
	if _, ok := view.Node(name); !ok && name != r.cfg.Node {
		return fmt.Errorf("node %q: %w", name, keystore.ErrNotFound)
	}
	if r.cfg.ForgetNode == nil || name == r.cfg.Node {
		return &Kept{Rule: 6, Text: fmt.Sprintf("node %s is the one that answers, or the only one: nothing was changed (hint: `chancery compromise --token NAME` takes the keys of each of its keystores away; then stop it)", name)}
	}
	return nil
}

// halt stops the versions of ks that req is about, in memory and on the brake,
// before anything is waited for. It returns nil if there are none, and otherwise
// what it has put on the brake.
func (r *Rotator) halt(ks *keystore.KeySet, req Compromising, fact keystore.Fact) []*putting {
	var pulled []*putting
	affected := false
	for i := range ks.Versions {
		v := &ks.Versions[i]
		if !req.covers(ks, v) {
			continue
		}
		affected = true
		if v.KID == "" || v.Compromised != nil {
			continue
		}
		if r.cfg.Revoke != nil {
			r.cfg.Revoke(v.KID, fact)
		}
		if v.State.Known() {
			held := fact
			held.Reason = "compromised: " + fact.Reason
			pulled = append(pulled, r.pull(v.KID, held))
		}
	}
	if !affected {
		return nil
	}
	return append([]*putting{}, pulled...)
}

// kept waits a little for the brake's disk, and reports whether it has it all.
func (r *Rotator) kept(ctx context.Context, pulled []*putting) bool {
	ctx, cancel := context.WithTimeout(ctx, brakeWithin)
	defer cancel()
	ok := true
	for _, p := range pulled {
		if err := p.wait(ctx); err != nil {
			r.cfg.Log.ErrorContext(ctx, "the brake file cannot be written", "err", err)
			ok = false
		}
	}
	return ok
}

// recordCompromise writes what is compromised of one key set to catalog and log,
// all of it in one change, and nothing that is written already. newest is the
// newest version there was when it was asked, if that was before; otherwise 0.
func (r *Rotator) recordCompromise(ctx context.Context, name string, req Compromising, newest int) error {
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	next := r.ready(ctx, name, req)
	if err := r.acquireRecords(ctx); err != nil {
		return err
	}
	_, err := bounded(ctx, r, func() (string, error) {
		defer r.releaseRecords()
		return r.commit(ctx, name, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			if newest > 0 && paid(ks, req, newest) {
				return nil, nil
			}
			return r.compromise(at, ks, req, next)
		})
	})
	return err
}

// ready returns the number of the version that may sign in place of those that
// req takes away, if its key is there; 0: none. A keystore that does not answer
// holds up nothing: then the next pass activates it.
func (r *Rotator) ready(ctx context.Context, name string, req Compromising) int {
	ctx, cancel := context.WithTimeout(ctx, stopWithin/4)
	defer cancel()
	next, err := bounded(ctx, r, func() (int, error) {
		ks, spec, err := r.keySet(ctx, name)
		if err != nil {
			return 0, err
		}
		ahead := r.factsOf(ks)
		ahead.Set = ks.Clone()
		now := r.now()
		marked(ahead.Set, spec.Schedule, req, keystore.Fact{At: now, By: req.By, Reason: req.Reason})
		v, _ := dueIn(ahead, spec.Schedule, now)
		if v == nil {
			return 0, nil
		}
		return v.Number, r.prove(ctx, ks, v)
	})
	if err != nil {
		return 0
	}
	return next
}

// marked marks the versions of ks that req is about, and returns them, unless the
// catalog says already that they are compromised. A snapshot may have some whose
// record waits.
func marked(ks *keystore.KeySet, sch Schedule, req Compromising, fact keystore.Fact) []*keystore.Version {
	var vs []*keystore.Version
	for i := range ks.Versions {
		v := &ks.Versions[i]
		if !req.covers(ks, v) || v.Compromised != nil && !v.State.Known() {
			continue
		}
		since := fact
		if v.Compromised != nil {
			since = *v.Compromised
		}
		mark(ks, sch, v, since)
		vs = append(vs, v)
	}
	return vs
}

// dueIn returns the version that ends the gap of a set now and why, or nil.
func dueIn(f Facts, sch Schedule, now time.Time) (*keystore.Version, Why) {
	step, why, ok := find(Waits(f, sch, now), Activate)
	if !ok || why.At.IsZero() || why.At.After(now) || stopped(f.Set) == nil {
		return nil, why
	}
	v, _ := f.Set.Version(step.Version)
	return v, why
}

// compromise marks inside the change, and activates version next if that is the
// one to end the gap. Each version has its record, the activation comes first.
func (r *Rotator) compromise(at keystore.Moment, ks *keystore.KeySet, req Compromising, next int) ([]keystore.Record, error) {
	_, spec, unknown := r.of(ks.Name) // one that is not configured is still known to the world
	fact := keystore.Fact{At: at.Now, By: req.By, Reason: req.Reason}
	vs := marked(ks, spec.Schedule, req, fact)
	if len(vs) == 0 {
		return nil, nil
	}
	var records []keystore.Record
	if unknown == nil {
		var err error
		if records, err = r.succeed(at, ks, spec.Schedule, req.By, next); err != nil {
			return nil, err
		}
	}
	for _, v := range vs {
		rec := factRecord(ks, v, keystore.ActCompromise, fact)
		if v.KID == "" {
			rec.ID = requestID(v.KeyID.String(), &fact)
		}
		rec.Detail["scope"], rec.Detail["before"] = req.scope(), StateBefore(v).String()
		records = append(records, rec)
	}
	return records, nil
}

// succeed activates version next if that is the one to end the gap of ks now.
func (r *Rotator) succeed(at keystore.Moment, ks *keystore.KeySet, sch Schedule, by string, next int) ([]keystore.Record, error) {
	f := r.facts(ks, at.Nodes)
	v, why := dueIn(f, sch, at.Now)
	if v == nil || v.Number != next {
		return nil, nil
	}
	v, _ = ks.Version(next) // f may have a copy of the set
	records, err := activate(ks, sch, v, why, at.Now)
	for i := range records {
		records[i].Principal = by
	}
	return records, err
}

// compromises returns what became of the versions of a key set that req is about.
// seen is the set before it.
func (r *Rotator) compromises(ctx context.Context, seen *keystore.KeySet, nodes []keystore.Node, req Compromising, fact keystore.Fact, recorded, braked bool) []Compromise {
	_, spec, _ := r.of(seen.Name) // one that is not configured has no schedule
	ks, known := seen.Clone(), false
	if recorded {
		if view, err := look(ctx, r, lookWithin, r.view); err == nil {
			if now, ok := view.KeySet(seen.Name); ok {
				ks, nodes, known = now.Clone(), view.Nodes(), true // with what has been made since
			}
		}
	}
	if !known { // what cannot be read is in force all the same
		marked(ks, spec.Schedule, req, fact)
	}
	f := r.facts(ks, nodes)
	var all []Compromise
	answers := recorded // a log that does not answer is asked once
	for i := range ks.Versions {
		v := &ks.Versions[i]
		if v.Compromised == nil || !covered(seen, ks, v, req) {
			continue
		}
		was, ok := seen.Version(v.Number)
		c := Compromise{
			Ref: Ref{v.Number, v.KID}, KeySet: ks.Name, Purpose: ks.Purpose, Fact: *v.Compromised, Before: StateBefore(v),
			Already: ok && was.Compromised != nil, Recorded: recorded, Durable: recorded || braked,
			Lifetime: max(v.MaxLifetime, lifetime(ks, spec.Schedule, v.Compromised.At)), ExpHorizon: v.ExpHorizon,
			Exposure: exposure(f, spec.Schedule, v),
		}
		if answers {
			c.Entry = r.entrySoon(ctx, requestID(cmp.Or(string(v.KID), v.KeyID.String()), v.Compromised))
			answers = c.Entry != ""
		}
		r.cover(&c, f, spec.Schedule, v)
		all = append(all, c)
	}
	return all
}

// covered reports whether v is one that req is or was about: a pending version
// that was given up is, though a second look would leave it out.
func covered(seen, ks *keystore.KeySet, v *keystore.Version, req Compromising) bool {
	if before, ok := seen.Version(v.Number); ok && req.covers(seen, before) {
		return true
	}
	return req.covers(ks, v)
}

// cover says whether a version that signed has a successor, or leaves a gap.
func (r *Rotator) cover(c *Compromise, f Facts, sch Schedule, v *keystore.Version) {
	if c.Before != keystore.Active {
		if gap, ok := GapOf(f, sch, r.now()); ok {
			c.Gap = &gap
		}
		return
	}
	next, rejected := heir(f.Set, sch, v)
	if next == nil {
		if gap, ok := GapOf(f, sch, r.now()); ok {
			c.Gap = &gap
		}
		return
	}
	c.Successor, c.SignsSince, c.RejectedUntil = Ref{next.Number, next.KID}, next.ActivatedAt, rejected
	if next.ActivatedAt.After(c.Fact.At) {
		c.Gap = &Gap{From: c.Fact.At, Until: next.ActivatedAt}
	}
}

// Gap returns the gap of a key set as it is in a snapshot, if it has one. It asks
// neither catalog nor keystore.
func (r *Rotator) Gap(ks *keystore.KeySet) (Gap, bool) {
	_, spec, err := r.of(ks.Name)
	if err != nil || stopped(ks) == nil {
		return Gap{}, false
	}
	return GapOf(r.factsOf(ks), spec.Schedule, r.now())
}

// owe keeps a compromise that could not be recorded. It is kept in memory: after
// a restart the brake still stops the version, and the operator asks again.
func (r *Rotator) owe(owed owedCompromise) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.owed, owed) {
		r.owed = append(r.owed, owed)
	}
}

type owedCompromise struct {
	name   string
	req    Compromising
	newest int // version that it was about when it was asked
}

// newestCovered returns the newest version of ks that req is about.
func newestCovered(ks *keystore.KeySet, req Compromising) (newest int) {
	for i := range ks.Versions {
		if v := &ks.Versions[i]; req.covers(ks, v) {
			newest = max(newest, v.Number)
		}
	}
	return newest
}

// paid reports whether another node has recorded since that all is compromised that
// req was about, up to the newest version there was. What has been made after that
// is in nobody else's hands for all that is known.
func paid(ks *keystore.KeySet, req Compromising, newest int) bool {
	return !slices.ContainsFunc(ks.Versions, func(v keystore.Version) bool {
		return v.Number <= newest && v.Compromised == nil && req.covers(ks, &v)
	})
}

// payOwed records what could not be recorded before, in its order.
func (r *Rotator) payOwed(ctx context.Context) error {
	for {
		r.mu.Lock()
		owed := slices.Clone(r.owed)
		r.mu.Unlock()
		if len(owed) == 0 {
			return nil
		}
		err := r.recordCompromise(ctx, owed[0].name, owed[0].req, owed[0].newest)
		if err != nil && !errors.Is(err, keystore.ErrNotFound) {
			return fmt.Errorf("recording a compromise of %s: %w", owed[0].name, err)
		}
		r.mu.Lock()
		r.owed = slices.DeleteFunc(r.owed, func(o owedCompromise) bool { return o == owed[0] })
		r.mu.Unlock()
		r.step(owed[0].name)
	}
}

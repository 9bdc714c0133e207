package rotation

import (
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
)

// A Gap is the time in which a key set has no version that may sign, because the
// one that did is compromised.
type Gap struct {
	From  time.Time
	Until time.Time // zero: that is not for time to say, see Text
	// Soonest is before when it cannot end: what a node or a key has to do first may
	// be done at any moment. Zero: only an operator ends it.
	Soonest time.Time
	Text    string // what the end waits for, the rule named first; empty once it is over
}

// stopped returns the version that signed last, if it is compromised and no
// other has signed since: the set has a gap. Nothing but a compromise leaves a
// set without an active version once it had one.
func stopped(ks *keystore.KeySet) *keystore.Version {
	var last *keystore.Version
	for i := range ks.Versions {
		v := &ks.Versions[i]
		if v.State == keystore.Active {
			return nil
		}
		if !v.ActivatedAt.IsZero() && (last == nil || v.ActivatedAt.After(last.ActivatedAt)) {
			last = v
		}
	}
	if last == nil || last.Compromised == nil {
		return nil
	}
	return last
}

// GapOf returns the gap that a key set has at now, if it has one, and until when
// it lasts as far as that can be told. It is pure.
func GapOf(f Facts, sch Schedule, now time.Time) (Gap, bool) {
	last := stopped(f.Set)
	if last == nil {
		return Gap{}, false
	}
	gap := Gap{From: last.Compromised.At}
	waits := Waits(f, sch, now)
	ends := func(why Why) (Gap, bool) {
		gap.Text = why.Text
		switch {
		case !why.At.IsZero():
			gap.Until = why.At
			if why.Step.Kind != Activate {
				gap.Until = later(why.At, now).Add(window(f.Set, sch, now))
			}
			gap.Soonest = gap.Until
			if len(why.Nodes) > 0 { // they may acknowledge at any moment
				gap.Soonest = acknowledged(f, why.Nodes, now).Add(window(f.Set, sch, now))
			}
		case why.Rule == 1 || why.Rule == 8: // a node acknowledges, or a key is made or proven
			gap.Soonest = now.Add(window(f.Set, sch, now))
		}
		return gap, true
	}
	if _, why, ok := find(waits, Activate); ok {
		return ends(why)
	}
	if (planner{Facts: f, sch: sch, now: now}).askedFor() {
		gap.Text = "rule 6: the authority's key is compromised; the next one waits for `rotation now`"
		return gap, true
	}
	// A version has to be made, published, and known to every cache first.
	for _, kind := range []Kind{Publish, Generate} {
		if _, why, ok := find(waits, kind); ok {
			return ends(why)
		}
	}
	gap.Text = "rule 6: no version is to be made"
	return gap, true
}

// acknowledged is before when not all of these nodes have acknowledged a version, or
// may serve no more: one that an operator has forgotten never does.
func acknowledged(f Facts, names []string, now time.Time) time.Time {
	soonest := now
	for i := range f.Nodes {
		if n := &f.Nodes[i]; n.Forgotten != nil && slices.Contains(names, n.Name) {
			end, _ := n.ServedUntil()
			soonest = later(soonest, end)
		}
	}
	return soonest
}

// window is how long a version that is served now waits before it signs in a gap.
func window(ks *keystore.KeySet, sch Schedule, now time.Time) time.Duration {
	if sch.SignEarly {
		return 0
	}
	return cacheFor(ks, sch, now) + sch.Skew
}

// askedFor reports whether a gap ends only by a rotation that an operator asks
// for: those who trust a CA have to be given the certificate of its next key
// first, and only the operator knows when they have it.
func (p planner) askedFor() bool {
	return p.Set.Purpose == keystore.PurposeCA && stopped(p.Set) != nil && p.asked() == nil
}

// early returns the activation in a gap of a version that every node serves,
// before caches have forgotten the set without it, where the configuration wants
// that: what is rejected for a while is then less bad than what is not signed.
func (p planner) early(w Why, served, safe time.Time) Why {
	if !p.sch.SignEarly || !safe.After(served) || stopped(p.Set) == nil {
		return w
	}
	w.At, w.Rule = served, 6
	w.Text = fmt.Sprintf("rule 6: on_gap is sign_early, so verifiers may reject its tokens until %s", p.clock(safe))
	return w
}

// An Exposure is how long the world may be deceived by a key that is in other
// hands, counted from when it was marked.
type Exposure struct {
	// Caches is when the last cache that complies has forgotten the key. Zero: no
	// set has had it.
	Caches time.Time
	// CutOff is the same behind a node that has been cut off from the catalog since
	// then. Zero: no other node may serve.
	CutOff time.Time
	// Signing is when the last node that goes by an older snapshot stops signing by
	// it. Zero: it was not signing.
	Signing time.Time
}

// exposure returns how long a compromised version may deceive.
func exposure(f Facts, sch Schedule, v *keystore.Version) Exposure {
	at, was := v.Compromised.At, StateBefore(v)
	window := cacheFor(f.Set, sch, at) + sch.Skew
	var e Exposure
	switch {
	case was.Known():
		e.Caches = at.Add(window)
	case was == keystore.Retired && v.RetiredAt.Add(window).After(at):
		e.Caches = v.RetiredAt.Add(window)
	}
	if was == keystore.Active {
		e.Signing = at
	}
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if n.Name == f.Self || !n.MayServe(at) || !was.Known() {
			continue
		}
		if until, ok := n.ServedUntil(); ok && n.Revision < f.Set.Revision {
			if n.StoppedAt.IsZero() { // it may have read the catalog, and renewed, just before
				until = later(until, at.Add(n.PublishesUntil.Sub(n.SeenAt)))
			}
			e.CutOff = later(e.CutOff, until.Add(window))
		}
		if was == keystore.Active && n.MaySign(at) {
			e.Signing = at.Add(sch.Lease)
		}
	}
	return e
}

// StateBefore returns the state in which a compromised version was marked. It is
// pure.
func StateBefore(v *keystore.Version) keystore.State {
	at := v.Compromised.At
	switch {
	case v.State == keystore.Pending || v.State == keystore.Abandoned:
		return keystore.Pending
	case v.RetiredAt.Before(at):
		return keystore.Retired
	case v.ActivatedAt.IsZero():
		return keystore.Published
	case v.StoppedAt.Before(at):
		return keystore.Retiring
	}
	return keystore.Active
}

// mark makes v compromised and takes it out of everything: it leaves the set and
// never signs. A pending one is given up at once, so that nothing waits for a key
// that must not be used; should it come to be, it is a key without a version.
func mark(ks *keystore.KeySet, sch Schedule, v *keystore.Version, fact keystore.Fact) {
	now := fact.At
	v.Compromised = &fact
	switch v.State {
	case keystore.Pending:
		v.State, v.DestroyedAt = keystore.Abandoned, now
	case keystore.Active:
		v.State, v.StoppedAt, v.RetiredAt = keystore.Retired, now, now
		v.MaxLifetime = max(v.MaxLifetime, lifetime(ks, sch, now))
		if ks.Purpose != keystore.PurposeCA { // the rotation asked for was from this version on
			ks.RotateBy = nil
		}
	case keystore.Published, keystore.Retiring:
		v.State, v.RetiredAt = keystore.Retired, now
	}
}

// heir returns the version that took over from v, which is compromised and was
// active, or nil; rejected is until when verifiers may reject its tokens, because
// it signed before every cache knew it.
func heir(ks *keystore.KeySet, sch Schedule, v *keystore.Version) (next *keystore.Version, rejected time.Time) {
	for i := range ks.Versions {
		u := &ks.Versions[i]
		if u.Number != v.Number && !u.ActivatedAt.Before(v.Compromised.At) && (next == nil || u.ActivatedAt.Before(next.ActivatedAt)) {
			next = u
		}
	}
	if next == nil || !sch.SignEarly || next.ServedAt.IsZero() {
		return next, time.Time{}
	}
	if safe, first := signsFrom(Facts{Set: ks}, sch, next, next.ServedAt, next.ActivatedAt); !first && safe.After(next.ActivatedAt) {
		return next, safe
	}
	return next, time.Time{}
}

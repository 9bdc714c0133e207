package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
)

// A Kind is what a step does.
type Kind string

// The kinds of step. Retire is not a step of its own: it happens in the swap
// that activates the next version, and timelines show it.
const (
	Remove   Kind = "remove"   // the version leaves the published set
	Activate Kind = "activate" // it signs from now on, and its predecessor retires
	Publish  Kind = "publish"  // its key is found and proven, and it joins the published set
	Generate Kind = "generate" // it is recorded, and its key made
	Destroy  Kind = "destroy"  // its private key ends
	Retire   Kind = "retire"   // it stops signing
)

// A Step is one change of one version. Steps are comparable.
type Step struct {
	Kind    Kind
	Version int
	From    int // the version that retires when Version activates; 0: none
}

// NoStep means that there is nothing to do now.
var NoStep Step

// Facts are what Plan goes by.
type Facts struct {
	Set *keystore.KeySet
	// Proven reports whether this node has seen the token sign a challenge that
	// verifies under the version's public key. Nil: every version is taken to be.
	Proven func(keystore.KID) bool
	// Gone returns why the private key of a version cannot be used, such as that
	// its keystore does not have it, once that has been seen more than once, or "".
	// Nil: none is gone.
	Gone func(keystore.KID) string
	// Rotate is a rotation an operator asks for, in place of the set's RotateBy.
	Rotate *keystore.Fact
	// Nodes are those that may sign or serve by the catalog, and what has become of
	// others. Self is the one that plans. Without nodes the last acknowledgement of a
	// version stands for those of all.
	Nodes []keystore.Node
	Self  string
	Clock Clock
}

// A Clock is what is known of the clock that now is read from.
type Clock struct {
	// Steady is since when, in this boot, it has gone as fast as real time. Zero: for
	// as long as anything matters.
	Steady time.Time
	// Synchronised: it is held against a reference, so that also what was before
	// Steady was when it says.
	Synchronised bool
}

// A Why says what a step waits for, or by what it is done.
type Why struct {
	Step Step
	// At is the earliest moment of the step. Zero: it waits for something other
	// than time.
	At   time.Time
	Rule int    // the rotation rule that decides; 0: the schedule
	Text string // in words, the rule named first
	// Since is when the version came to where the step finds it, or when an operator
	// asked for a version that is not there yet. Zero: neither.
	Since time.Time
	Nodes []string // that it waits for, by name
}

// String returns the step and what holds it.
func (w Why) String() string {
	if w.Step == NoStep {
		return w.Text
	}
	return fmt.Sprintf("%s version %d: %s", w.Step.Kind, w.Step.Version, w.Text)
}

// Plan returns the next step of a key set at now and why it is due, or NoStep
// and what holds the one that comes next. It reads no clock and touches no key.
//
// When several steps are due, removals come first, because nothing can hold
// them up, and generation last, because it can take long.
func Plan(f Facts, sch Schedule, now time.Time) (Step, Why) {
	next := Why{Text: "nothing to do: the key set rotates on request only"}
	if active, ok := f.Set.Active(); ok {
		next.Text += planner{Facts: f}.unlike(active)
	}
	for _, w := range Waits(f, sch, now) {
		if !w.At.IsZero() && !w.At.After(now) {
			return w.Step, w
		}
		if next.Step == NoStep || sooner(w, next) {
			next = w
		}
	}
	return NoStep, next
}

// sooner reports whether a comes before b; what waits for no known time comes
// last.
func sooner(a, b Why) bool {
	return !a.At.IsZero() && (b.At.IsZero() || a.At.Before(b.At))
}

// Waits returns every step that the key set will take next and what each waits
// for, in the order Plan prefers them. At most one step is listed for each
// version. It is pure.
func Waits(f Facts, sch Schedule, now time.Time) []Why {
	p := planner{Facts: f, sch: sch, now: now}
	var waits []Why
	add := func(w Why, ok bool) {
		if ok {
			waits = append(waits, w)
		}
	}
	for _, v := range f.Set.InState(keystore.Retiring) {
		add(p.remove(v))
	}
	for _, v := range f.Set.InState(keystore.Published) {
		add(p.discard(v))
	}
	add(p.activate())
	for _, v := range f.Set.InState(keystore.Pending) {
		add(p.publish(v), true)
	}
	add(p.generate())
	for _, v := range f.Set.InState(keystore.Retired) {
		add(p.destroy(v))
	}
	return waits
}

type planner struct {
	Facts
	sch Schedule
	now time.Time
}

// asked returns the rotation an operator asked for, or nil. One that was asked
// for before the active version was suspended, or at the same moment of a clock
// that stands still, does not count any more: stopping is easier than starting.
func (p planner) asked() *keystore.Fact {
	asked := p.Rotate
	if asked == nil {
		asked = p.Set.RotateBy
	}
	active, ok := p.Set.Active()
	if asked != nil && ok && active.Suspended != nil && !asked.At.After(active.Suspended.At) {
		return nil
	}
	return asked
}

// fits reports whether v has the algorithm and keystore that the next version
// is to have, and a key to sign with.
func (p planner) fits(v *keystore.Version) bool {
	return v.Algorithm == p.Set.Algorithm && v.Keystore == p.Set.Keystore && p.gone(v) == ""
}

func (p planner) gone(v *keystore.Version) string {
	if p.Gone == nil {
		return ""
	}
	return p.Gone(v.KID)
}

// successor returns the version to activate next, or nil; suspended is one that
// would be but for its suspension.
func (p planner) successor() (next, suspended *keystore.Version) {
	for _, v := range p.Set.InState(keystore.Published) {
		switch {
		case !p.fits(v) || v.Compromised != nil:
		case v.Suspended == nil && next == nil:
			next = v
		case v.Suspended != nil && suspended == nil:
			suspended = v
		}
	}
	return next, suspended
}

func (p planner) remove(v *keystore.Version) (Why, bool) {
	w := Why{Step: Step{Kind: Remove, Version: v.Number}, Rule: 2, Since: v.StoppedAt}
	until, ok := keptUntil(p.Set, p.sch, v, p.now)
	if !ok {
		return w, false
	}
	w.At = until
	w.Text = fmt.Sprintf("rule 2: tokens it signed may be valid until %s", p.clock(until))
	if real := p.Clock.elapses(v.StoppedAt, until); real.After(until) {
		w.At, w.Rule = real, 9
		w.Text = fmt.Sprintf("rule 9: nobody knows whether the clock was right before %s, and it is not synchronised; as much real time is over at %s",
			p.clock(p.Clock.Steady), p.clock(real))
	}
	return w, true
}

// elapses returns when as much real time has passed as there is from one moment
// to another. The clock tells as long as it has been steady from the first one
// on, or is held against a reference; otherwise the time is counted anew from
// where it became steady (rule 9).
func (c Clock) elapses(from, to time.Time) time.Time {
	if c.Synchronised || !c.Steady.After(from) {
		return to
	}
	return c.Steady.Add(to.Sub(from))
}

// publish ends a pending version, whose key another node may be making.
func (p planner) publish(v *keystore.Version) Why {
	w := Why{
		Step: Step{Kind: Publish, Version: v.Number}, At: p.now, Rule: 8,
		Text: "rule 8: its key is found and proven first", Since: v.CreatedAt,
	}
	if p.makesElsewhere(v) {
		w.At, w.Text = time.Time{}, fmt.Sprintf("rule 8: node %s is making its key", v.Maker)
		w.Nodes = []string{v.Maker}
	}
	return w
}

// makesElsewhere reports whether another node, that lives, is making the key of a
// pending version.
func (p planner) makesElsewhere(v *keystore.Version) bool {
	return v.Maker != p.Self && slices.ContainsFunc(p.Nodes, func(n keystore.Node) bool {
		return n.Name == v.Maker && n.MaySign(p.now)
	})
}

// discard removes a published version that the configuration no longer wants,
// or that has lost its key, once another one is served. It has signed nothing.
// One that has lost its key before anyone served it need not wait.
func (p planner) discard(v *keystore.Version) (Why, bool) {
	next, _ := p.successor()
	replaced := next != nil && !next.ServedAt.IsZero()
	gone := p.gone(v)
	if p.fits(v) || !replaced && (gone == "" || !v.ServedAt.IsZero()) {
		return Why{}, false
	}
	step := Step{Kind: Remove, Version: v.Number}
	if gone != "" {
		return Why{Step: step, At: p.now, Rule: 8, Text: "rule 8: never used; " + gone, Since: v.PublishedAt}, true
	}
	return Why{
		Step: step, At: p.now, Since: v.PublishedAt,
		Text: fmt.Sprintf("schedule: never used; the configuration asks for %s in %s", p.Set.Algorithm, p.Set.Keystore),
	}, true
}

func (p planner) activate() (Why, bool) {
	w, ok := p.activation()
	active, hasActive := p.Set.Active()
	if v, _ := p.Set.Version(w.Step.Version); ok && hasActive && v.Keystore != active.Keystore {
		w.Text += fmt.Sprintf("; version %d is in %s", v.Number, v.Keystore)
	}
	return w, ok
}

func (p planner) activation() (Why, bool) {
	v, suspended := p.successor()
	active, hasActive := p.Set.Active()
	asked := p.asked() != nil
	if v == nil {
		v = suspended
	}
	if v == nil || hasActive && !asked && p.sch.Every <= 0 && active.Suspended == nil {
		return Why{}, false
	}
	w := Why{Step: Step{Kind: Activate, Version: v.Number}, Since: v.PublishedAt}
	if hasActive {
		w.Step.From = active.Number
	}
	hold := func(rule int, format string, args ...any) (Why, bool) {
		w.Rule, w.Text = rule, fmt.Sprintf("rule %d: ", rule)+fmt.Sprintf(format, args...)
		return w, true
	}
	last, waits, until := evidence(p.Facts, v, p.now)
	switch {
	case hasActive && active.Suspended != nil && !asked:
		return hold(6, "version %d is suspended; nothing activates until resume or rotate", active.Number)
	case v.Suspended != nil:
		return hold(6, "version %d is suspended itself", v.Number)
	case p.askedFor():
		return hold(6, "the authority's key is compromised; version %d waits for `rotation now`", v.Number)
	case v.ServedAt.IsZero():
		w.Nodes = waits
		return hold(1, "no node has said that it serves version %d", v.Number)
	case p.Proven != nil && !p.Proven(v.KID):
		return hold(8, "the key of version %d has not been seen to sign", v.Number)
	}
	if len(waits) > 0 {
		return p.unacknowledged(w, v, waits, until)
	}
	safe, first := signsFrom(p.Facts, p.sch, v, last, p.now)
	w.At, w.Rule = safe, 1
	w.Text = fmt.Sprintf("rule 1: caches may hold the old set until %s", p.clock(safe))
	if first {
		w.Text = fmt.Sprintf("rule 1: first served at %s", p.clock(safe.Truncate(time.Second))) // it has been
	}
	if real := p.Clock.elapses(last, safe); real.After(safe) {
		safe, w.At, w.Rule = real, real, 9
		w.Text = fmt.Sprintf("rule 9: nobody knows whether the clock was right before %s; caches may hold the old set until %s",
			p.clock(p.Clock.Steady), p.clock(real))
	}
	if !hasActive {
		w = p.early(w, last, safe)
	}
	if due, ok := p.due(); ok && due.After(safe) {
		w.At, w.Rule = due, 0
		w.Text = fmt.Sprintf("schedule: version %d signs until %s", active.Number, p.clock(due))
	}
	return w, true
}

// unacknowledged is an activation that waits for nodes that may serve a set
// without v: until they say that they serve it, or may serve no more.
func (p planner) unacknowledged(w Why, v *keystore.Version, waits []string, until time.Time) (Why, bool) {
	w.Rule, w.Nodes = 1, waits
	w.Text = fmt.Sprintf("rule 1: node %s has not said that it serves version %d", waits[0], v.Number)
	if len(waits) > 1 {
		w.Text = fmt.Sprintf("rule 1: nodes %s have not said that they serve version %d", strings.Join(waits, ", "), v.Number)
	}
	if !until.IsZero() {
		w.At, _ = signsFrom(p.Facts, p.sch, v, until, p.now)
		w.Text += fmt.Sprintf("; if not seen again, it serves until %s", p.clock(until))
	}
	return w, true
}

// due returns when the active version's time is over by the schedule; false if
// nothing but safety holds its successor.
func (p planner) due() (time.Time, bool) {
	active, ok := p.Set.Active()
	if !ok || p.asked() != nil || p.sch.Every <= 0 {
		return time.Time{}, false
	}
	return active.ActivatedAt.Add(p.sch.Every), true
}

func (p planner) generate() (Why, bool) {
	if len(p.Set.InState(keystore.Pending)) > 0 {
		return Why{}, false
	}
	next, suspended := p.successor()
	asked := p.asked() != nil
	if next != nil || suspended != nil && !asked {
		return Why{}, false
	}
	w := Why{Step: Step{Kind: Generate, Version: nextNumber(p.Set)}, At: p.now, Text: "schedule: there is no version to sign"}
	active, hasActive := p.Set.Active()
	switch due, ok := p.due(); {
	case !hasActive:
	case asked:
		w.Rule, w.Text = 7, "rule 7: an operator asked for a rotation"
		w.Since = p.asked().At
	case p.sch.Ahead:
		w.Text = fmt.Sprintf("schedule: the successor of version %d is published ahead", active.Number)
	case ok:
		w.At = due.Add(-p.sch.lead())
		w.Text = fmt.Sprintf("schedule: version %d signs until %s", active.Number, p.clock(due))
	default:
		return Why{}, false
	}
	if hasActive {
		w.Text += p.unlike(active)
	}
	if until, n := p.givenUp(); until.After(w.At) {
		w.At, w.Rule = until, 8
		w.Text = fmt.Sprintf("rule 8: the last %d attempts came to nothing; the next is at %s", n, p.clock(until))
	}
	if known := len(p.Set.Known()); isLimited(p.Set) && known >= MaxKnown {
		w.At, w.Rule = time.Time{}, 2
		w.Text = fmt.Sprintf("rule 2: %d versions are known, no more than %d may be", known, MaxKnown)
	}
	return w, true
}

// unlike tells in what the next version is to differ from the active one.
func (p planner) unlike(active *keystore.Version) string {
	switch algorithm, moves := p.Set.Algorithm != active.Algorithm, p.Set.Keystore != active.Keystore; {
	case algorithm && moves:
		return fmt.Sprintf("; the next version is %s and made in %s", p.Set.Algorithm, p.Set.Keystore)
	case algorithm:
		return fmt.Sprintf("; the next version is %s", p.Set.Algorithm)
	case moves:
		return fmt.Sprintf("; the next version is made in %s", p.Set.Keystore)
	}
	return ""
}

// givenUp spaces attempts whose keys never came to be, or were lost before they
// signed, so that a crash loop or a token that loses what it has made makes no
// heap of rows and keys: the first is repeated at once, the following after a
// second, two, four, … up to an hour.
func (p planner) givenUp() (until time.Time, attempts int) {
	var last time.Time
	for i := len(p.Set.Versions) - 1; i >= 0; i-- {
		v := &p.Set.Versions[i]
		unused := v.State == keystore.Retired || v.State == keystore.Published && p.gone(v) != ""
		if v.State != keystore.Abandoned && !(unused && v.ActivatedAt.IsZero()) {
			break
		}
		attempts++
		last = later(last, later(v.DestroyedAt, later(v.PublishedAt, v.RetiredAt)))
	}
	// A last attempt that lies ahead was made before the clock was set back.
	if attempts < 2 || last.After(p.now) {
		return time.Time{}, attempts
	}
	return last.Add(min(time.Second<<min(attempts-2, 12), time.Hour)), attempts
}

func (p planner) destroy(v *keystore.Version) (Why, bool) {
	forEver := p.Set.Purpose == keystore.PurposeCA || p.Set.Purpose == keystore.PurposeAudit
	if p.sch.DestroyAfter <= 0 || forEver {
		return Why{}, false
	}
	at := v.RetiredAt.Add(p.sch.DestroyAfter)
	return Why{
		Step: Step{Kind: Destroy, Version: v.Number}, At: at, Rule: 9, Since: v.RetiredAt,
		Text: fmt.Sprintf("rule 9: destroy_after keeps it until %s", p.clock(at)),
	}, true
}

// clock writes a moment for people: the time of day on the same day, otherwise
// with the date. It rounds up, so that what is said to be over is over.
func (p planner) clock(t time.Time) string {
	if up := t.Truncate(time.Second); up.Before(t) {
		t = up.Add(time.Second)
	}
	t = t.UTC()
	if now := p.now.UTC(); t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.RFC3339)
}

func nextNumber(ks *keystore.KeySet) int {
	n := 0
	for i := range ks.Versions {
		n = max(n, ks.Versions[i].Number)
	}
	return n + 1
}

func later(a, b time.Time) time.Time {
	if cmp.Compare(a.UnixMicro(), b.UnixMicro()) < 0 {
		return b
	}
	return a
}

package review

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// Options of Make.
type Options struct {
	Since, Until time.Time     // the period: not before, and before; zero: all there is
	KeySet       string        // only this one; empty: all
	Now          time.Time     // when the report is made
	Lease        time.Duration // how long a node may go on signing by an old view; zero: DefaultLease
	Checked      []Checked     // what verification said of the logs
}

// DefaultLease is the signing lease of a Chancery that does not say otherwise.
const DefaultLease = 5 * time.Second

// Make reads the logs, of one node or of all that share a catalog, and returns
// the report of a period. The lifecycle is read from its beginning, acts from as
// long before the period as what they signed may live. The error is for what
// cannot be read: what is wrong with what was read is in the report.
func Make(logs []Log, opt Options) (*Report, error) {
	opt.Lease = cmp.Or(opt.Lease, DefaultLease)
	facts, err := lifecycle(logs)
	if err != nil {
		return nil, fmt.Errorf("reading the lifecycle: %w", err)
	}
	m := newModel(facts)
	c := &counting{model: m, opt: opt, ends: ends(facts), there: make(map[string]bool), open: make(map[string]audit.Located), suspects: make(map[suspicion]*suspect)}
	wanted := audit.Filter{Log: "acts", Since: m.lead(opt), KeySet: opt.KeySet}
	if !opt.Until.IsZero() {
		wanted.Until = opt.Until.Add(inFlight)
	}
	for _, log := range logs {
		for at, err := range log(wanted) {
			if err != nil {
				return nil, fmt.Errorf("reading acts: %w", err)
			}
			reaches(c.ends, at)
			c.there[at.Origin] = true
			if opt.KeySet == "" || at.Entry.KeySet == opt.KeySet {
				c.act(at)
			}
		}
		c.settling.all(c.count)
	}
	c.conclude()
	m.judge()
	return c.report(), nil
}

// lead returns from when on acts are read: those before the period tell until
// when a version has to be known that is removed in it.
func (m *model) lead(opt Options) time.Time {
	if opt.Since.IsZero() {
		return time.Time{}
	}
	from := opt.Since
	for _, s := range m.sets {
		for _, l := range s.lives {
			if l.removed == nil || l.removed.at.Before(opt.Since) {
				continue
			}
			longest := time.Duration(0)
			for _, f := range s.configs {
				if d, err := time.ParseDuration(f.Entry.Detail["max_ttl"]); err == nil {
					longest = max(longest, d)
				}
			}
			if t := opt.Since.Add(-longest - s.skew(opt.Since) - time.Minute); t.Before(from) {
				from = t
			}
		}
	}
	return from
}

// in reports whether t is in the period.
func (o *Options) in(t time.Time) bool { return !t.Before(o.Since) && o.before(t) }

func (o *Options) before(t time.Time) bool { return o.Until.IsZero() || t.Before(o.Until) }

// report puts together what was found.
func (c *counting) report() *Report {
	r := &Report{
		MadeAt: c.opt.Now.UTC(), Period: c.period(), KeySet: c.opt.KeySet, Logs: c.opt.Checked, Witnessed: witnessed(c.opt.Checked),
		KeySets: []KeySet{}, Operations: []Event{}, Nodes: []Event{}, Clocks: []Event{}, Tokens: []Event{}, LogEvents: []Event{},
		Principals: []Principal{}, Refusals: []Refusal{}, Policies: []Policy{}, Left: []Left{},
		Acts: c.all, Absent: c.absent, Lone: c.lone, Limits: limits(),
	}
	for _, name := range slices.Sorted(maps.Keys(c.sets)) {
		k := c.keySet(c.sets[name])
		there := len(k.Configurations) > 0 || len(k.Versions) > 0 // by the end of the period
		if there && (c.opt.KeySet == "" || c.opt.KeySet == name) {
			r.KeySets = append(r.KeySets, k)
		}
	}
	c.counts(r)
	c.events(r)
	c.deviations(r)
	r.Verdict = r.verdict()
	return r
}

func (c *counting) period() Period {
	p := Period{Since: c.opt.Since.UTC(), Until: c.opt.Until.UTC(), First: c.all.First, Last: c.all.Last}
	for i := range c.facts {
		t := c.facts[i].Entry.Time
		if !c.opt.in(t) {
			continue
		}
		if p.First.IsZero() || t.Before(p.First) {
			p.First = t
		}
		if t.After(p.Last) {
			p.Last = t
		}
	}
	return p
}

// deviations keeps those of the period, breaches first.
func (c *counting) deviations(r *Report) {
	r.Deviations = slices.DeleteFunc(append([]Deviation{}, c.found...), func(d Deviation) bool {
		return !c.opt.in(d.At) || c.opt.KeySet != "" && d.KeySet != "" && d.KeySet != c.opt.KeySet
	})
	r.Deviations = slices.Concat(r.Deviations, c.changed(), c.early(), c.late(), c.gone(), c.lagging())
	slices.SortFunc(r.Deviations, func(a, b Deviation) int {
		return cmp.Or(-cmp.Compare(a.Severity, b.Severity), a.At.Compare(b.At), cmp.Compare(a.KeySet, b.KeySet),
			cmp.Compare(a.Version, b.Version), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Text, b.Text), slices.Compare(a.Entries, b.Entries))
	})
	if n := len(r.Deviations) - maxRows; n > 0 {
		r.Deviations = r.Deviations[:maxRows]
		r.Left = append(r.Left, Left{"deviations", int64(n)})
	}
}

// verdict is the worst that is to be said.
func (r *Report) verdict() Verdict {
	verified, judged := len(r.Logs) > 0, true
	for _, l := range r.Logs {
		if l.Report != nil && len(l.Report.Changed()) > 0 {
			return Broken
		}
		judged = judged && (l.Report == nil || len(l.Report.Unjudged()) == 0)
		verified = verified && l.Report != nil && l.Report.OK()
	}
	switch {
	case r.Count(Breach) > 0:
		return Deviating
	case !judged:
		return Unjudged
	case !verified:
		return Unverified
	case r.Count(Attention) > 0:
		return Unclear
	}
	return Sound
}

// Count returns how many deviations are that severe.
func (r *Report) Count(s Severity) (n int) {
	for _, d := range r.Deviations {
		if d.Severity == s {
			n++
		}
	}
	return n
}

// keySet tells of one key set up to the end of the period.
func (c *counting) keySet(s *setLife) KeySet {
	k := KeySet{
		Name: s.name, Purpose: s.detail("purpose", c.opt.Until), Algorithm: s.detail("algorithm", c.opt.Until),
		Configurations: []Event{}, Versions: []Version{},
	}
	var last map[string]string
	for _, f := range s.configs {
		if !c.opt.before(f.at) {
			continue
		}
		e := f.event()
		e.Changed = changed(last, e.Detail)
		k.Configurations, last = append(k.Configurations, e), e.Detail
	}
	for _, l := range s.lives {
		if v, lived := c.version(l); lived {
			k.Versions = append(k.Versions, v)
			k.Signatures += v.Acts.Done
		}
	}
	return k
}

// changed names the members in which two configurations differ.
func changed(was, is map[string]string) []string {
	if was == nil {
		return nil
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if was[name] != is[name] {
			names = append(names, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, still := is[name]; !still {
			names = append(names, name)
		}
	}
	return names
}

// version tells of one version up to the end of the period, and whether it lived
// in it: whether something became of it, or it was known.
func (c *counting) version(l *life) (v Version, lived bool) {
	v = Version{Number: l.number, KID: l.kid, Algorithm: l.algorithm, Keystore: l.keystore, Acts: l.acts, Suspended: []Suspension{}, Steps: []Event{}, Checks: []Check{}}
	state := keystore.State(0)
	for _, f := range l.facts {
		if !c.opt.before(f.at) {
			continue
		}
		v.Steps = append(v.Steps, f.event())
		lived = lived || c.opt.in(f.at)
		if s, err := keystore.ParseState(f.Entry.State); err == nil && f.Entry.Outcome != keystore.OutcomeFailed && s > state {
			state = s
		}
	}
	lived = lived || state.Known() || l.acts.All() > 0
	if state != 0 {
		v.State, v.NIST = state.String(), state.NIST()
	}
	for _, x := range []struct {
		to *time.Time
		f  *fact
	}{
		{&v.Published, l.published}, {&v.Active, l.activated}, {&v.Stopped, l.stopped}, {&v.Removed, l.removed},
		{&v.Destroyed, l.destroyed}, {&v.Abandoned, l.abandoned}, {&v.Leaked, l.leaked},
	} {
		if x.f != nil && c.opt.before(x.f.at) {
			*x.to = x.f.at
		}
	}
	if !v.Leaked.IsZero() {
		v.NIST = "compromised"
		if state == keystore.Destroyed {
			v.NIST = "destroyed compromised"
		}
	}
	for _, check := range l.checks {
		if c.opt.before(check.At) {
			v.Checks = append(v.Checks, check)
		}
	}
	for _, h := range l.held {
		if !c.opt.before(h.from.at) {
			continue
		}
		s := Suspension{Since: h.from.at}
		if h.to != nil && c.opt.before(h.to.at) {
			s.Until = h.to.at
		}
		v.Suspended = append(v.Suspended, s)
	}
	return v, lived && len(v.Steps) > 0
}

// counts lists who did what, and what was refused.
func (c *counting) counts(r *Report) {
	for k, t := range c.principals.rows {
		r.Principals = append(r.Principals, Principal{k.principal, k.action, *t})
	}
	slices.SortFunc(r.Principals, func(a, b Principal) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Action, b.Action))
	})
	for k, t := range c.refusals.rows {
		r.Refusals = append(r.Refusals, Refusal{k.code, k.principal, k.action, *t})
	}
	slices.SortFunc(r.Refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.Action, b.Action))
	})
	for k, t := range c.policies.rows {
		r.Policies = append(r.Policies, Policy{k, *t})
	}
	slices.SortFunc(r.Policies, func(a, b Policy) int {
		return cmp.Or(a.Acts.First.Compare(b.Acts.First), strings.Compare(a.Hash, b.Hash))
	})
	for _, x := range []struct {
		list string
		left int64
	}{{"principals", c.principals.left}, {"refusals", c.refusals.left}, {"policies", c.policies.left}} {
		if x.left > 0 {
			r.Left = append(r.Left, Left{x.list, x.left})
		}
	}
}

// events sorts what happened beside the versions' lives into its lists.
func (c *counting) events(r *Report) {
	before := make(map[string]map[string]string) // what each node was started with
	for i := range c.facts {
		f := &c.facts[i]
		e := f.event()
		if e.Action == keystore.ActStart {
			node := nodeOf(f.Origin)
			e.Changed = changed(before[node], e.Detail)
			before[node] = e.Detail
		}
		if !c.opt.in(f.Entry.Time) || c.opt.KeySet != "" && e.KeySet != "" && e.KeySet != c.opt.KeySet {
			continue
		}
		if list := r.listOf(&e); list != nil {
			*list = append(*list, e)
		}
	}
}

// listOf returns where an event is listed, or nil for what is told elsewhere.
func (r *Report) listOf(e *Event) *[]Event {
	noun, _, _ := strings.Cut(string(e.Action), ".")
	switch e.Action {
	case keystore.ActRotate, keystore.ActSuspend, keystore.ActResume, keystore.ActCompromise, keystore.ActKeyDestroy,
		keystore.ActNodeForget, keystore.ActClockConfirm, keystore.ActReconcile, keystore.ActTokenRetry:
		return &r.Operations
	case keystore.ActKeyOrphan, keystore.ActKeyMissing, keystore.ActKeyHalfPair, keystore.ActKeyAttributes, keystore.ActKeyResurrected:
		return &r.Tokens
	}
	switch noun {
	case "node":
		return &r.Nodes
	case "clock":
		return &r.Clocks
	case "token":
		return &r.Tokens
	case "audit":
		return &r.LogEvents
	}
	return nil
}

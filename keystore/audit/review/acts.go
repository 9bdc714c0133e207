package review

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

const (
	maxRows    = 2000   // of each list of counts
	maxIntents = 100000 // that wait for an outcome
)

// add counts n acts that went like e.
func (t *Tally) add(e *audit.Entry, n int64) {
	switch e.Outcome {
	case keystore.OutcomeDone:
		t.Done += n
	case keystore.OutcomeRefused:
		t.Refused += n
	case keystore.OutcomeFailed:
		t.Failed += n
	default: // an intent comes here when nothing says how it went
		t.Unknown += n
	}
	if t.First.IsZero() || e.Time.Before(t.First) {
		t.First = e.Time
	}
	if e.Time.After(t.Last) {
		t.Last = e.Time
	}
	if e.Outcome == keystore.OutcomeRefused || e.Outcome == keystore.OutcomeFailed {
		return // there is no such token
	}
	if exp := unix(e.Exp); exp.After(t.Exp) {
		t.Exp = exp
	}
	if exp := unix(e.NotAfter); exp.After(t.NotAfter) {
		t.NotAfter = exp
	}
}

// All returns how many acts are counted.
func (t Tally) All() int64 { return t.Done + t.Refused + t.Failed + t.Unknown }

func unix(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// A ledger is one list of counts, of no more than maxRows rows.
type ledger[K comparable] struct {
	rows map[K]*Tally
	left int64
}

func (l *ledger[K]) add(key K, e *audit.Entry, n int64) {
	t, ok := l.rows[key]
	if !ok && len(l.rows) >= maxRows {
		l.left += n
		return
	}
	if !ok {
		t = new(Tally)
		if l.rows == nil {
			l.rows = make(map[K]*Tally)
		}
		l.rows[key] = t
	}
	t.add(e, n)
}

type principalKey struct {
	principal string
	action    keystore.Action
}

type refusalKey struct {
	code string
	principalKey
}

// counting is what is kept of acts while they pass by.
type counting struct {
	*model
	ends       map[string]time.Time // of each node's log
	there      map[string]bool      // origins of months of which acts were read
	opt        Options
	all        Tally
	principals ledger[principalKey]
	refusals   ledger[refusalKey]
	policies   ledger[string]
	settling   settling
	open       map[string]audit.Located // intents by node and ID
	dropped    int64                    // intents that were too many
	suspects   map[suspicion]*suspect
	last       time.Time
}

// A suspicion is what signatures of one key have in common that they must not.
type suspicion struct {
	kid      keystore.KID
	severity Severity
	rule     string
	text     string
}

// A suspect tells of the acts under one suspicion.
type suspect struct {
	n           int64
	life        *life
	first, last audit.Located
	with        *fact
}

// act takes the next act. Those before the period only tell when what was signed
// expires, those behind it only how what was begun in it went.
func (c *counting) act(at audit.Located) {
	e := &at.Entry
	behind := !c.opt.Until.IsZero() && !e.Time.Before(c.opt.Until)
	if e.ID != "" && e.Outcome != keystore.OutcomeIntent {
		delete(c.open, openName(at))
	}
	if e.ID != "" && e.Outcome == keystore.OutcomeIntent && !behind && !e.Time.Before(c.opt.Since) {
		c.begun(at)
	}
	tookBack := c.settling.tookBack(at)
	if behind || e.Outcome == keystore.OutcomeIntent {
		return
	}
	if isSignature(e) {
		c.expires(at)
	}
	if e.Time.Before(c.opt.Since) {
		return
	}
	if !tookBack {
		c.settling.hold(at, c.count)
	}
	if e.Outcome == keystore.OutcomeUnknown {
		c.unknown(at)
	}
	if isSignature(e) && !tookBack {
		c.signature(at)
	}
}

// begun keeps an intent until its outcome comes.
func (c *counting) begun(at audit.Located) {
	if len(c.open) >= maxIntents {
		c.dropped++
		return
	}
	c.open[openName(at)] = at
}

func openName(at audit.Located) string { return nodeOf(at.Origin) + "#" + at.Entry.ID }

// unknown: what nobody knows about one of our keys may have been signed.
func (c *counting) unknown(at audit.Located) {
	e := &at.Entry
	switch {
	case e.Action == keystore.ActKeyUse:
		c.suspect(at, amount(e), Attention, "", "it was asked to sign, and nobody knows whether it did", nil)
	case e.KID != "":
		c.suspect(at, amount(e), Attention, "", fmt.Sprintf("nobody knows how %s went", e.Action), nil)
	}
}

// amount returns how many acts e stands for.
func amount(e *audit.Entry) int64 {
	if e.Action == keystore.ActKeyUse {
		return max(uses(e.Detail["uses"]), 1)
	}
	return int64(max(e.Count, 1))
}

// isSignature reports whether e tells that a key signed, or may have.
func isSignature(e *audit.Entry) bool {
	made := e.Outcome == keystore.OutcomeDone || e.Outcome == keystore.OutcomeUnknown
	return made && e.KID != "" && strings.HasSuffix(string(e.Action), ".sign")
}

// expires notes the highest expiry of what a version signed.
func (c *counting) expires(at audit.Located) {
	l := c.byKID[at.Entry.KID]
	if l == nil {
		return
	}
	exp, name := unix(at.Entry.Exp), "exp"
	if at.Entry.NotAfter > at.Entry.Exp {
		exp, name = unix(at.Entry.NotAfter), "not_after"
	}
	if at.Entry.Action == keystore.ActSignDigest {
		exp, name = l.set.retained(at.Entry.Time), "retention"
	}
	later := exp.After(l.exp) || exp.Equal(l.exp) && before(at, l.expBy)
	if !exp.IsZero() && later {
		l.exp, l.expires, l.expBy = exp, name, at
	}
}

// count counts an act. It wants another.
func (c *counting) count(at audit.Located) bool {
	e := &at.Entry
	n := amount(e)
	if e.Time.After(c.last) {
		c.last = e.Time
	}
	c.all.add(e, n)
	who := principalKey{e.Principal, e.Action}
	c.principals.add(who, e, n)
	if e.Outcome != keystore.OutcomeDone {
		c.refusals.add(refusalKey{cmp.Or(e.Code, string(e.Outcome)), who}, e, n)
	}
	if e.Policy != "" {
		c.policies.add(e.Policy, e, n)
	}
	if l := c.byKID[e.KID]; e.KID != "" && l != nil {
		l.acts.add(e, n)
	}
	return true
}

// uses counts the numbers in ranges such as "17-19,23". What is no range counts
// nothing, and no text more than mostUses.
func uses(ranges string) (n int64) {
	for part := range strings.SplitSeq(ranges, ",") {
		from, to, ranged := strings.Cut(part, "-")
		a, err := strconv.ParseInt(from, 10, 64)
		b := a
		if ranged && err == nil {
			b, err = strconv.ParseInt(to, 10, 64)
		}
		if err == nil && a > 0 && b >= a {
			n = min(n+min(b-a, mostUses)+1, mostUses)
		}
	}
	return n
}

// mostUses bounds what a text from a log that may be hostile counts for.
const mostUses = 1 << 48

// signature holds a signature against the windows of the version that made it.
func (c *counting) signature(at audit.Located) {
	e := &at.Entry
	l := c.byKID[e.KID]
	if l == nil {
		c.suspect(at, 1, c.weight(), "rotation/8", "signed by a key of which no lifecycle entry tells", nil)
		return
	}
	if l.set.name != e.KeySet || l.number != e.Version {
		c.suspect(at, 1, Breach, "", fmt.Sprintf("an act names version %d of %q, and the key is of version %d of %q", e.Version, e.KeySet, l.number, l.set.name), l.facts[0])
	}
	c.began(at, l)
	c.over(at, l)
	c.longer(at, l)
}

// began: a version signs only after the entry of its activation.
func (c *counting) began(at audit.Located, l *life) {
	f := l.activated
	if f == nil {
		c.suspect(at, 1, c.weight(), "rotation/1", "signed and was never activated", l.published)
		return
	}
	from := f.Entry.Time
	if nodeOf(f.Origin) != nodeOf(at.Origin) {
		from = f.at.Add(-l.set.skew(f.at) - Late)
	}
	if at.Entry.Time.Before(from) {
		c.suspect(at, 1, Breach, "rotation/1", "signed before it was activated", f)
	}
}

// over: a version signs no more, one lease after it has stopped.
func (c *counting) over(at audit.Located, l *life) {
	t := at.Entry.Time
	type end struct {
		f    *fact
		rule string
		text string
		next *fact
	}
	ends := []end{{l.stopped, "rotation/4", "signed after it was retired", nil}, {l.leaked, "rotation/6", "signed after it was said to be compromised", nil},
		{l.removed, "rotation/4", "signed after it was removed", nil}}
	for _, h := range l.held {
		ends = append(ends, end{h.from, "rotation/6", "signed while it was suspended", h.to})
	}
	for _, x := range ends {
		if x.f == nil || x.next != nil && !t.Before(x.next.at) {
			continue
		}
		beyond := t.Sub(x.f.at.Add(c.opt.Lease + Late))
		switch {
		case beyond > inFlight:
			c.suspect(at, 1, Breach, x.rule, x.text+" and its lease was over", x.f)
		case beyond > 0:
			c.suspect(at, 1, Attention, x.rule, x.text+"; entered later than a lease after it, so it may have been made before and was not released", x.f)
		}
	}
}

// longer: nothing that is signed lives longer than the L in force.
func (c *counting) longer(at audit.Located, l *life) {
	e := &at.Entry
	most := max(l.set.inForce(e.Time).MaxLifetime, l.set.inForce(e.Time.Add(c.opt.Lease)).MaxLifetime)
	exp := unix(max(e.Exp, e.NotAfter))
	if most > 0 && exp.After(e.Time.Add(most+Late)) {
		c.suspect(at, 1, Breach, "rotation/2", fmt.Sprintf("signed something that lives longer than L in force, %s", round(most)), nil)
	}
}

// suspect notes an act under a suspicion. Of all acts under it the first and the
// last are told.
func (c *counting) suspect(at audit.Located, n int64, severity Severity, rule, text string, with *fact) {
	key := suspicion{at.Entry.KID, severity, rule, text}
	s, ok := c.suspects[key]
	if !ok {
		s = &suspect{life: c.byKID[at.Entry.KID], first: at, last: at, with: with}
		c.suspects[key] = s
	}
	s.n += n
	if before(at, s.first) {
		s.first = at
	}
	if before(s.last, at) {
		s.last = at
	}
}

func before(a, b audit.Located) bool {
	if a.Entry.Time.Equal(b.Entry.Time) {
		return a.Name() < b.Name()
	}
	return a.Entry.Time.Before(b.Entry.Time)
}

// conclude turns what was kept of acts into deviations.
func (c *counting) conclude() {
	for key, s := range c.suspects {
		d := Deviation{
			Severity: key.severity, Rule: key.rule, At: s.first.Entry.Time, KID: key.kid,
			KeySet: s.first.Entry.KeySet, Version: s.first.Entry.Version, Text: key.text, Entries: []string{s.first.Name()},
		}
		if s.life != nil {
			d.KeySet, d.Version = s.life.set.name, s.life.number
		}
		if s.n > 1 {
			d.Text = fmt.Sprintf("%s (%d times, until %s)", d.Text, s.n, s.last.Entry.Time.Format(time.RFC3339))
			if s.last.Name() != s.first.Name() {
				d.Entries = append(d.Entries, s.last.Name())
			}
		}
		if s.with != nil {
			d.Entries = append([]string{s.with.Name()}, d.Entries...)
		}
		c.found = append(c.found, d)
	}
	c.unfinishedActs()
}

// unfinishedActs finds what was begun and has no outcome. It counts as done: a
// certificate may have been issued.
func (c *counting) unfinishedActs() {
	for _, id := range slices.Sorted(maps.Keys(c.open)) {
		at := c.open[id]
		at.Entry.Outcome = keystore.OutcomeUnknown
		e := &at.Entry
		if c.opt.Now.Sub(e.Time) < inFlight {
			continue
		}
		c.count(at)
		if e.KID != "" {
			c.expires(at)
		}
		c.found = append(c.found, Deviation{
			Severity: Attention, At: e.Time, KeySet: e.KeySet, Version: e.Version, KID: e.KID, Entries: []string{at.Name()},
			Text: fmt.Sprintf("%s was begun, and no entry says how it went: it counts as done", e.Action),
		})
	}
	if c.dropped > 0 {
		c.found = append(c.found, Deviation{
			Severity: Attention, At: c.last, Text: fmt.Sprintf("%d acts more were begun than could be followed to their outcomes", c.dropped), Entries: []string{},
		})
	}
}

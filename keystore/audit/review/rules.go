package review

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
)

// judge checks the timing rules of every life against its entries.
func (m *model) judge() {
	for _, s := range m.sets {
		for _, l := range s.lives {
			m.rule1(l)
			m.rule2(l)
			m.rule4(l)
			m.rule8(l)
		}
	}
	m.oddities()
}

// check notes how l kept a rule at f, and what else proves it. What it did not
// keep is a deviation as well.
func (m *model) check(l *life, f *fact, held bool, severity Severity, rule, text string, with ...*fact) {
	c := Check{Rule: rule, Held: held, At: f.at, Text: text, Entries: []string{}}
	for _, w := range append(with, f) {
		if w != nil {
			c.Entries = append(c.Entries, w.Name())
		}
	}
	l.checks = append(l.checks, c)
	if !held {
		m.find(l, f, severity, rule, text, with...)
	}
}

// rule1: a version signs no earlier than A + S after the last moment that a node
// served a set without it; one before which no set was served need not wait.
func (m *model) rule1(l *life) {
	f := l.activated
	if f == nil {
		return
	}
	last := cmp.Or(l.acknowledged(f.at), l.acknowledged(f.at.Add(apart)))
	switch wait := l.set.inForce(f.at).CacheFor + l.set.skew(f.at); {
	case last == nil:
		m.check(l, f, false, m.weight(), "rotation/1", "activated before any node had said that it serves it", l.published)
	case !l.followed():
		m.check(l, f, true, Breach, "rotation/1", "activated when a node had said that it serves it; no set without it was ever served", last)
	default:
		waited := f.at.Sub(last.at)
		held, severity := waited+Late >= wait, Breach
		text := fmt.Sprintf("activated %s after the last node had said that it serves it; A + S in force was %s", round(waited), round(wait))
		if !held && l.fills(f) {
			severity, text = Attention, text+"; after a compromise on_gap: sign_early allows that, and verifiers that cache may have rejected its tokens"
		}
		m.check(l, f, held, severity, "rotation/1", text, last)
	}
}

// fills reports whether f, the activation of l, says that it ends the gap that a
// compromise left, and there was one.
func (l *life) fills(f *fact) bool {
	return f.Entry.Rule == "rotation/6" && slices.ContainsFunc(l.set.lives, func(o *life) bool {
		return o.leaked != nil && o.activated != nil && !o.leaked.at.After(f.at) && o.activated.at.Before(f.at)
	})
}

// acknowledged returns the last of the nodes' words, up to until, that they serve
// l. A node that came later never served a set without it.
func (l *life) acknowledged(until time.Time) (last *fact) {
	for _, ack := range l.served {
		if ack.at.After(until) {
			continue
		}
		if last == nil || ack.at.After(last.at) || ack.at.Equal(last.at) && ack.Name() < last.Name() {
			last = ack
		}
	}
	return last
}

// followed reports whether a set without l was served before the first with it.
func (l *life) followed() bool {
	first := func(of *life) (t time.Time) {
		for _, ack := range of.served {
			if t.IsZero() || ack.at.Before(t) {
				t = ack.at
			}
		}
		return t
	}
	return slices.ContainsFunc(l.set.lives, func(o *life) bool {
		t := first(o)
		return o != l && !t.IsZero() && t.Before(first(l))
	})
}

// rule2: a version is known until everything it signed has expired by every
// clock. Compromise alone overrides that.
func (m *model) rule2(l *life) {
	f := l.removed
	if f == nil || l.exp.IsZero() || l.leaked != nil && !l.leaked.at.After(f.at) {
		return
	}
	rule := "rotation/2"
	if l.expires == "not_after" {
		rule = "rotation/10"
	}
	until := l.exp.Add(l.set.skew(f.at))
	after, held := f.Entry.Time.Sub(until), !f.Entry.Time.Before(until)
	text := fmt.Sprintf("removed %s after the latest %s that it signed, %s, plus S", round(after), l.expires, l.exp.Format(time.RFC3339))
	if !held {
		text = fmt.Sprintf("removed %s before what it signed had expired: the latest %s is %s, plus S", round(-after), l.expires, l.exp.Format(time.RFC3339))
	}
	m.check(l, f, held, Breach, rule, text, &fact{l.expBy, l.expBy.Entry.Time})
}

// rule4: at most one version is active at a time.
func (m *model) rule4(l *life) {
	f := l.activated
	if f == nil {
		return
	}
	clear := true
	for _, o := range l.set.lives {
		if o == l || o.activated == nil || o.activated.at.After(f.at) || o.activated.at.Equal(f.at) && o.number > l.number {
			continue
		}
		end := o.ended()
		switch {
		case end == nil:
			m.check(l, f, false, m.weight(), "rotation/4", fmt.Sprintf("activated while version %d was active, which no entry ever ended", o.number), o.activated)
		case end.at.After(f.at.Add(Late)):
			m.check(l, f, false, Breach, "rotation/4", fmt.Sprintf("activated while version %d was active, for %s more",
				o.number, round(end.at.Sub(f.at))), o.activated, end)
		default:
			continue
		}
		clear = false
	}
	if clear {
		m.check(l, f, true, Breach, "rotation/4", "activated when no other version was active")
	}
}

// rule8: a key is made before it is published, and seen to sign before it does.
func (m *model) rule8(l *life) {
	if f := l.published; f != nil {
		made := l.generated != nil && !l.generated.Entry.Time.After(f.Entry.Time.Add(m.slack(l.generated, f)))
		m.check(l, f, made, m.weight(), "rotation/8", told(made, "published after its key was made", "published before an entry said that its key was made"), l.generated)
	}
	if f := l.activated; f != nil {
		proven := l.proven != nil && !l.proven.Entry.Time.After(f.Entry.Time.Add(m.slack(l.proven, f)))
		m.check(l, f, proven, m.weight(), "rotation/8", told(proven, "activated after its key was seen to sign", "activated before its key was seen to sign"), l.proven)
	}
}

func told(held bool, yes, no string) string {
	if held {
		return yes
	}
	return no
}

// slack is how far two entries may be out of order.
func (m *model) slack(a, b *fact) time.Duration {
	if a.Origin == b.Origin {
		return 0
	}
	return apart
}

// oddities are the facts that deviate by themselves.
func (m *model) oddities() {
	for i := range m.facts {
		f := &m.facts[i]
		e := &f.Entry
		switch e.Action {
		case keystore.ActKeyResurrected:
			m.find(nil, f, Breach, "rotation/9", "a destroyed key is on its token again"+because(e.Reason))
		case keystore.ActKeyAttributes:
			m.find(nil, f, Breach, "rotation/8", "a key can do what it must not"+because(e.Reason))
		case keystore.ActKeyMissing:
			m.find(nil, f, Attention, "", "a private key is not on its token"+because(e.Reason))
		case keystore.ActKeyHalfPair:
			m.find(nil, f, Attention, "", "half of a key pair is not on its token"+because(e.Reason))
		case keystore.ActKeyOrphan:
			m.find(nil, f, Attention, "", "a token holds a key that the catalog does not know"+because(e.Reason))
		case keystore.ActKeyDisputed:
			m.find(nil, f, Attention, "", "log, catalog and what is published do not say the same of a key"+because(e.Reason))
		case keystore.ActAuditWitness:
			if e.Outcome != keystore.OutcomeDone {
				m.find(nil, f, Breach, "", "a witness contradicts this log"+because(e.Reason))
			}
		default:
			if e.Outcome == keystore.OutcomeUnknown {
				m.find(nil, f, Attention, e.Rule, fmt.Sprintf("nobody knows how %s went", e.Action)+because(e.Reason))
			}
		}
	}
	m.unfinished()
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// inFlight is the longest a request takes until its outcome is entered.
const inFlight = 15 * time.Second

// unfinished finds intents without another entry of their ID, but for the last
// moments of the log that has them.
func (m *model) unfinished() {
	closed, last := make(map[string]bool), make(map[string]time.Time)
	for i := range m.facts {
		f := &m.facts[i]
		last[f.Origin] = f.Entry.Time
		if f.Entry.Outcome != keystore.OutcomeIntent && f.Entry.ID != "" {
			closed[f.Entry.ID] = true
		}
	}
	for i := range m.facts {
		f := &m.facts[i]
		e := &f.Entry
		month := e.Action == keystore.ActAuditShard // its end comes with the month's
		if e.Outcome != keystore.OutcomeIntent || e.ID == "" || month || closed[e.ID] || last[f.Origin].Sub(e.Time) < inFlight {
			continue
		}
		if l := m.sets[e.KeySet].version(e.Version); l != nil && l.abandoned != nil {
			continue
		}
		m.find(nil, f, Attention, "", fmt.Sprintf("%s was begun, and no entry says how it went", e.Action))
	}
}

func (s *setLife) version(number int) *life {
	if s == nil {
		return nil
	}
	for _, l := range s.lives {
		if l.number == number {
			return l
		}
	}
	return nil
}

// round writes a duration for people.
func round(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + round(-d)
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Millisecond).String()
}

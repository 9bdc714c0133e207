package review

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// Words tells a verdict in a clause.
func (v Verdict) Words() string {
	switch v {
	case Broken:
		return "the log was changed"
	case Unjudged:
		return "not all of the log can be judged"
	case Deviating:
		return "rules were broken"
	case Unverified:
		return "the log was not verified"
	case Unclear:
		return "no rule was broken, and something is left open"
	case Sound:
		return "no deviation"
	}
	return string(v)
}

// Words tells what verification said of a log, in a clause.
func (c Checked) Words() string {
	r := c.Report
	switch {
	case r == nil:
		return "not verified"
	case len(r.Changed()) > 0:
		return fmt.Sprintf("does not verify, %d problems; the first: %s", len(r.Problems), r.Changed()[0].String())
	case len(r.Problems) > 0:
		return "cannot be judged: " + unjudged(r.Problems)
	case !r.KeyVerified:
		return fmt.Sprintf("consistent, %d entries, and under no log key that was given", r.Entries())
	}
	return fmt.Sprintf("verified, %d entries proven, %d behind no checkpoint yet", r.Proven(), r.Entries()-r.Proven())
}

// unjudged tells why a log cannot be judged. A missing key is that of all its node's
// logs.
func unjudged(reasons []audit.Problem) string {
	var told []string
	for _, p := range reasons {
		switch {
		case p.Kind != audit.KeyUnknown:
			told = append(told, p.String())
		case !slices.Contains(told, p.What):
			told = append(told, p.What)
		}
	}
	return strings.Join(told, "; ")
}

// witnessed tells how far witnesses know the logs, in a clause: all of them to
// some moment, or which they do not.
func witnessed(logs []Checked) string {
	var unknown []string
	var until time.Time
	since := int64(0)
	for _, c := range logs {
		if c.Report == nil {
			return Unwitnessed
		}
		for i := range c.Report.Logs {
			l := &c.Report.Logs[i]
			if l.Witnessed != nil {
				since += l.Unwitnessed()
			}
			switch {
			case l.Entries == 0:
			case l.Witnessed == nil:
				unknown = append(unknown, Short([]string{c.Node})[0]+"/"+l.Name)
			case until.IsZero() || l.Witnessed.Time.Before(until):
				until = l.Witnessed.Time
			}
		}
	}
	switch {
	case until.IsZero():
		return Unwitnessed
	case len(unknown) > 0:
		return Unwitnessed + " in part: " + strings.Join(unknown, ", ")
	}
	known := "witnessed as it was at " + clock(until) + " UTC"
	if since == 1 {
		return known + ", 1 entry since is not"
	}
	if since > 0 {
		return fmt.Sprintf("%s, %d entries since are not", known, since)
	}
	return known
}

// SignsCheckpoints reports whether the key set's keys sign the log's checkpoints: of
// those signatures there are no acts, so that they are not counted.
func (k *KeySet) SignsCheckpoints() bool {
	return keystore.Purpose(k.Purpose) == keystore.PurposeAudit
}

// Every tells how often a configuration has keys rotated.
func (e Event) Every() string {
	every := e.Detail["rotate_every"]
	if d, err := time.ParseDuration(every); err == nil && d == 0 {
		return "on request"
	}
	return every
}

// Words tells a period in a clause, in UTC.
func (p Period) Words() string {
	from, to := "the log's beginning", "its end"
	if !p.Since.IsZero() {
		from = clock(p.Since) + " UTC"
	}
	if !p.Until.IsZero() {
		to = clock(p.Until) + " UTC"
	}
	return from + " to " + to
}

// Fate tells a version's state, and what it is beside that.
func (v Version) Fate() string {
	fate := v.State
	if n := len(v.Suspended); n > 0 && v.Suspended[n-1].Until.IsZero() {
		fate += ", suspended"
	}
	if !v.Leaked.IsZero() {
		fate += ", compromised"
	}
	return fate
}

// Words tells why an event was and what is particular to it.
func (e Event) Words() string {
	var words []string
	if e.Reason != "" {
		words = append(words, e.Reason)
	}
	if e.State != "" {
		words = append(words, "state "+e.State)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Detail)) {
		mark := ""
		if slices.Contains(e.Changed, name) {
			mark = " (changed)"
		}
		if name != "at" {
			words = append(words, name+" "+shorten(e.Detail[name])+mark)
		}
	}
	for _, name := range e.Changed {
		if _, is := e.Detail[name]; !is {
			words = append(words, name+" (gone)")
		}
	}
	return strings.Join(words, "; ")
}

// shorten cuts a hash to what tells it from another. JSON has all of it.
func shorten(s string) string {
	if len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" {
		return s[:12] + "…"
	}
	return s
}

// RuleWords tells a rule of rotation as people call it.
func RuleWords(rule string) string {
	if n, ok := strings.CutPrefix(rule, "rotation/"); ok {
		return "rule " + n
	}
	return rule
}

// Short returns names of entries without the host and what comes before it.
func Short(entries []string) []string {
	short := make([]string, len(entries))
	for i, name := range entries {
		short[i] = name
		if _, rest, ok := strings.Cut(name, "/audit/"); ok {
			short[i] = rest
		}
	}
	return short
}

// clock writes a time to the second, in UTC.
func clock(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format(time.DateTime)
}

package review

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// An Impact is what a key did in a period: what has to be answered for when it is
// in other hands.
type Impact struct {
	KID     keystore.KID `json:"kid"`
	KeySet  string       `json:"keyset"` // empty: no lifecycle entry tells of the key
	Version int          `json:"version"`
	State   string       `json:"state"`
	Period  Period       `json:"period"`
	MadeAt  time.Time    `json:"made_at"`
	Acts    Tally        `json:"acts"` // all but Histories
	// Histories are the key-set histories that it signed, which have no end.
	Histories Tally `json:"histories"`
	// Endless is how many of Acts are signatures of digests that were, or may have
	// been, made: they have no end either, and are not in Live.
	Endless int64 `json:"endless"`
	// Live is how many of the things it signed in the period had not expired by
	// every clock, that is plus S, when this was made.
	Live       int64       `json:"live"`
	LiveUntil  time.Time   `json:"live_until,omitzero"`
	Skew       string      `json:"skew"`       // S, as a Go duration
	Principals []Principal `json:"principals"` // for whom
	Steps      []Event     `json:"steps"`      // of the version's life
	Open       []string    `json:"open"`       // entries of what may or may not have been signed
	OpenLeft   int64       `json:"open_left"`  // more of them than are listed
	Limits     []string    `json:"limits"`
	// Removed are the months of the period that the policy no longer keeps, since the
	// key came to be: what it signed in them is not counted.
	Removed []Removed `json:"removed"`
	// UsesBefore is how many uses of the key were numbered before the first that is
	// there, by the nodes with removed months; 0: not known, or the period has a beginning.
	UsesBefore int64 `json:"uses_before"`
}

// A Signed is one thing a key signed, or may have.
type Signed struct {
	At        time.Time        `json:"at"`
	Action    keystore.Action  `json:"action"`
	Outcome   keystore.Outcome `json:"outcome"` // done, or unknown
	Principal string           `json:"principal"`
	JTI       string           `json:"jti,omitempty"`
	Serial    string           `json:"serial,omitempty"`
	Authority string           `json:"authority,omitempty"`
	KeySet    string           `json:"keyset,omitempty"`    // whose history was signed
	Signature string           `json:"signature,omitempty"` // of a digest: its SHA-256, as the entry has it
	Expires   time.Time        `json:"expires,omitzero"`    // zero: it does not, as a history or the signature of a digest
	Live      bool             `json:"live"`
	Entry     string           `json:"entry"`
}

// maxOpen is how many entries of unknown outcome an Impact lists.
const maxOpen = 1000

// ErrStopped is returned by Trace when each wants no more.
var ErrStopped = errors.New("no more is wanted")

// Trace reads what the key kid did from since on, before until; zero times mean
// all there is. It calls each, if it is not nil, with every thing that was or may
// have been signed, in the order of each log, and stops when that returns false.
// It holds counts only, however many acts there are.
func Trace(logs []Log, kid keystore.KID, opt Options, each func(Signed) bool) (*Impact, error) {
	facts, err := lifecycle(logs)
	if err != nil {
		return nil, fmt.Errorf("reading the lifecycle: %w", err)
	}
	m := newModel(facts)
	t := &tracing{
		Impact: &Impact{
			KID: kid, MadeAt: opt.Now.UTC(), Period: Period{Since: opt.Since.UTC(), Until: opt.Until.UTC()},
			Principals: []Principal{}, Steps: []Event{}, Open: []string{}, Limits: impactLimits(), Removed: []Removed{},
		},
		opt: opt, open: make(map[string]audit.Located), each: each, there: make(map[string]bool), firstUse: make(map[string]int64),
	}
	t.name(m.byKID[kid])
	wanted := audit.Filter{Log: "acts", KID: kid, Since: opt.Since}
	if !opt.Until.IsZero() {
		wanted.Until = opt.Until.Add(inFlight)
	}
	for _, log := range logs {
		for at, err := range log(wanted) {
			if err != nil {
				return nil, fmt.Errorf("reading acts: %w", err)
			}
			if at.Entry.KID == kid && !t.act(at) {
				return nil, ErrStopped
			}
		}
		if !t.settling.all(t.count) {
			return nil, ErrStopped
		}
	}
	t.gone(facts, m.byKID[kid])
	return t.Impact, t.conclude()
}

type tracing struct {
	*Impact
	opt        Options
	skew       time.Duration
	open       map[string]audit.Located
	settling   settling
	principals ledger[principalKey]
	each       func(Signed) bool
	there      map[string]bool  // origins of months of which acts were read
	firstUse   map[string]int64 // lowest number of a use, by node
}

// name takes what the lifecycle tells of the key.
func (t *tracing) name(l *life) {
	if l == nil {
		return
	}
	t.KeySet, t.Version, t.State = l.set.name, l.number, l.state.String()
	t.skew = l.set.skew(t.opt.Now)
	t.Skew = t.skew.String()
	for _, f := range l.facts {
		t.Steps = append(t.Steps, f.event())
	}
}

// act takes the next act of the key, and reports whether more is wanted.
func (t *tracing) act(at audit.Located) bool {
	e := &at.Entry
	t.met(at)
	if e.ID != "" && e.Outcome != keystore.OutcomeIntent {
		delete(t.open, openName(at))
	}
	if t.settling.tookBack(at) || !t.opt.in(e.Time) {
		return true
	}
	if e.Outcome != keystore.OutcomeIntent {
		return t.settling.hold(at, t.count)
	}
	if e.ID != "" && len(t.open) < maxIntents {
		t.open[openName(at)] = at
	}
	return true
}

func (t *tracing) count(at audit.Located) bool {
	e := &at.Entry
	n := amount(e)
	if e.Action == keystore.ActSignHistory {
		t.Histories.add(e, n)
	} else {
		t.Acts.add(e, n)
	}
	t.principals.add(principalKey{e.Principal, e.Action}, e, n)
	unknown := e.Outcome == keystore.OutcomeUnknown
	if unknown && len(t.Open) < maxOpen {
		t.Open = append(t.Open, at.Name())
	} else if unknown {
		t.OpenLeft++
	}
	if !isSignature(e) {
		return true
	}
	if e.Action == keystore.ActSignDigest {
		t.Endless += n
	}
	s := Signed{
		At: e.Time, Action: e.Action, Outcome: e.Outcome, Principal: e.Principal, JTI: e.JTI, Serial: e.Serial,
		Authority: e.Authority, Expires: unix(max(e.Exp, e.NotAfter)), Entry: at.Name(),
	}
	if e.Action == keystore.ActSignDigest {
		s.Signature = e.Detail["signature"]
	}
	if e.Action == keystore.ActSignHistory {
		s.KeySet = e.KeySet
	}
	if end := s.Expires.Add(t.skew); !s.Expires.IsZero() && end.After(t.opt.Now) {
		s.Live = true
		t.Live += n
		if end.After(t.LiveUntil) {
			t.LiveUntil = end
		}
	}
	return t.each == nil || t.each(s)
}

// conclude counts what has no outcome: it may have been signed.
func (t *tracing) conclude() error {
	for _, id := range slices.Sorted(maps.Keys(t.open)) {
		at := t.open[id]
		at.Entry.Outcome = keystore.OutcomeUnknown
		if !t.count(at) {
			return ErrStopped
		}
	}
	t.Period.First, t.Period.Last = spanOf(t.Acts, t.Histories)
	for k, tally := range t.principals.rows {
		t.Principals = append(t.Principals, Principal{k.principal, k.action, *tally})
	}
	slices.SortFunc(t.Principals, func(a, b Principal) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Action, b.Action))
	})
	return nil
}

// spanOf returns when the first and the last of both were.
func spanOf(a, b Tally) (first, last time.Time) {
	first, last = a.First, a.Last
	if first.IsZero() || !b.First.IsZero() && b.First.Before(first) {
		first = b.First
	}
	if b.Last.After(last) {
		last = b.Last
	}
	return first, last
}

// impactLimits says what an Impact cannot know.
func impactLimits() []string {
	return []string{
		"What somebody with the token's PIN had signed beside Chancery is in no log of Chancery: a key in other hands may have signed more than this, " +
			"and only the device's own log tells. What carries its kid and stands in no entry was not made by Chancery.",
		"An act whose outcome nobody knows may have been signed; none of it was released.",
		"A signed history of a key set has no end, and says no more of its keys than the log: whoever holds the key can sign another one.",
		"What a token said is known only by its salted digest.",
		"Of what a digest was that was signed, Chancery never saw.",
	}
}

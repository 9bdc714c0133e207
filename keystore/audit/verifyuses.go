package audit

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"chancery/keystore"
)

// A UseReport tells of the numbers of the uses of one key (see Record.Use).
type UseReport struct {
	KID     keystore.KID `json:"kid"`
	First   int64        `json:"first"` // 1, unless months were pruned
	Last    int64        `json:"last"`
	Open    int64        `json:"open"`    // not entered yet: taken moments before the log ends
	Unknown int64        `json:"unknown"` // nobody knows whether the key signed
}

// useFollower checks that each number of the use of a key is closed once, over
// all logs: that between two signatures none is missing.
type useFollower struct {
	Kids    map[keystore.KID]*keyUses `json:"kids"`
	Intents map[string]intentUse      `json:"intents"` // by intentKey: those without an outcome yet
	Pruned  bool                      `json:"pruned"`  // months are not there any more
	Missed  bool                      `json:"missed"`  // nor were they when First was read: numbers begin later
	First   time.Time                 `json:"first"`   // of the first act that is there
	Last    time.Time                 `json:"last"`    // of the last entry of all
}

// keyUses is what was met of one key, in lifecycle and in acts apart: how far one of
// them has been read when the other goes on is another thing in each run.
type keyUses struct {
	Lifecycle logUses `json:"lifecycle"`
	Acts      logUses `json:"acts"`
	Unknown   int64   `json:"unknown"`
	Late      int64   `json:"late"` // the lowest that was surely taken after First; 0: none
}

type logUses struct {
	Closed spans     `json:"closed"`
	Begun  time.Time `json:"begun,omitzero"` // when its uses began to be numbered
	Bare   *place    `json:"bare,omitempty"` // the last signature before that, which has no number
}

type intentUse struct {
	KID  keystore.KID `json:"kid"`
	Use  int64        `json:"use"`
	Time time.Time    `json:"time"`
}

// inFlight is how long a number may be open while others are closed: a request
// has its deadline, and what is counted is entered once a minute.
const inFlight = 2 * time.Minute

func newUseFollower() *useFollower {
	return &useFollower{Kids: map[keystore.KID]*keyUses{}, Intents: map[string]intentUse{}}
}

func (f *useFollower) entry(c *check, e *Entry) {
	f.Last = later(f.Last, e.Time)
	if c.name != lifecycleName && f.First.IsZero() {
		f.First, f.Missed = e.Time, f.Missed || f.Pruned && c.v.hasPruned()
	}
	switch {
	case e.Action == keystore.ActAuditPrune && c.name == lifecycleName:
		f.Pruned = true
	case e.KID == "":
	case e.Action == keystore.ActKeyUse:
		f.together(c, e)
	case e.Use != 0:
		f.numbered(c, e)
	case isSignature(e):
		f.unnumbered(c, e)
	}
}

// isSignature reports whether e is the entry of a signature that left Chancery.
func isSignature(e *Entry) bool {
	return e.Outcome == keystore.OutcomeDone &&
		slices.Contains([]keystore.Action{keystore.ActSignJWT, keystore.ActSignCSR, keystore.ActSignDigest, keystore.ActSignHistory, keystore.ActIssueAuthority}, e.Action)
}

// unnumbered is for the entries of older versions: once the uses of a key are
// numbered, all are.
func (f *useFollower) unnumbered(c *check, e *Entry) {
	u := f.of(e.KID).in(c.name)
	if u.numbered(e.Time) {
		c.problem(e.Sequence, unnumberedText, e.KID)
		return
	}
	u.Bare = &place{c.name, e.Sequence, e.Time}
}

const unnumberedText = "it is a signature by key %s without a number, and the uses of that key are numbered"

// numbered reports whether the uses were numbered at t.
func (u *logUses) numbered(t time.Time) bool { return !u.Begun.IsZero() && !t.Before(u.Begun) }

func (u *logUses) numberedBefore(t time.Time) bool { return u.numbered(t) && !t.Equal(u.Begun) }

// of returns what was met of a key.
func (f *useFollower) of(kid keystore.KID) *keyUses {
	k := f.Kids[kid]
	if k == nil {
		k = new(keyUses)
		f.Kids[kid] = k
	}
	return k
}

// in returns what was met of the key in lifecycle, or in acts.
func (k *keyUses) in(log string) *logUses {
	if log == lifecycleName {
		return &k.Lifecycle
	}
	return &k.Acts
}

// intentKey returns by what the intent of e is kept: its ID, as it stands in acts.
func intentKey(c *check, e *Entry) string {
	if c.name == lifecycleName {
		return lifecycleName + " " + e.ID
	}
	return e.ID
}

// together closes numbers that were counted.
func (f *useFollower) together(c *check, e *Entry) {
	numbers, err := parseSpans(e.Detail["uses"])
	if err != nil {
		c.problem(e.Sequence, "its numbers of uses: %v", err)
		return
	}
	for _, x := range numbers {
		f.close(c, e, x.From, x.To)
	}
}

// numbered closes the number of e. An intent and its outcome are one use.
func (f *useFollower) numbered(c *check, e *Entry) {
	if e.Use < 0 || e.Use >= maxUse {
		c.problem(e.Sequence, "use %d of key %s is no number", e.Use, e.KID)
		return
	}
	id := intentKey(c, e)
	intent, ok := f.Intents[id]
	if e.ID != "" && ok {
		if intent.KID != e.KID || intent.Use != e.Use {
			c.problem(e.Sequence, "it is use %d of key %s, and its intent is use %d of key %s", e.Use, e.KID, intent.Use, intent.KID)
		}
		delete(f.Intents, id)
		f.unknown(intent.KID, e, 1)
		return
	}
	if e.ID != "" && e.Outcome == keystore.OutcomeIntent {
		f.Intents[id] = intentUse{e.KID, e.Use, e.Time}
	}
	f.close(c, e, e.Use, e.Use)
}

func (f *useFollower) close(c *check, e *Entry, from, to int64) {
	k := f.of(e.KID)
	u := k.in(c.name)
	if u.Begun.IsZero() || e.Time.Before(u.Begun) {
		u.Begun = e.Time
	}
	if !u.Closed.add(from, to, place{c.name, e.Sequence, e.Time}) {
		c.problem(e.Sequence, "use %s of key %s was closed before", span{From: from, To: to}, e.KID)
		return
	}
	// What nobody waited for may be closed whenever the log is opened again.
	awaited := e.Outcome == keystore.OutcomeDone && e.Action != keystore.ActKeyUse
	if c.name != lifecycleName && awaited && e.Time.Sub(f.First) >= inFlight && (k.Late == 0 || from < k.Late) {
		k.Late = from
	}
	f.unknown(e.KID, e, to-from+1)
}

func (f *useFollower) unknown(kid keystore.KID, e *Entry, n int64) {
	if e.Outcome == keystore.OutcomeUnknown {
		f.Kids[kid].Unknown += n
	}
}

// forget has the acts that are read from now on be the first that are there.
func (f *useFollower) forget() {
	f.First, f.Missed = time.Time{}, true
	for _, k := range f.Kids {
		k.Late = 0
	}
}

func (f *useFollower) log(*check) {}

func (f *useFollower) conclude(v *verification) {
	open := map[keystore.KID]int64{}
	for _, in := range f.Intents {
		if f.Last.Sub(in.Time) < inFlight {
			open[in.KID]++
		} else { // an intent without an outcome is read as unknown
			f.Kids[in.KID].Unknown++
		}
	}
	for _, kid := range slices.Sorted(maps.Keys(f.Kids)) {
		k := f.Kids[kid]
		k.compare(v, kid)
		closed := k.closed()
		if len(closed) == 0 {
			continue // none is numbered
		}
		r := UseReport{KID: kid, First: 1, Last: closed.last(), Open: open[kid], Unknown: k.Unknown}
		begins := f.begins(k)
		if begins > 1 {
			r.First = closed[0].From
		}
		next := int64(1)
		for _, x := range closed {
			gap := span{From: max(next, begins), To: x.From - 1}
			next = x.To + 1
			switch {
			case gap.From > gap.To:
			case f.Last.Sub(x.At.Time) < inFlight:
				r.Open += gap.To - gap.From + 1
			default:
				v.problem(x.At.Log, x.At.Index, fmt.Sprintf("it is use %d of key %s, and use %s is entered nowhere", x.From, kid, gap))
			}
		}
		v.report.Uses = append(v.report.Uses, r)
	}
}

// closed returns the numbers that were closed in either.
func (k *keyUses) closed() spans {
	all := slices.Clone(k.Lifecycle.Closed)
	for _, x := range k.Acts.Closed {
		for _, gap := range all.missing(x.From, x.To) {
			all.add(gap.From, gap.To, x.At)
		}
	}
	return all
}

// compare tells what lifecycle and acts say against each other.
func (k *keyUses) compare(v *verification, kid keystore.KID) {
	for _, x := range k.Acts.Closed {
		free := k.Lifecycle.Closed.missing(x.From, x.To)
		for _, both := range free.missing(x.From, x.To) {
			v.problem(lifecycleName, -1, fmt.Sprintf("use %s of key %s is closed in it, and in acts", both, kid))
		}
	}
	if b := k.Lifecycle.Bare; b != nil && k.Acts.numberedBefore(b.Time) {
		v.problem(b.Log, b.Index, fmt.Sprintf(unnumberedText, kid))
	}
	if b := k.Acts.Bare; b != nil && k.Lifecycle.numberedBefore(b.Time) {
		v.problem(b.Log, b.Index, fmt.Sprintf(unnumberedText, kid))
	}
}

// begins returns the number below which a key's uses may have been entered in a
// month that was pruned. Of those that were in flight when the first month that is
// there began each may be on either side, and so may all before one of them: only
// what follows a number that was taken in a month that is there is there too.
func (f *useFollower) begins(k *keyUses) int64 {
	switch {
	case !f.Missed && (!f.First.IsZero() || !f.Pruned):
		return 1
	case k.Late == 0:
		return maxUse
	}
	return k.Late
}

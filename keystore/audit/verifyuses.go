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
	Intents map[string]intentUse      `json:"intents"` // by ID: those without an outcome yet
	Pruned  bool                      `json:"pruned"`  // months are not there any more: numbers begin later
	First   time.Time                 `json:"first"`   // of the first act that is there
	Last    time.Time                 `json:"last"`    // of the last entry of all
}

// keyUses is what was met of one key.
type keyUses struct {
	Closed  spans     `json:"closed"`
	Begun   time.Time `json:"begun"` // when its uses began to be numbered
	Unknown int64     `json:"unknown"`
	Lowest  int64     `json:"lowest"` // in acts
	Early   int64     `json:"early"`  // the highest in acts that could have been taken before First
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
		f.First = e.Time
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
		slices.Contains([]keystore.Action{keystore.ActSignJWT, keystore.ActSignCSR, keystore.ActSignHistory, keystore.ActIssueAuthority}, e.Action)
}

// unnumbered is for the entries of older versions: once the uses of a key are
// numbered, all are.
func (f *useFollower) unnumbered(c *check, e *Entry) {
	if k := f.Kids[e.KID]; k != nil && !e.Time.Before(k.Begun) {
		c.problem(e.Sequence, "it is a signature by key %s without a number, and the uses of that key are numbered", e.KID)
	}
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
	intent, ok := f.Intents[e.ID]
	if e.ID != "" && ok {
		if intent.KID != e.KID || intent.Use != e.Use {
			c.problem(e.Sequence, "it is use %d of key %s, and its intent is use %d of key %s", e.Use, e.KID, intent.Use, intent.KID)
		}
		delete(f.Intents, e.ID)
		f.unknown(intent.KID, e, 1)
		return
	}
	if e.ID != "" && e.Outcome == keystore.OutcomeIntent {
		f.Intents[e.ID] = intentUse{e.KID, e.Use, e.Time}
	}
	f.close(c, e, e.Use, e.Use)
}

func (f *useFollower) close(c *check, e *Entry, from, to int64) {
	k := f.Kids[e.KID]
	if k == nil {
		k = &keyUses{Begun: e.Time}
		f.Kids[e.KID] = k
	}
	if e.Time.Before(k.Begun) { // lifecycle was read first
		k.Begun = e.Time
	}
	if !k.Closed.add(from, to, place{c.name, e.Sequence, e.Time}) {
		c.problem(e.Sequence, "use %s of key %s was closed before", span{From: from, To: to}, e.KID)
		return
	}
	if c.name != lifecycleName {
		if k.Lowest == 0 || from < k.Lowest {
			k.Lowest = from
		}
		if e.Time.Sub(f.First) < inFlight {
			k.Early = max(k.Early, to)
		}
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
	f.First = time.Time{}
	for _, k := range f.Kids {
		k.Lowest, k.Early = 0, 0
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
		r := UseReport{KID: kid, First: 1, Last: k.Closed.last(), Open: open[kid], Unknown: k.Unknown}
		begins := f.begins(k)
		if begins > 1 {
			r.First = k.Closed[0].From
		}
		next := int64(1)
		for _, x := range k.Closed {
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

// begins returns the number below which a key's uses may have been entered in a
// month that was pruned. What was in flight when the first month that is there
// began may be on either side.
func (f *useFollower) begins(k *keyUses) int64 {
	switch {
	case !f.Pruned:
		return 1
	case k.Lowest == 0:
		return maxUse // no act of it is there
	}
	return max(k.Lowest, k.Early+1)
}

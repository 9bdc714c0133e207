package audit

import (
	"cmp"
	"container/list"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"chancery/keystore"
)

// A Budget says how many refusals get an entry of their own. What is over it is
// counted by principal, action, outcome and code, and each count entered once a
// minute: an act that failed, or that may have signed, is not called refused.
type Budget struct {
	PerSecond float64 // of one authenticated principal; 0: 10
	Burst     int     // 0: 100
	// Those nobody authenticated for share one budget.
	UnknownPerSecond float64 // 0: 1
	UnknownBurst     int     // 0: 20
}

func (b Budget) orDefault() Budget {
	return Budget{
		cmp.Or(b.PerSecond, 10), cmp.Or(b.Burst, 100),
		cmp.Or(b.UnknownPerSecond, 1), cmp.Or(b.UnknownBurst, 20),
	}
}

const (
	countEvery   = time.Minute
	maxLimiters  = 4096 // principals whose rate is known; the longest unseen is forgotten
	maxCounts    = 1024 // kinds of refusals counted apart
	maxUnwritten = 1024 // refusals on their way to the disk
)

// OtherRefusals is the code of an entry that counts refusals of more kinds than are
// counted apart, whatever theirs were.
const OtherRefusals = "other"

// refusals decides which refusals are entered and counts the others.
type refusals struct {
	budget Budget
	now    func() time.Time

	mu        sync.Mutex
	unknown   *rate.Limiter
	limiters  map[string]*list.Element // of *limiter
	order     *list.List               // by last use, the latest first
	counts    map[refusal]int
	since     time.Time // when counting began
	unwritten int
}

type limiter struct {
	principal string
	*rate.Limiter
}

type refusal struct {
	principal string
	action    keystore.Action
	outcome   keystore.Outcome
	code      string
}

func newRefusals(b Budget, now func() time.Time) *refusals {
	return &refusals{
		budget: b, now: now, since: now(),
		unknown:  rate.NewLimiter(rate.Limit(b.UnknownPerSecond), b.UnknownBurst),
		limiters: map[string]*list.Element{}, order: list.New(), counts: map[refusal]int{},
	}
}

// admit reports whether rec gets an entry of its own; if not, it is counted.
func (r *refusals) admit(rec *keystore.Record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unwritten >= maxUnwritten || !r.limiter(rec.Principal).AllowN(r.now(), 1) {
		r.add(rec)
		return false
	}
	r.unwritten++
	return true
}

func (r *refusals) limiter(principal string) *rate.Limiter {
	if principal == "" {
		return r.unknown
	}
	if at, ok := r.limiters[principal]; ok {
		r.order.MoveToFront(at)
		return at.Value.(*limiter).Limiter
	}
	if r.order.Len() >= maxLimiters {
		oldest := r.order.Remove(r.order.Back()).(*limiter)
		delete(r.limiters, oldest.principal)
	}
	l := &limiter{principal, rate.NewLimiter(rate.Limit(r.budget.PerSecond), r.budget.Burst)}
	r.limiters[principal] = r.order.PushFront(l)
	return l.Limiter
}

// add counts rec. The caller holds mu.
func (r *refusals) add(rec *keystore.Record) {
	kind := refusal{rec.Principal, rec.Action, rec.Outcome, rec.Code}
	if _, ok := r.counts[kind]; !ok && len(r.counts) >= maxCounts {
		kind = refusal{"", keystore.ActRequest, rec.Outcome, OtherRefusals}
	}
	r.counts[kind] += max(rec.Count, 1)
}

// written takes back what admit gave: an admitted refusal is in the log, or
// could not be entered and is counted.
func (r *refusals) written(rec *keystore.Record, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unwritten--
	if err != nil {
		r.add(rec)
	}
}

func (r *refusals) due() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now().Sub(r.since) >= countEvery
}

// counted returns an entry for each kind that was counted, and begins anew.
func (r *refusals) counted() []keystore.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	since := r.since.UTC().Format(TimeLayout)
	recs := make([]keystore.Record, 0, len(r.counts))
	for kind, n := range r.counts {
		recs = append(recs, keystore.Record{
			Principal: kind.principal, Action: kind.action, Outcome: kind.outcome,
			Code: kind.code, Count: n, Detail: map[string]string{"since": since},
		})
	}
	slices.SortFunc(recs, func(a, b keystore.Record) int {
		return cmp.Or(cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.Action, b.Action),
			cmp.Compare(a.Outcome, b.Outcome), cmp.Compare(a.Code, b.Code))
	})
	clear(r.counts)
	r.since = r.now()
	return recs
}

// Refuse enters a refusal into acts, or counts it with those that went the same
// way; a failed act, and one whose outcome is unknown, comes here too. It does not wait for the
// disk, and it is no error if the log cannot be written: then it is counted. The
// number of a use is entered all the same: with others, in an entry of key.use.
func (l *Log) Refuse(rec keystore.Record) {
	if !l.refusals.admit(&rec) {
		l.uses.closing(&rec).end(errCounted)
		return
	}
	q := l.newRequest(&rec)
	q.refused = &rec
	if err := l.acts.submit(q); err != nil {
		q.uses.end(err)
		l.refusals.written(&rec, err)
	}
}

// flushRefusals hands the counted refusals to acts.
func (l *Log) flushRefusals() {
	for _, rec := range l.refusals.counted() {
		l.refusals.mu.Lock()
		l.refusals.unwritten++
		l.refusals.mu.Unlock()
		q := l.newRequest(&rec)
		q.refused = &rec
		if err := l.acts.submit(q); err != nil {
			l.refusals.written(&rec, err)
		}
	}
}

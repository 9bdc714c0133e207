package audit

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"chancery/keystore"
)

// intents are the acts that are about to be done, as an entry says, and whose
// outcome is not entered yet. The numbers of uses are not settled beyond the first
// of them, so that the next start reads it, if the process ends before its outcome.
type intents struct {
	mu   sync.Mutex
	open map[string]intent // by ID
}

// An intent is one that is on its way into acts, or there.
type intent struct {
	rec  keystore.Record
	at   useHead // where it stands; no month: it is on its way
	time time.Time
	lost bool // its outcome could not be entered
}

func newIntents() *intents { return &intents{open: map[string]intent{}} }

// begin notes an intent that is handed to acts.
func (i *intents) begin(rec *keystore.Record) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.open[rec.ID] = intent{rec: *rec}
}

// place notes where in acts the intent with that ID stands.
func (i *intents) place(id string, at useHead, t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if in, ok := i.open[id]; ok {
		in.at, in.time = at, t
		i.open[id] = in
	}
}

// close forgets the intent with that ID: its outcome is entered, or it never was.
func (i *intents) close(id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.open, id)
}

// before returns the last place before which no intent is open, of those up to at;
// false: one is on its way.
func (i *intents) before(at useHead) (useHead, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, in := range i.open {
		if in.at.month == "" {
			return useHead{}, false
		}
		if in.at.month < at.month || in.at.month == at.month && in.at.index < at.index {
			at = in.at
		}
	}
	return at, true
}

// lose notes that the outcome of the intent with that ID could not be entered.
func (i *intents) lose(id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if in, ok := i.open[id]; ok {
		in.lost = true
		i.open[id] = in
	}
}

// lost returns the intents whose outcome could not be entered, the first one first.
func (i *intents) lost() []keystore.Record {
	i.mu.Lock()
	defer i.mu.Unlock()
	var list []intent
	for _, in := range i.open {
		if in.lost && in.at.month != "" {
			list = append(list, in)
		}
	}
	return recordsOf(list)
}

func recordsOf(list []intent) (recs []keystore.Record) {
	slices.SortFunc(list, func(a, b intent) int {
		if c := a.time.Compare(b.time); c != 0 {
			return c
		}
		return strings.Compare(a.rec.ID, b.rec.ID)
	})
	for _, in := range list {
		recs = append(recs, in.rec)
	}
	return recs
}

// settlePoint returns the place in acts up to which nothing is open, as far as the
// log has come; false: there is none now.
func (l *Log) settlePoint() (useHead, bool) {
	s := l.acts.current()
	if s == nil {
		return useHead{}, false
	}
	return l.intents.before(useHead{filepath.Base(s.name), s.length()})
}

// closeIntents enters that nobody knows what became of these acts (FAULTS.md S13).
func (l *Log) closeIntents(ctx context.Context, recs []keystore.Record, why string) error {
	for _, rec := range recs {
		rec.Outcome, rec.Reason = keystore.OutcomeUnknown, why
		if _, err := l.Act(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// isIntent reports whether rec is an intent that an entry of its ID has to follow.
func isIntent(rec *keystore.Record) bool {
	return rec.ID != "" && rec.Outcome == keystore.OutcomeIntent
}

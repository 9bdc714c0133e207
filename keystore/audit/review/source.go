package review

import (
	"cmp"
	"context"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A Log yields those entries of one node's logs that a filter wants, the first
// error last, as audit.EntriesContext does. Of the filter's members Log, Since,
// Until, KeySet and KID are used.
type Log func(audit.Filter) iter.Seq2[audit.Located, error]

// Dir returns the logs under dir, an audit directory, for as long as ctx lasts.
func Dir(ctx context.Context, dir string) Log {
	return func(f audit.Filter) iter.Seq2[audit.Located, error] { return audit.EntriesContext(ctx, dir, f) }
}

// Late is how long after what it tells an entry may come without saying so.
const Late = time.Second

// A fact is a lifecycle entry, and since when it has been so.
type fact struct {
	audit.Located
	at time.Time
}

// since returns since when what e tells has been so: its time, or what its detail
// says as "at" if that is not later.
func since(e *audit.Entry) time.Time {
	at, err := time.Parse(time.RFC3339Nano, e.Detail["at"])
	if err != nil || at.After(e.Time) {
		return e.Time
	}
	return at.UTC()
}

func (f *fact) event() Event {
	e := &f.Entry
	return Event{
		At: f.at, Action: e.Action, Outcome: e.Outcome, KeySet: e.KeySet, Version: e.Version, State: e.State,
		By: e.Principal, Rule: e.Rule, Reason: e.Reason, Detail: e.Detail, Entry: f.Name(),
	}
}

// nodeOf returns HOST/audit/NODE of a log's origin.
func nodeOf(origin string) string {
	if i := strings.LastIndex(origin, "/acts/"); i >= 0 {
		return origin[:i]
	}
	return strings.TrimSuffix(origin, "/lifecycle")
}

// shortNode returns NODE.
func shortNode(origin string) string { return path.Base(nodeOf(origin)) }

// lifecycle returns the facts of all logs in the order of their
// entries' times. What two nodes entered, because one of them was slow, counts
// once.
func lifecycle(logs []Log) ([]fact, error) {
	var all []fact
	for _, log := range logs {
		for at, err := range log(audit.Filter{Log: "lifecycle"}) {
			if err != nil {
				return nil, err
			}
			all = append(all, fact{at, since(&at.Entry)})
		}
	}
	slices.SortFunc(all, func(a, b fact) int {
		return cmp.Or(a.Entry.Time.Compare(b.Entry.Time), cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Entry.Sequence, b.Entry.Sequence))
	})
	return once(all), nil
}

// once leaves out what another node has entered already.
func once(all []fact) []fact {
	type name struct {
		id      string
		action  keystore.Action
		outcome keystore.Outcome
		keyset  string
		version int
	}
	first := make(map[name]string)
	return slices.DeleteFunc(all, func(f fact) bool {
		e := &f.Entry
		n := name{e.ID, e.Action, e.Outcome, e.KeySet, e.Version}
		origin, known := first[n]
		if e.ID != "" && !known {
			first[n] = f.Origin
		}
		return e.ID != "" && known && origin != f.Origin
	})
}

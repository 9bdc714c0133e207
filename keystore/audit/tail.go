package audit

import (
	"context"
	"iter"
)

// A Tail yields what a Filter wants of the logs under an audit directory and,
// when it is asked again, what has come since. What it has read it does not read
// again, but for the beginning of the last journal of each log. One goroutine
// uses it at a time.
type Tail struct {
	dir    string
	filter Filter
	next   map[string]int64 // by log: the lowest index that was not yielded or passed over
}

// NewTail returns a Tail that begins with the first entry f wants.
func NewTail(dir string, f Filter) *Tail { return &Tail{dir, f, map[string]int64{}} }

// Entries yields as EntriesContext does, without what was yielded before; each
// time the order of times begins anew. An entry at which the caller stops comes
// again. An entry that was read before it was acknowledged, and then cut, is not
// made up for: the one that took its index is passed over.
func (t *Tail) Entries(ctx context.Context) iter.Seq2[Located, error] {
	return entriesAfter(ctx, t.dir, t.filter, t.next)
}

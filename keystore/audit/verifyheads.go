package audit

import (
	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore"
)

// headFollower checks that the acts were what lifecycle says of them.
type headFollower struct {
	Heads map[string][]seenHead `json:"heads"` // by origin, of ascending sizes: those not compared yet
	Last  map[string]seenHead   `json:"last"`  // by origin
}

// A seenHead is what an entry of lifecycle says of a log.
type seenHead struct {
	Index int64     `json:"index"` // of the entry
	Size  int64     `json:"size"`
	Root  tlog.Hash `json:"root"`
}

func newHeadFollower() *headFollower {
	return &headFollower{map[string][]seenHead{}, map[string]seenHead{}}
}

func (f *headFollower) entry(c *check, e *Entry) {
	switch {
	case c.name != lifecycleName:
		f.compare(c, e.Sequence) // the tree as it is before e
	case e.Action == keystore.ActAuditHead:
		f.head(c, e)
	}
}

func (f *headFollower) head(c *check, e *Entry) {
	h, ok := headIn(e)
	if !ok || !c.isActs(h.Origin) {
		c.problem(e.Sequence, "it does not tell how far a month of acts of this node had come")
		return
	}
	if last, ok := f.Last[h.Origin]; ok && h.Size < last.Size {
		c.problem(e.Sequence, "it says that %s has %d entries, and entry %d that it has %d", h.Origin, h.Size, last.Index, last.Size)
		return
	}
	f.Last[h.Origin] = seenHead{e.Sequence, h.Size, h.Root}
	f.Heads[h.Origin] = append(f.Heads[h.Origin], f.Last[h.Origin])
}

// compare compares c's tree, which has the given size, with the heads up to it.
func (f *headFollower) compare(c *check, size int64) {
	heads := f.Heads[c.rep.Origin]
	for len(heads) > 0 && heads[0].Size <= size {
		h := heads[0]
		heads = heads[1:]
		f.Heads[c.rep.Origin] = heads
		if fits, known := c.had(h.Size, h.Root); known && !fits {
			c.problem(-1, "its first %d entries are not the ones that lifecycle entry %d tells of", h.Size, h.Index)
		}
	}
}

func (f *headFollower) log(c *check) {
	if c.name == lifecycleName {
		return
	}
	f.compare(c, c.next)
	for _, h := range f.Heads[c.rep.Origin] {
		c.problem(-1, "it has %d entries, and lifecycle entry %d says that it had %d: the others are gone", c.next, h.Index, h.Size)
	}
	delete(f.Heads, c.rep.Origin)
}

// conclude has nothing to add: that a month is not there its beginning or its
// end in lifecycle tells.
func (f *headFollower) conclude(*verification) {}

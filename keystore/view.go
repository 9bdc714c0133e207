package keystore

import (
	"slices"
	"strings"
	"time"
)

// A View is an immutable snapshot of the catalog. It may be read concurrently.
type View struct {
	revision int64
	readAt   time.Time
	clock    time.Time
	sets     map[string]*KeySet
	nodes    []Node
}

// NewView returns a snapshot of sets at a revision, read at readAt. It keeps
// the pointers: the caller gives the sets away.
func NewView(revision int64, readAt time.Time, sets []*KeySet) *View {
	v := &View{revision: revision, readAt: readAt, sets: make(map[string]*KeySet, len(sets))}
	for _, ks := range sets {
		v.sets[ks.Name] = ks
	}
	return v
}

// WithNodes returns the same snapshot with the nodes of the catalog, by name,
// and what the catalog's own clock said when it was taken. It keeps nodes: the
// caller gives them away.
func (v *View) WithNodes(clock time.Time, nodes []Node) *View {
	c := *v
	c.clock, c.nodes = clock, nodes
	return &c
}

// Clock returns what the catalog's own clock said when the snapshot was taken;
// without nodes it is ReadAt.
func (v *View) Clock() time.Time {
	if v.clock.IsZero() {
		return v.readAt
	}
	return v.clock
}

// Nodes returns the nodes of the catalog by name. They must not be changed.
func (v *View) Nodes() []Node { return v.nodes }

// Node returns the node of that name.
func (v *View) Node(name string) (*Node, bool) {
	for i := range v.nodes {
		if v.nodes[i].Name == name {
			return &v.nodes[i], true
		}
	}
	return nil, false
}

// Revision returns the catalog revision the snapshot was taken at.
func (v *View) Revision() int64 { return v.revision }

// ReadAt returns when the snapshot was taken.
func (v *View) ReadAt() time.Time { return v.readAt }

// KeySet returns the key set with the given name. It must not be changed.
func (v *View) KeySet(name string) (*KeySet, bool) {
	ks, ok := v.sets[name]
	return ks, ok
}

// KeySets returns all key sets by name. They must not be changed.
func (v *View) KeySets() []*KeySet {
	sets := make([]*KeySet, 0, len(v.sets))
	for _, ks := range v.sets {
		sets = append(sets, ks)
	}
	slices.SortFunc(sets, func(a, b *KeySet) int { return strings.Compare(a.Name, b.Name) })
	return sets
}

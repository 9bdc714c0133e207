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
	sets     map[string]*KeySet
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

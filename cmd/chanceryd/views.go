package main

import (
	"context"
	"errors"
	"sync"

	"chancery/keystore"
	"chancery/keystore/catalog"
)

// errStale: the catalog has moved on and could not be read since.
var errStale = errors.New("the catalog could not be read since it last changed")

// views holds the snapshot in force on this node: the catalog's, with the
// suspensions of the brake file laid over it, since those count even while
// catalog and log cannot be written.
//
// With a catalog of its own a node's lease lasts while the data directory's lock
// is held: a catalog that cannot be read stops signing at the exp horizon it last
// recorded. One that others write too is read again and again, and a snapshot is
// in force only while it is younger than the signing lease. A snapshot that is
// known to be behind the catalog is not in force.
type views struct {
	catalog *catalog.Catalog
	leases  *leases

	mu        sync.Mutex // guards what follows
	base      *keystore.View
	read      instant // before base was read
	braked    map[keystore.KID]keystore.Fact
	revoked   map[keystore.KID]keystore.Fact // compromised, whatever base says
	current   *keystore.View                 // base with braked and revoked laid over
	published *keystore.View                 // the last current there was: what stays published
	err       error                          // why current is not in force; nil if it is
	oldest    int64                          // the revision that base must have at least
	doubts    int                            // changes that may be in the catalog and take long
}

// Current returns the snapshot in force.
func (v *views) Current() (*keystore.View, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.current == nil {
		return nil, errStale
	}
	if err := v.leases.sign(v.read); err != nil { // it says more than v.err
		return nil, err
	}
	if v.err != nil {
		return nil, v.err
	}
	return v.current, nil
}

// Published returns the last snapshot that was installed, or nil, and a moment
// before it was last read. Publishing has a longer lease than signing: a catalog
// that cannot be read leaves the key sets published.
func (v *views) Published() (*keystore.View, instant) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.published, v.read
}

// Read returns what the catalog says now, without putting it in force, and a
// moment before it was asked.
func (v *views) Read(ctx context.Context) (*keystore.View, instant, error) {
	at := v.leases.instant()
	view, err := v.catalog.View(ctx)
	return view, at, err
}

// Install puts a snapshot in force whose steps have all been entered, unless a
// newer one is, or has to be; read is from before it was read. It returns the
// snapshot that was in force before, or nil, and whether base has replaced it.
func (v *views) Install(base *keystore.View, read instant) (before *keystore.View, installed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before = v.current
	if base.Revision() < v.oldest || v.base != nil && base.Revision() < v.base.Revision() {
		return before, false // a slower reader
	}
	if v.base == nil || base.Revision() > v.base.Revision() || read.boot > v.read.boot {
		v.base, v.read = base, read
	}
	v.lay()
	return before, true
}

// Began returns a moment before the snapshot in force was read.
func (v *views) Began() instant {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.read
}

// Revision returns that of the snapshot in force, or that was.
func (v *views) Revision() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.base == nil {
		return 0
	}
	return v.base.Revision()
}

// Newer reports whether a newer snapshot than of this revision was installed.
func (v *views) Newer(revision int64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.base != nil && v.base.Revision() > revision
}

// Stale takes the snapshot out of force until one of this revision is
// installed, or of a newer one.
func (v *views) Stale(revision int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.oldest = max(v.oldest, revision)
	v.err = errStale
}

// Doubt takes the snapshot out of force, whatever is installed, until Settled:
// a change is under way and may be in the catalog already.
func (v *views) Doubt() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.doubts++
	v.err = errStale
}

// Settled ends a doubt. What is installed next is in force again.
func (v *views) Settled() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.doubts--
}

// Brake lays the suspensions of the brake file over the snapshot, at once.
func (v *views) Brake(braked map[keystore.KID]keystore.Fact) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.braked = braked
	if v.base != nil {
		err := v.err
		v.lay()
		v.err = err // a stale snapshot stays out of force
	}
}

// Revoke has a version of that kid neither sign nor be published here from now
// on: stopping needs no catalog. It cannot be taken back.
func (v *views) Revoke(kid keystore.KID, fact keystore.Fact) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.revoked[kid]; ok {
		return
	}
	if v.revoked == nil {
		v.revoked = make(map[keystore.KID]keystore.Fact)
	}
	v.revoked[kid] = fact
	if v.base != nil {
		err := v.err
		v.lay()
		v.err = err // a stale snapshot stays out of force
	}
}

// Revoked returns how many versions are.
func (v *views) Revoked() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.revoked)
}

// lay makes current out of base, braked and revoked. The caller holds mu.
func (v *views) lay() {
	v.current, v.err = v.base, nil
	if v.doubts > 0 {
		v.err = errStale
	}
	if len(v.braked)+len(v.revoked) > 0 {
		sets := v.base.KeySets()
		for i, set := range sets {
			sets[i] = v.laidOver(set)
		}
		v.current = keystore.NewView(v.base.Revision(), v.base.ReadAt(), sets).WithNodes(v.base.Clock(), v.base.Nodes())
	}
	v.published = v.current
}

// laidOver returns set as it is in force here, which is a copy if the catalog
// does not say so yet.
func (v *views) laidOver(set *keystore.KeySet) *keystore.KeySet {
	copied := false
	for i := range set.Versions {
		row := &set.Versions[i]
		braked, stops := v.braked[row.KID]
		revoked, gone := v.revoked[row.KID]
		stops, gone = stops && row.Suspended == nil, gone && row.Compromised == nil
		if row.KID == "" || !stops && !gone {
			continue
		}
		if !copied {
			set, copied = set.Clone(), true
			row = &set.Versions[i]
		}
		if stops {
			row.Suspended = &braked
		}
		if gone {
			row.Compromised = &revoked
		}
	}
	return set
}

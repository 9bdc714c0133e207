package main

import (
	"maps"
	"sync"

	"chancery/keystore"
	"chancery/keystore/catalog"
)

// brake is the brake file, in force at once: what is put on it stops signing in
// memory even if the file cannot be written.
type brake struct {
	file  *catalog.Brake
	views *views

	mu sync.Mutex // guards on
	on map[keystore.KID]keystore.Fact
}

func openBrake(path string, v *views) (*brake, error) {
	file, err := catalog.OpenBrake(path)
	if err != nil {
		return nil, err
	}
	b := &brake{file: file, views: v, on: file.Suspended()}
	if b.on == nil {
		b.on = make(map[keystore.KID]keystore.Fact)
	}
	v.Brake(maps.Clone(b.on))
	return b, nil
}

// Put stops kid from signing, at once and before the disk is asked. Its error
// says that this would not outlast the process.
func (b *brake) Put(kid keystore.KID, fact keystore.Fact) error {
	b.set(func(on map[keystore.KID]keystore.Fact) { on[kid] = fact })
	return b.file.Put(kid, fact)
}

// Remove takes kid off the brake, unless it was put on again meanwhile. The
// catalog's word counts again.
func (b *brake) Remove(kid keystore.KID) error {
	was := b.Suspended()[kid]
	if err := b.file.Remove(kid); err != nil {
		return err
	}
	b.set(func(on map[keystore.KID]keystore.Fact) {
		if on[kid] == was {
			delete(on, kid)
		}
	})
	return nil
}

// set changes what is on the brake, in memory.
func (b *brake) set(change func(on map[keystore.KID]keystore.Fact)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b.on)
	b.views.Brake(maps.Clone(b.on))
}

// Suspended returns what is on the brake.
func (b *brake) Suspended() map[keystore.KID]keystore.Fact {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.on)
}

// Close closes the file.
func (b *brake) Close() error { return b.file.Close() }

package rotation

import (
	"chancery/keystore"
)

// Awaited is a version whose next step waits for a node.
type Awaited struct {
	Node    string
	KeySet  string
	Version int
}

// Awaited returns what waits for which nodes by a snapshot, by key set and node.
func (r *Rotator) Awaited(view *keystore.View) []Awaited {
	var all []Awaited
	now := r.now()
	for _, ks := range view.KeySets() {
		_, spec, err := r.of(ks.Name)
		if err != nil {
			continue // not configured: it takes no steps
		}
		for _, w := range Waits(r.facts(ks, view.Nodes()), spec.Schedule, now) {
			for _, node := range w.Nodes {
				all = append(all, Awaited{Node: node, KeySet: ks.Name, Version: w.Step.Version})
			}
		}
	}
	return all
}

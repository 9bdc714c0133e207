package simulation

import (
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

// since is when things last happened, in real time, for the checks that go by it.
type since struct {
	asked, suspended time.Duration
	stopped          [maxKeys + 1]time.Duration // by key
}

// checkCommit demands of a change what no verifier sees.
func (w *World) checkCommit(before, after *keystore.KeySet, n int, now time.Time) {
	active, known := 0, 0
	var rows bits
	for i := range after.Versions {
		v := &after.Versions[i]
		rows |= 1 << keyOf(v)
		if v.State == keystore.Active {
			active++
		}
		if v.State.Known() {
			known++
		}
		was, ok := before.Version(v.Number)
		if !ok || was.State == v.State {
			continue
		}
		if !was.State.MayBecome(v.State) {
			w.broken(9, "version %d goes from %s to %s", v.Number, was.State, v.State)
		}
		switch v.State {
		case keystore.Active:
			w.checkActivation(before, v, n)
		case keystore.Retiring:
			w.since.stopped[keyOf(v)] = w.now
		case keystore.Retired:
			w.checkRemoval(v)
		}
	}
	w.rows |= rows
	if active > 1 {
		w.broken(4, "%d versions are active", active)
	}
	if known > rotation.MaxKnown {
		w.broken(2, "%d versions are known", known)
	}
	if nameless := w.token &^ w.rows &^ w.strays; nameless != 0 && w.orphans(nameless) {
		w.broken(8, "the token holds key %s, and no version has it", nameless)
	}
}

// orphans reports whether no node is about to name these keys.
func (w *World) orphans(keys bits) bool {
	for i := range w.cfg.Nodes {
		keys &^= 1 << w.nodes[i].making.key
	}
	return keys != 0
}

// checkActivation demands that a version may sign from now on.
func (w *World) checkActivation(before *keystore.KeySet, v *keystore.Version, n int) {
	w.counts.Rotations++
	k := keyOf(v)
	old, swaps := before.Active()
	switch {
	case v.ServedAt.IsZero():
		w.broken(8, "version %d becomes active and no node has said that it serves it", v.Number)
	case !w.token.has(k) || w.tokenDown:
		w.broken(8, "version %d becomes active and its key is not there", v.Number)
	case v.Suspended != nil:
		w.broken(6, "version %d becomes active and is suspended", v.Number)
	case swaps && old.Suspended != nil && w.since.asked+w.cfg.Schedule.Skew < w.since.suspended:
		w.broken(6, "version %d becomes active while version %d is suspended, and nobody has asked for it since", v.Number, old.Number)
	}
	if listed := w.nodes[n].served.algs; w.cfg.Purpose == keystore.PurposeJWT && w.nodes[n].serving && listed&algorithmBit[v.Algorithm] == 0 {
		w.broken(11, "version %d is %s, which discovery has not listed", v.Number, v.Algorithm)
	}
	// What may sign from now on has to be known from now on.
	w.checkKey(k)
}

// checkRemoval demands that nothing lives that a version has signed.
func (w *World) checkRemoval(v *keystore.Version) {
	w.counts.Removals++
	if left := w.live[keyOf(v)] - w.now; left > 0 {
		rule := 2
		if w.cfg.Purpose == keystore.PurposeCA {
			rule = 10
		}
		w.broken(rule, "version %d leaves the set and what it signed lives for %v more", v.Number, left)
	}
}

// String writes keys by their numbers.
func (b bits) String() string {
	text := ""
	for k := 1; k <= maxKeys; k++ {
		if b.has(k) {
			if text != "" {
				text += ","
			}
			text += string(kids[k][4:])
		}
	}
	return text
}

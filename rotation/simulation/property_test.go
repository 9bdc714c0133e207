package simulation

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
)

// often is every kind of action, and more often what brings a rotation on.
var often = func() (all []Kind) {
	for k := Advance; k < kinds; k++ {
		all = append(all, k)
	}
	for range 6 {
		all = append(all, Refresh, Prove, Ack, Pass, Pass, Pass, Sign, Release, Wake, Advance)
	}
	return all
}()

var (
	anyone         = []uint8{0, 1, 2, 3, 4, 5}
	variantNumbers = func() (all []int) {
		for i := range variants {
			all = append(all, i)
		}
		return all
	}()
)

// TestAnythingMayHappen has rapid choose what happens, so that it finds a short
// way to what is wrong, and demands beside the rules that rotation goes on by
// itself when the trouble is over.
func TestAnythingMayHappen(t *testing.T) {
	var counts Counts
	rapid.Check(t, func(t *rapid.T) {
		cfg := fast
		cfg.Nodes = rapid.IntRange(1, maxNodes).Draw(t, "nodes")
		cfg, err := cfg.checked()
		if err != nil {
			t.Fatal(err)
		}
		unsteady := rapid.Bool().Draw(t, "unsteady")
		w := newWorld(cfg, unsteady)
		var actions []Action
		do := func(a Action) {
			actions = append(actions, a)
			w.Do(a)
		}
		for range rapid.IntRange(1, 300).Draw(t, "length") {
			a := Action{Kind: rapid.SampledFrom(often).Draw(t, "kind"), Who: rapid.SampledFrom(anyone).Draw(t, "who")}
			switch a.Kind {
			case Advance:
				a.Arg = int64(rapid.SampledFrom(spans(cfg)).Draw(t, "time"))
			case StepNode, StepStore:
				a.Arg = int64(rapid.SampledFrom(steps(cfg)).Draw(t, "step"))
			case Configure:
				a.Arg = int64(rapid.SampledFrom(variantNumbers).Draw(t, "variant"))
			case Sign, Pass, Crash, Fetch:
				a.Arg = int64(rapid.SampledFrom([]int{0, 1}).Draw(t, "arg"))
			}
			do(a)
		}
		if w.violation == nil && !unsteady && w.keys < maxKeys-20 && whole(w) {
			calm(w, do)
		}
		counts.add(w.counts)
		if w.violation != nil {
			t.Fatalf("%v\n%s", w.violation, strings.Join(tell(cfg, unsteady, actions), "\n"))
		}
	})
	t.Logf("%+v", counts)
}

// whole reports whether the token has the key of every version that a served set
// has to have. Where it has not, a node that starts cannot prove the version and
// serves nothing until an operator says that it is lost.
func whole(w *World) bool {
	for i := range w.store.set.Versions {
		v := &w.store.set.Versions[i]
		if w.store.set.Needs(v) && !w.token.has(keyOf(v)) {
			return false
		}
	}
	return true
}

// calm ends all trouble and demands that the key set rotates.
func calm(w *World, do func(Action)) {
	do(Action{StoreUp, 0, 0})
	do(Action{TokenUp, 0, 0})
	for i := range w.cfg.Nodes {
		n := uint8(i)
		for _, k := range []Kind{Start, Continue, Join, Refresh} {
			do(Action{k, n, 0})
		}
		if w.nodes[i].behind { // an operator sees to it
			do(Action{Crash, n, 0})
			do(Action{Start, n, 0})
		}
	}
	// Whoever was forgotten is let in again when its lease is over.
	do(Action{Advance, 0, int64(w.cfg.Publishing)})
	for i := range w.cfg.Nodes {
		n := uint8(i)
		if row := w.store.row(nodeNames[i]); row != nil && row.Forgotten != nil {
			do(Action{Crash, n, 0})
			do(Action{Start, n, 0})
		}
		do(Action{Refresh, n, 0})
	}
	do(Action{Configure, 0, 0})
	do(Action{Resume, 0, 0})
	for i := range w.cfg.Nodes {
		do(Action{Reload, uint8(i), 0})
	}
	sch := w.cfg.Schedule
	for range int(3 * sch.Every / time.Second) {
		do(Action{Advance, 0, int64(time.Second)})
		for _, k := range []Kind{Refresh, Prove, Pass, Ack, Pass, Sign, Release} {
			for i := range w.cfg.Nodes {
				do(Action{k, uint8(i), 0})
			}
		}
	}
	v, ok := w.store.set.Active()
	if age := w.now - v0(v).ActivatedAt.Sub(epoch); w.violation == nil && (!ok || age > sch.Every+2*(2*sch.CacheFor+sch.Skew)) {
		w.broken(0, "rotation does not go on: %+v", w.store.set.Versions)
	}
}

// v0 is v, or a version nothing is known of.
func v0(v *keystore.Version) *keystore.Version {
	if v == nil {
		return &keystore.Version{ActivatedAt: epoch}
	}
	return v
}

package rotation

import (
	"testing"
	"time"

	"chancery/keystore"
)

// BenchmarkPlan plans ten thousand key sets once: an active version, a successor
// and two that are retiring, each acknowledged by three nodes.
func BenchmarkPlan(b *testing.B) {
	nodes := []keystore.Node{node("a", time.Hour), node("b", time.Hour), node("c", time.Hour)}
	sets := make([]*keystore.KeySet, 10_000)
	for i := range sets {
		ks := lives(fast, retiring(14*time.Second, at(time.Hour)), retiring(17*time.Second, at(time.Hour)), active(20*time.Second), unserved())
		for number := range ks.Versions {
			ks = acked(ks, number+1, map[string]time.Duration{"a": 0, "b": time.Second, "c": 2 * time.Second})
		}
		ks.Promises = append(ks.Promises, fast.promise(at(5*time.Second)))
		sets[i] = ks
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, ks := range sets {
			step, why := Plan(Facts{Set: ks, Nodes: nodes, Self: "a"}, fast, at(21*time.Second))
			if step != NoStep || why.At.IsZero() {
				b.Fatal(step, why)
			}
		}
	}
}

package clock

import (
	"testing"
	"time"
)

// The real clocks go alike: what is read of them is no step, even for a skew
// that is smaller than any configuration's.
func TestTheKernelsClocksAgree(t *testing.T) {
	first := Read()
	if first.BootID == "" || first.Boot <= 0 || time.Since(first.Wall).Abs() > time.Minute {
		t.Fatalf("%+v", first)
	}
	g := New(100*time.Millisecond, Anchor{})
	for range 200 {
		r := Read()
		if r.BootID != first.BootID || r.Boot < first.Boot {
			t.Fatalf("%+v, after %+v", r, first)
		}
		if g.Feed(r) != NoChange {
			t.Fatal(trouble(g))
		}
		time.Sleep(time.Millisecond)
	}
}

func BenchmarkRead(b *testing.B) {
	for b.Loop() {
		Read()
	}
}

func BenchmarkGlance(b *testing.B) {
	for b.Loop() {
		Glance()
	}
}

package rotation

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

// Each wait tells since when the version is where the step finds it, and names
// the nodes that it waits for.
func TestWaitsTellSinceWhenAndForWhom(t *testing.T) {
	const s = time.Second
	both := []keystore.Node{node("a", time.Hour), node("b", time.Hour)}
	set := func(vs ...keystore.Version) *keystore.KeySet { return lives(fast, vs...) }
	made := func(f Facts, kind Kind, now time.Duration) Why {
		_, w, ok := find(Waits(f, fast, at(now)), kind)
		if !ok {
			t.Errorf("nothing waits to %s", kind)
		}
		return w
	}
	published := unserved()

	half := acked(acked(set(active(0), published), 1, map[string]time.Duration{"a": 0, "b": 0}), 2, map[string]time.Duration{"a": s})
	w := made(Facts{Set: half, Nodes: both}, Activate, 8*s)
	if !slices.Equal(w.Nodes, []string{"b"}) || !w.Since.Equal(published.PublishedAt) {
		t.Errorf("half acknowledged: %+v", w)
	}
	if w := made(Facts{Set: set(active(0), published), Nodes: both}, Activate, 8*s); !slices.Equal(w.Nodes, []string{"a", "b"}) {
		t.Errorf("not acknowledged: waits for %q", w.Nodes)
	}
	making := set(active(0), keystore.Version{Number: 2, State: keystore.Pending, Maker: "b", CreatedAt: at(5 * s)})
	if w := made(Facts{Set: making, Nodes: both, Self: "a"}, Publish, 8*s); !slices.Equal(w.Nodes, []string{"b"}) || !w.Since.Equal(at(5*s)) {
		t.Errorf("another node makes it: %+v", w)
	}
	asked := &keystore.Fact{At: at(7 * s), By: "op", Reason: "r"}
	if w := made(Facts{Set: set(active(0)), Rotate: asked}, Generate, 8*s); !w.Since.Equal(asked.At) || w.Rule != 7 {
		t.Errorf("asked for: %+v", w)
	}
}

// The outlook tells who asked for a rotation, until it is done or a suspension
// takes it back.
func TestTheOutlookTellsWhoAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, slow)
		w.settle(t)
		asked := func() *keystore.Fact {
			o, err := w.Outlook(t.Context(), "web")
			if err != nil || len(o.Waits) == 0 {
				t.Fatalf("%+v, %v", o, err)
			}
			return o.Asked
		}
		if got := asked(); got != nil {
			t.Errorf("nobody asked: %+v", got)
		}
		if _, err := w.rotate(false); err != nil {
			t.Fatal(err)
		}
		if got := asked(); got == nil || got.By != "olga" || got.Reason != "drill" {
			t.Errorf("olga asked: %+v", got)
		}
		time.Sleep(time.Second)
		if _, err := w.Suspend(t.Context(), "olga", "web", "", "a doubt"); err != nil {
			t.Fatal(err)
		}
		if got := asked(); got != nil {
			t.Errorf("suspended since: %+v", got)
		}
	})
}

// What waits for a node is told of the key sets that rotate.
func TestAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fast)
		w.settle(t)
		set := w.catalog.set("web")
		left := set.Clone()
		left.Name = "left"
		now := time.Now()
		view := keystore.NewView(9, now, []*keystore.KeySet{set, left}).WithNodes(now, []keystore.Node{
			{Name: "a", PublishesUntil: now.Add(time.Hour)}, {Name: "b", StoppedAt: now.Add(-time.Minute)},
		})
		if got := w.Awaited(view); !slices.Equal(got, []Awaited{{"a", "web", 2}}) {
			t.Errorf("awaited %v", got)
		}
	})
}

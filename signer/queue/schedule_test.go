package queue

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A rig is a schedule with the requests that are in it.
type rig struct {
	schedule[string]
	inside []*request[string]
	waits  map[string][]*request[string] // oldest first
}

func newRig(l Limits, weights map[string]int) *rig {
	return &rig{schedule: newSchedule(l, func(k string) int { return weights[k] }), waits: map[string][]*request[string]{}}
}

func (g *rig) come(who string, cost int) arrival { return g.comes(who, single(cost)) }

func (g *rig) comes(who string, w work) arrival {
	l := g.line(who)
	how, r, out := g.arrive(l, w, func() *request[string] { return new(request[string]) })
	if out != nil {
		g.drop(out)
	}
	switch how {
	case entered:
		g.inside = append(g.inside, &request[string]{of: l, work: w})
	case waits:
		g.waits[who] = append(g.waits[who], r)
	}
	return how
}

func (g *rig) drop(r *request[string]) {
	who := r.of.key
	g.waits[who] = slices.DeleteFunc(g.waits[who], func(o *request[string]) bool { return o == r })
}

// finish has the request at i inside leave, and returns who was called for it.
func (g *rig) finish(i int) (called []string) {
	r := g.inside[i]
	g.inside = slices.Delete(g.inside, i, i+1)
	g.leave(r.of, r.work)
	for r := g.next(); r != nil; r = g.next() {
		g.drop(r)
		g.inside = append(g.inside, r)
		called = append(called, r.of.key)
	}
	return called
}

func TestWhoseTurnItIs(t *testing.T) {
	for _, c := range []struct {
		what    string
		weights map[string]int
		line    string // who waits, in the order of their coming; a capital letter costs 4
		want    string // in which order they are called
	}{
		{"one principal: first come, first served", nil, "aaa", "aaa"},
		{"a flood before another comes", nil, "aaaaaaaab", "abaaaaaaa"},
		{"three take turns", nil, "aaabbbccc", "abcabcabc"},
		{"weight 2 goes twice as often", map[string]int{"a": 2}, "aaaabbbb", "ababaabb"},
		{"what costs four waits for three others", nil, "AAAbbbbbb", "AbbbbAbbA"},
	} {
		g := newRig(Limits{Window: 1}, c.weights)
		g.come("z", 1)
		for _, who := range strings.Split(c.line, "") {
			cost := 1
			if who != strings.ToLower(who) {
				cost = 4
			}
			if how := g.come(who, cost); how != waits {
				t.Fatalf("%s: %d", c.what, how)
			}
		}
		var got string
		for len(g.inside) > 0 {
			got += strings.Join(g.finish(0), "")
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

func TestWhoHadMuchAloneSavesNobodyAnything(t *testing.T) {
	g := newRig(Limits{Window: 1}, nil)
	for range 1000 { // alone, and never waiting
		g.come("a", 1)
		g.finish(0)
	}
	g.come("a", 1)
	for _, who := range []string{"a", "a", "b", "b", "a", "b"} {
		g.come(who, 1)
	}
	var got []string
	for len(g.inside) > 0 {
		got = append(got, g.finish(0)...)
	}
	if want := []string{"b", "a", "b", "a", "b", "a"}; !slices.Equal(got, want) {
		t.Errorf("called %q, want %q: what was had while nobody else asked does not count", got, want)
	}
}

func TestAFullQueueRefusesWhoHasMost(t *testing.T) {
	g := newRig(Limits{Window: 1, Waiting: 6, Each: 5}, map[string]int{"vip": 3})
	g.come("z", 1)
	for _, c := range []struct {
		who  string
		want arrival
		left string // a's requests that wait
	}{
		{"a", waits, "a"}, {"a", waits, "aa"}, {"a", waits, "aaa"}, {"a", waits, "aaaa"}, {"a", waits, "aaaaa"},
		{"a", lineFull, "aaaaa"},
		{"b", waits, "aaaaa"}, // all six places are taken
		{"b", waits, "aaaa"},  // a's youngest gives way
		{"b", waits, "aaa"},
		{"b", allFull, "aaa"}, // it would have more than a then
		{"a", allFull, "aaa"},
		{"vip", waits, "aa"}, // it may have three for each of theirs
		{"vip", waits, "aa"}, // b's gives way
		{"vip", waits, "a"},
		{"c", waits, "a"},   // and once more
		{"d", allFull, "a"}, // everybody has one for each of their weight
	} {
		if how := g.come(c.who, 1); how != c.want || len(g.waits["a"]) != len(c.left) {
			t.Fatalf("%s comes: %d, want %d, and a has %d waiting, want %d", c.who, how, c.want, len(g.waits["a"]), len(c.left))
		}
	}
}

func TestThoseWhoAreGoneAreForgotten(t *testing.T) {
	g := newRig(Limits{}, nil)
	for i := range 100 * minSweep {
		g.come(string(rune('a'+i%26))+strings.Repeat("x", i/26), 1)
		g.finish(0)
	}
	if len(g.lines) > 2*minSweep {
		t.Errorf("%d principals are remembered", len(g.lines))
	}
}

// TestSharesAreFair: whatever comes, goes and gives up, nobody who waits is passed
// over, and in any interval in which two both have somebody waiting what they get by
// weight differs by one request of each.
func TestSharesAreFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c", "d"}
		weights := map[string]int{}
		for _, n := range names {
			weights[n] = rapid.SampledFrom([]int{1, 1, 2, 5, MaxWeight}).Draw(t, "weight of "+n)
		}
		lim := Limits{Window: rapid.IntRange(1, 9).Draw(t, "window"), Waiting: 64, Each: 24}
		g := newRig(lim, weights)
		const most = 8 // cost
		had := map[string]float64{}
		since := map[[2]string][2]float64{} // what each had when they began to wait together
		look := func() {
			for _, x := range names {
				for _, y := range names {
					pair := [2]string{x, y}
					if x >= y || len(g.waits[x]) == 0 || len(g.waits[y]) == 0 {
						delete(since, pair)
						continue
					}
					began, ok := since[pair]
					if !ok {
						since[pair] = [2]float64{had[x], had[y]}
						continue
					}
					wx, wy := float64(weights[x]), float64(weights[y])
					apart := (had[x]-began[0])/wx - (had[y]-began[1])/wy
					if bound := most/wx + most/wy + 0.1; apart > bound || -apart > bound {
						t.Fatalf("%s and %s wait, and what they had differs by %v, more than %v", x, y, apart, bound)
					}
				}
			}
		}
		for range rapid.IntRange(0, 400).Draw(t, "steps") {
			switch who := rapid.SampledFrom(names).Draw(t, "who"); rapid.SampledFrom([]string{"come", "come", "finish", "give up"}).Draw(t, "step") {
			case "come":
				cost := rapid.IntRange(1, most).Draw(t, "cost")
				w := single(cost)
				if rapid.Bool().Draw(t, "a portion") {
					w = portion(cost)
				}
				if g.comes(who, w) == entered {
					had[who] += float64(cost)
				}
			case "finish":
				if len(g.inside) == 0 {
					continue
				}
				oldest := map[string][]*request[string]{}
				for n, q := range g.waits {
					oldest[n] = slices.Clone(q)
				}
				for _, n := range g.finish(rapid.IntRange(0, len(g.inside)-1).Draw(t, "which")) {
					r := oldest[n][0] // first come, first served
					oldest[n] = oldest[n][1:]
					if !slices.Contains(g.inside, r) {
						t.Fatalf("%s's oldest was passed over", n)
					}
					had[n] += float64(r.work.cost)
				}
			case "give up":
				if n := len(g.waits[who]); n > 0 {
					r := g.waits[who][rapid.IntRange(0, n-1).Draw(t, "which")]
					g.withdraw(r)
					g.drop(r)
				}
			}
			look()
			inside, waiting := 0, 0
			for _, r := range g.inside {
				inside += r.work.room
			}
			for _, q := range g.waits {
				waiting += len(q)
				if len(q) > lim.Each {
					t.Fatalf("%d wait, at most %d may", len(q), lim.Each)
				}
			}
			if inside != g.schedule.inside || waiting != g.waiting || waiting > lim.Waiting {
				t.Fatalf("counts %d inside and %d waiting, there are %d and %d", g.schedule.inside, g.waiting, inside, waiting)
			}
			if waiting > 0 && inside < lim.Window || inside >= lim.Window+most {
				t.Fatalf("%d inside of %d, and %d wait", inside, lim.Window, waiting)
			}
		}
	})
}

// With as much in hand as single requests have, a worker had nothing to do while what it
// had signed for a batch was verified.
func TestTwiceAsMuchOfABatchIsInside(t *testing.T) {
	for _, c := range []struct {
		what string
		work work
		want int
	}{
		{"signatures by themselves", single(1), 32},
		{"by RSA keys", single(4), 8},
		{"sixteen of a batch", portion(16), 4},
		{"four by RSA keys, of a batch", portion(4 * 4), 4},
		{"one of a batch", portion(1), 32},
	} {
		s := newSchedule(Limits{Window: 32}, func(string) int { return 1 })
		n := 0
		for n < 100 {
			if how, _, _ := s.arrive(s.line("a"), c.work, func() *request[string] { return new(request[string]) }); how != entered {
				break
			}
			n++
		}
		if n != c.want {
			t.Errorf("%s: %d inside, want %d", c.what, n, c.want)
		}
		if want := uint64(n*c.work.cost) * unit; s.latest != want { // fair all the same
			t.Errorf("%s: it counted %d, want %d", c.what, s.latest, want)
		}
	}
}

package audit

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSpans(t *testing.T) {
	at := func(sec int64) place { return place{Log: "acts/2026-11", Index: sec, Time: time.Unix(sec, 0)} }
	var s spans
	for i, n := range []struct {
		from, to int64
		fresh    bool
		want     string
	}{
		{3, 3, true, "3"}, {1, 1, true, "1,3"}, {1, 1, false, "1,3"}, {2, 2, true, "1-3"}, {2, 5, false, "1-3"},
		{10, 12, true, "1-3,10-12"}, {6, 7, true, "1-3,6-7,10-12"}, {8, 8, true, "1-3,6-8,10-12"}, {5, 5, true, "1-3,5-8,10-12"},
		{4, 9, false, "1-3,5-8,10-12"}, {4, 4, true, "1-8,10-12"}, {9, 9, true, "1-12"},
	} {
		if fresh := s.add(n.from, n.to, at(int64(i))); fresh != n.fresh || s.String() != n.want {
			t.Errorf("%d-%d: %v, %s; want %v, %s", n.from, n.to, fresh, s, n.fresh, n.want)
		}
	}
}

// The time of a span is when its gap was jumped over, whatever filled the gap
// from above since.
func TestTheTimeOfAGap(t *testing.T) {
	var s spans
	for i, n := range []int64{1, 9, 5, 4, 8} {
		s.add(n, n, place{Index: int64(i), Time: time.Unix(int64(i), 0)})
	}
	// 2 and 3 are missing below 4, 6 and 7 below 8: both since 9 was met.
	if s.String() != "1,4-5,8-9" || s[1].At.Time.Unix() != 1 || s[1].At.Index != 3 || s[2].At.Time.Unix() != 1 || s[2].At.Index != 4 {
		t.Errorf("%s: %+v", s, s)
	}
}

// Spans are a set of numbers, however it is filled.
func TestSpansAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s spans
		set := map[int64]bool{}
		for range rapid.IntRange(0, 60).Draw(t, "adds") {
			from := rapid.Int64Range(1, 60).Draw(t, "from")
			to := from + rapid.Int64Range(0, 4).Draw(t, "more")
			fresh := true
			for n := from; n <= to; n++ {
				fresh = fresh && !set[n]
			}
			for n := from; fresh && n <= to; n++ {
				set[n] = true
			}
			if s.add(from, to, place{}) != fresh {
				t.Fatalf("%d-%d: fresh is not %v in %s", from, to, fresh, s)
			}
		}
		var missing []int64
		for n := int64(0); n < 70; n++ {
			if s.has(n) != set[n] {
				t.Fatalf("%s has %d: %v", s, n, s.has(n))
			}
			if !set[n] && n >= 5 {
				missing = append(missing, n)
			}
		}
		var gaps []int64
		for _, g := range s.missing(5, 69) {
			for n := g.From; n <= g.To; n++ {
				gaps = append(gaps, n)
			}
		}
		if int(s.count()) != len(set) || !slices.Equal(gaps, missing) {
			t.Fatalf("%s: %d of %d, gaps %v, missing %v", s, s.count(), len(set), gaps, missing)
		}
		if len(s) == 0 {
			return
		}
		again, err := parseSpans(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%s: %s, %v", s, again, err)
		}
		var whole []span
		for rest := s; len(rest) > 0; {
			var fits spans
			fits, rest = rest.cut(12)
			if len(fits.String()) > 12 || len(fits) == 0 {
				t.Fatalf("%s is cut to %s", s, fits)
			}
			whole = append(whole, fits...)
		}
		if spans(whole).String() != s.String() {
			t.Fatalf("%s in parts is %s", s, spans(whole))
		}
	})
}

func FuzzParseSpans(f *testing.F) {
	for _, text := range []string{"1", "17-19,23", "1-9223372036854775807", "", "0", "1,2", "5-5", "3-1", "01", "+1", "1,,3", "1-2-3", " 1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSpans(text)
		if err != nil {
			return
		}
		if s.String() != text {
			t.Errorf("%q is read as %s", text, s)
		}
		var again spans
		for _, x := range s {
			if x.From < 1 || x.To >= maxUse || !again.add(x.From, x.To, place{}) {
				t.Errorf("%q has %s", text, x)
			}
		}
		if again.String() != text {
			t.Errorf("%q is %s when it is added", text, again)
		}
	})
}

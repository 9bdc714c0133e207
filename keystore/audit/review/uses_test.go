package review

import "testing"

func TestUses(t *testing.T) {
	for ranges, want := range map[string]int64{
		"": 0, "23": 1, "17-19": 3, "17-19,23": 4, "19-17": 0, "x,5": 1, "5-": 0, "-5": 0, "0": 0,
		"1-9223372036854775807,1-9223372036854775807": mostUses,
	} {
		if got := uses(ranges); got != want {
			t.Errorf("%q: %d, want %d", ranges, got, want)
		}
	}
}

// FuzzUses: what a hostile log says counts for something sane.
func FuzzUses(f *testing.F) {
	f.Add("17-19,23")
	f.Add("1-9223372036854775807,2")
	f.Fuzz(func(t *testing.T, ranges string) {
		if n := uses(ranges); n < 0 || n > mostUses {
			t.Errorf("%q counts %d", ranges, n)
		}
	})
}

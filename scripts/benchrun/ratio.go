package main

import (
	"errors"
	"math"
	"slices"
)

// A ratio is what A is to B, over rounds in which they were measured in turns.
type ratio struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	// Noise is how far the two halves of the rounds of one side are apart, the worse
	// of both sides: 0.05 is one twentieth. A ratio closer to 1 than that says nothing.
	Noise float64   `json:"noise"`
	A     []float64 `json:"a"`
	B     []float64 `json:"b"`
}

var (
	errRounds = errors.New("a side has no round, or not as many as the other")
	errNone   = errors.New("a round in which nothing was answered: measure for longer")
)

// compare takes the rounds of both sides in the order in which they were measured.
func compare(a, b []float64) (ratio, error) {
	if len(a) == 0 || len(a) != len(b) {
		return ratio{}, errRounds
	}
	each := make([]float64, len(a))
	for i := range a {
		if !(a[i] > 0) || !(b[i] > 0) { // NaN as well
			return ratio{}, errNone
		}
		each[i] = a[i] / b[i]
	}
	return ratio{
		Median: median(each), Low: slices.Min(each), High: slices.Max(each),
		Noise: max(apart(a), apart(b)), A: a, B: b,
	}, nil
}

// apart compares a side with itself: the median of its even rounds with that of its
// odd ones. Of one round nothing can be said: 0.
func apart(rounds []float64) float64 {
	var halves [2][]float64
	for i, v := range rounds {
		halves[i%2] = append(halves[i%2], v)
	}
	if len(halves[1]) == 0 {
		return 0
	}
	return math.Abs(median(halves[0])/median(halves[1]) - 1)
}

// median of at least one value.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

package main

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"chancery/signer/api"
)

// What a rotation costs who signs meanwhile is told and not judged: this machine
// may be busy. Each round compares the second before a key set is rotated with
// each of the three after: in the first its successor is activated and the next key
// is made, proven and published, and then workers end that have held the old one.
// No request fails for it.
func TestWhatARotationCosts(t *testing.T) {
	pause := 2 * time.Millisecond // which is all that a small machine can do
	if os.Getenv("CHANCERY_SOAK") != "1" {
		t.Parallel() // in the soak it is alone, for figures that mean something
		pause = 20 * time.Millisecond
	}
	r := rehearse(t)
	rounds := soak(t, 1, 20, "rotations of each key set")
	d := startDev(t, r.dir)
	operator := d.client("operator")
	c := d.crowd(6, pause, fastSets...)
	before, after := make(map[string][]time.Duration), make(map[string][3][]time.Duration)
	for range rounds {
		for _, keyset := range fastSets {
			time.Sleep(3 * time.Second) // until the last rotation is over
			at := time.Now()
			d.within(20*time.Second, "rotate now is granted", func() error {
				_, err := operator.Rotate(t.Context(), keyset, api.OperateRequest{Reason: "what it costs", When: "now"})
				return err
			})
			seconds := after[keyset]
			time.Sleep(time.Duration(len(seconds)) * time.Second)
			before[keyset] = append(before[keyset], c.latencies(at.Add(-time.Second), at)...)
			for i := range seconds {
				from := at.Add(time.Duration(i) * time.Second)
				seconds[i] = append(seconds[i], c.latencies(from, from.Add(time.Second))...)
			}
			after[keyset] = seconds
		}
	}
	c.stop()
	if n := len(c.problems(false)); n > 0 {
		t.Errorf("%d requests failed", n)
	}
	for _, keyset := range fastSets {
		for i, second := range after[keyset] {
			tellCost(t, fmt.Sprintf("%s, second %d", keyset, i+1), before[keyset], second)
		}
	}
}

// tellCost tells how long signatures took before and after rotations.
func tellCost(t *testing.T, what string, before, after []time.Duration) {
	t.Helper()
	if len(before) == 0 || len(after) == 0 {
		t.Fatalf("%d and %d signatures: nothing to compare", len(before), len(after))
	}
	was, is := percentile(before, 99), percentile(after, 99)
	t.Logf("rotating %s: p99 %v of %d signatures before, %v of %d after: %v more, %.2f times; medians %v and %v; slowest %v and %v",
		what, was, len(before), is, len(after), is-was, float64(is)/float64(was),
		percentile(before, 50), percentile(after, 50), percentile(before, 100), percentile(after, 100))
}

// latencies returns how long the tokens took that were asked for between two
// moments.
func (c *crowd) latencies(from, to time.Time) (all []time.Duration) {
	for _, a := range c.replies() {
		if !a.sent.Before(from) && a.sent.Before(to) {
			all = append(all, a.answered.Sub(a.sent))
		}
	}
	return all
}

// percentile returns the p-th percentile of some durations, of which there is
// one at least, by the nearest rank.
func percentile(all []time.Duration, p int) time.Duration {
	slices.Sort(all)
	rank := (len(all)*p + 99) / 100
	return all[max(rank, 1)-1].Round(10 * time.Microsecond)
}

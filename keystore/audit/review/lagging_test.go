package review

import (
	"strings"
	"testing"
	"time"

	"chancery/keystore/audit"
)

// A log of which witnesses had seen nothing for long was reported as witnessed.
func TestALogThatWitnessesDoNotFollow(t *testing.T) {
	const text = "witnesses know a/lifecycle as it was at 2026-03-01 12:00:00 UTC: of 5 entries since, until "
	for _, c := range []struct {
		what         string
		size         int64         // that witnesses know, of 12
		last         time.Duration // entry, after what they know
		since, until time.Duration // after it; 0: not said
		told         bool
	}{
		{"all is known, and nothing came", 12, 0, 0, 0, false},
		{"all is known by a later cosignature", 12, 3 * time.Hour, 0, 0, false},
		{"a witness takes some time", 7, witnessLag, 0, 0, false},
		{"it went on for longer", 7, witnessLag + time.Second, 0, 0, true},
		{"a period that ends earlier", 7, 3 * time.Hour, 0, witnessLag, false},
		{"a period that ends between", 7, 3 * time.Hour, 0, 2 * witnessLag, true},
		{"a period after its end", 7, 3 * time.Hour, 4 * time.Hour, 0, false},
	} {
		r := verified(true)
		r.Logs[0].Witnessed, r.Logs[0].Last = &audit.Witnessed{Size: c.size, Time: born}, born.Add(c.last)
		opt := Options{Checked: []Checked{{"localhost/audit/a", r}}, Now: born.Add(time.Minute)}
		if c.since != 0 {
			opt.Since = born.Add(c.since)
		}
		if c.until != 0 {
			opt.Until = born.Add(c.until)
		}
		n := 0
		for _, d := range report(t, opt, sound()).Deviations {
			if d.Severity == Attention && strings.HasPrefix(d.Text, text) && d.Entries[0] == "localhost/audit/a/lifecycle#7" {
				n++
			}
		}
		if want := map[bool]int{true: 1}[c.told]; n != want {
			t.Errorf("%s: %d deviations, want %d", c.what, n, want)
		}
	}
}

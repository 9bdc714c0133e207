package review

import (
	"iter"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A copy of a log that is old was reported as a month in which nothing went wrong,
// and so was a month before there was a log.
func TestALogThatHasNothingOfThePeriod(t *testing.T) {
	noon := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	log := Log(func(f audit.Filter) iter.Seq2[audit.Located, error] {
		return func(yield func(audit.Located, error) bool) {
			for i, at := range []time.Time{noon.Add(-2 * time.Hour), noon} {
				if f.Log != "lifecycle" || !yield(audit.Located{Origin: "keys.example/audit/dev/lifecycle", Entry: audit.Entry{
					Schema: 1, Sequence: int64(i), Time: at, Record: keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone},
				}}, nil) {
					return
				}
			}
		}
	})
	for _, test := range []struct {
		what         string
		since, until time.Duration // after noon; 0: not said
		want         string
	}{
		{"all there is", 0, 0, ""},
		{"a period that the log goes through", -time.Hour, -time.Minute, ""},
		{"since before its end", -time.Hour, 0, ""},
		{"since after its end", time.Minute, 0, "ends at 2026-11-27 12:00:00 UTC, before the period begins: nothing of the period is in it"},
		{"a period after its end", time.Minute, time.Hour, "ends at 2026-11-27 12:00:00 UTC, before the period begins: nothing of the period is in it"},
		{"a period it ends in", -time.Hour, time.Hour, "ends at 2026-11-27 12:00:00 UTC, before the period does: what came after, if anything did, is not in it"},
		{"a period that begins before it does", -3 * time.Hour, -time.Hour, ""},
		{"a period before it", -4 * time.Hour, -3 * time.Hour, "begins at 2026-11-27 10:00:00 UTC, after the period ends: nothing of the period is in it"},
		{"a period that is not over", -time.Hour, 48 * time.Hour, ""},
	} {
		opt := Options{Now: noon.Add(24 * time.Hour)}
		if test.since != 0 {
			opt.Since = noon.Add(test.since)
		}
		if test.until != 0 {
			opt.Until = noon.Add(test.until)
		}
		r, err := Make([]Log{log}, opt)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range r.Deviations {
			if strings.HasPrefix(d.Text, "the log of dev ") {
				got = append(got, d.Text)
			}
		}
		if test.want == "" && len(got) > 0 || test.want != "" && (len(got) != 1 || !strings.HasSuffix(got[0], test.want)) {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
}

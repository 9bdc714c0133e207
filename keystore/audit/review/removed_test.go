package review

import (
	"slices"
	"testing"
	"time"

	"chancery/keystore"
)

// pruned enters that a month of acts with 20 entries is removed.
func (h *history) pruned(seconds float64, month string) *history {
	return h.told(seconds, keystore.Record{Action: keystore.ActAuditPrune, Detail: map[string]string{
		"origin": "localhost/audit/a/acts/" + month, "size": "20", "policy": "keep_acts 30d",
	}})
}

// A month of which the policy had removed everything was reported as one in which
// nothing was done.
func TestMonthsThatAreRemovedNeedAttention(t *testing.T) {
	h := sound().pruned(60, "2026-01").pruned(60, "2026-03")
	day := func(month time.Month, d int) time.Time { return time.Date(2026, month, d, 0, 0, 0, 0, time.UTC) }
	h.lifecycle[0].Entry.Time = day(1, 1).Add(-time.Hour) // when the log began
	const january = "the 20 acts of 2026-01 on a were removed by the policy (keep_acts 30d) at 2026-03-01 12:01:00 UTC: nothing of them can be reported"
	for _, c := range []struct {
		what         string
		since, until time.Time
		want         []string
	}{
		{"all there is, with acts of a month that is there yet", time.Time{}, time.Time{}, []string{january}},
		{"that month", day(1, 1), day(2, 1), []string{january}},
		{"its last day", day(1, 31), day(2, 1), []string{january}},
		{"the month after it", day(2, 1), day(3, 1), nil},
		{"the month before it", time.Time{}, day(1, 1), nil},
	} {
		r := report(t, Options{Since: c.since, Until: c.until}, h)
		var got []string
		for _, d := range r.Deviations {
			if d.Severity == Attention && slices.Equal(d.Entries, []string{h.lifecycle[len(h.lifecycle)-2].Name()}) {
				got = append(got, d.Text)
			}
		}
		if !slices.Equal(got, c.want) || len(r.Deviations) != len(c.want) {
			t.Errorf("%s: %q of %+v, want %q", c.what, got, r.Deviations, c.want)
		}
	}
}

// What a key signed in a month that is removed was left out without a word.
func TestAnImpactNamesRemovedMonths(t *testing.T) {
	numbered := func() *history {
		h := sound()
		for i := range h.acts {
			h.acts[i].Entry.Use = int64(30 - i)
		}
		return h.pruned(60, "2026-01").pruned(60, "2026-02")
	}
	old := numbered()
	old.lifecycle[1].Entry.Time = born.AddDate(0, -1, 0) // when its key was made
	for _, c := range []struct {
		what   string
		of     *history
		since  time.Time
		months []string
		uses   int64
	}{
		{"a key that was not there yet", numbered(), time.Time{}, nil, 0},
		{"a key that was there in one of them", old, time.Time{}, []string{"2026-02"}, 28},
		{"a period with a beginning", old, born.AddDate(0, 0, -5), []string{"2026-02"}, 0},
		{"a period after it", old, born, nil, 0},
	} {
		i, err := Trace([]Log{c.of.log()}, kid("web", 1), Options{Since: c.since, Now: born.Add(time.Hour)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var months []string
		for _, r := range i.Removed {
			months = append(months, r.Month)
		}
		if !slices.Equal(months, c.months) || i.UsesBefore != c.uses {
			t.Errorf("%s: %q and %d uses, want %q and %d", c.what, months, i.UsesBefore, c.months, c.uses)
		}
	}
}

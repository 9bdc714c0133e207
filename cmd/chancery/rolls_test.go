package main

import (
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/client"
)

func located(origin string, at int, rec keystore.Record) audit.Located {
	return audit.Located{Origin: origin, Entry: audit.Entry{Schema: 1, Time: minute(at), Record: rec}}
}

// What is not kept any more does not speak against a token, and what another node
// keeps, or what never was there, does.
func TestATokenWhoseMonthIsGone(t *testing.T) {
	const january = "keys.example/audit/dev/acts/2026-01"
	shard := func(origin string) audit.Located {
		return located("keys.example/audit/dev/lifecycle", 1, keystore.Record{Action: keystore.ActAuditShard, Outcome: keystore.OutcomeDone, Detail: map[string]string{"origin": origin}})
	}
	there := []*audit.Report{{Logs: []audit.LogReport{{Name: "acts/2026-01", Origin: january}}}}
	issued := minute(20)
	for what, c := range map[string]struct {
		lifecycle []audit.Located
		reports   []*audit.Report
		issued    time.Time
		told      string
		good      bool
	}{
		"gone":                       {[]audit.Located{shard(january)}, nil, issued, "not known: " + january + ", where its entry would be, is not kept any more", true},
		"there":                      {[]audit.Located{shard(january)}, there, issued, "no entry: not made through Chancery", false},
		"never there":                {nil, nil, issued, "no entry: not made through Chancery", false},
		"another month gone":         {[]audit.Located{shard("keys.example/audit/dev/acts/2025-12")}, there, issued, "no entry: not made through Chancery", false},
		"that of the day before":     {[]audit.Located{shard("keys.example/audit/dev/acts/2025-12")}, there, time.Date(2026, 1, 1, 0, 30, 0, 0, time.UTC), "not known: keys.example/audit/dev/acts/2025-12, where its entry would be, is not kept any more", true},
		"a token that tells no time": {[]audit.Located{shard(january)}, nil, time.Time{}, "no entry: not made through Chancery", false},
	} {
		r := &rolls{lifecycle: c.lifecycle, reports: c.reports}
		v := &verdictAt{token: &client.Token{ID: "j", IssuedAt: c.issued, Expires: c.issued.Add(time.Minute)}}
		if err := new(hearing).judgeEntries(t.Context(), r, &audit.KeyLife{}, v); err != nil {
			t.Fatal(err)
		}
		if v.Told != c.told || (len(v.Against) == 0) != c.good {
			t.Errorf("%s: %q, against %q", what, v.Told, v.Against)
		}
	}
}

// The logs of two nodes tell one story: a suspension in the one, its end in the
// other, in whatever order they are given.
func TestLivesOverSeveralNodes(t *testing.T) {
	rec := func(action keystore.Action) keystore.Record {
		return keystore.Record{Action: action, Outcome: keystore.OutcomeDone, KeySet: "web", Version: 1, KID: "kid", State: "active"}
	}
	a := located("keys.example/audit/a/lifecycle", 5, rec(keystore.ActSuspend))
	b := located("keys.example/audit/b/lifecycle", 9, rec(keystore.ActResume))
	for _, order := range [][]audit.Located{{a, b}, {b, a}} {
		r := &rolls{lives: audit.NewKeyLives(), lifecycle: order}
		r.fold()
		l, _ := r.lives.ByKID("kid")
		if l == nil || l.At(minute(6)).Suspended == nil || l.At(minute(9)).Suspended != nil {
			t.Errorf("%+v", l)
		}
	}
}

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"chancery/keystore/audit/review"
)

func TestAReportSaysWhatItIsOf(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	configured := func(every string) []review.Event {
		return []review.Event{{At: at, Detail: map[string]string{"rotate_every": every}, Entry: "localhost/audit/a/lifecycle#1"}}
	}
	r := &review.Report{
		Period: review.Period{First: at, Last: at.Add(time.Hour)},
		KeySets: []review.KeySet{
			{Name: "audit", Purpose: "audit", Algorithm: "EdDSA", Configurations: configured("0s")},
			{Name: "web", Purpose: "jwt", Algorithm: "ES256", Configurations: configured("720h0m0s"), Signatures: 1},
		},
	}
	var out, page bytes.Buffer
	a := &app{out: &out}
	a.printReview(r)
	for _, want := range []string{
		"\nentries 2026-03-01 12:00:00 to 2026-03-01 13:00:00 UTC\n",
		"\nkey set audit: purpose audit, EdDSA, signs checkpoints\n  2026-03-01 12:00:00 configured; rotation on request, A ",
		"\nkey set web: purpose jwt, ES256, 1 signature\n  2026-03-01 12:00:00 configured; rotation every 720h0m0s, A ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"audit, EdDSA, signs checkpoints<", "<td>on request</td>", "<td>720h0m0s</td>", "jwt, ES256, 1 signature<"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q on the page", want)
		}
	}
}

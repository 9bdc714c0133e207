package main

import (
	"bytes"
	"testing"
	"time"

	"chancery/keystore/audit"
)

// How many entries came after what witnesses know was not said.
func TestEntriesSinceWitnessesAreTold(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	by := []audit.Cosignature{{Key: "alice.example/laptop+0a0b0c0d"}}
	for _, c := range []struct {
		entries int64
		want    string
	}{
		{847, "witnessed: lifecycle: 847 entries by 2026-03-01 12:00:00 UTC, by alice.example/laptop+0a0b0c0d\n"},
		{860, "witnessed: lifecycle: 847 entries by 2026-03-01 12:00:00 UTC, by alice.example/laptop+0a0b0c0d; 13 since are unwitnessed\n"},
	} {
		var out bytes.Buffer
		a := &app{out: &out}
		a.printWitnessed(&audit.Report{Logs: []audit.LogReport{{
			Name: "lifecycle", Entries: c.entries, Witnessed: &audit.Witnessed{Size: 847, Time: at, By: by},
		}}}, true)
		if out.String() != c.want {
			t.Errorf("%q, want %q", out.String(), c.want)
		}
	}
}

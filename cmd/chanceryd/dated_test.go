package main

import (
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/catalog"
)

// TestALateEntrySaysSinceWhen: windows are counted from when a step was in force.
func TestALateEntrySaysSinceWhen(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	served := keystore.Record{Action: keystore.ActKeyServed, Detail: map[string]string{"node": "a"}}
	suspended := keystore.Record{Action: keystore.ActSuspend, Detail: map[string]string{"at": "2026-03-01T11:00:00Z"}}
	for _, c := range []struct {
		name   string
		rec    keystore.Record
		waited time.Duration
		want   string
	}{
		{"at once", served, 999 * time.Millisecond, ""},
		{"a second later", served, time.Second, "2026-03-01T12:00:00Z"},
		{"by a clock that was set back", served, -time.Hour, ""},
		{"with a time of its own", suspended, time.Minute, "2026-03-01T11:00:00Z"},
	} {
		got := dated(catalog.OutboxRow{Record: c.rec, At: at}, at.Add(c.waited))
		if got.Detail["at"] != c.want || got.Detail["node"] != c.rec.Detail["node"] {
			t.Errorf("%s: detail %v, want at %q", c.name, got.Detail, c.want)
		}
	}
	if len(served.Detail) != 1 {
		t.Errorf("the row's own record was changed: %v", served.Detail)
	}
}

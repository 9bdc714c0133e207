package catalog

import (
	"testing"

	"chancery/keystore"
)

// What a key set has been through is told by every node, whoever took the step.
func TestEnteredByAnyNode(t *testing.T) {
	inPlace := inPostgres(t)
	a, b := inPlace.open(t), inPlace.open(t)
	for name, c := range map[string]*Catalog{"a": a, "b": b} {
		if _, err := c.Enrol(t.Context(), enrolment(name)); err != nil {
			t.Fatal(err)
		}
	}
	mustCreate(t, a, keySet("web"))
	mustCreate(t, a, keySet("api"))
	for _, of := range []struct {
		c      *Catalog
		keyset string
		action keystore.Action
	}{{a, "web", keystore.ActRotate}, {b, "web", keystore.ActSuspend}, {b, "api", keystore.ActResume}, {a, "web", keystore.ActResume}} {
		_, err := of.c.Update(t.Context(), of.keyset, -1, func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error) {
			return []keystore.Record{{Action: of.action, Outcome: keystore.OutcomeDone, KeySet: of.keyset}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	rows, err := a.Outbox(t.Context())
	if err != nil || len(rows) < 4 {
		t.Fatalf("%d rows wait, %v", len(rows), err)
	}
	rows = rows[len(rows)-4:]      // behind those of the creations
	for i, row := range rows[:3] { // the last one is not entered yet
		if err := a.Mark(t.Context(), row.ID, "log#"+string(rune('0'+i))); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]*Catalog{"a": a, "b": b} {
		got, err := c.Entered(t.Context(), "web")
		if err != nil || len(got) != 2 || got[0].Record.Action != keystore.ActRotate || got[0].Node != "a" || got[0].Entry != "log#0" ||
			got[1].Record.Action != keystore.ActSuspend || got[1].Node != "b" || got[1].Entry != "log#1" {
			t.Errorf("asked by %s: %+v, %v", name, got, err)
		}
	}
}

package catalog

import (
	"errors"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/catalog/postgrestest"
)

// What others write is asked for each second: key sets that nothing has changed are
// not read anew, and everything that has is seen at once.
func TestKeySetsAreReadAnewWhenTheyChange(t *testing.T) {
	url, name, server := postgrestest.Database(t)
	at := &place{url: url, time: epoch}
	c, other := at.activated(t), at.open(t)
	web := func() *keystore.KeySet {
		t.Helper()
		ks, ok := mustView(t, c).KeySet("web")
		if !ok {
			t.Fatal("there is no key set web")
		}
		return ks
	}
	first := web()
	if web() != first {
		t.Error("nothing has changed, and it was read anew")
	}
	for what, do := range map[string]func() error{
		"a step": func() error { step(t, other, "web", 2, keystore.Pending); return nil },
		"a horizon of less than a second more": func() error {
			return other.RaiseHorizon(t.Context(), first.Versions[0].KID, first.Versions[0].ExpHorizon.Add(time.Hour+time.Microsecond))
		},
		"an acknowledgement": func() error { _, err := other.Acknowledge(t.Context(), "b", "web", []int{1}, epoch); return err },
	} {
		before := web()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if web() == before {
			t.Errorf("%s is not seen", what)
		}
	}

	before := web()
	server.Exec(name, "UPDATE chancery.version SET published_at = published_at - 1")
	if web() != before {
		t.Error("it was read anew, and no change is on record")
	}
	at.setClock(at.now().Add(readAnew))
	if _, err := c.View(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("a row that no catalog wrote: %v", err)
	}
}

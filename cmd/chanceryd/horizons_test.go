package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"chancery/keystore/catalog"
	"chancery/signer"
)

// A caller that goes, or whose deadline is short, while a horizon is raised for it made
// the node unready. It says nothing of the catalog: the node looks for itself.
func TestWhoDoesNotWaitForAHorizon(t *testing.T) {
	c, err := catalog.Open(t.Context(), catalog.Config{Path: filepath.Join(t.TempDir(), "catalog.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	hurried, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	long, done := signer.Within(t.Context(), -time.Second)
	defer done()
	for _, c := range []struct {
		what    string
		h       *horizons
		ctx     context.Context
		trouble bool
	}{
		{"gone", newHorizons(c), gone, false},
		{"in a hurry", newHorizons(c), hurried, false},
		{"too slow", newHorizons(c), long, true},
	} {
		if err := c.h.RaiseHorizon(c.ctx, "kid", time.Now()); err == nil {
			t.Errorf("%s: raised", c.what)
		}
		if trouble := c.h.Trouble(); (trouble != nil) != c.trouble {
			t.Errorf("%s: %v", c.what, trouble)
		}
		if len(c.h.wake) != 1 {
			t.Errorf("%s: nobody tries again", c.what)
		}
		c.h.tryAgain(t.Context())
		if trouble := c.h.Trouble(); trouble != nil { // there is no such key, says a catalog that answers
			t.Errorf("%s, tried again: %v", c.what, trouble)
		}
	}
}

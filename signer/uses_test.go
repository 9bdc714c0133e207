package signer

import (
	"context"
	"errors"
	"testing"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// usesClosed checks that every number which was taken, and not given back, was
// closed once: by an entry, or by the log for an act that it could not enter.
func (w *world) usesClosed(t *testing.T, what string) {
	t.Helper()
	type use struct {
		kid keystore.KID
		n   int64
	}
	closed := map[use]int{}
	intents := map[string]bool{}
	count := func(r keystore.Record) {
		if r.Use == 0 || intents[r.ID] { // an intent and its outcome are one use
			return
		}
		if r.Outcome == keystore.OutcomeIntent {
			intents[r.ID] = true
		}
		closed[use{r.KID, r.Use}]++
	}
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	for _, of := range [][]keystore.Record{w.log.entries, w.log.counted, w.log.refused} {
		for _, r := range of {
			count(r)
		}
	}
	all := 0
	for kid, last := range w.log.taken {
		for n := int64(1); n <= last; n++ {
			if c := closed[use{kid, n}]; c != 1 {
				t.Errorf("%s: use %d of %s was closed %d times", what, n, kid, c)
			}
		}
		all += int(last)
	}
	if len(closed) != all {
		t.Errorf("%s: %d numbers closed, %d taken", what, len(closed), all)
	}
}

// A token that is not released although it was signed is entered again, and that
// entry closes no number.
func TestUsesOfTokensThatAreNotReleased(t *testing.T) {
	fact := &keystore.Fact{At: noon}
	for what, meanwhile := range map[string]func(w *world){
		"nothing":   func(*world) {},
		"rotated":   func(w *world) { w.successor(t, "web")() },
		"suspended": func(w *world) { w.change("web", func(ks *keystore.KeySet) { ks.Versions[0].Suspended = fact }) },
		"the lease": func(w *world) { w.lease = errors.New("over") },
	} {
		w := newWorld(t)
		done := false
		w.log.act = func(keystore.Record) error {
			if !done {
				done = true
				meanwhile(w)
			}
			return nil
		}
		for range 3 {
			_, _ = w.SignJWT(t.Context(), issuer, ask("web"))
		}
		if len(w.log.taken) == 0 {
			t.Errorf("%s: no number was taken", what)
		}
		w.usesClosed(t, what)
	}
}

func TestWithoutANumberNoKeyIsAsked(t *testing.T) {
	w := newWorld(t)
	w.log.noTake = errors.New("no space left")
	_, err := w.SignJWT(t.Context(), issuer, ask("web"))
	wants(t, "no number", err, api.CodeAuditUnavailable)
	if r := w.log.refused; w.signed != 0 || len(r) != 1 || r[0].Outcome != keystore.OutcomeFailed || r[0].Use != 0 {
		t.Errorf("%d signatures, %+v", w.signed, r)
	}
}

// What is entered of an act that cannot be entered is the log's to say.
func TestUsesOfTokensThatCannotBeEntered(t *testing.T) {
	w := newWorld(t)
	w.log.act = func(keystore.Record) error { return keystore.ErrUnavailable }
	_, err := w.SignJWT(t.Context(), issuer, ask("web"))
	wants(t, "not entered", err, api.CodeAuditUnavailable)
	if len(w.log.refused) != 0 || len(w.log.counted) != 1 || w.log.counted[0].Use != 1 {
		t.Errorf("refused %+v, counted %+v", w.log.refused, w.log.counted)
	}
}

// entered is an act that is in the log already, or is not going to be.
type entered struct {
	receipt audit.Receipt
	err     error
}

func (e entered) Wait(context.Context) (audit.Receipt, error) { return e.receipt, e.err }
func (e entered) Leave()                                      {}

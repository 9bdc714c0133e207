package signer

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
)

const pastKeys = `[{"kty":"OKP","kid":"old"}]`

// A history goes the way of a token: recorded between the signature and the
// release, by the key that signs then, and by nobody's leave.
func TestI1OrderOfAHistory(t *testing.T) {
	w := newWorld(t)
	signed, err := w.SignHistory(t.Context(), "web", []byte(pastKeys))
	if err != nil {
		t.Fatal(err)
	}
	w.traced(t, "health", "view", "open", "sign", "act done", "view")
	kid, payload := w.verified(t, signed.Token)
	if kid != string(w.active("web")) || signed.KID != w.active("web") {
		t.Errorf("signed by %s", kid)
	}
	want := map[string]any{"iss": "https://localhost/issuers/web", "iat": float64(noon.Unix()), "keys": []any{map[string]any{"kty": "OKP", "kid": "old"}}}
	if fmt.Sprint(payload) != fmt.Sprint(want) {
		t.Errorf("payload %v, want %v", payload, want)
	}
	e := w.log.entries[len(w.log.entries)-1]
	if e.Principal != "chancery" || e.Action != keystore.ActSignHistory || e.Outcome != keystore.OutcomeDone || e.KeySet != "web" ||
		e.KID != w.active("web") || e.Version != 1 || e.Request == "" || signed.Entry != fmt.Sprintf("log#%d", len(w.log.entries)-1) {
		t.Errorf("%s is %+v", signed.Entry, e)
	}
}

func TestI1NoHistoryWithoutAnEntry(t *testing.T) {
	w := newWorld(t)
	w.log.act = func(keystore.Record) error { return errors.New("no space left") }
	signed, err := w.SignHistory(t.Context(), "web", []byte(pastKeys))
	wants(t, "a log that cannot be written", err, api.CodeAuditUnavailable)
	if signed != (SignedHistory{}) {
		t.Errorf("released: %+v", signed)
	}
}

func TestNoHistoryOfASetThatDoesNotSign(t *testing.T) {
	suspend := func(w *world) {
		w.change("web", func(ks *keystore.KeySet) { ks.Versions[0].Suspended = &keystore.Fact{} })
	}
	for what, c := range map[string]struct {
		before, meanwhile func(w *world)
		code              api.Code
		outcome           keystore.Outcome // of what is entered last; empty: nothing
	}{
		"suspended":           {before: suspend, code: api.CodeKeySetSuspended},
		"suspended meanwhile": {meanwhile: suspend, code: api.CodeKeySetSuspended, outcome: keystore.OutcomeRefused},
		"compromised meanwhile": {meanwhile: func(w *world) {
			w.change("web", func(ks *keystore.KeySet) { ks.Versions[0].Compromised = &keystore.Fact{} })
		}, code: api.CodeKeySetSuspended, outcome: keystore.OutcomeRefused},
	} {
		w := newWorld(t)
		if c.before != nil {
			c.before(w)
		}
		w.log.act = func(keystore.Record) error {
			if c.meanwhile != nil {
				c.meanwhile(w)
			}
			return nil
		}
		signed, err := w.SignHistory(t.Context(), "web", []byte(pastKeys))
		wants(t, what, err, c.code)
		if signed != (SignedHistory{}) {
			t.Errorf("%s: released %+v", what, signed)
		}
		last := keystore.Outcome("")
		if n := len(w.log.refused); n > 0 {
			last = w.log.refused[n-1].Outcome
		}
		if last != c.outcome {
			t.Errorf("%s: the last entry is %q", what, last)
		}
	}
}

func TestAHistoryIsOfAKeySetWeKnow(t *testing.T) {
	w := newWorld(t)
	for name, keys := range map[string]string{"nowhere": pastKeys, "web": `{}`, "edge": ``} {
		if signed, err := w.SignHistory(t.Context(), name, []byte(keys)); err == nil {
			t.Errorf("%s, %s: %+v", name, keys, signed)
		}
	}
	if len(w.log.entries) > 0 || strings.Contains(fmt.Sprint(w.trace), "sign") {
		t.Errorf("%v, %+v", w.trace, w.log.entries)
	}
}

package signer

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

func TestCompromise(t *testing.T) {
	for _, c := range []struct {
		what string
		who  policy.Caller
		set  string
		req  api.CompromiseRequest
		code api.Code // "" if it is done
	}{
		{"the active version", operator, "web", api.CompromiseRequest{Reason: "stolen"}, ""},
		{"by kid", operator, "web", api.CompromiseRequest{Reason: "stolen", KID: "abc"}, ""},
		{"no reason", operator, "web", api.CompromiseRequest{}, api.CodeMalformed},
		{"a longer reason", operator, "web", api.CompromiseRequest{Reason: strings.Repeat("x", MaxReason+1)}, api.CodeMalformed},
		{"a key set that is not there", operator, "gone", api.CompromiseRequest{Reason: "stolen"}, api.CodeForbidden},
		{"another's key set", operator, "devices-ca", api.CompromiseRequest{Reason: "stolen"}, api.CodeForbidden},
		{"an issuer", issuer, "web", api.CompromiseRequest{Reason: "stolen"}, api.CodeForbidden},
		{"an auditor", auditor, "web", api.CompromiseRequest{Reason: "stolen"}, api.CodeForbidden},
	} {
		w := newWorld(t)
		_, err := w.Compromise(t.Context(), c.who, c.set, c.req)
		if c.code != "" || err != nil {
			wants(t, c.what, err, c.code)
		}
		if done := len(w.rotations.asked) == 1; done != (c.code == "") {
			t.Errorf("%s: asked %q", c.what, w.rotations.asked)
		}
		if refused := len(w.log.refused) == 1 && w.log.refused[0].Action == keystore.ActCompromise; refused == (c.code == "") {
			t.Errorf("%s: refused %+v", c.what, w.log.refused)
		}
	}
}

// A token and a node hold keys of every key set, so it takes a rule for all.
func TestCompromiseAll(t *testing.T) {
	everything := root
	for _, c := range []struct {
		what  string
		who   policy.Caller
		req   api.CompromiseAllRequest
		asked string // the keystore or node
		code  api.Code
	}{
		{"a keystore", everything, api.CompromiseAllRequest{Reason: "r", Token: "hsm"}, "hsm", ""},
		{"by serial", everything, api.CompromiseAllRequest{Reason: "r", Token: "0a1b"}, "hsm", ""},
		{"by label", everything, api.CompromiseAllRequest{Reason: "r", Token: "signing"}, "hsm", ""},
		{"a keystore before a label", everything, api.CompromiseAllRequest{Reason: "r", Token: "spare"}, "spare", ""},
		{"a label of two", everything, api.CompromiseAllRequest{Reason: "r", Token: "twin"}, "", api.CodeConflict},
		{"a keystore that is not configured any more", everything, api.CompromiseAllRequest{Reason: "r", Token: "attic"}, "attic", ""},
		{"a node", everything, api.CompromiseAllRequest{Reason: "r", Node: "two"}, "two", ""},
		{"both", everything, api.CompromiseAllRequest{Reason: "r", Node: "two", Token: "hsm"}, "", api.CodeMalformed},
		{"neither", everything, api.CompromiseAllRequest{Reason: "r"}, "", api.CodeMalformed},
		{"no reason", everything, api.CompromiseAllRequest{Token: "hsm"}, "", api.CodeMalformed},
		{"an operator of one key set", operator, api.CompromiseAllRequest{Reason: "r", Token: "hsm"}, "", api.CodeForbidden},
		{"an issuer", issuer, api.CompromiseAllRequest{Reason: "r", Token: "hsm"}, "", api.CodeForbidden},
	} {
		w := newWorld(t)
		w.tokens.status = []keystore.TokenStatus{
			{Keystore: "hsm", Label: "signing", Serial: "0a1b"}, {Keystore: "other", Label: "spare", Serial: "0a1c"},
			{Keystore: "spare", Label: "twin", Serial: "0a1d"}, {Keystore: "hsm", Label: "twin", Serial: "0a1e"},
		}
		_, err := w.CompromiseAll(t.Context(), c.who, c.req)
		if c.code != "" || err != nil {
			wants(t, c.what, err, c.code)
		}
		found := slices.ContainsFunc(w.rotations.asked, func(a string) bool { return strings.Contains(a, c.asked) })
		if found != (c.code == "") {
			t.Errorf("%s: asked %q", c.what, w.rotations.asked)
		}
	}
}

// Like a suspension it asks neither the log nor the catalog.
func TestCompromiseWorksWhileLogAndCatalogAreDown(t *testing.T) {
	w := newWorld(t)
	w.log.health, w.lease = errors.New("disk full"), errors.New("disk full")
	w.log.act = func(keystore.Record) error { return errors.New("disk full") }
	if _, err := w.Compromise(t.Context(), operator, "web", api.CompromiseRequest{Reason: "stolen"}); err != nil {
		t.Error(err)
	}
	if _, err := w.CompromiseAll(t.Context(), root, api.CompromiseAllRequest{Reason: "stolen", Token: "hsm"}); err != nil {
		t.Error(err)
	}
	w.rotations.err = errors.New("a cause of its own")
	_, err := w.Compromise(t.Context(), operator, "web", api.CompromiseRequest{Reason: "stolen"})
	wants(t, "a failure", err, api.CodeInternal)
	if strings.Contains(onWire(t, err), "cause") {
		t.Error("the cause crosses the wire")
	}
}

// A key set without a version that signs says when to come back.
func TestNothingSignsInAGap(t *testing.T) {
	w := newWorld(t)
	w.change("web", func(ks *keystore.KeySet) { ks.Versions[0].State = keystore.Retired })
	ask := func() *api.Error {
		t.Helper()
		_, err := w.SignJWT(t.Context(), issuer, api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
		e, _ := errors.AsType[*api.Error](err)
		if e == nil {
			t.Fatalf("a token, or %v", err)
		}
		return e
	}
	if e := ask(); e.Code != api.CodeBackendUnavailable {
		t.Errorf("before the first version signs: %v", e)
	}
	w.rotations.gap, w.rotations.until = true, w.Now().Add(34*time.Minute+time.Millisecond)
	if e := ask(); e.Code != api.CodeKeySetSuspended || e.RetryAfter != 34*60+1 {
		t.Errorf("in a gap: %v, again in %d s", e, e.RetryAfter)
	}
	w.rotations.until = time.Time{}
	if e := ask(); e.Code != api.CodeKeySetSuspended || e.RetryAfter != 60 {
		t.Errorf("in a gap without a known end: %v, again in %d s", e, e.RetryAfter)
	}
	w.rotations.until = w.Now().Add(-time.Second)
	if e := ask(); e.RetryAfter != 1 {
		t.Errorf("in a gap that is about to end: again in %d s", e.RetryAfter)
	}
	w.rotations.gap = false
	if e := ask(); e.Code != api.CodeBackendUnavailable {
		t.Errorf("no gap: %v", e)
	}
}

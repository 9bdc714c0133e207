package signer

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

func TestDestroy(t *testing.T) {
	ok := api.DestroyRequest{Reason: "a drill", Version: 1}
	for _, c := range []struct {
		what string
		who  policy.Caller
		set  string
		req  api.DestroyRequest
		code api.Code // empty: done
	}{
		{"by number", operator, "web", ok, ""},
		{"by kid", operator, "web", api.DestroyRequest{Reason: "a drill", KID: "abc"}, ""},
		{"no version is meant without its name", operator, "web", api.DestroyRequest{Reason: "a drill"}, api.CodeMalformed},
		{"two names", operator, "web", api.DestroyRequest{Reason: "a drill", KID: "abc", Version: 1}, api.CodeMalformed},
		{"a version below zero", operator, "web", api.DestroyRequest{Reason: "a drill", Version: -1}, api.CodeMalformed},
		{"a version there can never be", operator, "web", api.DestroyRequest{Reason: "a drill", Version: 1 << 32}, api.CodeMalformed},
		{"no reason", operator, "web", api.DestroyRequest{Version: 1}, api.CodeMalformed},
		{"a longer reason", operator, "web", api.DestroyRequest{Version: 1, Reason: strings.Repeat("x", MaxReason+1)}, api.CodeMalformed},
		{"another's key set", operator, "edge", ok, api.CodeForbidden},
		{"a key set there is not", operator, "gone", ok, api.CodeForbidden},
		{"A29: an issuer", issuer, "web", ok, api.CodeForbidden},
		{"A29: an auditor", auditor, "web", ok, api.CodeForbidden},
	} {
		w := newWorld(t)
		reply, err := w.Destroy(t.Context(), c.who, c.set, c.req)
		if c.code == "" {
			want := fmt.Sprint("destroy web by ", operator, " ", []any{keystore.KID(c.req.KID), int(c.req.Version), "a drill"})
			if err != nil || reply.State != "destroyed" || len(w.rotations.asked) != 1 || w.rotations.asked[0] != want {
				t.Errorf("%s: %+v, %v, asked %q, want %q", c.what, reply, err, w.rotations.asked, want)
			}
			continue
		}
		wants(t, c.what, err, c.code)
		if len(w.rotations.asked) != 0 || len(w.log.refused) != 1 || w.log.refused[0].Action != keystore.ActKeyDestroy {
			t.Errorf("%s: asked %q, refusals %+v", c.what, w.rotations.asked, w.log.refused)
		}
	}
	w := newWorld(t)
	w.log.health = errors.New("disk full")
	_, err := w.Destroy(t.Context(), operator, "web", ok)
	wants(t, "the log is down", err, api.CodeAuditUnavailable)
	w.lease = errors.New("disk full")
	_, err = w.Destroy(t.Context(), operator, "web", ok)
	wants(t, "the catalog is down", err, api.CodeLeaseExpired)
	w.log.health, w.lease, w.rotations.err = nil, nil, errors.New("a cause of its own")
	_, err = w.Destroy(t.Context(), operator, "web", ok)
	wants(t, "another failure", err, api.CodeInternal)
	if strings.Contains(onWire(t, err), "cause") {
		t.Error("the cause crosses the wire")
	}
	if last := w.log.refused[len(w.log.refused)-1]; last.Version != 1 || last.KeySet != "web" {
		t.Errorf("entered as %+v", last)
	}
}

func TestReconcile(t *testing.T) {
	w := newWorld(t)
	_, err := w.Reconciled(t.Context(), auditor)
	wants(t, "before the first", err, api.CodeNotFound)
	if found, err := w.Reconcile(t.Context(), operator, api.ReconcileRequest{Keystore: "hsm"}); err != nil || !found.At.Equal(noon) {
		t.Fatalf("%+v, %v", found, err)
	}
	if e := w.log.entries[0]; e.Action != keystore.ActReconcile || e.Principal != operator.String() || e.Outcome != keystore.OutcomeDone || e.Detail["keystore"] != "hsm" {
		t.Errorf("entered as %+v", e)
	}
	if len(w.tokens.reconciled) != 1 || w.tokens.reconciled[0] != "hsm" {
		t.Errorf("compared %q", w.tokens.reconciled)
	}
	for _, who := range []policy.Caller{operator, auditor} {
		if last, err := w.Reconciled(t.Context(), who); err != nil || !last.At.Equal(noon) {
			t.Errorf("%s: %+v, %v", who, last, err)
		}
	}
	_, err = w.Reconciled(t.Context(), issuer)
	wants(t, "an issuer reads it", err, api.CodeForbidden)
	for _, who := range []policy.Caller{issuer, auditor, {}} {
		_, err := w.Reconcile(t.Context(), who, api.ReconcileRequest{})
		wants(t, who.Value, err, api.CodeForbidden)
	}
	w.tokens.err = fmt.Errorf("keystore: %w", keystore.ErrNotFound)
	_, err = w.Reconcile(t.Context(), operator, api.ReconcileRequest{Keystore: "other"})
	wants(t, "no such keystore", err, api.CodeNotFound)
	w.tokens.err = keystore.ErrUnavailable
	_, err = w.Reconcile(t.Context(), operator, api.ReconcileRequest{})
	wants(t, "nothing can be compared", err, api.CodeBackendUnavailable)
	w.log.act = func(keystore.Record) error { return errors.New("disk full") }
	_, err = w.Reconcile(t.Context(), operator, api.ReconcileRequest{})
	wants(t, "the log is down", err, api.CodeAuditUnavailable)
	if len(w.tokens.reconciled) != 3 {
		t.Errorf("compared %q", w.tokens.reconciled)
	}
}

package signer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// The operations on a key set, as one shape.
var operations = map[string]func(w *world, who policy.Caller, set string, req api.OperateRequest) error{
	"rotate": func(w *world, who policy.Caller, set string, req api.OperateRequest) error {
		_, err := w.Rotate(context.Background(), who, set, req)
		return err
	},
	"suspend": func(w *world, who policy.Caller, set string, req api.OperateRequest) error {
		_, err := w.Suspend(context.Background(), who, set, req)
		return err
	},
	"resume": func(w *world, who policy.Caller, set string, req api.OperateRequest) error {
		_, err := w.Resume(context.Background(), who, set, req)
		return err
	},
}

func TestOperations(t *testing.T) {
	ok := api.OperateRequest{Reason: "a drill"}
	for name, operate := range operations {
		for _, c := range []struct {
			what string
			who  policy.Caller
			set  string
			req  api.OperateRequest
			code api.Code // empty: done
		}{
			{"an operator", operator, "web", ok, ""},
			{"the longest reason", operator, "web", api.OperateRequest{Reason: strings.Repeat("x", MaxReason)}, ""},
			{"no reason", operator, "web", api.OperateRequest{}, api.CodeMalformed},
			{"a longer reason", operator, "web", api.OperateRequest{Reason: strings.Repeat("x", MaxReason+1)}, api.CodeMalformed},
			{"another time", operator, "web", api.OperateRequest{Reason: "a drill", When: "tomorrow"}, api.CodeMalformed},
			{"another's key set", operator, "edge", ok, api.CodeForbidden},
			{"a key set there is not", operator, "gone", ok, api.CodeForbidden},
			{"A29: an issuer", issuer, "web", ok, api.CodeForbidden},
			{"A29: an auditor", auditor, "web", ok, api.CodeForbidden},
			{"nobody", policy.Caller{}, "web", ok, api.CodeForbidden},
		} {
			w := newWorld(t)
			err := operate(w, c.who, c.set, c.req)
			if c.code == "" {
				if err != nil || len(w.rotations.asked) != 1 || !strings.Contains(w.rotations.asked[0], "by "+operator.String()) {
					t.Errorf("%s, %s: %v, asked %q", name, c.what, err, w.rotations.asked)
				}
				continue
			}
			wants(t, name+", "+c.what, err, c.code)
			if len(w.rotations.asked) != 0 || len(w.log.refused) != 1 || w.log.refused[0].KeySet != c.set {
				t.Errorf("%s, %s: asked %q, refusals %+v", name, c.what, w.rotations.asked, w.log.refused)
			}
		}
	}
}

func TestRotateWhen(t *testing.T) {
	w := newWorld(t)
	for when, now := range map[string]bool{"": false, "now": true} {
		w.rotations.asked = nil
		if _, err := w.Rotate(t.Context(), operator, "web", api.OperateRequest{Reason: "r", When: when}); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprint("rotate web by ", operator, " ", []any{"r", now}); w.rotations.asked[0] != want {
			t.Errorf("asked %q, want %q", w.rotations.asked[0], want)
		}
	}
	_, err := w.Rotate(t.Context(), operator, "web", api.OperateRequest{Reason: "r", KID: "x"})
	wants(t, "one version of it", err, api.CodeMalformed)
	_, err = w.Suspend(t.Context(), operator, "web", api.OperateRequest{Reason: "r", When: "now"})
	wants(t, "when to suspend", err, api.CodeMalformed)

	early := api.Errorf(api.CodeTooEarly, "rule 1: 7 seconds left")
	early.Rule, early.RetryAfter = 1, 7
	w.rotations.err = early
	_, err = w.Rotate(t.Context(), operator, "web", api.OperateRequest{Reason: "r", When: "now"})
	if e := wants(t, "too early", err, api.CodeTooEarly); e.Rule != 1 || e.RetryAfter != 7 {
		t.Errorf("%+v", e)
	}
	w.rotations.err = errors.New("a cause of its own")
	for name, operate := range operations {
		err := operate(w, operator, "web", api.OperateRequest{Reason: "r"})
		wants(t, name, err, api.CodeInternal)
		if strings.Contains(onWire(t, err), "cause") {
			t.Errorf("%s: the cause crosses the wire", name)
		}
	}
}

// Stopping is easier than starting: suspend asks neither the log nor the
// catalog; the others do.
func TestSuspendWorksWhileLogAndCatalogAreDown(t *testing.T) {
	req := api.OperateRequest{Reason: "stolen laptop"}
	w := newWorld(t)
	w.log.health, w.lease = errors.New("disk full"), errors.New("disk full")
	w.log.act = func(keystore.Record) error { return errors.New("disk full") }
	reply, err := w.Suspend(t.Context(), operator, "web", req)
	if err != nil || !reply.Suspended {
		t.Errorf("suspend: %+v, %v", reply, err)
	}
	wants(t, "resume", operations["resume"](w, operator, "web", req), api.CodeLeaseExpired)
	wants(t, "rotate", operations["rotate"](w, operator, "web", req), api.CodeLeaseExpired)
	w.lease = nil
	wants(t, "resume", operations["resume"](w, operator, "web", req), api.CodeAuditUnavailable)
	wants(t, "rotate", operations["rotate"](w, operator, "web", req), api.CodeAuditUnavailable)
	if len(w.rotations.asked) != 1 {
		t.Errorf("asked %q", w.rotations.asked)
	}
	wants(t, "an issuer still may not", operations["suspend"](w, issuer, "web", req), api.CodeForbidden)
}

func TestReading(t *testing.T) {
	w := newWorld(t)
	list, err := w.KeySets(t.Context(), operator)
	if err != nil || len(list.KeySets) != 1 || list.KeySets[0].Name != "web" {
		t.Errorf("an operator of web reads %+v, %v", list, err)
	}
	list, err = w.KeySets(t.Context(), auditor)
	if err != nil || len(list.KeySets) != 4 || list.KeySets[0].Name != "devices-ca" {
		t.Errorf("an auditor of everything reads %+v, %v", list, err)
	}
	_, err = w.KeySets(t.Context(), issuer)
	wants(t, "an issuer", err, api.CodeForbidden)

	reads := map[string]func(who policy.Caller, set string) (string, error){
		"key set": func(who policy.Caller, set string) (string, error) {
			r, err := w.KeySet(t.Context(), who, set)
			return r.Name, err
		},
		"plan": func(who policy.Caller, set string) (string, error) {
			r, err := w.Plan(t.Context(), who, set)
			return r.Held, err
		},
		"history": func(who policy.Caller, set string) (string, error) {
			r, err := w.History(t.Context(), who, set, time.Time{})
			if err != nil {
				return "", err
			}
			return r.Events[0].Event, nil
		},
	}
	for name, read := range reads {
		if got, err := read(operator, "web"); err != nil || got != "web" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		_, forbidden := read(operator, "edge")
		_, unknown := read(auditor, "nonesuch")
		wants(t, name, forbidden, api.CodeForbidden)
		if onWire(t, forbidden) != onWire(t, unknown) {
			t.Errorf("A24 %s: %s is not %s", name, onWire(t, forbidden), onWire(t, unknown))
		}
		w.rotations.err = errors.New("secret cause")
		if _, err := read(operator, "web"); strings.Contains(onWire(t, err), "secret") {
			t.Errorf("%s: %v", name, err)
		}
		w.rotations.err, w.lease = nil, errors.New("too old")
		_, err := read(operator, "web")
		wants(t, name+" past the lease", err, api.CodeLeaseExpired)
		w.lease = nil
	}
	w.lease = errors.New("too old")
	_, err = w.KeySets(t.Context(), operator)
	wants(t, "past the lease", err, api.CodeLeaseExpired)
}

// Reading the log is itself an entry, made before anything is read.
func TestReadingTheLogIsEntered(t *testing.T) {
	w := newWorld(t)
	if err := w.ReadAudit(t.Context(), auditor, "lifecycle"); err != nil {
		t.Fatal(err)
	}
	e := w.log.entries[0]
	if e.Action != keystore.ActReadAudit || e.Principal != auditor.String() || e.Outcome != keystore.OutcomeDone || e.Detail["what"] != "lifecycle" || e.Rule != "auditor" {
		t.Errorf("%+v", e)
	}
	for _, who := range []policy.Caller{operator, issuer, nobody} {
		wants(t, who.Value, w.ReadAudit(t.Context(), who, "lifecycle"), api.CodeForbidden)
	}
	if len(w.log.entries) != 1 || len(w.log.refused) != 3 {
		t.Errorf("%d entries, %d refusals", len(w.log.entries), len(w.log.refused))
	}
	w.log.act = func(keystore.Record) error { return errors.New("disk full") }
	wants(t, "the log is down", w.ReadAudit(t.Context(), auditor, "lifecycle"), api.CodeAuditUnavailable)
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	for _, s := range []keystore.TokenState{
		keystore.TokenStarting, keystore.TokenReady, keystore.TokenUnavailable, keystore.TokenPINRejected,
		keystore.TokenPINLocked, keystore.TokenChanged, keystore.TokenAmbiguous, keystore.TokenStopped,
	} {
		w.tokens.status = append(w.tokens.status, keystore.TokenStatus{Label: string(s), State: s, Since: noon, Workers: 1})
	}
	list, err := w.TokenList(t.Context(), operator)
	if err != nil || len(list.Tokens) != len(w.tokens.status) {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, token := range list.Tokens {
		healthy := token.State == "ready" || token.State == "starting"
		if (token.Hint == "") != healthy {
			t.Errorf("a token that is %s has the hint %q", token.State, token.Hint)
		}
	}
	if list, err := newWorld(t).TokenList(t.Context(), operator); err != nil || list.Tokens == nil {
		t.Errorf("no tokens are null: %v", err)
	}
	_, err = w.TokenList(t.Context(), issuer)
	wants(t, "an issuer", err, api.CodeForbidden)
}

func TestTokenRetry(t *testing.T) {
	w := newWorld(t)
	if _, err := w.TokenRetry(t.Context(), operator, "dev"); err != nil {
		t.Fatal(err)
	}
	if e := w.log.entries; len(e) != 2 || e[0].Outcome != keystore.OutcomeIntent || e[1].Outcome != keystore.OutcomeDone || e[1].Detail["token"] != "dev" {
		t.Errorf("entries %+v", e)
	}
	for _, c := range []struct {
		err     error
		code    api.Code
		outcome keystore.Outcome
	}{
		{keystore.ErrNotFound, api.CodeNotFound, keystore.OutcomeFailed},
		{keystore.ErrPINRejected, api.CodeConflict, keystore.OutcomeFailed},
		{keystore.ErrUnavailable, api.CodeBackendUnavailable, keystore.OutcomeUnknown},
		{errors.New("CKR_FUNCTION_FAILED"), api.CodeInternal, keystore.OutcomeFailed},
	} {
		w := newWorld(t)
		w.tokens.err = fmt.Errorf("secret: %w", c.err)
		_, err := w.TokenRetry(t.Context(), operator, "dev")
		wants(t, c.err.Error(), err, c.code)
		if wire := onWire(t, err); strings.Contains(wire, "secret") || strings.Contains(wire, "CKR") {
			t.Errorf("%v crosses the wire: %s", c.err, wire)
		}
		if r := w.log.refused; len(r) != 1 || r[0].Action != keystore.ActTokenRetry {
			t.Errorf("%v: refusals %+v", c.err, r)
		}
	}
	for _, o := range []keystore.Outcome{keystore.OutcomeIntent, keystore.OutcomeDone} {
		w := newWorld(t)
		w.log.act = func(r keystore.Record) error {
			if r.Outcome == o {
				return errors.New("disk full")
			}
			return nil
		}
		_, err := w.TokenRetry(t.Context(), operator, "dev")
		wants(t, "the log is down", err, api.CodeAuditUnavailable)
		if tried := len(w.tokens.retried) > 0; tried != (o == keystore.OutcomeDone) {
			t.Errorf("the %s cannot be entered: tried %v; a PIN is not spent without its entry", o, tried)
		}
	}
	_, err := w.TokenRetry(t.Context(), issuer, "dev")
	wants(t, "an issuer", err, api.CodeForbidden)
}

func TestHistorySince(t *testing.T) {
	w := newWorld(t)
	for since, want := range map[time.Time]int{{}: 1, noon: 1, noon.Add(1): 0} {
		history, err := w.History(t.Context(), operator, "web", since)
		if err != nil || len(history.Events) != want || history.Events == nil {
			t.Errorf("since %v: %+v, %v; want %d", since, history, err, want)
		}
	}
}

package signer

import (
	"errors"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

func TestAnOperatorConfirmsAClock(t *testing.T) {
	w := newWorld(t)
	w.lease = errors.New("nothing is signed") // which is why someone confirms it
	reply, err := w.ConfirmClock(t.Context(), operator, api.ClockConfirmRequest{Reason: "the host was paused"})
	if err != nil || reply.Offset != -3600 || reply.Entry != "log#3" {
		t.Fatalf("%+v, %v", reply, err)
	}
	if len(w.setting.confirmed) != 1 {
		t.Fatalf("confirmed %+v", w.setting.confirmed)
	}
	got := w.setting.confirmed[0]
	if got.Action != keystore.ActClockConfirm || got.Outcome != keystore.OutcomeDone || got.Principal != operator.String() ||
		got.Reason != "the host was paused" || got.Rule != "operator" || got.Policy == "" {
		t.Errorf("to be entered: %+v", got)
	}
	for _, c := range []struct {
		what   string
		who    policy.Caller
		reason string
		set    func(w *world)
		code   api.Code
	}{
		{"no reason", operator, "", func(*world) {}, api.CodeMalformed},
		{"a longer reason", operator, strings.Repeat("x", MaxReason+1), func(*world) {}, api.CodeMalformed},
		{"an issuer", issuer, "why", func(*world) {}, api.CodeForbidden},
		{"an auditor", auditor, "why", func(*world) {}, api.CodeForbidden},
		{"the log is down", operator, "why", func(w *world) { w.log.health = errors.New("disk full") }, api.CodeAuditUnavailable},
		{"nothing to confirm", operator, "why", func(w *world) { w.setting.err = api.Errorf(api.CodeConflict, "they agree") }, api.CodeConflict},
		{"another failure", operator, "why", func(w *world) { w.setting.err = errors.New("a cause") }, api.CodeInternal},
	} {
		w := newWorld(t)
		c.set(w)
		_, err := w.ConfirmClock(t.Context(), c.who, api.ClockConfirmRequest{Reason: c.reason})
		wants(t, c.what, err, c.code)
		if len(w.setting.confirmed) != 0 || len(w.log.refused) != 1 || w.log.refused[0].Action != keystore.ActClockConfirm {
			t.Errorf("%s: confirmed %+v, refused %+v", c.what, w.setting.confirmed, w.log.refused)
		}
	}
}

// What the View says of why nothing is signed is what callers are told.
func TestWhyNothingIsSigned(t *testing.T) {
	w := newWorld(t)
	stepped := errors.New("stepped by +1h0m0s")
	w.lease = api.Errorf(api.CodeLeaseExpired, "the wall clock was stepped").Because(stepped)
	_, err := w.SignJWT(t.Context(), issuer, api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
	wants(t, "a stepped clock", err, api.CodeLeaseExpired)
	if wire := onWire(t, err); !strings.Contains(wire, "the wall clock was stepped") || strings.Contains(wire, "+1h") {
		t.Errorf("the caller reads %s", wire)
	}
	if r := w.log.refused[0]; !strings.Contains(r.Reason, "stepped by +1h0m0s") {
		t.Errorf("the log says %q", r.Reason)
	}
	_, err = w.Rotate(t.Context(), operator, "web", api.OperateRequest{Reason: "why"})
	wants(t, "a rotation", err, api.CodeLeaseExpired)
	if reply, err := w.Suspend(t.Context(), operator, "web", api.OperateRequest{Reason: "why"}); err != nil {
		t.Errorf("a suspension: %+v, %v", reply, err)
	}
}

package signer

import (
	"errors"
	"strings"
	"testing"

	"chancery/signer/api"
)

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

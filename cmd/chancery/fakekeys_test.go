package main

import (
	"encoding/json"
	"net/http"
	"time"

	"chancery/signer/api"
)

// handleKeys adds what a fake does with the keys of its token.
func (f *fake) handleKeys(handle func(pattern, role string, do func(*http.Request) (int, any, error))) {
	handle("POST /v1/keysets/{name}/destroy", roleOperator, f.destroy)
	handle("POST /v1/keysets/{name}/compromise", roleOperator, f.compromise)
	f.handleDigestKeys(handle)
	handle("POST /v1/ops/compromise", roleOperator, f.compromiseAll)
	handle("POST /v1/ops/reconcile", roleOperator, f.reconcile)
	handle("GET /v1/ops/reconcile/last", "", f.reconcile)
	handle("POST /v1/ops/clock/confirm", roleOperator, f.confirmClock)
}

// confirmClock confirms an hour, if the clock was stepped.
func (f *fake) confirmClock(r *http.Request) (int, any, error) {
	var req api.ClockConfirmRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return 0, nil, err
	}
	if f.mode != "stepped" {
		return 0, nil, api.Errorf(api.CodeConflict, "the wall clock and boot time agree: there is nothing to confirm")
	}
	return 200, api.ClockConfirmReply{Node: "dev", Offset: 3600.25, Entry: "localhost/audit/dev/lifecycle#14 " + req.Reason}, nil
}

// destroy destroys version 1, which is retiring until the test says otherwise.
func (f *fake) destroy(r *http.Request) (int, any, error) {
	var req api.DestroyRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return 0, nil, err
	}
	if err := f.known(r); err != nil {
		return 0, nil, err
	}
	v := &f.versions[0]
	switch {
	case req.Version == 2:
		return 0, nil, api.Errorf(api.CodeConflict, "version 2 is active: only a retired one is destroyed (hint: `chancery rotation now web` has its successor sign)")
	case req.Version != 1 && req.KID != v.KID:
		return 0, nil, api.Errorf(api.CodeNotFound, "no such version in the key set")
	case f.mode != "retired":
		e := api.Errorf(api.CodeTooEarly, "rule 2: tokens it signed may be valid until 12:00:07")
		e.Rule, e.RetryAfter = 2, 7
		return 0, nil, e
	}
	v.State = "destroyed"
	return 200, api.DestroyReply{Version: 1, KID: v.KID, State: v.State, Entry: "localhost/audit/dev/lifecycle#12 " + req.Reason}, nil
}

// reconcile finds nothing, or something of each shape, as the test says.
func (f *fake) reconcile(r *http.Request) (int, any, error) {
	found := api.Reconciliation{
		At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Findings: []api.Mismatch{},
		Keystores: []api.Compared{{Keystore: "hsm", Keys: 7}},
	}
	var req api.ReconcileRequest
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return 0, nil, err
		}
	}
	if req.Keystore != "" && req.Keystore != "hsm" {
		return 0, nil, api.Errorf(api.CodeNotFound, "no keystore of that name")
	}
	switch f.mode {
	case "strays":
		found.Findings = append(found.Findings,
			api.Mismatch{Kind: "resurrected", Keystore: "hsm", KeySet: "web", Version: 1, KID: f.versions[0].KID, State: "destroyed",
				What: "the private key was destroyed and is there again", Todo: "its token is stopped", Entry: "localhost/audit/dev/lifecycle#13"},
			api.Mismatch{Kind: "orphan", Keystore: "hsm", Token: "0a1b", KeyID: "00ff", Label: "chancery/jwt/ES256", Type: "EC", What: "no version names it", Todo: "delete it"},
			api.Mismatch{Kind: "unknown", Keystore: "hsm", Token: "0a1b", What: "it is not Chancery's", Todo: "find out \x1b[2Jwhose it is"},
		)
	case "half":
		found.Keystores = append(found.Keystores, api.Compared{Keystore: "spare", Error: "token spare is pin_rejected"})
	}
	return 200, found, nil
}

// compromise ends version 2; version 3 takes over unless the test says "gap",
// "nothing written" or "uncounted".
func (f *fake) compromise(r *http.Request) (int, any, error) {
	var req api.CompromiseRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return 0, nil, err
	}
	if err := f.known(r); err != nil {
		return 0, nil, err
	}
	if req.KID != "" && req.KID != f.versions[1].KID {
		return 0, nil, api.Errorf(api.CodeNotFound, "no such version in the key set")
	}
	return 200, api.CompromiseReply{
		Compromised: []api.Compromised{f.compromised(2, "active", req.Reason)}, Next: []string{"restart \x1b[2J verifiers"},
	}, nil
}

func (f *fake) compromiseAll(r *http.Request) (int, any, error) {
	var req api.CompromiseAllRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return 0, nil, err
	}
	if req.Token == "attic" {
		return 0, nil, api.Errorf(api.CodeNotFound, "there is no such token or node, or it has no key of a key set")
	}
	reply := api.CompromiseReply{Compromised: []api.Compromised{
		f.compromised(1, "retiring", req.Reason), f.compromised(2, "active", req.Reason), f.compromised(3, "published", req.Reason),
	}}
	if req.Node != "" {
		reply.Node = &api.Forgotten{Name: req.Node, Forgotten: f.mode != "stays"}
		if f.mode == "stays" {
			reply.Node.Error = "the catalog cannot be written"
		}
	}
	return 200, reply, nil
}

func (f *fake) compromised(version int, before, reason string) api.Compromised {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	later, count := at.Add(35*time.Minute), int64(12)
	c := api.Compromised{
		KeySet: "web", Purpose: "jwt", Version: version, KID: f.versions[version-1].KID, At: at, By: "olga", Reason: reason,
		StateBefore: before, LiveTokens: &count, LiveUntil: &later, CountedOn: "dev", Exposure: api.Exposure{Caches: &later},
		Recorded: f.mode != "unwritten", Durable: true, Entry: "localhost/audit/dev/lifecycle#15",
	}
	switch {
	case f.mode == "gap":
		c.Gap = &api.Gap{From: at, Until: &later, Held: "rule 1: caches may hold the old set"}
	case f.mode == "endless":
		c.Gap = &api.Gap{From: at, Held: "rule 1: no node has said that it serves version 3"}
	case before == "active":
		c.Successor = &api.Successor{VersionRef: api.VersionRef{Version: 3, KID: f.versions[2].KID}, SignsSince: at}
		if f.mode == "sign_early" {
			c.Successor.RejectedUntil = &later
		}
	}
	if f.mode == "unwritten" {
		c.Entry, c.LiveTokens, c.LiveUntil = "", nil, nil
	}
	return c
}

package signer

import (
	"context"
	"errors"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// A Scope is whose keys are in other hands: one version's, those of a keystore,
// or those a node could use. KeySet, Keystore or Node is set.
type Scope struct {
	KeySet   string
	KID      keystore.KID // of KeySet's version; empty: the active one
	Keystore string
	Node     string
}

// Compromise says that the key of a version is in other hands. Like Suspend it
// works when the log or the catalog cannot be written: then the record follows.
func (s *Service) Compromise(ctx context.Context, who policy.Caller, name string, req api.CompromiseRequest) (api.CompromiseReply, error) {
	act, err := s.operation(who, policy.Compromise, keystore.ActCompromise, name, req.Reason)
	if err != nil {
		return api.CompromiseReply{}, err
	}
	act.KID = keystore.KID(req.KID)
	return s.compromise(ctx, act, Scope{KeySet: name, KID: act.KID}, req.Reason)
}

// CompromiseAll says that every key of a token or a node is in other hands. It
// may be asked by whom a rule lets say so of any key set.
func (s *Service) CompromiseAll(ctx context.Context, who policy.Caller, req api.CompromiseAllRequest) (api.CompromiseReply, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActCompromise, Detail: map[string]string{"token": req.Token, "node": req.Node}}
	grant, err := s.Policy().Authorize(who, policy.Compromise, policy.Target{KeySet: policy.Any})
	if err != nil {
		return api.CompromiseReply{}, s.refuse(act, err)
	}
	act.Rule, act.Policy = grant.Rule(), grant.PolicyHash()
	if req.Reason == "" || len(req.Reason) > MaxReason {
		return api.CompromiseReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, `"reason" says why in 1 to %d bytes`, MaxReason))
	}
	if (req.Token == "") == (req.Node == "") {
		return api.CompromiseReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, `"token" or "node" says whose keys, one of the two`))
	}
	scope := Scope{Node: req.Node}
	if req.Token != "" {
		if scope.Keystore, err = s.keystoreOf(req.Token); err != nil {
			return api.CompromiseReply{}, s.refuse(act, err)
		}
	}
	return s.compromise(ctx, act, scope, req.Reason)
}

func (s *Service) compromise(ctx context.Context, act keystore.Record, scope Scope, reason string) (api.CompromiseReply, error) {
	reply, err := s.Rotations.Compromise(ctx, act.Principal, scope, reason)
	if err != nil {
		return api.CompromiseReply{}, s.refuse(act, ended(ctx, err))
	}
	return reply, nil
}

// keystoreOf returns the keystore whose name, or whose token's serial or label,
// this is. What no token answers to is taken for a keystore's name: the catalog
// may know one that is not configured any more.
func (s *Service) keystoreOf(name string) (string, error) {
	found := ""
	for _, t := range s.Tokens.Status() {
		if name == t.Keystore {
			return name, nil
		}
		if name != t.Serial && name != t.Label {
			continue
		}
		if found != "" && found != t.Keystore {
			return "", api.Errorf(api.CodeConflict, "tokens of keystores %s and %s are called that: name the keystore", found, t.Keystore)
		}
		found = t.Keystore
	}
	if found == "" {
		found = name
	}
	return found, nil
}

var errNoneSigns = errors.New("no version of the key set signs yet")

// silent is what a caller sees of a key set that has no version to sign: none
// yet, or none for now because the one that did is compromised.
func (s *Service) silent(set *keystore.KeySet) *api.Error {
	soonest, gap := s.Rotations.Gap(set)
	if !gap {
		return unavailable(errNoneSigns)
	}
	e := api.Errorf(api.CodeKeySetSuspended, "the key set has no key that may sign now")
	e.RetryAfter = 60
	if !soonest.IsZero() {
		e.RetryAfter = max(1, int64((soonest.Sub(s.Now())+time.Second-1)/time.Second))
	}
	return e
}

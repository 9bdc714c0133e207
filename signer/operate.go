package signer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// MaxReason is the longest reason an operator may give, in bytes.
const MaxReason = 1024

// KeySets returns the key sets who may read.
func (s *Service) KeySets(ctx context.Context, who policy.Caller) (api.KeySetList, error) {
	view, err := s.View()
	if err != nil {
		return api.KeySetList{}, leaseExpired(err)
	}
	list := api.KeySetList{KeySets: []api.KeySet{}}
	for _, set := range view.KeySets() {
		if _, err := s.Policy().Authorize(who, policy.ReadKeySets, policy.Target{KeySet: set.Name}); err != nil {
			continue
		}
		described, err := s.Rotations.KeySet(ctx, set)
		if err != nil {
			return api.KeySetList{}, publicError(err)
		}
		list.KeySets = append(list.KeySets, described)
	}
	if len(list.KeySets) == 0 {
		return api.KeySetList{}, s.refuse(keystore.Record{Principal: who.String(), Action: keystore.ActRead}, policy.ErrForbidden)
	}
	return list, nil
}

// KeySet returns one key set.
func (s *Service) KeySet(ctx context.Context, who policy.Caller, name string) (api.KeySet, error) {
	set, err := s.readable(who, policy.ReadKeySets, name)
	if err != nil {
		return api.KeySet{}, err
	}
	described, err := s.Rotations.KeySet(ctx, set)
	return described, public(err)
}

// Plan returns what rotation will do to a key set, and when.
func (s *Service) Plan(ctx context.Context, who policy.Caller, name string) (api.Plan, error) {
	if _, err := s.readable(who, policy.ReadRotation, name); err != nil {
		return api.Plan{}, err
	}
	plan, err := s.Rotations.Plan(ctx, name)
	return plan, public(err)
}

// History returns the steps a key set has taken since a moment, from the log; the
// zero time: since the first day.
func (s *Service) History(ctx context.Context, who policy.Caller, name string, since time.Time) (api.History, error) {
	if _, err := s.readable(who, policy.ReadRotation, name); err != nil {
		return api.History{}, err
	}
	history, err := s.Rotations.History(ctx, name)
	history.Events = slices.DeleteFunc(history.Events, func(e api.Event) bool { return e.At.Before(since) })
	return history, public(err)
}

// readable returns the key set if who may read it. A set that does not exist
// and one who may not read look the same.
func (s *Service) readable(who policy.Caller, action policy.Action, name string) (*keystore.KeySet, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActRead, KeySet: name}
	if _, err := s.Policy().Authorize(who, action, policy.Target{KeySet: name}); err != nil {
		return nil, s.refuse(act, err)
	}
	view, err := s.View()
	if err != nil {
		return nil, s.refuse(act, leaseExpired(err))
	}
	set, ok := view.KeySet(name)
	if !ok {
		return nil, s.refuse(act, policy.ErrForbidden)
	}
	return set, nil
}

// Rotate has the key set's successor activated at the earliest safe moment, or
// with req.When "now" refuses unless that moment is now.
func (s *Service) Rotate(ctx context.Context, who policy.Caller, name string, req api.OperateRequest) (api.RotateReply, error) {
	act, err := s.operation(who, policy.Rotate, keystore.ActRotate, name, req.Reason)
	if err != nil {
		return api.RotateReply{}, err
	}
	if req.When != "" && req.When != "now" {
		return api.RotateReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, `"when" is absent or "now"`))
	}
	if req.KID != "" {
		return api.RotateReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, `a rotation takes no "kid": it is of the whole key set`))
	}
	if err := s.Log.Health(); err != nil {
		return api.RotateReply{}, s.refuse(act, auditUnavailable(err))
	}
	reply, err := s.Rotations.Rotate(ctx, who.String(), name, req.Reason, req.When == "now")
	if err != nil {
		return api.RotateReply{}, s.refuse(act, ended(ctx, err))
	}
	return reply, nil
}

// Suspend stops a version from signing at once. It works when the log or the
// catalog cannot be written: then the record follows.
func (s *Service) Suspend(ctx context.Context, who policy.Caller, name string, req api.OperateRequest) (api.SuspendReply, error) {
	act, err := s.operation(who, policy.Suspend, keystore.ActSuspend, name, req.Reason)
	if err != nil {
		return api.SuspendReply{}, err
	}
	if req.When != "" {
		return api.SuspendReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, `"when" is for rotate only`))
	}
	reply, err := s.Rotations.Suspend(ctx, who.String(), name, keystore.KID(req.KID), req.Reason)
	if err != nil {
		return api.SuspendReply{}, s.refuse(act, ended(ctx, err))
	}
	return reply, nil
}

// Resume lets a suspended version sign again. It needs the log.
func (s *Service) Resume(ctx context.Context, who policy.Caller, name string, req api.OperateRequest) (api.SuspendReply, error) {
	act, err := s.operation(who, policy.Resume, keystore.ActResume, name, req.Reason)
	if err != nil {
		return api.SuspendReply{}, err
	}
	if req.When != "" {
		return api.SuspendReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, `"when" is for rotate only`))
	}
	if err := s.Log.Health(); err != nil {
		return api.SuspendReply{}, s.refuse(act, auditUnavailable(err))
	}
	reply, err := s.Rotations.Resume(ctx, who.String(), name, keystore.KID(req.KID), req.Reason)
	if err != nil {
		return api.SuspendReply{}, s.refuse(act, ended(ctx, err))
	}
	return reply, nil
}

// operation authorises an operator's act on a key set and checks its reason.
func (s *Service) operation(who policy.Caller, action policy.Action, name keystore.Action, keyset, reason string) (keystore.Record, error) {
	act := keystore.Record{Principal: who.String(), Action: name, KeySet: keyset}
	grant, err := s.Policy().Authorize(who, action, policy.Target{KeySet: keyset})
	if err != nil {
		return act, s.refuse(act, err)
	}
	act.Rule, act.Policy = grant.Rule(), grant.PolicyHash()
	if reason == "" || len(reason) > MaxReason {
		return act, s.refuse(act, api.Errorf(api.CodeMalformed, `"reason" says why in 1 to %d bytes`, MaxReason))
	}
	view, err := s.View()
	if err != nil && action != policy.Suspend && action != policy.Compromise {
		return act, s.refuse(act, leaseExpired(err))
	}
	if err == nil {
		if _, ok := view.KeySet(keyset); !ok {
			return act, s.refuse(act, policy.ErrForbidden)
		}
	}
	return act, nil
}

// TokenList returns the state of every token.
func (s *Service) TokenList(_ context.Context, who policy.Caller) (api.TokenList, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActRead}
	if _, err := s.Policy().Authorize(who, policy.ManageTokens, policy.Target{}); err != nil {
		return api.TokenList{}, s.refuse(act, err)
	}
	list := api.TokenList{Tokens: []api.Token{}}
	for _, t := range s.Tokens.Status() {
		list.Tokens = append(list.Tokens, api.Token{
			Keystore: t.Keystore, Label: t.Label, Serial: t.Serial, State: string(t.State), Since: t.Since.UTC(),
			Module: t.Module, Error: t.Err, Hint: tokenHint(t), Workers: t.Workers, Restarts: t.Restarts, Unconfined: t.Unconfined, Sampled: t.Sampled,
		})
	}
	return list, nil
}

// tokenHint is the next move. A PIN that may be locked and a login that is refused
// have more than one reason, and the error may say which move goes with it.
func tokenHint(s keystore.TokenStatus) string {
	retry := "`chancery token retry " + s.Keystore + "`"
	if (s.State == keystore.TokenPINLocked || s.State == keystore.TokenAuthRejected) && strings.Contains(s.Err, "(hint: ") {
		return ""
	}
	switch s.State {
	case keystore.TokenPINRejected:
		return "correct the PIN file, then run " + retry
	case keystore.TokenPINLocked:
		return "reset the PIN with the security officer's, then run " + retry
	case keystore.TokenChanged:
		return "this is not the token that held the keys: put that one back, then run " + retry + "; or run it to go on with this one, by new keys"
	case keystore.TokenAmbiguous:
		return "name the token by serial in its URI"
	case keystore.TokenStopped:
		return "a destroyed key is there again: `chancery keys reconcile` says which, `chancery keys destroy` takes it away; then run " + retry
	case keystore.TokenAuthRejected:
		return "correct the login or its file, which is read each second; " + retry + " tries what was refused at once"
	case keystore.TokenSealed:
		return "unseal it; it goes on by itself"
	case keystore.TokenUnavailable:
		return "it is tried again by itself"
	case keystore.TokenFailed:
		return "look into the module, which crashes as it starts; it is tried again each minute, and at once by " + retry
	}
	return ""
}

// TokenRetry tries a token that waits for an operator once more and returns
// the state of all tokens.
func (s *Service) TokenRetry(ctx context.Context, who policy.Caller, token string) (api.TokenList, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActTokenRetry, Detail: map[string]string{"token": token}}
	grant, err := s.Policy().Authorize(who, policy.ManageTokens, policy.Target{})
	if err != nil {
		return api.TokenList{}, s.refuse(act, err)
	}
	act.Rule, act.Policy, act.Outcome = grant.Rule(), grant.PolicyHash(), keystore.OutcomeIntent
	if _, err := s.Log.Act(ctx, act); err != nil {
		return api.TokenList{}, ended(ctx, auditUnavailable(err))
	}
	if err := s.Tokens.Retry(ctx, token); err != nil {
		switch {
		case errors.Is(err, keystore.ErrNotFound):
			err = api.Errorf(api.CodeNotFound, "no token of that name").Because(err)
		case errors.Is(err, keystore.ErrPINRejected):
			err = api.Errorf(api.CodeConflict, "the PIN in the file is one that the token has refused: correct the PIN file before the next try").Because(err)
		case errors.Is(err, keystore.ErrUnavailable), errors.Is(err, keystore.ErrTokenChanged), errors.Is(err, keystore.ErrAmbiguous):
			err = s.stillDown(token, err)
		}
		return api.TokenList{}, s.fail(act, err)
	}
	act.Outcome = keystore.OutcomeDone
	if _, err := s.Log.Act(ctx, act); err != nil {
		return api.TokenList{}, ended(ctx, auditUnavailable(err))
	}
	return s.TokenList(ctx, who)
}

// stillDown is why a token that was tried once more does not serve, as its state
// tells whoever may read that.
func (s *Service) stillDown(token string, cause error) error {
	e := unavailable(cause)
	for _, t := range s.Tokens.Status() {
		if (token == t.Keystore || token == t.Serial || token == t.Label) && t.Err != "" {
			why := strings.TrimPrefix(cause.Error(), "keystore "+t.Keystore+": ")
			if errors.Is(cause, context.DeadlineExceeded) || errors.Is(cause, context.Canceled) {
				why = t.Err
			}
			e.Detail = "the token is " + string(t.State) + ": " + why
		}
	}
	return e
}

// ConfirmClock has this node go by its wall clock again, which was stepped and
// is right. It works while nothing is signed; it needs the log.
func (s *Service) ConfirmClock(ctx context.Context, who policy.Caller, req api.ClockConfirmRequest) (api.ClockConfirmReply, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActClockConfirm}
	grant, err := s.Policy().Authorize(who, policy.ConfirmClock, policy.Target{})
	if err != nil {
		return api.ClockConfirmReply{}, s.refuse(act, err)
	}
	act.Rule, act.Policy = grant.Rule(), grant.PolicyHash()
	if req.Reason == "" || len(req.Reason) > MaxReason {
		return api.ClockConfirmReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, `"reason" says why in 1 to %d bytes`, MaxReason))
	}
	if err := s.Log.Health(); err != nil {
		return api.ClockConfirmReply{}, s.refuse(act, auditUnavailable(err))
	}
	confirmed := act
	confirmed.Reason, confirmed.Outcome = req.Reason, keystore.OutcomeDone
	reply, err := s.Clock.Confirm(ctx, confirmed)
	if err != nil {
		return api.ClockConfirmReply{}, s.refuse(act, ended(ctx, err))
	}
	return reply, nil
}

// ReadAudit allows who to read entries, and enters that it did.
func (s *Service) ReadAudit(ctx context.Context, who policy.Caller, what string) error {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActReadAudit, Detail: map[string]string{"what": what}}
	grant, err := s.Policy().Authorize(who, policy.ReadAudit, policy.Target{})
	if err != nil {
		return s.refuse(act, err)
	}
	act.Rule, act.Policy, act.Outcome = grant.Rule(), grant.PolicyHash(), keystore.OutcomeDone
	if _, err := s.Log.Act(ctx, act); err != nil {
		return ended(ctx, auditUnavailable(err))
	}
	return nil
}

// Refuse enters a refusal that was decided before the Service was asked, such
// as a failed handshake or a body that could not be read, and returns what the
// caller sees. It does not wait for the log.
func (s *Service) Refuse(r keystore.Record, err error) *api.Error {
	return publicError(s.refuse(r, err))
}

func public(err error) error {
	if err == nil {
		return nil
	}
	return publicError(err)
}

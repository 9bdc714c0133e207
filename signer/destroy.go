package signer

import (
	"context"
	"errors"
	"math"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// Destroy ends the private key of a retired version. It needs the log, and
// never means a version that is not named.
func (s *Service) Destroy(ctx context.Context, who policy.Caller, name string, req api.DestroyRequest) (api.DestroyReply, error) {
	act, err := s.operation(who, policy.Destroy, keystore.ActKeyDestroy, name, req.Reason)
	if err != nil {
		return api.DestroyReply{}, err
	}
	if (req.KID == "") == (req.Version == 0) || req.Version < 0 || req.Version > math.MaxInt32 {
		return api.DestroyReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, `"kid" or "version" names the version, one of the two`))
	}
	act.KID, act.Version = keystore.KID(req.KID), int(req.Version)
	if err := s.Log.Health(); err != nil {
		return api.DestroyReply{}, s.refuse(act, auditUnavailable(err))
	}
	reply, err := s.Rotations.Destroy(ctx, who.String(), name, act.KID, act.Version, req.Reason)
	if err != nil {
		return api.DestroyReply{}, s.refuse(act, ended(ctx, err))
	}
	return reply, nil
}

// Reconcile has the keystores compared with the catalog, or the one that req
// names, and returns what was found. It needs the log.
func (s *Service) Reconcile(ctx context.Context, who policy.Caller, req api.ReconcileRequest) (api.Reconciliation, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActReconcile, Detail: map[string]string{"keystore": req.Keystore}}
	grant, err := s.Policy().Authorize(who, policy.Reconcile, policy.Target{})
	if err != nil {
		return api.Reconciliation{}, s.refuse(act, err)
	}
	act.Rule, act.Policy, act.Outcome = grant.Rule(), grant.PolicyHash(), keystore.OutcomeDone
	if _, err := s.Log.Act(ctx, act); err != nil {
		return api.Reconciliation{}, ended(ctx, auditUnavailable(err))
	}
	found, err := s.Tokens.Reconcile(ctx, req.Keystore)
	if errors.Is(err, keystore.ErrNotFound) {
		err = api.Errorf(api.CodeNotFound, "no keystore of that name").Because(err)
	}
	if err != nil {
		return api.Reconciliation{}, s.fail(act, ended(ctx, err))
	}
	return found, nil
}

// Reconciled returns the last comparison of every keystore to who may have them
// compared or reads the log.
func (s *Service) Reconciled(_ context.Context, who policy.Caller) (api.Reconciliation, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActRead}
	_, err := s.Policy().Authorize(who, policy.Reconcile, policy.Target{})
	if err != nil {
		_, err = s.Policy().Authorize(who, policy.ReadAudit, policy.Target{})
	}
	if err != nil {
		return api.Reconciliation{}, s.refuse(act, err)
	}
	last, ok := s.Tokens.Reconciled()
	if !ok {
		return last, api.Errorf(api.CodeNotFound, "the keystores have not been compared since the start")
	}
	return last, nil
}

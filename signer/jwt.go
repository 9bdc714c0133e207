package signer

import (
	"context"
	"errors"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// attempts is how often a JWT, or the signature of a digest, is made anew because its
// key version stopped signing between the signature and the release.
const attempts = 3

// SignJWT signs one JWT for who. Its errors are *api.Error.
func (s *Service) SignJWT(ctx context.Context, who policy.Caller, req api.SignJWTRequest) (api.SignJWTReply, error) {
	d, err := s.draft(who, req)
	if err != nil {
		return api.SignJWTReply{}, err
	}
	for range attempts {
		reply, err := s.attemptJWT(ctx, d)
		if !errors.Is(err, errOvertaken) {
			return reply, err
		}
	}
	return api.SignJWTReply{}, unavailable(errOvertaken)
}

// attemptJWT is one attempt: prepare, sign, record, look again, release.
func (s *Service) attemptJWT(ctx context.Context, d *draft) (api.SignJWTReply, error) {
	if err := d.prepare(); err != nil {
		return api.SignJWTReply{}, s.refuse(d.act, err)
	}
	if err := s.Log.Health(); err != nil { // before a signature is spent
		return api.SignJWTReply{}, s.refuse(d.act, auditUnavailable(err))
	}
	set, v, err := s.signing(d.req.KeySet, keystore.PurposeJWT)
	if err == nil {
		err = d.fit(set, v)
	}
	if err != nil {
		return api.SignJWTReply{}, s.refuse(d.act, err)
	}
	if err := s.cover(ctx, v, d.prepared.Exp(), d.now, d.settings.MaxTTL); err != nil {
		return api.SignJWTReply{}, s.refuse(d.act, overdue(ctx, err, leaseExpired))
	}
	key, err := open(ctx, s.Keys, set, v)
	if err != nil {
		return api.SignJWTReply{}, s.fail(d.act, overdue(ctx, err, publicError))
	}
	return s.complete(ctx, d, key, v)
}

// complete signs, records and releases what was prepared, by key, the private key of v.
func (s *Service) complete(ctx context.Context, d *draft, key keystore.Key, v *keystore.Version) (api.SignJWTReply, error) {
	sig, err := s.sign(ctx, d, key, v)
	if err != nil {
		return api.SignJWTReply{}, d.failed(ctx, err)
	}
	receipt, err := d.record(ctx)
	if err != nil {
		return api.SignJWTReply{}, err
	}
	return d.release(v, sig, receipt)
}

// sign redeems d under key, in its principal's turn. It has no number while it waits
// for that.
func (s *Service) sign(ctx context.Context, d *draft, key keystore.Key, v *keystore.Version) ([]byte, error) {
	turn, err := s.await(ctx, d.grant.Principal(), v.Keystore, costOf(v.Algorithm))
	if err != nil {
		return nil, err
	}
	defer turn.Leave()
	if err := s.count(ctx, d.grant.Principal()); err != nil {
		return nil, err
	}
	if err := d.number(v); err != nil {
		return nil, err
	}
	return keystore.SignAsked(ctx, key, d.input, d.asked)
}

// signing returns the key set and its version that signs now.
func (s *Service) signing(name string, purpose keystore.Purpose) (*keystore.KeySet, *keystore.Version, error) {
	view, err := s.View()
	if err != nil {
		return nil, nil, leaseExpired(err)
	}
	set, ok := view.KeySet(name)
	if !ok || set.Purpose != purpose {
		return nil, nil, policy.ErrForbidden
	}
	v, ok := set.Active()
	if !ok {
		return nil, nil, s.silent(set)
	}
	if v.Suspended != nil || v.Compromised != nil {
		return nil, nil, suspended()
	}
	return set, v, nil
}

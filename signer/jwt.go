package signer

import (
	"context"
	"encoding/base64"
	"errors"
	"sync"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/jwt"
	"chancery/signer/policy"
	"chancery/signer/queue"
)

// attempts is how often a JWT is made anew because its key version stopped
// signing between the signature and the release.
const attempts = 3

// errOvertaken: the version that signed no longer signs.
var errOvertaken = errors.New("the key version stopped signing before the release")

// SignJWT signs one JWT for who. Its errors are *api.Error.
func (s *Service) SignJWT(ctx context.Context, who policy.Caller, req api.SignJWTRequest) (api.SignJWTReply, error) {
	return s.signJWT(ctx, s.Keys, who, req)
}

// signJWT is SignJWT with a key that keys opens.
func (s *Service) signJWT(ctx context.Context, keys Keys, who policy.Caller, req api.SignJWTRequest) (api.SignJWTReply, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActSignJWT, KeySet: req.KeySet, Profile: req.Profile}
	rules := s.Policy()
	grant, err := rules.AuthorizeRequest(who, policy.SignJWT, policy.Target{KeySet: req.KeySet, Profile: req.Profile}, s.jwtRequest(rules, req))
	if err != nil {
		return api.SignJWTReply{}, s.refuse(act, err)
	}
	act.Rule, act.Policy, act.Profile = grant.Rule(), grant.PolicyHash(), grant.Target().Profile
	act.Request = s.digest([]byte(req.KeySet), []byte(req.Typ), req.Claims, []byte(act.Profile), []byte(req.CNFCertificate))
	for range attempts {
		reply, err := s.attemptJWT(ctx, keys, grant, req, act)
		if !errors.Is(err, errOvertaken) {
			return reply, err
		}
	}
	return api.SignJWTReply{}, unavailable(errOvertaken)
}

// attemptJWT is one attempt: prepare, sign, record, look again, release.
func (s *Service) attemptJWT(ctx context.Context, keys Keys, grant policy.Grant, req api.SignJWTRequest, act keystore.Record) (api.SignJWTReply, error) {
	settings, ok := s.Settings(req.KeySet)
	profile, there := s.profile(grant)
	if !ok || !there {
		return api.SignJWTReply{}, s.refuse(act, policy.ErrForbidden)
	}
	now := s.Now()
	prepared, err := jwt.Prepare(grant, jwt.Request{KeySet: req.KeySet, Claims: req.Claims, TTL: req.TTL, Typ: req.Typ, CNFCertificate: req.CNFCertificate}, jwt.Env{
		Issuer: settings.Issuer, Now: now, Skew: settings.Skew, DefaultTTL: settings.DefaultTTL, MaxTTL: settings.MaxTTL, Profile: profile,
	})
	if err != nil {
		return api.SignJWTReply{}, s.refuse(act, err)
	}
	if err := s.Log.Health(); err != nil { // before a signature is spent
		return api.SignJWTReply{}, s.refuse(act, auditUnavailable(err))
	}
	set, v, err := s.signing(req.KeySet, keystore.PurposeJWT)
	if err == nil {
		err = prepared.SignedBy(v.Algorithm)
	}
	if err != nil {
		return api.SignJWTReply{}, s.refuse(act, err)
	}
	if most := keystore.InForce(set.Promises, now).MaxLifetime; len(set.Promises) > 0 && prepared.Exp().After(now.Add(most)) {
		return api.SignJWTReply{}, s.refuse(act, longerThanPromised(most))
	}
	act.KID, act.Version, act.State = v.KID, v.Number, v.State.String()
	act.Exp, act.JTI = prepared.Exp().Unix(), prepared.JTI()
	if err := s.cover(ctx, v, prepared.Exp(), now, settings.MaxTTL); err != nil {
		return api.SignJWTReply{}, s.refuse(act, overdue(ctx, err, leaseExpired))
	}
	key, err := open(ctx, keys, set, v)
	if err != nil {
		return api.SignJWTReply{}, s.fail(act, overdue(ctx, err, publicError))
	}
	token, use, err := s.sign(ctx, key, v, prepared)
	act.Use = use
	if err != nil {
		return api.SignJWTReply{}, s.noTurn(ctx, act, err)
	}
	act.Outcome = keystore.OutcomeDone
	receipt, err := s.Log.Act(ctx, act)
	if err != nil {
		return api.SignJWTReply{}, auditUnavailable(err) // an unrecorded token is never released
	}
	reply, err := s.releaseJWT(req.KeySet, v, token, prepared.Exp(), receipt)
	if err == nil {
		return reply, nil
	}
	act.Use = 0 // closed by its entry
	if errors.Is(err, errOvertaken) {
		s.refuse(act, unavailable(errOvertaken))
		return api.SignJWTReply{}, errOvertaken
	}
	return api.SignJWTReply{}, s.refuse(act, err) // so that the log says that it never left
}

// longerThanPromised refuses a token that would outlive what the catalog knows to
// be allowed, by which its key stays published: another node has a lower limit in
// its configuration, and that one is in force.
func longerThanPromised(most time.Duration) *api.Error {
	return api.Errorf(api.CodeTTLTooLong, "no token of the key set may live longer than %v while the nodes are configured differently", most)
}

// sign redeems p under key, the private key of v. The kid in the header and the
// key that signs are one pair: both are v's. It returns the number that the act's
// entry has to close, whether the key signed or not; 0 if there is none. There is
// none while the caller waits for its turn.
func (s *Service) sign(ctx context.Context, key keystore.Key, v *keystore.Version, p *jwt.Prepared) (token string, use int64, err error) {
	input, err := p.Redeem(v.KID, v.Algorithm)
	if err != nil {
		return "", 0, err
	}
	turn, err := s.await(ctx, p.Grant().Principal(), key, v)
	if err != nil {
		return "", 0, err
	}
	defer turn.leave()
	if use, err = s.take(v.KID); err != nil {
		return "", 0, err
	}
	sig, err := key.Sign(ctx, input)
	if err != nil {
		return "", s.untake(v.KID, use, err), err
	}
	b := make([]byte, 0, len(input)+1+base64.RawURLEncoding.EncodedLen(len(sig)))
	b = append(append(b, input...), '.')
	return string(base64.RawURLEncoding.AppendEncode(b, sig)), use, nil
}

// releaseJWT looks once more whether v signs, now that the entry is durable,
// and only then lets the token go.
func (s *Service) releaseJWT(keyset string, v *keystore.Version, token string, exp time.Time, receipt audit.Receipt) (api.SignJWTReply, error) {
	_, again, err := s.signing(keyset, keystore.PurposeJWT)
	if err != nil {
		return api.SignJWTReply{}, err
	}
	if again.KID != v.KID {
		return api.SignJWTReply{}, errOvertaken
	}
	return api.SignJWTReply{Token: token, KID: string(v.KID), ExpiresAt: exp.UTC(), Entry: receipt.Entry}, nil
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

// SignJWTBatch signs up to api.MaxBatch JWTs for who. Each request has its own
// grant, its own entry and its own result; only a batch that is empty or too
// large fails as a whole. The requests are worked on at the same time, so that
// a key that can signs for all of them in one call.
func (s *Service) SignJWTBatch(ctx context.Context, who policy.Caller, req api.BatchRequest) (api.BatchReply, error) {
	return s.SignJWTs(ctx, who, len(req.Requests), func(i int) (one api.SignJWTRequest, err error) {
		err = api.Decode(req.Requests[i], &one, api.DefaultLimits)
		return one, err
	})
}

// SignJWTs is SignJWTBatch for n requests that request reads one by one, from
// several goroutines; an error of its is the result of that one.
func (s *Service) SignJWTs(ctx context.Context, who policy.Caller, n int, request func(i int) (api.SignJWTRequest, error)) (api.BatchReply, error) {
	if n == 0 || n > api.MaxBatch {
		act := keystore.Record{Principal: who.String(), Action: keystore.ActSignJWT}
		return api.BatchReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, "a batch holds 1 to %d requests, this one %d", api.MaxBatch, n))
	}
	reply := api.BatchReply{Results: make([]api.BatchResult, n)}
	if s.Limits != nil {
		s.Limits.Charge(who.Principal, n-1) // one was admitted
	}
	together := newGathering(s.Keys, n)
	together.turn = func(ctx context.Context, keystore string, cost int) (queue.Turn[policy.Principal], error) {
		return s.enter(ctx, who.Principal, keystore, cost)
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			at := &seat{gathering: together}
			defer at.leave()
			reply.Results[i] = s.batched(ctx, at, who, func() (api.SignJWTRequest, error) { return request(i) })
		})
	}
	together.send(ctx)
	wg.Wait()
	return reply, nil
}

func (s *Service) batched(ctx context.Context, at *seat, who policy.Caller, request func() (api.SignJWTRequest, error)) api.BatchResult {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActSignJWT}
	if ctx.Err() != nil { // it came when its time was over
		return api.BatchResult{Problem: publicError(s.refuse(act, overdue(ctx, context.Cause(ctx), publicError))).Problem()}
	}
	one, err := request()
	if err != nil {
		err = s.refuse(act, err)
		return api.BatchResult{Problem: publicError(err).Problem()}
	}
	reply, err := s.signJWT(ctx, at, who, one)
	if err != nil {
		return api.BatchResult{Problem: publicError(err).Problem()}
	}
	return api.BatchResult{Reply: &reply}
}

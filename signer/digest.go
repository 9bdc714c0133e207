package signer

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// SignDigest signs a digest for who, by a key set of purpose digest: what it is a
// digest of the Service does not see, so no key of another purpose ever signs one
// (RFC 8725 Section 2.8). An intent is entered before the key is asked and an
// outcome after. One whose version stops signing before the release is signed anew by
// its successor, with entries of its own. Its errors are *api.Error; a digest that is not exactly as long as
// the hash of the version that signs is malformed, and no key is asked.
func (s *Service) SignDigest(ctx context.Context, who policy.Caller, req api.SignDigestRequest) (api.SignDigestReply, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActSignDigest, KeySet: req.KeySet}
	grant, err := s.Policy().Authorize(who, policy.SignDigest, policy.Target{KeySet: req.KeySet})
	if err != nil {
		return api.SignDigestReply{}, s.refuse(act, err)
	}
	act.Rule, act.Policy = grant.Rule(), grant.PolicyHash()
	act.Request = s.digest([]byte(req.KeySet), []byte(req.Format), []byte(req.Digest))
	if !s.Digests(req.KeySet) {
		return api.SignDigestReply{}, s.refuse(act, policy.ErrForbidden)
	}
	for range attempts {
		reply, err := s.attemptDigest(ctx, grant, req, act)
		if !errors.Is(err, errOvertaken) {
			return reply, err
		}
	}
	return api.SignDigestReply{}, unavailable(errOvertaken)
}

// attemptDigest is one attempt: prepare, intend, sign, record, look again, release. act
// is what all of them have in common. Its errors have been entered; it is errOvertaken
// if the digest is to be signed anew.
func (s *Service) attemptDigest(ctx context.Context, grant policy.Grant, req api.SignDigestRequest, act keystore.Record) (api.SignDigestReply, error) {
	if err := s.Log.Health(); err != nil { // before a signature is spent
		return api.SignDigestReply{}, s.refuse(act, auditUnavailable(err))
	}
	set, v, err := s.signing(req.KeySet, keystore.PurposeDigest)
	if err != nil {
		return api.SignDigestReply{}, s.refuse(act, err)
	}
	prepared, err := prepareDigest(grant, req, v.Algorithm)
	if err != nil {
		return api.SignDigestReply{}, s.refuse(act, err)
	}
	act.KID, act.Version, act.State = v.KID, v.Number, v.State.String()
	act.Detail = map[string]string{"format": prepared.format}
	key, err := open(ctx, s.Keys, set, v)
	if err != nil {
		return api.SignDigestReply{}, s.fail(act, overdue(ctx, err, publicError))
	}
	sig, err := s.signDigest(ctx, &act, key, v, prepared)
	if err != nil {
		return api.SignDigestReply{}, err
	}
	return s.releaseDigest(ctx, act, v, prepared.format, sig)
}

// signDigest takes a number, enters the intent and redeems p under key, the private
// key of v, in its principal's turn. act gets the number and what joins its entries.
// What it returns has been entered.
func (s *Service) signDigest(ctx context.Context, act *keystore.Record, key keystore.Key, v *keystore.Version, p *preparedDigest) ([]byte, error) {
	turn, err := s.await(ctx, p.grant.Principal(), v.Keystore, costOf(v.Algorithm))
	if err != nil {
		return nil, s.noTurn(ctx, *act, err)
	}
	defer turn.Leave()
	if err := s.count(ctx, p.grant.Principal()); err != nil {
		return nil, s.noTurn(ctx, *act, err)
	}
	if act.Use, err = s.take(v.KID); err != nil {
		return nil, s.fail(*act, err)
	}
	act.ID, act.Outcome = keystore.NewKeyID().String(), keystore.OutcomeIntent
	if err := s.enterIntent(ctx, *act); err != nil {
		return nil, err
	}
	if err := stillThere(ctx); err != nil {
		return nil, s.abandonDigest(ctx, *act, err)
	}
	sig, err := p.redeem(ctx, key)
	if err != nil {
		return nil, s.abandonDigest(ctx, *act, err)
	}
	return sig, nil
}

// abandonDigest closes an intent whose signature did not come. It goes on when the
// caller has gone.
func (s *Service) abandonDigest(ctx context.Context, act keystore.Record, cause error) error {
	e := publicError(overdue(ctx, cause, publicError))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeDeadline)
	defer cancel()
	act.Outcome, act.Code, act.Reason = failure(cause), string(e.Code), e.Reason()
	if _, err := s.Log.Act(ctx, act); err != nil {
		return auditUnavailable(errors.Join(cause, err))
	}
	return e
}

// releaseDigest records the signature and lets it go if the version that made it
// still signs. The entry has the signature's hash, so that whoever meets a
// signature finds who had it made.
func (s *Service) releaseDigest(ctx context.Context, act keystore.Record, v *keystore.Version, format string, sig []byte) (api.SignDigestReply, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeDeadline)
	defer cancel()
	out, hash, err := inFormat(v.Algorithm, format, sig)
	if err != nil {
		return api.SignDigestReply{}, s.abandonDigest(ctx, act, err)
	}
	act.Outcome = keystore.OutcomeDone
	act.Detail = map[string]string{"format": format, "signature": hash}
	receipt, err := s.Log.Act(ctx, act)
	if err != nil {
		return api.SignDigestReply{}, auditUnavailable(err) // an unrecorded signature is never released
	}
	_, again, err := s.signing(act.KeySet, keystore.PurposeDigest)
	overtaken := err == nil && again.KID != v.KID
	if overtaken {
		err = unavailable(errOvertaken)
	}
	if err != nil {
		act.Use = 0              // closed by its entry
		err = s.refuse(act, err) // so that the log says that it never left
		if overtaken {
			err = errOvertaken
		}
		return api.SignDigestReply{}, err
	}
	return api.SignDigestReply{
		Signature: base64.StdEncoding.EncodeToString(out), KID: string(v.KID), Algorithm: string(v.Algorithm), Entry: receipt.Entry,
	}, nil
}

// inFormat returns sig, which is in JOSE form, as it was asked for, and its hash
// for the entry.
func inFormat(alg keystore.Algorithm, format string, sig []byte) (out []byte, hash string, err error) {
	if hash, err = keystore.SignatureHash(alg, sig); err != nil {
		return nil, "", err
	}
	if format == api.FormatRaw {
		return sig, hash, nil
	}
	out, err = keystore.SignatureASN1(alg, sig)
	return out, hash, err
}

// A preparedDigest is a digest that may be signed, once.
type preparedDigest struct {
	grant  policy.Grant
	digest []byte
	format string
}

// prepareDigest reads a request that grant allows for a key of alg.
func prepareDigest(grant policy.Grant, req api.SignDigestRequest, alg keystore.Algorithm) (*preparedDigest, error) {
	if !grant.Allows(policy.SignDigest) || grant.Target().KeySet != req.KeySet {
		return nil, fmt.Errorf("%w: the grant is for something else", policy.ErrForbidden)
	}
	p := &preparedDigest{grant: grant, format: req.Format}
	switch req.Format {
	case "":
		p.format = api.FormatDER
	case api.FormatDER, api.FormatRaw:
	default:
		return nil, api.Errorf(api.CodeMalformed, `"format" is %q or %q`, api.FormatDER, api.FormatRaw)
	}
	var err error
	if p.digest, err = base64.StdEncoding.Strict().DecodeString(req.Digest); err != nil || base64.StdEncoding.EncodeToString(p.digest) != req.Digest {
		return nil, api.Errorf(api.CodeMalformed, `"digest" is standard base64 with its padding and nothing else`)
	}
	if err := keystore.CheckMessage(keystore.PurposeDigest, alg, p.digest); err != nil {
		return nil, api.Errorf(api.CodeMalformed, `"digest" has %d bytes; the key is for %s, which signs digests of %d bytes (%s)`,
			len(p.digest), alg, alg.Hash().Size(), alg.Hash()).Because(err)
	}
	return p, nil
}

// redeem has key sign the digest. A second time there is nothing to sign.
func (p *preparedDigest) redeem(ctx context.Context, key keystore.Key) ([]byte, error) {
	digest := p.digest
	if p.digest = nil; digest == nil {
		return nil, errors.New("the digest has been signed already")
	}
	return key.Sign(ctx, digest)
}

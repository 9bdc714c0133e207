package signer

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/ca"
	"chancery/signer/policy"
)

// Authority is what the configuration says of an authority.
type Authority struct {
	KeySet   string
	Profiles map[string]*ca.Profile
	Skew     time.Duration // notBefore is now − Skew
	// ClientAnchors vouch for our own clients: nothing that could open our doors
	// is issued.
	ClientAnchors []*x509.Certificate
}

// Certificates keeps what was issued, by whom, and under which keys.
type Certificates interface {
	// Issuer returns the certificate of a CA key version, or an error wrapping
	// keystore.ErrNotFound.
	Issuer(ctx context.Context, keyset string, version int) (*x509.Certificate, error)
	// Intend keeps what is about to be signed; the serial must be new.
	Intend(ctx context.Context, c Issuance) error
	// Finish keeps what became of it. der is nil unless it was issued.
	Finish(ctx context.Context, serial string, outcome keystore.Outcome, der []byte, entry string) error
	// IsOurs reports whether a public key belongs to any key version, or to an
	// authority that may open our own doors.
	IsOurs(ctx context.Context, h keystore.SPKIHash) (bool, error)
	// Begin claims an idempotency key, or returns the reply it already has.
	// Errors are *api.Error for another body and for one in progress.
	Begin(ctx context.Context, key IdempotencyKey, body [32]byte) (reply []byte, err error)
	// Conclude keeps the reply of a claimed key; nil gives the key back.
	Conclude(ctx context.Context, key IdempotencyKey, reply []byte) error
}

// Issuance is a certificate about to be signed.
type Issuance struct {
	Serial, Authority, Profile, Principal string
	Version                               int
	SPKIHash                              keystore.SPKIHash
	Names                                 []string
	NotBefore, NotAfter                   time.Time
}

// IdempotencyKey is a caller's Idempotency-Key within what it was used for.
type IdempotencyKey struct{ Principal, Authority, Profile, Key string }

// MaxIdempotencyKey is the longest Idempotency-Key accepted, in bytes.
const MaxIdempotencyKey = 255

// outcomeDeadline bounds writing down what became of a request whose caller may
// have gone.
const outcomeDeadline = 5 * time.Second

// SignCSR issues a certificate for who. idempotency is the caller's
// Idempotency-Key, or empty. Its errors are *api.Error.
func (s *Service) SignCSR(ctx context.Context, who policy.Caller, req api.SignCSRRequest, idempotency string) (api.SignCSRReply, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActSignCSR, Authority: req.Authority, Profile: req.Profile}
	rules := s.Policy()
	grant, err := rules.AuthorizeRequest(who, policy.SignCSR, policy.Target{Authority: req.Authority, Profile: req.Profile}, s.csrRequest(rules, req))
	if err != nil {
		return api.SignCSRReply{}, s.refuse(act, err)
	}
	act.Rule, act.Policy = grant.Rule(), grant.PolicyHash()
	body := requestHash(req)
	act.Request = s.digest(body[:])
	if idempotency == "" {
		return s.issue(ctx, grant, req, act)
	}
	if len(idempotency) > MaxIdempotencyKey {
		return api.SignCSRReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, "Idempotency-Key is longer than %d bytes", MaxIdempotencyKey))
	}
	key := IdempotencyKey{who.String(), req.Authority, req.Profile, idempotency}
	stored, err := s.Certificates.Begin(ctx, key, body)
	if err != nil {
		return api.SignCSRReply{}, s.refuse(act, ended(ctx, err))
	}
	if stored != nil {
		return s.replay(ctx, act, stored)
	}
	reply, err := s.issue(ctx, grant, req, act)
	if err := s.conclude(ctx, key, reply, err); err != nil {
		return api.SignCSRReply{}, err
	}
	return reply, nil
}

// replay releases a stored reply once more: an act of its own, with an entry and
// a look at whether the authority still signs, before that and after it.
func (s *Service) replay(ctx context.Context, act keystore.Record, stored []byte) (api.SignCSRReply, error) {
	var reply api.SignCSRReply
	if err := json.Unmarshal(stored, &reply); err != nil {
		return api.SignCSRReply{}, s.refuse(act, fmt.Errorf("reading a stored reply: %w", err))
	}
	act.Serial, act.NotAfter, act.Outcome = reply.Serial, reply.NotAfter.Unix(), keystore.OutcomeDone
	act.Detail = map[string]string{"replay": "the reply of " + reply.Entry}
	authority, ok := s.Authority(act.Authority)
	if !ok {
		return api.SignCSRReply{}, s.refuse(act, policy.ErrForbidden)
	}
	if _, _, err := s.signing(authority.KeySet, keystore.PurposeCA); err != nil {
		return api.SignCSRReply{}, s.refuse(act, err)
	}
	if _, err := s.Log.Act(ctx, act); err != nil {
		return api.SignCSRReply{}, ended(ctx, auditUnavailable(err))
	}
	if _, _, err := s.signing(authority.KeySet, keystore.PurposeCA); err != nil {
		return api.SignCSRReply{}, s.refuse(act, err) // so that the log says that it never left
	}
	return reply, nil
}

// conclude keeps the reply under its idempotency key, or gives the key back
// after a failure, which it returns. It goes on when the caller has gone: the
// certificate exists.
func (s *Service) conclude(ctx context.Context, key IdempotencyKey, reply api.SignCSRReply, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeDeadline)
	defer cancel()
	if failed != nil {
		e := publicError(failed)
		if err := s.Certificates.Conclude(ctx, key, nil); err != nil {
			return e.Because(errors.Join(failed, fmt.Errorf("giving back an idempotency key: %w", err)))
		}
		return e
	}
	stored, err := json.Marshal(reply)
	if err == nil {
		err = s.Certificates.Conclude(ctx, key, stored)
	}
	if err != nil {
		return unavailable(fmt.Errorf("keeping the reply under its idempotency key: %w", err))
	}
	return nil
}

// issue is prepare, open, intend, sign, record, look again, release. The key is
// opened first: the intent has the number of its use.
func (s *Service) issue(ctx context.Context, grant policy.Grant, req api.SignCSRRequest, act keystore.Record) (api.SignCSRReply, error) {
	authority, ok := s.Authority(req.Authority)
	profile := authority.Profiles[req.Profile]
	if !ok || profile == nil {
		return api.SignCSRReply{}, s.refuse(act, policy.ErrForbidden)
	}
	if err := s.Log.Health(); err != nil {
		return api.SignCSRReply{}, s.refuse(act, auditUnavailable(err))
	}
	set, v, err := s.signing(authority.KeySet, keystore.PurposeCA)
	if err != nil {
		return api.SignCSRReply{}, s.refuse(act, err)
	}
	issuer, err := s.Certificates.Issuer(ctx, set.Name, v.Number)
	if err != nil {
		return api.SignCSRReply{}, s.refuse(act, ended(ctx, err))
	}
	prepared, err := ca.Prepare(grant, profile, issuer, ca.Request{CSR: []byte(req.CSR), TTL: req.TTL}, ca.Env{
		Now: s.Now(), Skew: authority.Skew, ClientAnchors: authority.ClientAnchors,
		Ours: func(h keystore.SPKIHash) (bool, error) { return s.Certificates.IsOurs(ctx, h) },
	})
	if err != nil {
		return api.SignCSRReply{}, s.refuse(act, ended(ctx, err))
	}
	act.KeySet, act.KID, act.Version, act.State = set.Name, v.KID, v.Number, v.State.String()
	act.Serial, act.NotAfter = prepared.Serial(), prepared.NotAfter().Unix()
	act.Detail = map[string]string{"names": strconv.Itoa(len(prepared.Names()))}
	key, err := open(ctx, s.Keys, set, v)
	if err != nil {
		return api.SignCSRReply{}, s.fail(act, overdue(ctx, err, publicError))
	}
	der, err := s.certificate(ctx, &act, key, v, prepared)
	if err != nil {
		return api.SignCSRReply{}, err
	}
	return s.releaseCSR(ctx, act, set, v, issuer, prepared, der)
}

// certificate redeems p under key, the private key of v, in its principal's turn.
// act gets the number of the use. What it returns has been entered.
func (s *Service) certificate(ctx context.Context, act *keystore.Record, key keystore.Key, v *keystore.Version, p *ca.Prepared) ([]byte, error) {
	turn, err := s.await(ctx, p.Grant().Principal(), v.Keystore, costOf(v.Algorithm))
	if err != nil {
		return nil, s.noTurn(ctx, *act, err)
	}
	defer turn.Leave()
	if err := s.count(ctx, p.Grant().Principal()); err != nil {
		return nil, s.noTurn(ctx, *act, err)
	}
	if act.Use, err = s.take(v.KID); err != nil {
		return nil, s.fail(*act, err)
	}
	if err := s.intend(ctx, *act, p, v); err != nil {
		return nil, err
	}
	der, err := p.Redeem(ctx, key)
	if err != nil {
		return nil, s.abandon(ctx, *act, err)
	}
	return der, nil
}

// intend writes serial and intent down before the key is asked: a certificate
// whose outcome stays unknown counts as issued.
func (s *Service) intend(ctx context.Context, act keystore.Record, p *ca.Prepared, v *keystore.Version) error {
	err := s.Certificates.Intend(ctx, Issuance{
		Serial: act.Serial, Authority: act.Authority, Profile: act.Profile, Principal: act.Principal,
		Version: v.Number, SPKIHash: p.SPKIHash(), Names: p.Names(), NotBefore: p.NotBefore(), NotAfter: p.NotAfter(),
	})
	if err != nil {
		act.Use = s.untake(act.KID, act.Use, errUnsent)
		return s.refuse(act, ended(ctx, fmt.Errorf("keeping the serial: %w", err)))
	}
	act.ID, act.Outcome = act.Serial, keystore.OutcomeIntent
	if err := s.enterIntent(ctx, act); err != nil {
		return err
	}
	if err := stillThere(ctx); err != nil {
		return s.abandon(ctx, act, err)
	}
	return nil
}

// enterIntent waits until an intent is in the log, whether or not its caller does: one
// that is left on its way would stay open, and count as a signature until somebody says
// otherwise.
func (s *Service) enterIntent(ctx context.Context, act keystore.Record) error {
	until := time.Now().Add(outcomeDeadline)
	if end, ok := ctx.Deadline(); ok && end.After(until) {
		until = end
	}
	entering, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	if _, err := s.Log.Act(entering, act); err != nil {
		return ended(ctx, auditUnavailable(err))
	}
	return nil
}

// stillThere returns why there is nobody any more for whom a key is to be asked.
func stillThere(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errUnsent, context.Cause(ctx))
}

// abandon closes an intent whose signature did not come.
func (s *Service) abandon(ctx context.Context, act keystore.Record, cause error) error {
	e := publicError(overdue(ctx, cause, publicError))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeDeadline)
	defer cancel()
	act.ID, act.Outcome, act.Code, act.Reason = act.Serial, failure(cause), string(e.Code), e.Reason()
	receipt, err := s.Log.Act(ctx, act)
	if err != nil {
		return auditUnavailable(errors.Join(cause, err))
	}
	if err := s.Certificates.Finish(ctx, act.Serial, act.Outcome, nil, receipt.Entry); err != nil {
		return e.Because(errors.Join(cause, err))
	}
	return e
}

// releaseCSR records the certificate and lets it go if the version that signed
// still signs. It goes on when the caller has gone: the certificate exists.
func (s *Service) releaseCSR(ctx context.Context, act keystore.Record, set *keystore.KeySet, v *keystore.Version,
	issuer *x509.Certificate, p *ca.Prepared, der []byte) (api.SignCSRReply, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeDeadline)
	defer cancel()
	act.ID, act.Outcome = act.Serial, keystore.OutcomeDone
	receipt, err := s.Log.Act(ctx, act)
	if err != nil {
		return api.SignCSRReply{}, auditUnavailable(err)
	}
	if err := s.Certificates.Finish(ctx, act.Serial, keystore.OutcomeDone, der, receipt.Entry); err != nil {
		return api.SignCSRReply{}, unavailable(fmt.Errorf("keeping the certificate: %w", err))
	}
	_, again, err := s.signing(set.Name, keystore.PurposeCA)
	if err == nil && again.KID != v.KID {
		err = unavailable(errOvertaken)
	}
	if err != nil {
		act.Use = 0                                   // closed by its entry
		return api.SignCSRReply{}, s.refuse(act, err) // so that the log says that it never left
	}
	return api.SignCSRReply{
		Certificate: certificatePEM(der),
		Chain:       []string{certificatePEM(issuer.Raw)},
		Serial:      act.Serial, NotAfter: p.NotAfter().UTC(), Entry: receipt.Entry,
	}, nil
}

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// requestHash tells one request body from another under an idempotency key.
func requestHash(req api.SignCSRRequest) [32]byte {
	b, err := json.Marshal(req)
	if err != nil { // strings and an integer always marshal
		panic(err)
	}
	return sha256.Sum256(b)
}

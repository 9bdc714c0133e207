package signer

import (
	"context"
	"encoding/base64"
	"errors"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// A draft is a JWT on its way to its signature: what was asked for, by whose leave,
// and what its entry says. It is one request's, through all its attempts.
type draft struct {
	s     *Service
	grant policy.Grant
	req   api.SignJWTRequest
	act   keystore.Record

	// Of one attempt:
	settings Settings
	now      time.Time
	prepared *jwt.Prepared
	input    []byte        // of the signature
	entry    audit.Pending // begun when the key was asked; nil: it was not
	waited   bool          // for entry
}

// draft authorises a request. Its errors are *api.Error, and have been entered.
func (s *Service) draft(who policy.Caller, req api.SignJWTRequest) (*draft, error) {
	d := &draft{s: s, req: req, act: keystore.Record{
		Principal: who.String(), Action: keystore.ActSignJWT, KeySet: req.KeySet, Profile: req.Profile,
	}}
	rules := s.Policy()
	var err error
	d.grant, err = rules.AuthorizeRequest(who, policy.SignJWT, policy.Target{KeySet: req.KeySet, Profile: req.Profile}, s.jwtRequest(rules, req))
	if err != nil {
		return nil, s.refuse(d.act, err)
	}
	d.act.Rule, d.act.Policy, d.act.Profile = d.grant.Rule(), d.grant.PolicyHash(), d.grant.Target().Profile
	d.act.Request = s.digest([]byte(req.KeySet), []byte(req.Typ), req.Claims, []byte(d.act.Profile), []byte(req.CNFCertificate))
	return d, nil
}

// prepare begins an attempt. Its errors have not been entered.
func (d *draft) prepare() error {
	d.act.Use, d.act.Outcome, d.input, d.entry, d.waited = 0, "", nil, nil, false
	settings, ok := d.s.Settings(d.req.KeySet)
	profile, there := d.s.profile(d.grant)
	if !ok || !there {
		return policy.ErrForbidden
	}
	d.settings, d.now = settings, d.s.Now()
	var err error
	d.prepared, err = jwt.Prepare(d.grant, jwt.Request{
		KeySet: d.req.KeySet, Claims: d.req.Claims, TTL: d.req.TTL, Typ: d.req.Typ, CNFCertificate: d.req.CNFCertificate,
	}, jwt.Env{
		Issuer: settings.Issuer, Now: d.now, Skew: settings.Skew, DefaultTTL: settings.DefaultTTL, MaxTTL: settings.MaxTTL, Profile: profile,
	})
	return err
}

// fit checks that v, a version of set, may sign what was prepared, and writes down
// that it is to. Its errors have not been entered.
func (d *draft) fit(set *keystore.KeySet, v *keystore.Version) error {
	if err := d.prepared.SignedBy(v.Algorithm); err != nil {
		return err
	}
	exp := d.prepared.Exp()
	if most := keystore.InForce(set.Promises, d.now).MaxLifetime; len(set.Promises) > 0 && exp.After(d.now.Add(most)) {
		return longerThanPromised(most)
	}
	d.act.KID, d.act.Version, d.act.State = v.KID, v.Number, v.State.String()
	d.act.Exp, d.act.JTI = exp.Unix(), d.prepared.JTI()
	return nil
}

// longerThanPromised refuses a token that would outlive what the catalog knows to
// be allowed, by which its key stays published: another node has a lower limit in
// its configuration, and that one is in force.
func longerThanPromised(most time.Duration) *api.Error {
	return api.Errorf(api.CodeTTLTooLong, "no token of the key set may live longer than %v while the nodes are configured differently", most)
}

// number redeems what was prepared under v, and numbers the use of its key. The kid
// in the header and the key that signs are one pair: both are v's.
func (d *draft) number(v *keystore.Version) (err error) {
	if d.input, err = d.prepared.Redeem(v.KID, v.Algorithm); err != nil {
		return err
	}
	d.act.Use, err = d.s.take(v.KID)
	return err
}

// asked begins the entry: the key has what it is to sign. The entry has nothing of
// the signature in it, and is written while the key computes.
func (d *draft) asked() {
	d.act.Outcome = keystore.OutcomeDone
	d.entry = d.s.Log.Start(d.act)
}

// failed enters that there is no signature, and returns what the caller sees of err.
// The number is closed by the entry that was begun, if there is one: it says that the
// token was made, and this one that it was not.
func (d *draft) failed(ctx context.Context, err error) error {
	switch {
	case d.entry != nil:
		if !d.waited {
			d.entry.Leave()
		}
		d.act.Use = 0
	case d.act.Use != 0:
		d.act.Use = d.s.untake(d.act.KID, d.act.Use, err)
	}
	return d.s.noTurn(ctx, d.act, err)
}

// record waits for the entry.
func (d *draft) record(ctx context.Context) (audit.Receipt, error) {
	if d.entry == nil { // by a key that does not tell when it is asked
		d.asked()
	}
	d.waited = true
	receipt, err := d.entry.Wait(ctx)
	if e := byCaller(ctx, err); e != nil {
		d.act.Use = 0                                // closed with its entry, if that was withdrawn
		return audit.Receipt{}, d.s.refuse(d.act, e) // so that the log says that it never left
	}
	if err != nil {
		return audit.Receipt{}, auditUnavailable(err) // an unrecorded token is never released
	}
	return receipt, nil
}

// release looks once more whether v signs, now that the entry is durable, and only
// then lets the token go. Its errors have been entered; it is errOvertaken if the
// token is to be made anew.
func (d *draft) release(v *keystore.Version, sig []byte, receipt audit.Receipt) (api.SignJWTReply, error) {
	_, again, err := d.s.signing(d.req.KeySet, keystore.PurposeJWT)
	if err == nil && again.KID == v.KID {
		return api.SignJWTReply{Token: d.token(sig), KID: string(v.KID), ExpiresAt: d.prepared.Exp().UTC(), Entry: receipt.Entry}, nil
	}
	d.act.Use = 0 // closed by its entry
	if err != nil {
		return api.SignJWTReply{}, d.s.refuse(d.act, err) // so that the log says that it never left
	}
	_ = d.s.refuse(d.act, unavailable(errOvertaken))
	return api.SignJWTReply{}, errOvertaken
}

func (d *draft) token(sig []byte) string {
	b := make([]byte, 0, len(d.input)+1+base64.RawURLEncoding.EncodedLen(len(sig)))
	b = append(append(b, d.input...), '.')
	return string(base64.RawURLEncoding.AppendEncode(b, sig))
}

// errOvertaken: the version that signed no longer signs.
var errOvertaken = errors.New("the key version stopped signing before the release")

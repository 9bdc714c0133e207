package signer

import (
	"context"
	"fmt"
	"slices"

	"chancery/keystore"
	"chancery/signer/jwt"
)

// A SignedHistory is the historical key set of a key set, signed.
type SignedHistory struct {
	Token string // a JWS of typ jwk-set+jwt
	KID   keystore.KID
	Entry string
}

// SignHistory has the active key of a key set of purpose jwt sign what keys it has
// had: keys is the JSON array of them. It goes the way of a token, but for who
// asks: the daemon itself, whom no policy has to allow it. So nothing is returned
// that is not entered, or that a key signed which signs no more. Its errors are
// *api.Error; while the key set is suspended, or signs nothing yet, that is what
// they say.
func (s *Service) SignHistory(ctx context.Context, keyset string, keys []byte) (SignedHistory, error) {
	settings, ok := s.Settings(keyset)
	if !ok {
		return SignedHistory{}, publicError(fmt.Errorf("key set %q is configured no more: %w", keyset, keystore.ErrUnavailable))
	}
	prepared, err := jwt.PrepareHistory(settings.Issuer, s.Now(), slices.Clone(keys))
	if err != nil {
		return SignedHistory{}, publicError(err)
	}
	if err := s.Log.Health(); err != nil { // before a signature is spent
		return SignedHistory{}, auditUnavailable(err)
	}
	set, v, err := s.signing(keyset, keystore.PurposeJWT)
	if err != nil {
		return SignedHistory{}, publicError(err)
	}
	d := &draft{s: s, prepared: prepared, act: keystore.Record{
		Principal: "chancery", Action: keystore.ActSignHistory, KeySet: keyset, KID: v.KID, Version: v.Number, State: v.State.String(),
		Request: s.digest([]byte(keyset), keys), Detail: map[string]string{"typ": prepared.Typ()},
	}}
	key, err := open(ctx, s.Keys, set, v)
	if err != nil {
		return SignedHistory{}, s.fail(d.act, overdue(ctx, err, publicError))
	}
	sig, err := s.sign(ctx, d, key, v)
	if err != nil {
		return SignedHistory{}, d.failed(ctx, err)
	}
	receipt, err := d.record(ctx)
	if err != nil {
		return SignedHistory{}, err // what is not entered is not released
	}
	d.act.Use = 0 // closed by its entry
	switch _, again, err := s.signing(keyset, keystore.PurposeJWT); {
	case err != nil:
		return SignedHistory{}, s.refuse(d.act, err) // so that the log says that it never left
	case again.KID != v.KID:
		return SignedHistory{}, s.refuse(d.act, unavailable(errOvertaken))
	}
	return SignedHistory{Token: d.token(sig), KID: v.KID, Entry: receipt.Entry}, nil
}

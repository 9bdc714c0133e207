package signer

import (
	"context"
	"errors"
	"fmt"

	"chancery/keystore"
)

// open opens the private key of v. A key that does not open was not asked to
// sign, whatever became of it.
func open(ctx context.Context, keys Keys, set *keystore.KeySet, v *keystore.Version) (keystore.Key, error) {
	key, err := keys.Open(ctx, set, v)
	if err != nil && !errors.Is(err, errUnsent) {
		err = fmt.Errorf("%w: %w", errUnsent, err)
	}
	return key, err
}

// take numbers the use of a key that is about to be asked. Without a number it is
// not.
func (s *Service) take(kid keystore.KID) (int64, error) {
	use, err := s.Log.Take(kid)
	if err != nil {
		return 0, auditUnavailable(fmt.Errorf("%w: %w", errUnsent, err))
	}
	return use, nil
}

// untake returns the number that the entry of an act which failed with err has to
// close: none if the key was not asked and the number goes to another use.
func (s *Service) untake(kid keystore.KID, use int64, err error) int64 {
	if errors.Is(err, errUnsent) && s.Log.GiveBack(kid, use) {
		return 0
	}
	return use
}

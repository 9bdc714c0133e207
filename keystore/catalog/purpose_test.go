package catalog

import (
	"errors"
	"testing"
	"time"

	"chancery/keystore"
)

// A05: a key that signs tokens or certificates, or was made to, is never the key of a
// digest key set too, nor the other way round; and a key set's purpose is for ever.
func TestA05OneKeyUnderTwoPurposes(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		names := map[keystore.Purpose]string{keystore.PurposeJWT: "web", keystore.PurposeCA: "devices", keystore.PurposeDigest: "release"}
		for _, p := range []keystore.Purpose{keystore.PurposeCA, keystore.PurposeDigest} {
			ks := keySet(names[p])
			ks.Purpose = p
			mustCreate(t, c, ks)
			step(t, c, names[p], 1, keystore.Pending)
			step(t, c, names[p], 1, keystore.Published)
		}
		for of, owner := range names {
			key := set(t, c, owner).Versions[0]
			for other, name := range names {
				if other == of {
					continue
				}
				number := len(set(t, c, name).Versions) + 1
				_, err := c.Update(t.Context(), name, -1, func(_ keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
					v := pending(number)
					v.KeyID = key.KeyID
					ks.Versions = append(ks.Versions, v)
					return nil, nil
				})
				if !errors.Is(err, ErrIllegal) {
					t.Errorf("the key of %s named by %s: %v", of, other, err)
				}
				step(t, c, name, number, keystore.Pending)
				_, err = c.Update(t.Context(), name, -1, func(_ keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
					v := &ks.Versions[number-1]
					advance(v, keystore.Published, epoch.Add(time.Hour))
					v.KID, v.SPKI = key.KID, key.SPKI
					return nil, nil
				})
				if !errors.Is(err, ErrIllegal) {
					t.Errorf("the public key of %s published by %s: %v", of, other, err)
				}
				step(t, c, name, number, keystore.Abandoned)
			}
			_, err := c.Update(t.Context(), owner, -1, func(_ keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
				ks.Purpose = keystore.PurposeProbe
				return nil, nil
			})
			if !errors.Is(err, ErrIllegal) {
				t.Errorf("another purpose for %s: %v", of, err)
			}
		}
	})
}

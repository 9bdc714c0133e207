package transit_test

import (
	"crypto/rsa"
	"fmt"
	"testing"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/transit/transittest"
)

// RSA keys are made in the size that the configuration says, and a PSS salt is as
// long as the hash in each of them.
func TestRSASizes(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		mount := s.Mount(t)
		for _, bits := range []int{2048, 3072, 4096} {
			cfg := config(t, s, mount, s.RootToken())
			cfg.RSABits = bits
			p := open(t, cfg)
			for _, alg := range []keystore.Algorithm{keystore.RS256, keystore.PS256, keystore.PS512} {
				t.Run(fmt.Sprint(bits, "/", alg), func(t *testing.T) {
					ref := keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: alg}
					var err error
					if ref.SPKI, err = p.Generate(t.Context(), ref.ID, keystore.PurposeJWT, alg); err != nil {
						t.Fatal(err)
					}
					k, err := p.Open(t.Context(), ref, keystore.PurposeJWT)
					if err != nil {
						t.Fatal(err)
					}
					if n := k.Public().(*rsa.PublicKey).N.BitLen(); n != bits {
						t.Errorf("the key has %d bits", n)
					}
					if _, err := k.Sign(t.Context(), keystoretest.Message(keystore.PurposeJWT, alg)); err != nil { // verified inside
						t.Error(err)
					}
				})
			}
		}
	})
}

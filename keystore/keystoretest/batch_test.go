package keystoretest

import (
	"testing"

	"chancery/keystore"
)

func TestASoftBatchKeepsTheContract(t *testing.T) {
	for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.RS256} {
		for _, purpose := range []keystore.Purpose{keystore.PurposeJWT, keystore.PurposeDigest} {
			t.Run(string(alg)+" "+string(purpose), func(t *testing.T) {
				Batches(t, &SoftBatch{SoftKey: NewKey(t, purpose, alg)}, purpose)
			})
		}
	}
}

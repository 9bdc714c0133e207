package keystoretest

import (
	"errors"
	"testing"

	"chancery/keystore"
)

// digests: a key of purpose digest signs what it is given as it is, and nothing that is
// not as long as its hash. One algorithm of each kind is enough, each with another hash.
func digests(t *testing.T, p keystore.Provider) {
	for _, alg := range []keystore.Algorithm{keystore.ES384, keystore.RS256, keystore.PS512} {
		t.Run(string(alg), func(t *testing.T) {
			_, k := generate(t, p, keystore.PurposeDigest, alg)
			said := []byte("what was digested")
			digest := keystore.Digest(alg, said)
			sig, err := k.Sign(t.Context(), digest)
			if err != nil {
				t.Fatal(err)
			}
			if err := keystore.Verify(alg, k.Public(), said, sig); err != nil {
				t.Errorf("it is no signature of what was digested: %v", err)
			}
			if keystore.Verify(alg, k.Public(), digest, sig) == nil {
				t.Error("the digest was hashed once more")
			}
			for _, n := range []int{0, 1, 20, 28, 32, 48, 64, len(digest) - 1, len(digest) + 1} {
				if n == len(digest) {
					continue
				}
				if _, err := k.Sign(t.Context(), make([]byte, n)); !errors.Is(err, keystore.ErrMessage) {
					t.Errorf("a digest of %d bytes: %v, want %v", n, err, keystore.ErrMessage)
				}
			}
		})
	}
}
